//! A past that another replica still has.

use tokio::time::Instant;

use super::{Order, Verdict};
use crate::topic::TopicLimits;
use crate::topic::log::Entry;

impl Order {
    /// Puts a diff into its place below everything that this order has let
    /// through or still knows, for who subscribes from there: nobody is told,
    /// for nobody was told that it was missing, or it was there and has been
    /// evicted. Takes room that is free, and none from what is newer.
    /// None: it is no such diff, but one to be accepted.
    pub(in crate::topic) fn backfill(
        &mut self,
        entry: Entry,
        limits: &TopicLimits,
    ) -> Option<Verdict> {
        let released = self.released?;
        let seqno = entry.seqno;
        let untold = self.untold.0 <= seqno && seqno < self.untold.1;
        let evicted = seqno < self.floor && !self.holes.contains(seqno);
        let past = seqno < self.origin || untold || evicted;
        if seqno >= released || !past || entry.diff.is_none() {
            return None;
        }
        if self.log.get(seqno).is_some() {
            return Some(Verdict::Duplicate);
        }
        let room = self.log.len() < limits.log_entries
            && self.log.bytes() + entry.cost() <= limits.log_bytes;
        if room {
            if seqno < self.origin {
                // Nor was anybody told of what else belongs there.
                self.untold = (seqno, self.untold.1.max(self.origin));
                self.origin = seqno;
            }
            self.log.insert(entry);
        }
        Some(Verdict::Backfilled)
    }

    /// Takes the run up behind `head`, whatever is missing up to there: for an
    /// order that nobody reads. What other replicas have of it is a past then;
    /// what is published here is late, or doubted, as always: the head may be
    /// one client's lie.
    pub(in crate::topic) fn take_up(&mut self, head: u64, now: Instant) {
        let next = head.saturating_add(1);
        match self.released {
            None => self.origin = next,
            Some(released) => self.untold = (released, next),
        }
        self.advance(next, now);
    }

    /// Whether a seqno is too far from the run to be believed on its own.
    pub(in crate::topic) fn is_far(&self, seqno: u64, limits: &TopicLimits) -> bool {
        self.released
            .is_some_and(|released| seqno.abs_diff(released) > limits.max_seqno_jump)
    }

    /// Forgets everything, for a run that is believed over this one. For an
    /// order that nobody reads.
    pub(in crate::topic) fn start_over(&mut self) {
        *self = Self {
            epoch: self.epoch.wrapping_add(1),
            notices: self.notices,
            ..Self::new()
        };
    }
}
