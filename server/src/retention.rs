//! Which log holds the oldest diffs: for eviction by age, and by bytes in all.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::{Mutex, PoisonError};

use persist_pubsub_proto::ShardId;
use tokio::time::Instant;

/// Names a topic: its environment's id and its shard.
pub(crate) type TopicKey = (u64, ShardId);

/// The topics that hold entries, by the age of their oldest, and the bytes
/// that all of them hold.
///
/// A topic stands here once from its first entry until an eviction leaves it
/// empty, so that publishing to a log that holds something costs nothing here,
/// and evicting costs what is evicted, however many shards there are. The age
/// on record may be older than the truth (entries left by a bound of the
/// shard's own): then the eviction finds nothing, and enters the true age.
#[derive(Debug)]
pub(crate) struct Retention {
    ages: Mutex<BTreeSet<(Instant, TopicKey)>>,
    /// Below 0 for a moment, when bytes are counted out by one thread before
    /// another has come to count them in.
    bytes: AtomicIsize,
    limit: usize,
}

impl Retention {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            ages: Mutex::default(),
            bytes: AtomicIsize::new(0),
            limit,
        }
    }

    fn ages(&self) -> std::sync::MutexGuard<'_, BTreeSet<(Instant, TopicKey)>> {
        self.ages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A topic's oldest entry came at `at`.
    pub(crate) fn enter(&self, at: Instant, key: TopicKey) {
        self.ages().insert((at, key));
    }

    /// Takes out a topic that is gone.
    pub(crate) fn leave(&self, at: Instant, key: TopicKey) {
        self.ages().remove(&(at, key));
    }

    /// Takes out the topic of the oldest entry, if that came before `before`.
    pub(crate) fn pop(&self, before: Instant) -> Option<(Instant, TopicKey)> {
        let mut ages = self.ages();
        if ages.first()?.0 >= before {
            return None;
        }
        ages.pop_first()
    }

    /// Takes out the topic of the oldest entry.
    pub(crate) fn pop_oldest(&self) -> Option<(Instant, TopicKey)> {
        self.ages().pop_first()
    }

    /// Counts bytes that logs gained (or lost). True: they hold too many.
    pub(crate) fn grew(&self, bytes: isize) -> bool {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        usize::try_from(before.saturating_add(bytes)).is_ok_and(|total| total > self.limit)
    }

    /// What is on record, below 0 or not: 0 when all logs are empty.
    #[cfg(test)]
    pub(crate) fn balance(&self) -> isize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Bytes that all logs hold.
    pub(crate) fn bytes(&self) -> usize {
        usize::try_from(self.bytes.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Whether the logs hold too many bytes.
    pub(crate) fn over(&self) -> bool {
        self.bytes() > self.limit
    }
}
