//! What happens on shards, for those who watch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use persist_pubsub_proto::ShardId;
use tokio::sync::broadcast;

use crate::environment::Environment;
use crate::session::SessionId;
use crate::topic::Verdict;

/// Something happened on a shard.
#[derive(Clone, Debug)]
pub(crate) struct Happening {
    pub(crate) environment: Arc<Environment>,
    pub(crate) shard: ShardId,
    pub(crate) what: What,
    pub(crate) seqno: Option<u64>,
    pub(crate) diff_bytes: usize,
    pub(crate) committed_unix_nanos: Option<u64>,
    pub(crate) session: Option<SessionId>,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Published(Verdict),
    Announced,
    Gapped,
    Subscribed,
    Unsubscribed,
}

/// A watcher further behind than this loses the rest, and is told.
const KEPT: usize = 4096;

/// Tells those who watch. Nearly always that is nobody, and then it costs a
/// look: the channel's own count of receivers stands behind a lock, which all
/// sessions would meet at for each diff.
#[derive(Debug)]
pub(crate) struct Happenings {
    channel: broadcast::Sender<Happening>,
    /// Somebody watches, or did when something was told last.
    watched: AtomicBool,
}

impl Happenings {
    pub(crate) fn new() -> Self {
        Self {
            channel: broadcast::channel(KEPT).0,
            watched: AtomicBool::new(false),
        }
    }

    /// What happens from now on.
    pub(crate) fn watch(&self) -> broadcast::Receiver<Happening> {
        let receiver = self.channel.subscribe();
        self.watched.store(true, Ordering::SeqCst);
        receiver
    }

    pub(crate) fn tell(&self, happening: impl FnOnce() -> Happening) {
        if !self.watched.load(Ordering::Relaxed) {
            return;
        }
        if self.channel.send(happening()).is_err() {
            // The last has gone. One that comes in this moment is found here,
            // or stores behind this.
            self.watched.store(false, Ordering::SeqCst);
            let watched = self.channel.receiver_count() > 0;
            self.watched.fetch_or(watched, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Environments;

    #[test]
    fn who_comes_when_the_last_has_gone_is_told() {
        let happenings = Happenings::new();
        let environment = Arc::new(Environments::default()).get("default");
        let tell = || {
            let mut told = false;
            happenings.tell(|| {
                told = true;
                Happening {
                    environment: Arc::clone(&environment),
                    shard: ShardId::new([1; 16]),
                    what: What::Subscribed,
                    seqno: None,
                    diff_bytes: 0,
                    committed_unix_nanos: None,
                    session: None,
                }
            });
            told
        };
        assert!(!tell());
        for _ in 0..2 {
            let mut watcher = happenings.watch();
            assert!(tell() && watcher.try_recv().is_ok());
            drop(watcher);
            assert!(tell(), "nobody has told it yet");
            assert!(!tell());
        }
    }
}
