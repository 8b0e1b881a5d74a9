//! What a shard's run has for the host.

use persist_pubsub_proto::ShardId;

use crate::connection::wire::Diff;
use crate::event::Event;
use crate::queue::Queued;
use crate::shared::from_unix_nanos;

/// Events on their way to the host, and what is counted beside them.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) events: Vec<Queued>,
    /// Resyncs that were owed, and are not needed any more.
    pub(crate) cancelled: usize,
}

/// The mouth of one shard's subscription.
pub(crate) struct Tell<'a> {
    pub(crate) shard: ShardId,
    pub(crate) incarnation: u64,
    pub(crate) told: &'a mut Told,
}

impl Tell<'_> {
    pub(super) fn diff(&mut self, diff: Diff) {
        self.event(Event::Diff {
            shard: self.shard,
            seqno: diff.seqno,
            diff: diff.diff,
            committed: from_unix_nanos(diff.committed),
        });
    }

    pub(super) fn gap(&mut self, from: u64, to: u64, highest: u64) {
        self.event(Event::Gap {
            shard: self.shard,
            from,
            to,
            highest,
        });
    }

    pub(super) fn resync(&mut self, highest: Option<u64>) {
        self.event(Event::Resync {
            shard: self.shard,
            highest,
        });
    }

    fn event(&mut self, event: Event) {
        self.told
            .events
            .push(Queued::of_shard(self.incarnation, event));
    }
}
