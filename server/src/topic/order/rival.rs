//! A run of diffs too far from the others to be believed at once.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::{Order, Verdict};
use crate::topic::TopicLimits;
use crate::topic::log::{Entry, Log, Ranges};

/// Diffs by which a run far from the others shows that it is the real one.
const RIVAL_PROOF: usize = 3;
/// Diffs of it that are kept until then.
const RIVAL_KEPT: usize = 16;

/// A run of diffs too far from the others to be believed at once.
#[derive(Debug)]
pub(super) struct Rival {
    /// The last of its entries, ascending.
    pub(super) entries: VecDeque<Entry>,
    pub(super) count: usize,
    pub(super) since: Instant,
}

impl Order {
    /// A seqno too far from the others: one client may be wrong, or all the
    /// others are long gone. Subscribers are told of it at once (v0 gets the
    /// diff, v1 a gap), but it moves the shard's run only when it has been
    /// followed up while the old run stood still.
    pub(super) fn doubt(&mut self, mut entry: Entry, limits: &TopicLimits) -> Verdict {
        let (seqno, now) = (entry.seqno, entry.at);
        let near = |r: &Rival| {
            r.entries
                .back()
                .is_some_and(|e| e.seqno.abs_diff(seqno) <= limits.max_seqno_jump)
        };
        let mut rival = self.rival.take().filter(|r| near(r)).unwrap_or_else(|| {
            Box::new(Rival {
                entries: VecDeque::new(),
                count: 0,
                since: now,
            })
        });
        let at = rival.entries.partition_point(|e| e.seqno < seqno);
        if rival.entries.get(at).is_some_and(|e| e.seqno == seqno) {
            self.rival = Some(rival);
            return Verdict::Duplicate;
        }
        entry.notice = self.notice();
        rival.entries.insert(at, entry);
        rival.count += 1;
        let mut bytes: usize = rival.entries.iter().map(Entry::cost).sum();
        while rival.entries.len() > RIVAL_KEPT
            || (rival.entries.len() > 1 && bytes > limits.log_bytes)
        {
            bytes -= rival.entries.pop_front().map_or(0, |e| e.cost());
        }
        let still = self.advanced_at.is_none_or(|at| at < rival.since);
        let proven = rival.count >= RIVAL_PROOF
            && now.duration_since(rival.since) >= limits.jump_confirm
            && still;
        if !proven {
            self.rival = Some(rival);
            return Verdict::Doubted;
        }
        let old = self.released.unwrap_or(0);
        self.log = Log::default();
        self.holes = Ranges::default();
        self.epoch = self.epoch.wrapping_add(1);
        self.wait_again();
        // Past diffs of the adopted run may still come: those above the old
        // run if it was below, all if it was above.
        let first = rival.entries.front().map_or(seqno, |e| e.seqno);
        self.floor = if old < first { old } else { 0 };
        self.released = Some(first);
        self.origin = self.origin.min(first);
        for mut entry in rival.entries {
            entry.notice = 0;
            self.log.insert(entry);
        }
        let last = self.log.last().map_or(seqno, |e| e.seqno);
        self.pass(last, now);
        Verdict::Adopted
    }
}
