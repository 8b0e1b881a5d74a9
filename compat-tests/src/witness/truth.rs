//! What was truly committed.

use std::collections::BTreeMap;

use bytes::Bytes;
use persist_pubsub_proto::ShardId;

/// A diff as it was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Nanoseconds since the Unix epoch, where the publisher said so.
    pub nanos: Option<u64>,
    /// Its bytes; none where only the seqno was announced.
    pub diff: Option<Bytes>,
}

/// What was truly committed, by shard and seqno.
#[derive(Clone, Debug, Default)]
pub struct Truth(BTreeMap<ShardId, BTreeMap<u64, Committed>>);

impl Truth {
    /// Commits a diff: before it is published, as persist does.
    pub fn commit(
        &mut self,
        shard: ShardId,
        seqno: u64,
        nanos: Option<u64>,
        diff: impl Into<Bytes>,
    ) {
        let diff = Some(diff.into());
        let shard = self.0.entry(shard).or_default();
        shard.insert(seqno, Committed { nanos, diff });
    }

    /// Commits a diff that nobody will publish: the seqno alone may be
    /// announced.
    pub fn commit_unpublished(&mut self, shard: ShardId, seqno: u64) {
        let shard = self.0.entry(shard).or_default();
        let (nanos, diff) = (None, None);
        shard.insert(seqno, Committed { nanos, diff });
    }

    /// The highest seqno committed.
    #[must_use]
    pub fn head(&self, shard: ShardId) -> Option<u64> {
        let last = self.0.get(&shard)?.last_key_value();
        last.map(|(&seqno, _)| seqno)
    }

    /// What was committed with a seqno.
    #[must_use]
    pub fn get(&self, shard: ShardId, seqno: u64) -> Option<&Committed> {
        self.0.get(&shard)?.get(&seqno)
    }

    pub(super) fn above(&self, shard: ShardId, seqno: Option<u64>) -> impl Iterator<Item = u64> {
        let first = seqno.map_or(0, |seqno| seqno + 1);
        let shard = self.0.get(&shard).into_iter();
        shard.flat_map(move |diffs| diffs.range(first..).map(|(&seqno, _)| seqno))
    }
}
