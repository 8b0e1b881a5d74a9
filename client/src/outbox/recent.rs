//! The newest seqno of each shard that was handed to the network lately.

use std::collections::BTreeMap;
use std::time::Duration;

use persist_pubsub_proto::ShardId;
use tokio::time::Instant;

/// Two generations of notes: when the younger has been filled for a window,
/// or is full, it becomes the older, and the older is forgotten. So a note
/// costs one map operation, is kept for at least the window unless there are
/// too many shards, and memory is bounded without a scan.
pub(super) struct Recent {
    window: Duration,
    /// How many shards one generation may hold.
    each: usize,
    young: BTreeMap<ShardId, Note>,
    old: BTreeMap<ShardId, Note>,
    since: Option<Instant>,
}

#[derive(Clone, Copy)]
struct Note {
    seqno: u64,
    at: Instant,
}

impl Recent {
    pub(super) fn new(window: Duration, shards: usize) -> Self {
        Self {
            window,
            each: shards.div_ceil(2),
            young: BTreeMap::new(),
            old: BTreeMap::new(),
            since: None,
        }
    }

    pub(super) fn note(&mut self, shard: ShardId, seqno: u64, now: Instant) {
        if self.each == 0 {
            return;
        }
        let since = *self.since.get_or_insert(now);
        let full = self.young.len() >= self.each && !self.young.contains_key(&shard);
        if full || now.saturating_duration_since(since) > self.window {
            self.old = std::mem::take(&mut self.young);
            self.since = Some(now);
        }
        // A shard's newest seqno may stand in the older generation still, if
        // an earlier one was pushed after it.
        let note = self.young.entry(shard).or_insert(Note { seqno, at: now });
        note.seqno = note.seqno.max(seqno);
        note.at = now;
    }

    /// The shards noted within the window before `now`, some of them twice.
    pub(super) fn within_window(&self, now: Instant) -> impl Iterator<Item = (ShardId, u64)> + '_ {
        self.old
            .iter()
            .chain(&self.young)
            .filter(move |(_, note)| now.saturating_duration_since(note.at) <= self.window)
            .map(|(shard, note)| (*shard, note.seqno))
    }

    pub(super) fn clear(&mut self) {
        self.young = BTreeMap::new();
        self.old = BTreeMap::new();
    }
}
