//! The newest seqno of each shard that was handed to the network lately.

use std::cmp::Ordering;
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

    /// The newest seqno of the shards noted within the window before `now`, each
    /// shard once and in order.
    pub(super) fn within_window(&self, now: Instant) -> impl Iterator<Item = (ShardId, u64)> + '_ {
        let within = |notes| Self::within(notes, self.window, now).peekable();
        let (mut old, mut young) = (within(&self.old), within(&self.young));
        std::iter::from_fn(move || {
            let order = match (old.peek(), young.peek()) {
                (Some((old, _)), Some((young, _))) => old.cmp(young),
                (Some(_), None) => Ordering::Less,
                (None, _) => Ordering::Greater,
            };
            match order {
                Ordering::Less => old.next(),
                Ordering::Greater => young.next(),
                Ordering::Equal => {
                    let (shard, seqno) = old.next()?;
                    young.next().map(|(_, other)| (shard, seqno.max(other)))
                }
            }
        })
    }

    fn within(
        notes: &BTreeMap<ShardId, Note>,
        window: Duration,
        now: Instant,
    ) -> impl Iterator<Item = (ShardId, u64)> {
        notes
            .iter()
            .filter(move |(_, note)| now.saturating_duration_since(note.at) <= window)
            .map(|(shard, note)| (*shard, note.seqno))
    }

    pub(super) fn clear(&mut self) {
        self.young = BTreeMap::new();
        self.old = BTreeMap::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_shard_of_both_generations_is_told_once() {
        let second = Duration::from_secs(1);
        let shard = |n| ShardId::new([n; 16]);
        // Two of a generation.
        let mut recent = Recent::new(60 * second, 4);
        let begun = Instant::now();
        for (n, seqno) in [(1, 7), (4, 5), (1, 6), (3, 2), (4, 9)] {
            recent.note(shard(n), seqno, begun);
            tokio::time::advance(second).await;
        }
        let all: Vec<_> = recent.within_window(begun + 60 * second).collect();
        assert_eq!(all, [(shard(1), 7), (shard(3), 2), (shard(4), 9)]);
        assert_eq!(recent.within_window(begun + 61 * second).count(), 0);
    }
}
