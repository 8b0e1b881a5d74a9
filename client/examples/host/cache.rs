//! The host's state cache: each shard's state, fed by messages where they
//! come, by fetches where they do not, and by a slow poll as the last resort.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Result;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use persist_pubsub_client::ShardId;
use tokio::sync::watch;

use super::adapter::{Message, Receiver, Sender, Token};
use super::consensus::Consensus;

/// A shard's state: what its diffs, applied in order, have made of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// The last diff that is in it; 0: none.
    pub(crate) seqno: u64,
    /// Depends on every diff and on their order.
    pub(crate) digest: u64,
}

impl State {
    /// Applies the next diff.
    pub(crate) fn apply(&mut self, diff: &[u8]) {
        let mut hasher = DefaultHasher::new();
        (self.digest, diff).hash(&mut hasher);
        self.seqno += 1;
        self.digest = hasher.finish();
    }
}

/// A shard in the cache.
#[derive(Default)]
pub(crate) struct Shard {
    pub(crate) state: State,
    /// Diffs applied that were pushed, and that were fetched.
    pub(crate) pushed: u64,
    pub(crate) fetched: u64,
    /// Fetches begun.
    pub(crate) fetches: u64,
    /// One is under way. There is never a second.
    fetching: bool,
    /// What was missed since the one under way began: it may have come too
    /// early for that.
    missed: Option<u64>,
    token: Option<Token>,
}

/// Why [`Cache::run`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Another generation has taken over: the process has to end, and that is
    /// no failure.
    Fenced,
    /// Pubsub has ended otherwise.
    Closed,
}

/// The cache. A clone is the same one.
#[derive(Clone)]
pub(crate) struct Cache {
    consensus: Consensus,
    sender: Sender,
    /// Whoever waits for a state waits here.
    shards: Arc<watch::Sender<BTreeMap<ShardId, Shard>>>,
}

impl Cache {
    pub(crate) fn new(consensus: Consensus, sender: Sender) -> Self {
        Self {
            consensus,
            sender,
            shards: Arc::default(),
        }
    }

    /// Shows the shards, now and as they change.
    pub(crate) fn watch(&self) -> watch::Receiver<BTreeMap<ShardId, Shard>> {
        self.shards.subscribe()
    }

    /// A shard's state, now.
    pub(crate) fn state(&self, shard: ShardId) -> State {
        let shards = self.shards.borrow();
        shards.get(&shard).map_or_else(State::default, |s| s.state)
    }

    /// Follows a shard from now on: subscribes, and fetches what is there.
    pub(crate) fn follow(&self, shard: ShardId) {
        let token = self.sender.subscribe(&shard);
        self.shards.send_modify(|shards| {
            shards.entry(shard).or_default().token = Some(token);
        });
        self.missed(shard, None);
    }

    /// Commits a diff to a shard that is followed, and tells the others. False: somebody else's
    /// came first; it is being fetched.
    pub(crate) async fn commit(&self, shard: ShardId, diff: Bytes) -> Result<bool> {
        let seqno = self.state(shard).seqno + 1;
        if !self.consensus.append(shard, seqno, diff.clone()).await? {
            self.missed(shard, Some(seqno));
            return Ok(false);
        }
        // It was committed: it may be pushed. Nobody sends it back to us.
        self.sender.push_diff(&shard, seqno, diff.clone());
        self.shards.send_modify(|shards| {
            if let Some(shard) = shards.get_mut(&shard)
                && shard.state.seqno + 1 == seqno
            {
                shard.state.apply(&diff);
            }
        });
        Ok(true)
    }

    /// Keeps the states up to date until pubsub ends.
    pub(crate) async fn run(&self, mut receiver: Receiver, poll_every: Duration) -> End {
        let mut polls = tokio::time::interval(poll_every);
        loop {
            tokio::select! {
                message = receiver.next() => match message {
                    Some(Message::Diff { shard, seqno, diff }) => self.pushed(shard, seqno, &diff),
                    Some(Message::Missed { shard, reached }) => self.missed(shard, reached),
                    Some(Message::Fenced) => return End::Fenced,
                    None => return End::Closed,
                },
                // Whatever may have gone wrong elsewhere, it costs this much time.
                _ = polls.tick() => self.poll(),
            }
        }
    }

    fn pushed(&self, shard: ShardId, seqno: u64, diff: &[u8]) {
        let mut ahead = false;
        self.shards.send_if_modified(|shards| {
            let Some(shard) = shards.get_mut(&shard) else {
                return false;
            };
            ahead = seqno > shard.state.seqno + 1;
            let follows = seqno == shard.state.seqno + 1;
            if follows {
                shard.state.apply(diff);
                shard.pushed += 1;
            }
            // Otherwise it is in the state already, or the state is behind.
            follows
        });
        // What lies between was told as missed, and is being fetched; this
        // one may have been committed too late for that.
        if ahead {
            self.missed(shard, Some(seqno));
        }
    }

    fn poll(&self) {
        let shards: Vec<_> = self.shards.borrow().keys().copied().collect();
        for shard in shards {
            self.missed(shard, None);
        }
    }

    /// Fetches, unless the state has reached this seqno. While a fetch is
    /// under way it is noted, and looked at again when that is done: however
    /// many messages say so, a shard has one fetch at a time. A seqno that
    /// nobody has committed costs one fetch, not one after the other.
    fn missed(&self, id: ShardId, reached: Option<u64>) {
        let mut begin = false;
        self.shards.send_if_modified(|shards| {
            let Some(shard) = shards.get_mut(&id) else {
                return false;
            };
            let wanted = reached.unwrap_or(u64::MAX);
            if wanted <= shard.state.seqno {
                return false;
            }
            if shard.fetching {
                shard.missed = shard.missed.max(Some(wanted));
            } else {
                shard.fetching = true;
                begin = true;
            }
            false
        });
        if begin {
            tokio::spawn(self.clone().fetch(id));
        }
    }

    async fn fetch(self, id: ShardId) {
        loop {
            let from = self.state(id).seqno;
            let fetched = self.consensus.above(id, from).await;
            let mut again = false;
            self.shards.send_modify(|shards| {
                let Some(shard) = shards.get_mut(&id) else {
                    return;
                };
                shard.fetches += 1;
                // Pushes have been applied meanwhile.
                let known = shard.state.seqno.saturating_sub(from);
                let known = usize::try_from(known).unwrap_or(usize::MAX);
                for diff in fetched.iter().flatten().skip(known) {
                    shard.state.apply(diff);
                    shard.fetched += 1;
                }
                let missed = shard.missed.take();
                again = missed.is_some_and(|missed| missed > shard.state.seqno) && fetched.is_ok();
                shard.fetching = again;
            });
            if let Err(error) = fetched {
                // The poll tries again. At info: a process that ends cancels
                // its fetches, and nothing is wrong then.
                tracing::info!(shard = %id, %error, "cannot fetch");
            }
            if !again {
                return;
            }
        }
    }
}
