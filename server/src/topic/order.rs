//! In which order a shard's diffs are let through.
//!
//! ```text
//!   evicted        log: entries in seqno order           held back
//!  ----------|---------------------------------|- - - - - - - - - - - -
//!            first                             released (exclusive)
//! ```
//!
//! Everything below `released` has been let through: its entries are for the
//! cursors to read, and what is missing there is a hole. An entry at or above
//! it waits for its predecessor, at most the reorder window.

mod backfill;
mod rival;

use std::time::Duration;

use tokio::time::Instant;

use super::TopicLimits;
use super::log::{Entry, Log, Ranges};
use rival::Rivals;

/// The first pause of waiting after a hole was not filled in time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest: a shard with a writer that never publishes pays one reorder
/// window in so long a time.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Holes below what was evicted that are kept: few, unless somebody means it.
const HOLES_KEPT: usize = 64;

/// What became of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// In order: let through, and with it what waited for it.
    InOrder,
    /// Waits for its predecessor.
    Held,
    /// Let through past a hole, which ends at this seqno.
    Gapped(u64),
    /// Came after its place had been passed, and was put there. Readers that
    /// are past it hear of it if it was passed within the replay window.
    FilledLate,
    /// In the log already, or given up before.
    Duplicate,
    /// Too far from the others to be believed on its own.
    Doubted,
    /// Doubted, and known: it was told before.
    DoubtedAgain,
    /// The run that was doubted has shown that it is the real one.
    Adopted,
    /// A past diff that another replica still had, for who subscribes from
    /// there: in its place, or left away for want of room.
    Backfilled,
}

impl Verdict {
    /// Whether it was known.
    pub(crate) fn is_old(self) -> bool {
        matches!(self, Self::Duplicate | Self::DoubtedAgain)
    }

    /// Whether it came beside the shard's run; which it may just have become.
    pub(crate) fn was_doubted(self) -> bool {
        matches!(self, Self::Doubted | Self::DoubtedAgain | Self::Adopted)
    }
}

/// Decides what is let through, and when.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) log: Log,
    /// One above the highest seqno let through. None: nothing yet.
    released: Option<u64>,
    /// The lowest seqno let through, of all there were: where a reader begins
    /// that came before there was any.
    origin: u64,
    /// Above everything evicted. From here on up to `released` the log knows
    /// all: what it does not have is a hole, and late if it comes after all.
    floor: u64,
    /// The holes below `floor`, as many of the highest as are kept: what comes
    /// there and is in none of them is taken for a duplicate.
    holes: Ranges,
    /// From here up to there, nobody was told of holes: they were passed when
    /// nobody was subscribed and another replica was further on, or lie in a
    /// past that other replicas have filled in.
    untold: (u64, u64),
    /// Counts what surfaced out of order below `released` or beside it: a
    /// cursor that has seen fewer has something to make up for.
    notices: u32,
    /// The notice of the last entry that surfaced in the log.
    last_late: u32,
    /// None: nothing is doubted, nor ever was.
    rivals: Option<Box<Rivals>>,
    /// Counts the rivals adopted: a cursor of an earlier epoch stands in a
    /// run that is no more.
    epoch: u32,
    /// From the lowest seqno let through to the highest, of a run that was given
    /// up for a lower one; (0, 0): none was. Whoever had not read all of it is
    /// told of the rest.
    abandoned: (u64, u64),
    /// Where the run began that was adopted last.
    adopted: u64,
    /// When something was last let through.
    advanced_at: Option<Instant>,
    pause: Duration,
    /// Until then, nothing waits.
    resume_at: Option<Instant>,
    /// When a hole was last passed without waiting.
    passed_at: Option<Instant>,
}

impl Order {
    pub(crate) fn new() -> Self {
        Self {
            log: Log::default(),
            released: None,
            origin: 0,
            floor: 0,
            holes: Ranges::default(),
            untold: (0, 0),
            notices: 0,
            last_late: 0,
            rivals: None,
            abandoned: (0, 0),
            adopted: 0,
            epoch: 0,
            advanced_at: None,
            pause: Duration::ZERO,
            resume_at: None,
            passed_at: None,
        }
    }

    /// One above the highest seqno let through.
    pub(crate) fn released(&self) -> Option<u64> {
        self.released
    }

    /// The highest seqno let through.
    pub(crate) fn head(&self) -> Option<u64> {
        self.released.map(|r| r.saturating_sub(1))
    }

    /// The lowest seqno let through.
    pub(crate) fn origin(&self) -> u64 {
        self.origin
    }

    pub(crate) fn notices(&self) -> u32 {
        self.notices
    }

    /// The notice of the last that surfaced late in the log; 0: none has.
    pub(crate) fn last_late(&self) -> u32 {
        self.last_late
    }

    pub(crate) fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Where the run began that was adopted last: whoever is further on, in a
    /// run that is no more, begins there.
    pub(crate) fn adopted(&self) -> u64 {
        self.adopted
    }

    /// Where a run began and ended that was given up for a lower one.
    pub(crate) fn abandoned(&self) -> (u64, u64) {
        self.abandoned
    }

    #[cfg(test)]
    pub(crate) fn set_notices(&mut self, notices: u32) {
        self.notices = notices;
    }

    /// The parts of `from..=to` that were there once: not known to be holes.
    pub(crate) fn evicted_within(
        &self,
        from: u64,
        to: u64,
    ) -> impl Iterator<Item = (u64, u64)> + use<'_> {
        // The highest that may have been evicted; none if there is none.
        let last = self.floor.checked_sub(1).map(|last| last.min(to));
        last.into_iter()
            .flat_map(move |last| self.holes.gaps_within(from, last))
    }

    /// Where to begin so as to read the diffs of the replay window again.
    pub(crate) fn replay_from(&self, released: u64, now: Instant, limits: &TopicLimits) -> u64 {
        let from = now.checked_sub(limits.v0_replay_window);
        // Found by halving, for a peer may ask as often as it likes.
        let place = self
            .log
            .partition_point(|e| from.is_some_and(|from| e.at < from));
        self.log
            .at(place)
            .map_or(released, |e| e.seqno.min(released))
    }

    /// Entries that wait for their predecessor.
    pub(crate) fn held(&self) -> usize {
        self.released
            .map_or(0, |r| self.log.len() - self.log.position(r))
    }

    /// Entries of a run that is not believed yet.
    pub(crate) fn doubted(&self) -> impl Iterator<Item = &Entry> {
        self.rivals.iter().flat_map(|rivals| rivals.entries())
    }

    /// What was doubted and is not kept any more, as ranges, if there is any
    /// of it that came after the notice `seen`.
    pub(crate) fn doubts_forgotten(&self, seen: u32) -> impl Iterator<Item = (u64, u64)> {
        let rivals = self.rivals.iter();
        rivals.flat_map(move |rivals| rivals.forgotten(seen))
    }

    /// Bytes of memory that the log and the doubted entries hold.
    pub(crate) fn bytes(&self) -> usize {
        self.log.bytes() + self.doubted().map(Entry::cost).sum::<usize>()
    }

    /// Takes a publication. `entry.seqno` is at most `MAX_SEQNO`, so that
    /// nothing here overflows.
    pub(crate) fn accept(&mut self, mut entry: Entry, limits: &TopicLimits) -> Verdict {
        let (seqno, now) = (entry.seqno, entry.at);
        let Some(released) = self.released else {
            // Nothing is known of the past: it may still come, late.
            self.origin = seqno;
            self.log.insert(entry);
            self.advance(seqno + 1, now);
            return Verdict::InOrder;
        };
        if let Some(known) = self.log.get(seqno) {
            if known.diff.is_some() || entry.diff.is_none() {
                return Verdict::Duplicate;
            }
        } else if seqno < self.floor && !self.holes.contains(seqno) {
            return Verdict::Duplicate;
        }
        if seqno.abs_diff(released) > limits.max_seqno_jump {
            return self.doubt(entry, limits);
        }
        if seqno < released {
            if entry.diff.is_none() {
                // It was told as a hole; there is nothing to add.
                self.publisher_has_come();
                return Verdict::Duplicate;
            }
            self.holes.remove(seqno);
            self.holes.keep_highest(HOLES_KEPT);
            self.origin = self.origin.min(seqno);
            let next = self.log.at(self.log.position(seqno));
            let passed = next.map_or(now, |next| next.at);
            // Readers have fetched what was passed longer ago; to send the
            // run again for it would let one small diff cost a whole log.
            if now.duration_since(passed) <= limits.v0_replay_window {
                entry.notice = self.notice();
                self.last_late = entry.notice;
            }
            self.log.insert(entry);
            if self
                .passed_at
                .is_some_and(|at| now.duration_since(at) <= limits.reorder_window)
            {
                // Waiting would have helped.
                self.wait_again();
            }
            return Verdict::FilledLate;
        }
        let announced = entry.diff.is_none();
        self.log.insert(entry);
        if seqno == released {
            let waited = self.held() > 1;
            self.advance(seqno + 1, now);
            if waited {
                self.wait_again();
            }
            if announced {
                self.publisher_has_come();
            }
            return Verdict::InOrder;
        }
        if limits.reorder_window.is_zero() || self.resume_at.is_some_and(|at| now < at) {
            self.passed_at = Some(now);
            self.pass(seqno, now);
            if announced {
                self.publisher_has_come();
            }
            return Verdict::Gapped(seqno - 1);
        }
        Verdict::Held
    }

    /// A seqno was announced without its diff: somebody has published elsewhere
    /// until now, or lost it on the way, and is here. What was missing may have
    /// been theirs, so what is missing next is worth waiting for.
    fn publisher_has_come(&mut self) {
        self.wait_again();
    }

    /// The number of the next notice; never 0.
    fn notice(&mut self) -> u32 {
        self.notices = self.notices.wrapping_add(1).max(1);
        self.notices
    }

    /// Lets through what has waited long enough. Returns the last seqno that
    /// was missing if it did, and when to ask again.
    pub(crate) fn release_due(
        &mut self,
        now: Instant,
        limits: &TopicLimits,
    ) -> (Option<u64>, Option<Instant>) {
        let Some(released) = self.released else {
            return (None, None);
        };
        let held = || {
            let from = self.log.position(released);
            (from..self.log.len()).filter_map(|at| self.log.at(at))
        };
        let due = held()
            .filter(|e| now.duration_since(e.at) >= limits.reorder_window)
            .map(|e| e.seqno)
            .max();
        let Some(due) = due else {
            let next = held().map(|e| e.at + limits.reorder_window).min();
            return (None, next);
        };
        // An announcement that waited in vain says that its publisher has come,
        // and nothing of those who do not publish.
        let in_vain = |e: &Entry| e.seqno <= due && e.diff.is_some();
        if held().any(in_vain) {
            self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            self.resume_at = Some(now + self.pause);
        }
        // Waiting pauses: what else is held is not to be waited for either.
        let last = self.log.last().map_or(due, |e| e.seqno);
        (self.pass(last.max(due), now), None)
    }

    /// Lets everything up to `seqno` through, holes and all. Returns the last
    /// seqno that was missing.
    fn pass(&mut self, seqno: u64, now: Instant) -> Option<u64> {
        let mut missing = None;
        let mut next = self.released.unwrap_or(0);
        let mut at = self.log.position(next);
        while let Some(entry) = self.log.at(at).filter(|e| e.seqno <= seqno) {
            if entry.seqno > next {
                missing = Some(entry.seqno - 1);
            }
            next = entry.seqno + 1;
            at += 1;
        }
        self.advance(next, now);
        missing
    }

    /// Lets everything below `next` through, and the unbroken run above it.
    fn advance(&mut self, next: u64, now: Instant) {
        let mut next = next;
        let mut at = self.log.position(next);
        while self.log.at(at).is_some_and(|e| e.seqno == next) {
            next += 1;
            at += 1;
        }
        self.released = Some(next);
        self.advanced_at = Some(now);
    }

    fn wait_again(&mut self) {
        self.pause = Duration::ZERO;
        self.resume_at = None;
        self.passed_at = None;
    }

    /// Drops what the bounds no longer allow: entries that came before
    /// `oldest`, then the lowest until count and bytes fit. The newest entry
    /// stays for its age, whatever its size, so that every diff is there to
    /// be read once. What is held back and has to go is let through, as a
    /// hole: else nobody would ever be told of it. Returns how many went.
    pub(crate) fn evict(&mut self, oldest: Option<Instant>, limits: &TopicLimits) -> usize {
        let mut evicted = 0;
        let old = |e: &Entry| oldest.is_some_and(|oldest| e.at < oldest);
        while let Some(first) = self.log.first() {
            let over = self.log.len() > 1
                && (self.log.len() > limits.log_entries || self.log.bytes() > limits.log_bytes);
            if !over && !old(first) {
                break;
            }
            let (seqno, at) = (first.seqno, first.at);
            // What was missing before it, and itself if it had no diff, may
            // still come.
            let missing = self.floor.min(seqno)..seqno + u64::from(first.diff.is_none());
            if !missing.is_empty() {
                self.holes.add(missing.start, missing.end - 1);
                self.holes.keep_highest(HOLES_KEPT);
            }
            self.floor = self.floor.max(seqno + 1);
            if self.released.is_some_and(|released| released <= seqno) {
                self.pass(seqno, at);
            }
            self.log.evict_first();
            evicted += 1;
        }
        if let Some(rivals) = &mut self.rivals {
            rivals.evict(old);
        }
        evicted
    }

    /// When the entry came that is the next to be evicted by age.
    pub(crate) fn oldest_at(&self) -> Option<Instant> {
        let doubted = self.doubted().map(|e| e.at).min();
        let first = self.log.first().map(|e| e.at);
        match (first, doubted) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}
