//! Several replicas of the real server, as children, over NATS: each reaches
//! every nats-server through a line of its own, a proxy that can be held, cut,
//! and led elsewhere.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::child::{Child, ChildError};
use crate::operator::{Operator, OperatorError};
use crate::proxy::{Passing, Proxy, Way};
use crate::wait::{TimedOut, until};

/// The others that a replica knows of, as it tells on `/metrics`.
pub const KNOWN: &str = "persist_pubsub_backplane_replicas";
/// Whether it is connected to NATS, likewise.
pub const CONNECTED: &str = "persist_pubsub_backplane_connected";

/// Replicas at work. Dropping it kills them.
#[derive(Debug)]
pub struct Replicas {
    nats: Vec<SocketAddr>,
    flags: Vec<String>,
    prefix: String,
    started: usize,
    all: Vec<Replica>,
}

/// One of them.
#[derive(Debug)]
pub struct Replica {
    name: String,
    /// To each nats-server.
    lines: Vec<Proxy>,
    child: Child,
    operator: Operator,
}

/// Replicas do not do what they should.
#[derive(Debug, thiserror::Error)]
pub enum ReplicasError {
    /// One does not start or end.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// One does not answer its operator.
    #[error(transparent)]
    Operator(#[from] OperatorError),
    /// There is no port for a line.
    #[error("a line to NATS: {0}")]
    Io(#[from] std::io::Error),
    /// In time; with what the replica wrote.
    #[error("{0}; it wrote:\n{1}")]
    TimedOut(TimedOut, String),
    /// One ended, and not well.
    #[error("{0}")]
    Ended(String),
}

/// The subjects of a test: tests may share a nats-server.
#[must_use]
pub fn next_prefix() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!(
        "test-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

impl Replicas {
    /// Starts so many over these nats-servers, with further flags, and waits
    /// until each knows all others. They keep their sessions
    /// (`--rebalance-interval=0s`) and ask for no heartbeats.
    ///
    /// # Errors
    /// They do not.
    pub async fn start(
        nats: &[SocketAddr],
        count: usize,
        flags: &[&str],
    ) -> Result<Self, ReplicasError> {
        let quiet = ["--heartbeat-interval=1h", "--rebalance-interval=0s"];
        let flags = quiet.iter().chain(flags).map(|&flag| flag.to_owned());
        let mut replicas = Self {
            nats: nats.to_vec(),
            flags: flags.collect(),
            prefix: next_prefix(),
            started: 0,
            all: Vec::new(),
        };
        for _ in 0..count {
            let replica = replicas.one_more().await?;
            replicas.all.push(replica);
        }
        replicas.know_each_other().await?;
        Ok(replicas)
    }

    /// All.
    pub fn all(&self) -> impl Iterator<Item = &Replica> {
        self.all.iter()
    }

    /// One of them.
    ///
    /// # Panics
    /// There is none of this number.
    #[must_use]
    pub fn one(&self, number: usize) -> &Replica {
        &self.all[number]
    }

    /// What their subjects begin with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    async fn one_more(&mut self) -> Result<Replica, ReplicasError> {
        let name = format!("replica-{}", self.started);
        self.started += 1;
        Replica::start(name, &self.nats, &self.prefix, &self.flags).await
    }

    /// Starts one in the place of another, which goes on: the old one.
    ///
    /// # Errors
    /// It does not start.
    ///
    /// # Panics
    /// There is none of this number.
    pub async fn begin_to_replace(&mut self, number: usize) -> Result<Replica, ReplicasError> {
        let new = self.one_more().await?;
        Ok(std::mem::replace(&mut self.all[number], new))
    }

    /// Waits for the end of one that was killed.
    ///
    /// # Errors
    /// It does not end.
    ///
    /// # Panics
    /// There is none of this number.
    pub async fn bury(&mut self, number: usize) -> Result<(), ReplicasError> {
        self.all[number].child.wait().await?;
        Ok(())
    }

    /// A nats-server has another address: all lines to it lead there.
    pub fn moved(&mut self, number: usize, to: SocketAddr) {
        self.nats[number] = to;
        for replica in &self.all {
            replica.lines[number].switch(to);
        }
    }

    /// Waits until each is connected to NATS and knows all others.
    ///
    /// # Errors
    /// One does not.
    pub async fn know_each_other(&self) -> Result<(), ReplicasError> {
        for replica in &self.all {
            replica.knows(self.all.len() - 1).await?;
        }
        Ok(())
    }
}

impl Replica {
    /// Starts one over these nats-servers.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(
        name: String,
        nats: &[SocketAddr],
        prefix: &str,
        flags: &[String],
    ) -> Result<Self, ReplicasError> {
        let mut lines = Vec::new();
        for &address in nats {
            lines.push(Proxy::start(address).await?);
        }
        let urls: Vec<_> = lines
            .iter()
            .map(|line| format!("nats://{}", line.address()))
            .collect();
        let mut all = vec![
            format!("--backplane={}", urls.join(",")),
            format!("--backplane-prefix={prefix}"),
            format!("--replica-name={name}"),
        ];
        all.extend(flags.iter().cloned());
        let child = Child::start(&all).await?;
        Ok(Self {
            name,
            lines,
            operator: Operator::connect(&child).await?,
            child,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process.
    #[must_use]
    pub fn child(&self) -> &Child {
        &self.child
    }

    /// Where clients connect to.
    #[must_use]
    pub fn url(&self) -> String {
        self.child.url()
    }

    /// The same, as an address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.child.addresses().listen
    }

    /// Who looks at it.
    #[must_use]
    pub fn operator(&self) -> &Operator {
        &self.operator
    }

    /// Its lines, one to each nats-server.
    #[must_use]
    pub fn lines(&self) -> &[Proxy] {
        &self.lines
    }

    /// The nats-server at which it is, if it has not been at another.
    #[must_use]
    pub fn is_at(&self) -> Option<usize> {
        let mut used = (0..self.lines.len()).filter(|&n| self.lines[n].accepted() > 0);
        used.next().filter(|_| used.next().is_none())
    }

    /// A network that parts it from all nats-servers: nothing passes either
    /// way, and nobody is told. What is under way waits.
    pub fn part(&self) {
        for line in &self.lines {
            line.pass(Way::ToServer, Passing::Held);
            line.pass(Way::ToClient, Passing::Held);
        }
    }

    /// The network is whole again.
    pub fn mend(&self) {
        for line in &self.lines {
            line.pass_freely();
        }
    }

    /// Waits until it is connected to NATS and knows so many others.
    ///
    /// # Errors
    /// It does not.
    pub async fn knows(&self, others: usize) -> Result<(), ReplicasError> {
        let what = format!("{} to know {others} others", self.name);
        let others = u32::try_from(others).map_or(f64::MAX, f64::from);
        self.tells(&what, CONNECTED, |connected| connected > 0.0)
            .await?;
        self.tells(&what, KNOWN, |known| known >= others).await
    }

    /// Waits until a series of its metrics is as wanted.
    ///
    /// # Errors
    /// It is not.
    pub async fn tells(
        &self,
        what: &str,
        series: &str,
        wanted: impl Fn(f64) -> bool,
    ) -> Result<(), ReplicasError> {
        let mut last = f64::NAN;
        let told = until(what, async || {
            last = self.operator.metric(series).await.ok()?;
            wanted(last).then_some(())
        });
        let told = told.await;
        told.map_err(|late| {
            let late = late.but(&format!("{series} is {last}"));
            ReplicasError::TimedOut(late, self.child.log())
        })
    }

    /// Tells it to go, and waits until it has, well.
    ///
    /// # Errors
    /// It does not, or not well.
    pub async fn leave(mut self) -> Result<(), ReplicasError> {
        self.child.terminate().await?;
        let status = self.child.wait().await?;
        if status.success() {
            return Ok(());
        }
        let log = self.child.log();
        Err(ReplicasError::Ended(format!(
            "{} ended with {status}:\n{log}",
            self.name
        )))
    }
}
