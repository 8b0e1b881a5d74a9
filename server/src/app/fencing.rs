//! Fences as the host of a server raises them, and as replicas keep them.

use std::sync::Arc;

use super::{FenceError, Server};
use crate::backplane::Backplane;
use crate::fence::Order;
use crate::fleet::{self, Agreement, Answering};

/// A fence that was raised on all replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fenced {
    /// Its epoch.
    pub epoch: u64,
    /// The replicas that are not known to hold it, by name: they may let in
    /// whom it keeps out until they are reached. "others": this one does not
    /// reach the backplane, and so knows of none.
    pub unconfirmed: Vec<String>,
}

impl Server {
    /// Raises the fence of an environment, as the operators' `SetFence` does: for
    /// a host that knows when a generation is done. Returns the fence's epoch.
    /// When it returns, nothing that a session of a generation below publishes
    /// here is accepted any more. Sessions of unknown generation stay. Writes the
    /// state file, if there is one: blocks for that long.
    ///
    /// With a backplane, the other replicas are told meanwhile, and whoever
    /// cannot be reached is when it can be: [`Server::fence_on_all`] says who
    /// holds it.
    ///
    /// # Errors
    /// See [`FenceError`]; nothing has changed then.
    pub fn fence(&self, environment: &str, generation: u64) -> Result<u64, FenceError> {
        let order = Order {
            generation,
            unknown_v0: false,
            force_was: None,
        };
        let shared = &self.shared;
        let raised = shared.fences.set(environment, order, &shared.census)?;
        if self.agreement.has_others() {
            let (agreement, environment) = (Arc::clone(&self.agreement), environment.to_owned());
            self.runtime
                .spawn(async move { agreement.spread(&environment, raised).await });
        }
        Ok(raised.token.epoch)
    }

    /// As [`Server::fence`], on all replicas: waits until each has confirmed that
    /// it holds the fence, for a few seconds at most. Has to be called within a
    /// tokio runtime. Dropped early, the fence is raised all the same.
    ///
    /// # Errors
    /// See [`FenceError`]; nothing has changed then.
    pub async fn fence_on_all(
        &self,
        environment: &str,
        generation: u64,
    ) -> Result<Fenced, FenceError> {
        let order = Order {
            generation,
            unknown_v0: false,
            force_was: None,
        };
        let (agreement, of) = (Arc::clone(&self.agreement), environment.to_owned());
        let set = self
            .runtime
            .spawn(async move { agreement.set(&of, order).await });
        let agreed = match set.await {
            Ok(set) => set?,
            Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
            // The server's runtime ends: nothing is served any more.
            Err(_) => std::future::pending().await,
        };
        let token = agreed.raised.token;
        let unconfirmed = agreed.holders.iter().filter(|h| !h.confirms(token));
        Ok(Fenced {
            epoch: token.epoch,
            unconfirmed: unconfirmed.map(|h| h.peer.name.clone()).collect(),
        })
    }
}

/// Keeps the fences as the other replicas have them, and answers these, until
/// it is dropped.
pub(super) async fn agree(
    agreement: Arc<Agreement>,
    backplane: Option<Arc<Backplane>>,
    answering: Answering,
) {
    let answering = Arc::new(answering);
    if let Some(backplane) = backplane {
        fleet::serve(&backplane, &answering);
        agreement.run().await;
    }
}
