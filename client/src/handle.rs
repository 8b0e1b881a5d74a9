//! What the host calls.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use persist_pubsub_proto::{MAX_SEQNO, ShardId};

use crate::config::Mode;
use crate::home::HomeStatus;
use crate::outbox::Push;
use crate::settings::Settings;
use crate::shared::{Held, Pushes, Shared, lock};
use crate::stats::Stats;
use crate::token::Subscription;

/// A cheap handle on one connection: clone it, share it, call it from any
/// thread, inside a runtime or not. No call waits for the network or fails
/// because of it.
///
/// When every `Client` and every [`Subscription`] is gone the connection
/// ends: what waits to be sent is sent if there is a session, for at most 5
/// seconds, and [`Events`](crate::Events) ends.
#[derive(Clone)]
pub struct Client {
    held: Arc<Held>,
}

impl Client {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            held: Arc::new(Held(shared)),
        }
    }

    /// Says that `diff` was committed to `shard` at `seqno` (`Publish` of the
    /// protocol). Advisory: it is not acknowledged.
    ///
    /// Without a session it waits in a buffer of bounded size; of what does
    /// not fit, the oldest is dropped, and its seqno is announced without the
    /// diff as soon as there is a session, so that subscribers fetch. So is
    /// what may have been lost with a connection. A v0 server cannot be told
    /// that.
    ///
    /// Dropped and counted at once: with
    /// [`Mode::ReadOnly`](crate::Mode::ReadOnly), after the end
    /// ([`Event::Fenced`](crate::Event::Fenced), or `Events` gone), and with a
    /// seqno above 2^63 - 1, which every server refuses. Switched off
    /// ([`Settings::connected`]) it is not even counted.
    pub fn push_diff(&self, shard: &ShardId, seqno: u64, diff: Bytes) {
        let shared = &self.held.0;
        let pushes = shared.pushes();
        if pushes == Pushes::Off {
            return;
        }
        shared.stats.pushes.one();
        if pushes == Pushes::Dropped || seqno > MAX_SEQNO {
            shared.stats.pushes_dropped.one();
            return;
        }
        // First of all, so that no server can have it and the run not.
        let (nudge, spared) = lock(&shared.interest).pushed(*shard, seqno);
        if spared {
            shared.stats.resyncs_cancelled.one();
        }
        if nudge {
            shared.nudge.notify_one();
        }
        let push = Push {
            shard: *shard,
            seqno,
            committed: u64::try_from(shared.unix_time().as_nanos()).unwrap_or(0),
            diff: Some(diff),
        };
        let waits = lock(&shared.outbox).push(push, &shared.stats);
        if waits {
            shared.ring_idle();
        }
    }

    /// Asks for the diffs of `shard`, from now on and across reconnects,
    /// until the last of its tokens is dropped (`Subscribe` of the protocol).
    ///
    /// A first token begins a subscription, which the server's answer turns
    /// into an [`Event::Resync`](crate::Event::Resync): whatever is above its
    /// `highest` comes as a diff or a gap. Further tokens share it; nothing is
    /// told again for them. After the last token is gone, what it still brings
    /// is not delivered, not even if the shard is subscribed again at once:
    /// that is a new subscription.
    #[must_use = "dropping the token gives the subscription back"]
    pub fn subscribe(&self, shard: &ShardId) -> Subscription {
        self.begin(shard, None)
    }

    /// As [`subscribe`](Self::subscribe), for a host that has the shard's
    /// state at `seqno`: what is above it comes, or a gap, and no `Resync` if
    /// the server knows the shard. If the shard is subscribed already, the
    /// running subscription is shared, and `seqno` makes no difference.
    ///
    /// A seqno above 2^63 - 1 is no state: it is taken as none.
    #[must_use = "dropping the token gives the subscription back"]
    pub fn subscribe_from(&self, shard: &ShardId, seqno: u64) -> Subscription {
        self.begin(shard, (seqno <= MAX_SEQNO).then_some(seqno))
    }

    /// The counters, now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.held.0.stats.snapshot()
    }

    /// Registers `mz_persist_pubsub_client_*`: the counters of
    /// [`stats`](Self::stats), read at each scrape, and how old diffs are when
    /// the host takes them, counted from now on. The crate's README has the
    /// list.
    ///
    /// They stay when the connection has ended, and show what it did until
    /// then, until [`unregister_metrics`](Self::unregister_metrics).
    ///
    /// # Errors
    /// If the registry has the metrics of a client already, or somebody
    /// else's of one of these names: then it is as it was.
    #[cfg(feature = "metrics")]
    pub fn register_metrics(
        &self,
        registry: &prometheus::Registry,
    ) -> Result<(), crate::RegistryError> {
        crate::metrics::register(&self.held.0, registry)
    }

    /// Takes the metrics of a client out of the registry, for the next client
    /// of the process.
    ///
    /// # Errors
    /// If there are none.
    #[cfg(feature = "metrics")]
    pub fn unregister_metrics(
        &self,
        registry: &prometheus::Registry,
    ) -> Result<(), crate::RegistryError> {
        crate::metrics::unregister(&self.held.0, registry)
    }

    /// The settings, as they were given last.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings::clone(&self.held.0.settings())
    }

    /// Swaps the settings. Returns at once, from any thread: pushes follow them
    /// from here on, and the connections within moments. Of two calls at the
    /// same time one is the last, and counts.
    pub fn configure(&self, settings: Settings) {
        self.held.0.configure(settings);
    }

    /// The process is promoted, or may publish no more: [`configure`] with
    /// another [`Settings::mode`] and all else as it is. Returns at once, from
    /// any thread.
    ///
    /// What is pushed after a promotion waits until the servers have said that
    /// they take it, and then goes out; what was pushed before was dropped, and
    /// is not sent. What was pushed before a demotion goes out still, unless it
    /// follows the promotion so closely that no server was asked: then it goes
    /// with the next.
    ///
    /// [`configure`]: Self::configure
    pub fn set_mode(&self, mode: Mode) {
        self.held.0.reconfigure(|settings| settings.mode(mode));
    }

    /// How the client stands with each server that it has a session with or
    /// tries to, in no order that means something.
    #[must_use]
    pub fn homes(&self) -> Vec<HomeStatus> {
        lock(&self.held.0.board).statuses()
    }

    fn begin(&self, shard: &ShardId, have: Option<u64>) -> Subscription {
        self.held.0.stats.subscribes.one();
        lock(&self.held.0.interest).subscribe(*shard, have);
        Subscription::new(Arc::clone(&self.held), *shard)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("stats", &self.stats())
            .finish()
    }
}
