//! The consensus store with one appender at a time: compare-and-set, played.
//! It knows when each diff was committed and what its bytes are, so that
//! whoever sees a diff can say how old it is and whether it is the right one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use persist_pubsub_proto::ShardId;
use tokio::time::Instant;

use crate::store::{CREATED, Store};

/// Commit times kept per shard, the newest. Of an older diff the age is that
/// of the oldest kept: a measurement that is too small, never a wrong test.
const TIMES: usize = 16_384;

/// The store and its history. A clone is the same ledger.
#[derive(Clone, Debug)]
pub struct Ledger {
    store: Store,
    times: Arc<Mutex<BTreeMap<ShardId, VecDeque<Instant>>>>,
    diffs: Diffs,
}

/// The bytes of every diff that there can be.
#[derive(Clone, Debug)]
pub enum Diffs {
    /// The shard and the seqno, and as many more bytes as are wanted.
    Numbered {
        /// How long a diff is, at least 24.
        bytes: usize,
    },
    /// Of each shard the recorded ones, over and over.
    Recorded(Arc<BTreeMap<ShardId, Vec<Bytes>>>),
}

impl Ledger {
    /// An empty one.
    #[must_use]
    pub fn new(diffs: Diffs) -> Self {
        Self {
            store: Store::default(),
            times: Arc::default(),
            diffs,
        }
    }

    /// Commits the next diff of a shard: its seqno and its bytes.
    #[must_use]
    pub fn append(&self, shard: ShardId) -> (u64, Bytes) {
        let mut all = lock(&self.times);
        let times = all.entry(shard).or_default();
        // Nobody else commits between the two: the lock is held.
        let seqno = self.store.head(shard) + 1;
        self.store.commit(shard, seqno);
        if times.len() == TIMES {
            times.pop_front();
        }
        times.push_back(Instant::now());
        (seqno, self.diff(shard, seqno))
    }

    /// How far a shard is committed: a fetch.
    #[must_use]
    pub fn head(&self, shard: ShardId) -> u64 {
        self.store.head(shard)
    }

    /// How far each of `shards` is committed.
    #[must_use]
    pub fn heads(&self, shards: impl IntoIterator<Item = ShardId>) -> BTreeMap<ShardId, u64> {
        shards
            .into_iter()
            .map(|shard| (shard, self.head(shard)))
            .collect()
    }

    /// How long ago a diff was committed.
    #[must_use]
    pub fn age(&self, shard: ShardId, seqno: u64) -> Duration {
        let all = lock(&self.times);
        let head = self.store.head(shard);
        let Some(times) = all.get(&shard) else {
            return Duration::ZERO;
        };
        let back = usize::try_from(head.saturating_sub(seqno)).unwrap_or(usize::MAX);
        let index = times.len().saturating_sub(1).saturating_sub(back);
        times.get(index).map_or(Duration::ZERO, Instant::elapsed)
    }

    /// What the bytes of a diff are.
    #[must_use]
    pub fn diff(&self, shard: ShardId, seqno: u64) -> Bytes {
        match &self.diffs {
            Diffs::Numbered { bytes } => {
                let mut diff = shard.as_bytes().to_vec();
                diff.extend_from_slice(&seqno.to_be_bytes());
                diff.resize((*bytes).max(diff.len()), seqno.to_le_bytes()[0]);
                diff.into()
            }
            Diffs::Recorded(all) => {
                let recorded = all.get(&shard).map(Vec::as_slice).unwrap_or_default();
                let turn = seqno.saturating_sub(CREATED + 1);
                let index = usize::try_from(turn).unwrap_or(0) % recorded.len().max(1);
                recorded.get(index).cloned().unwrap_or_default()
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
