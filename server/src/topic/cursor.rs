//! How far one subscription has read a shard.

use std::ops::ControlFlow;

use bytes::Bytes;
use persist_pubsub_proto::ShardId;

use super::TopicLimits;
use super::log::Entry;
use super::order::Order;
use super::own::Own;
use crate::frame::{Diff, Wire};
use crate::session::SessionId;

/// A place in a shard's run of diffs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    /// The next seqno to read. 0: the shard's first, whatever it will be.
    next: u64,
    /// The highest seqno delivered as a diff: v1 never goes below it.
    delivered: u64,
    /// Notices of the order that have been made up for.
    seen: u32,
    /// The order's epoch that `next` belongs to.
    epoch: u32,
}

/// Who reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader {
    pub(crate) wire: Wire,
    pub(crate) session: SessionId,
}

/// Where a reader's frames go.
pub(crate) trait Sink {
    /// The time of day, in nanoseconds since the Unix epoch.
    fn now_nanos(&self) -> u64;
    /// Takes a diff, encoding it where it needs a frame, or breaks if it has no
    /// room for it now.
    fn diff(&mut self, shard: ShardId, seqno: u64, diff: &Diff) -> ControlFlow<()>;
    /// Takes a hole: `from..=to` will not come. Always has room.
    fn gap(&mut self, shard: ShardId, from: u64, to: u64, highest: u64);
    /// Counts diffs that left the log before the reader came to them.
    fn missed(&mut self, diffs: u64);
    /// Counts a diff too large for the reader's wire version.
    fn oversize(&mut self);
}

/// What one reading took from the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    /// The sink was full: there is more.
    pub(crate) more: bool,
    /// Bytes of frames that were encoded for it, and stay in memory.
    pub(crate) encoded: usize,
    /// As many of these belong to doubted entries, which are not in the log.
    pub(crate) beside: usize,
}

impl Cursor {
    /// A cursor before `next`, with nothing to make up for. `next` 0: before
    /// whatever came or comes first.
    pub(crate) fn at(next: u64, order: &Order) -> Self {
        Self {
            next,
            delivered: 0,
            seen: order.notices(),
            epoch: order.epoch(),
        }
    }

    /// The reader published `seqno` itself. True: it stood right there, and
    /// now stands behind it. False: it has something to read before that, or
    /// stands further on; in a run that is no more, maybe.
    pub(crate) fn pass_own(&mut self, seqno: u64) -> bool {
        let here = self.next == seqno;
        if here {
            self.next += 1;
        }
        here
    }

    /// Reads on, into `sink`, as far as it has room. `own` are seqnos that
    /// the reader published and has not passed yet.
    pub(crate) fn read(
        &mut self,
        shard: ShardId,
        order: &Order,
        reader: Reader,
        own: &mut Own,
        limits: &TopicLimits,
        sink: &mut impl Sink,
    ) -> Reading {
        let mut out = Output {
            shard,
            head: order.head().unwrap_or(0),
            reader,
            limits,
            sink,
            gap: None,
            encoded: 0,
            beside: 0,
        };
        let more = self.run(order, own, &mut out).is_break();
        out.end_gap(own);
        let (encoded, beside) = (out.encoded, out.beside);
        own.forget_below(self.next);
        Reading {
            more,
            encoded,
            beside,
        }
    }

    fn run<S: Sink>(
        &mut self,
        order: &Order,
        own: &Own,
        out: &mut Output<'_, S>,
    ) -> ControlFlow<()> {
        let Some(released) = order.released() else {
            return ControlFlow::Continue(());
        };
        if self.epoch != order.epoch() {
            // The run that `next` belonged to was given up for another.
            self.epoch = order.epoch();
            // What was accepted as the highest once, and has not been read.
            let (origin, last) = order.abandoned();
            let unread = if self.next == 0 { origin } else { self.next };
            if released <= last && unread <= last {
                out.tell_gap(unread.max(released), last, own);
                out.end_gap(own);
            }
            self.next = self.next.min(order.adopted());
        }
        if self.next > released.saturating_add(out.limits.max_seqno_jump) {
            // The reader named a seqno that nobody has reached, as after a
            // restart that made the server forget a lie: it is not deafened
            // by that, and what has left the log already is a gap to it.
            self.next = order.origin();
        }
        if order.notices() != self.seen {
            self.catch_up_with_notices(order, own, out)?;
        }
        // A diff behind so large a hole is of no use to a reader before a fetch,
        // and may be one client's mistake. To a v1 reader it is told as part
        // of the gap: a diff that was delivered would make the true ones
        // below it undeliverable, by the promise of order.
        let jump = out.limits.max_seqno_jump;
        let far = |from: u64, to: u64| to - from > jump;
        let mut doubtful = false;
        if self.next == 0 {
            self.next = order.origin();
            doubtful = far(0, self.next);
        }
        let mut at = order.log.position(self.next);
        while self.next < released {
            let entry = order.log.at(at).filter(|e| e.seqno < released);
            let until = entry.map_or(released, |e| e.seqno);
            if until > self.next {
                doubtful = far(self.next, until);
                out.hole(self.next, until - 1, order, own);
                self.next = until;
                continue;
            }
            let Some(entry) = entry else { break };
            if entry.publisher == out.reader.session || own.contains(entry.seqno) {
                // The reader has it, even if another published it first.
            } else if out.reader.wire == Wire::V1 && (entry.seqno <= self.delivered || doubtful) {
                out.tell_gap(entry.seqno, entry.seqno, own);
            } else {
                out.entry(entry, own)?;
                self.delivered = self.delivered.max(entry.seqno);
            }
            self.next = entry.seqno + 1;
            doubtful = false;
            at += 1;
        }
        ControlFlow::Continue(())
    }

    /// Something surfaced below the cursor, or beside the run. A v0 reader
    /// discards what does not fit, so it is sent the run again from there; a
    /// v1 reader never goes back, and is told of a gap.
    fn catch_up_with_notices<S: Sink>(
        &mut self,
        order: &Order,
        own: &Own,
        out: &mut Output<'_, S>,
    ) -> ControlFlow<()> {
        let seen = self.seen;
        let session = out.reader.session;
        let unseen = |e: &&Entry| e.notice != 0 && after(e.notice, seen) && e.publisher != session;
        let next = self.next;
        // Without a look at the log for a flood of doubted ones.
        let below = if after(order.last_late(), seen) {
            next
        } else {
            0
        };
        let mut late = order
            .log
            .iter()
            .take_while(|e| e.seqno < below)
            .filter(unseen);
        match out.reader.wire {
            Wire::V0 => {
                if let Some(first) = late.next() {
                    self.next = first.seqno;
                }
                let mut doubted: Vec<&Entry> = order.doubted().filter(unseen).collect();
                doubted.sort_unstable_by_key(|e| e.notice.wrapping_sub(seen));
                for entry in doubted {
                    let before = out.encoded;
                    let taken = out.entry(entry, own);
                    out.beside += out.encoded - before;
                    taken?;
                    // Not to be sent again when the sink is full in between.
                    self.seen = entry.notice;
                }
            }
            Wire::V1 => {
                for entry in late.chain(order.doubted().filter(unseen)) {
                    out.tell_gap(entry.seqno, entry.seqno, own);
                }
                for (from, to) in order.doubts_forgotten(seen) {
                    // What the shard has reached is no doubt any more.
                    if from <= out.head {
                        out.tell_gap(from, to.min(out.head), own);
                    }
                    if to > out.head {
                        out.end_gap(own);
                        out.tell_gap(from.max(out.head + 1), to, own);
                    }
                }
                out.end_gap(own);
            }
        }
        self.seen = order.notices();
        ControlFlow::Continue(())
    }
}

/// Whether notice `a` came after notice `b`; both wrap around.
pub(super) fn after(a: u32, b: u32) -> bool {
    // The sign of the difference, on the circle of 32 bits.
    a.wrapping_sub(b).cast_signed() > 0
}

struct Output<'a, S> {
    shard: ShardId,
    head: u64,
    reader: Reader,
    limits: &'a TopicLimits,
    sink: &'a mut S,
    gap: Option<(u64, u64)>,
    encoded: usize,
    beside: usize,
}

impl<S: Sink> Output<'_, S> {
    fn entry(&mut self, entry: &Entry, own: &Own) -> ControlFlow<()> {
        let Some(diff) = &entry.diff else {
            self.tell_gap(entry.seqno, entry.seqno, own);
            return ControlFlow::Continue(());
        };
        let v0 = self.reader.wire == Wire::V0;
        // Before it is encoded, where the diff alone is too large.
        if v0 && diff.len() > self.limits.v0_max_frame_bytes {
            self.sink.oversize();
            return ControlFlow::Continue(());
        }
        let before = diff.held_bytes();
        let now = self.sink.now_nanos();
        let fits = |frame: &Bytes| frame.len() <= self.limits.v0_max_frame_bytes;
        let taken = if v0 && !fits(diff.frame(Wire::V0, self.shard, entry.seqno, now)) {
            self.sink.oversize();
            ControlFlow::Continue(())
        } else {
            self.end_gap(own);
            self.sink.diff(self.shard, entry.seqno, diff)
        };
        self.encoded += diff.held_bytes() - before;
        taken
    }

    /// No diff for `from..=to`: some were never there, the rest is evicted.
    fn hole(&mut self, from: u64, to: u64, order: &Order, own: &Own) {
        let missed = order
            .evicted_within(from, to)
            .flat_map(|(lo, hi)| own.gaps_within(lo, hi))
            .map(|(lo, hi)| hi - lo + 1)
            .sum();
        if missed > 0 {
            self.sink.missed(missed);
        }
        self.tell_gap(from, to, own);
    }

    fn tell_gap(&mut self, from: u64, to: u64, own: &Own) {
        if self.reader.wire == Wire::V0 {
            return;
        }
        match &mut self.gap {
            Some((_, hi)) if hi.checked_add(1) == Some(from) => *hi = to,
            _ => {
                self.end_gap(own);
                self.gap = Some((from, to));
            }
        }
    }

    fn end_gap(&mut self, own: &Own) {
        if let Some((from, to)) = self.gap.take() {
            for (lo, hi) in own.gaps_within(from, to) {
                // Below `lo` for a seqno that is doubted.
                self.sink.gap(self.shard, lo, hi, self.head);
            }
        }
    }
}
