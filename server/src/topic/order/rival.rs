//! Runs of diffs too far from the others to be believed at once.
//!
//! A lie *within* `--max-seqno-jump` is not among them: it is let through past a
//! hole, and the true diffs come below it, as late ones. They are told at once, and
//! nobody is silenced: to v0 each is sent with the run from there on, to v1
//! each is a gap. So a v1 reader has to fetch each of them, until the true run
//! has come past the lie, by which time it is at most that many diffs. It is
//! tempting to give the run back to the lower one when that goes on for
//! `--jump-confirm` while the higher stands still. It is not done, because
//! - a session that was sent the lie as a diff may be sent nothing below it as
//!   a diff, by the promise of order: it would go on being told of gaps, and only
//!   whoever subscribes later had a use of it;
//! - an honest writer whose connection stalls looks the same. Another writer's
//!   one diff is let through past the hole, and stands still while the backlog
//!   arrives below it, for longer than any wait. To go back would forget a diff
//!   that was committed, and lower the head that sessions were told, which to a
//!   client means that the server has lost its memory: each would resync;
//! - nothing but the store tells the two apart.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::{Order, Verdict};
use crate::session::SessionId;
use crate::topic::TopicLimits;
use crate::topic::cursor::after;
use crate::topic::log::{Entry, Log, Ranges};

/// Diffs by which a run far from the others shows that it is the real one.
const RIVAL_PROOF: usize = 3;
/// Diffs of a run that are kept until then.
const RIVAL_KEPT: usize = 16;
/// Runs that are doubted at a time. When there are more, one of the session
/// goes that began the most: so one client, however many lies it tells, takes
/// no place from the true run, nor do two.
const RIVALS: usize = 4;
/// Ranges kept of what was doubted and let go. When there are more, the
/// nearest are joined: a gap that says too much costs a fetch, one that says
/// too little may cost a reader the truth.
const GONE_RANGES: usize = 64;

/// A run of diffs too far from the others to be believed at once.
#[derive(Debug)]
struct Rival {
    /// The last of its entries, ascending.
    entries: VecDeque<Entry>,
    count: usize,
    since: Instant,
    begun_by: SessionId,
}

/// All that is doubted.
#[derive(Debug, Default)]
pub(super) struct Rivals {
    runs: Vec<Rival>,
    /// What of it was let go: for readers that were too slow.
    gone: Ranges,
    /// The last notice of what was let go.
    let_go: u32,
}

impl Rivals {
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.runs.iter().flat_map(|run| run.entries.iter())
    }

    /// The ranges let go, if anything of them came after the notice `seen`.
    pub(super) fn forgotten(&self, seen: u32) -> impl Iterator<Item = (u64, u64)> {
        self.gone.iter().filter(move |_| after(self.let_go, seen))
    }

    fn forget(&mut self, entry: &Entry) {
        self.gone.add(entry.seqno, entry.seqno);
        self.gone.join_nearest(GONE_RANGES);
        if self.let_go == 0 || after(entry.notice, self.let_go) {
            self.let_go = entry.notice;
        }
    }

    /// Lets go of the entries that are old.
    pub(super) fn evict(&mut self, old: impl Fn(&Entry) -> bool) {
        let mut gone = Vec::new();
        for run in &mut self.runs {
            let (out, kept) = std::mem::take(&mut run.entries)
                .into_iter()
                .partition(|e| old(e));
            run.entries = kept;
            gone.push(out);
        }
        self.runs.retain(|run| !run.entries.is_empty());
        let gone: Vec<VecDeque<Entry>> = gone;
        for entry in gone.iter().flatten() {
            self.forget(entry);
        }
    }

    /// Takes out the run that `seqno` is near to.
    fn take_near(&mut self, seqno: u64, limits: &TopicLimits) -> Option<Rival> {
        let near = self.runs.iter().position(|run| {
            let last = run.entries.back();
            last.is_some_and(|e| e.seqno.abs_diff(seqno) <= limits.max_seqno_jump)
        })?;
        Some(self.runs.swap_remove(near))
    }

    /// Makes room for a run that `session` begins.
    fn make_room(&mut self, session: SessionId) {
        if self.runs.len() < RIVALS {
            return;
        }
        let begun = |by: SessionId| {
            let runs = self.runs.iter().filter(|run| run.begun_by == by).count();
            runs + usize::from(by == session)
        };
        let victim = (0..self.runs.len()).max_by_key(|&at| {
            let run = self.runs.get(at);
            run.map(|run| {
                (
                    begun(run.begun_by),
                    std::cmp::Reverse((run.count, run.since)),
                )
            })
        });
        if let Some(at) = victim {
            for entry in self.runs.swap_remove(at).entries {
                self.forget(&entry);
            }
        }
    }
}

impl Order {
    /// A seqno too far from the others: one client may be wrong, or all the
    /// others are long gone. Subscribers are told of it at once (v0 gets the
    /// diff, v1 a gap), but it moves the shard's run only when it has been
    /// followed up while the old run stood still.
    pub(super) fn doubt(&mut self, mut entry: Entry, limits: &TopicLimits) -> Verdict {
        let (seqno, now) = (entry.seqno, entry.at);
        let mut rivals = self.rivals.take().unwrap_or_default();
        let mut run = rivals.take_near(seqno, limits).unwrap_or_else(|| {
            rivals.make_room(entry.publisher);
            Rival {
                entries: VecDeque::new(),
                count: 0,
                since: now,
                begun_by: entry.publisher,
            }
        });
        let at = run.entries.partition_point(|e| e.seqno < seqno);
        if run.entries.get(at).is_some_and(|e| e.seqno == seqno) {
            rivals.runs.push(run);
            self.rivals = Some(rivals);
            return Verdict::DoubtedAgain;
        }
        entry.notice = self.notice();
        run.entries.insert(at, entry);
        run.count += 1;
        // All runs together hold what a log may, beside one diff each.
        let most = limits.log_bytes / RIVALS;
        let mut bytes: usize = run.entries.iter().map(Entry::cost).sum();
        while run.entries.len() > RIVAL_KEPT || (run.entries.len() > 1 && bytes > most) {
            let Some(entry) = run.entries.pop_front() else {
                break;
            };
            bytes -= entry.cost();
            rivals.forget(&entry);
        }
        // In the same moment: nobody can say which was first, and for certain
        // the old run has not moved since.
        let still = self.advanced_at.is_none_or(|at| at <= run.since);
        if !still {
            // It has to show itself anew, now that the old run stands.
            (run.since, run.count) = (now, 1);
        }
        let proven =
            run.count >= RIVAL_PROOF && now.duration_since(run.since) >= limits.jump_confirm;
        if !proven {
            rivals.runs.push(run);
            self.rivals = Some(rivals);
            return Verdict::Doubted;
        }
        self.rivals = Some(rivals);
        self.adopt(run, now);
        Verdict::Adopted
    }

    /// The run takes the place of the one that stood still.
    fn adopt(&mut self, run: Rival, now: Instant) {
        let old = self.released.unwrap_or(0);
        let first = run.entries.front().map_or(old, |e| e.seqno);
        self.log = Log::default();
        self.holes = Ranges::default();
        self.epoch = self.epoch.wrapping_add(1);
        self.wait_again();
        self.adopted = first;
        if first < old {
            self.abandoned = (self.origin, self.abandoned.1.max(old - 1));
        }
        // Past diffs of the adopted run may still come: those above the old
        // run if it was below, all if it was above.
        self.floor = if old < first { old } else { 0 };
        self.released = Some(first);
        self.origin = self.origin.min(first);
        for mut entry in run.entries {
            entry.notice = 0;
            self.log.insert(entry);
        }
        let last = self.log.last().map_or(first, |e| e.seqno);
        self.pass(last, now);
    }
}
