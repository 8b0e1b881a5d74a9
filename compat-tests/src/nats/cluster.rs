//! nats-servers that are connected by routes.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::conf::Conf;
use super::{Nats, NatsError};
use crate::wait::until;

/// A cluster. Dropping it kills its members.
#[derive(Debug)]
pub struct Cluster {
    conf: Conf,
    members: Vec<Nats>,
}

impl Cluster {
    /// Starts one of so many members, and waits until each has a route to
    /// every other.
    ///
    /// # Errors
    /// They have not.
    pub async fn start(conf: &Conf, members: usize) -> Result<Self, NatsError> {
        let mut cluster = Self {
            conf: conf.clone(),
            members: Vec::new(),
        };
        for number in 0..members {
            let conf = cluster.conf.clone().member(number, cluster.routes(number));
            cluster.members.push(Nats::start(&conf).await?);
        }
        cluster.is_whole().await?;
        Ok(cluster)
    }

    /// A member.
    ///
    /// # Panics
    /// There is none of this number.
    #[must_use]
    pub fn member(&mut self, number: usize) -> &mut Nats {
        &mut self.members[number]
    }

    /// Where clients find each member.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.members.iter().map(Nats::address).collect()
    }

    /// Where members other than this one accept routes.
    fn routes(&self, but: usize) -> Vec<SocketAddr> {
        let others = self.members.iter().enumerate().filter(|(n, _)| *n != but);
        others.filter_map(|(_, member)| member.routes()).collect()
    }

    /// Kills a member if it still runs, and starts another in its place, with
    /// nothing and on other ports.
    ///
    /// # Errors
    /// It does not start.
    pub async fn restart(&mut self, number: usize) -> Result<(), NatsError> {
        let conf = self.conf.clone().member(number, self.routes(number));
        let member = self.member(number);
        member.kill().await?;
        *member = Nats::start(&conf).await?;
        Ok(())
    }

    /// Waits until each member has a route to every other.
    ///
    /// # Errors
    /// They have not.
    pub async fn is_whole(&self) -> Result<(), NatsError> {
        for member in &self.members {
            let whole = until("a route to every other nats-server", async || {
                let routes = member.monitoring("/routez").await.ok()?;
                let others: BTreeSet<_> = routes["routes"]
                    .as_array()?
                    .iter()
                    .filter_map(|route| {
                        route["remote_name"]
                            .as_str()
                            .or(route["remote_id"].as_str())
                    })
                    .collect();
                (others.len() + 1 == self.members.len()).then_some(())
            });
            whole
                .await
                .map_err(|late| NatsError::TimedOut(late, member.log()))?;
        }
        Ok(())
    }
}
