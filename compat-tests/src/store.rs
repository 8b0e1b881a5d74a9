//! The model of the consensus store: how far each shard is committed.

use std::collections::BTreeMap;

use persist_pubsub_proto::ShardId;
use tokio::sync::watch;

use crate::wait::{TimedOut, within};

/// The seqno of a shard to which nothing was appended yet: what creates a
/// shard is its first diff.
pub const CREATED: u64 = 1;

/// How far each shard is committed. A clone is the same store.
///
/// Persist commits a diff first and pushes it afterwards; whoever plays a
/// writer calls [`Store::commit`] before it pushes.
#[derive(Clone, Debug)]
pub struct Store(watch::Sender<BTreeMap<ShardId, u64>>);

impl Default for Store {
    fn default() -> Self {
        Self(watch::Sender::new(BTreeMap::new()))
    }
}

impl Store {
    /// Appends to a shard, up to and with `seqno`. A lower one than the shard
    /// has changes nothing: it was committed before, and is pushed late.
    pub fn commit(&self, shard: ShardId, seqno: u64) {
        self.0.send_if_modified(|shards| {
            let head = shards.entry(shard).or_insert(CREATED);
            let higher = seqno > *head;
            *head = seqno.max(*head);
            higher
        });
    }

    /// How far a shard is committed: what a reader that asks now gets.
    #[must_use]
    pub fn head(&self, shard: ShardId) -> u64 {
        self.0.borrow().get(&shard).copied().unwrap_or(CREATED)
    }

    /// Waits until a shard is committed up to `seqno`, and returns how far it
    /// is then.
    ///
    /// # Errors
    /// When that takes longer than [`crate::wait::PATIENCE`].
    pub async fn reached(&self, shard: ShardId, seqno: u64) -> Result<u64, TimedOut> {
        let mut changes = self.0.subscribe();
        let head = |shards: &BTreeMap<_, _>| shards.get(&shard).copied().unwrap_or(CREATED);
        let what = format!("a commit of {shard} up to {seqno}");
        let reached = within(&what, changes.wait_for(|shards| head(shards) >= seqno)).await?;
        // This store holds the sending half: the wait ends only with a value.
        Ok(reached.map_or(seqno, |shards| head(&shards)))
    }
}
