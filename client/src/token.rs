//! A subscription, as the host holds it.

use std::fmt;
use std::sync::Arc;

use persist_pubsub_proto::ShardId;

use crate::shared::{Held, lock};

/// Keeps a shard subscribed. Dropping the last token of a shard gives the
/// subscription back (`Unsubscribe` of the protocol); dropping never blocks.
#[must_use = "dropping the token gives the subscription back"]
pub struct Subscription {
    held: Arc<Held>,
    shard: ShardId,
}

impl Subscription {
    pub(crate) fn new(held: Arc<Held>, shard: ShardId) -> Self {
        Self { held, shard }
    }

    /// The shard.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.held.0.stats.unsubscribes.one();
        lock(&self.held.0.interest).release(self.shard);
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Subscription").field(&self.shard).finish()
    }
}
