//! A shard's recent diffs, in seqno order.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use crate::frame::Diff;
use crate::session::SessionId;

/// Memory of an entry beside its frames: the entry itself, and the diff's
/// header on the heap.
pub(crate) const ENTRY_OVERHEAD: usize =
    size_of::<Entry>() + size_of::<Diff>() + 2 * size_of::<usize>();

/// What the log keeps of one seqno.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) seqno: u64,
    /// None: the shard reached this seqno, but the diff is not to be had (not
    /// published, or larger than may be relayed).
    pub(crate) diff: Option<Arc<Diff>>,
    pub(crate) publisher: SessionId,
    pub(crate) at: Instant,
    /// 0, or the number of the notice by which this entry surfaced late: see
    /// [`super::order::Order::notices`].
    pub(crate) notice: u32,
}

impl Entry {
    /// Bytes of memory held.
    pub(crate) fn cost(&self) -> usize {
        ENTRY_OVERHEAD + self.diff.as_ref().map_or(0, |d| d.held_bytes())
    }
}

/// Entries in strictly increasing seqno, with what they cost.
#[derive(Debug, Default)]
pub(crate) struct Log {
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl Log {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of memory held by the entries.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn first(&self) -> Option<&Entry> {
        self.entries.front()
    }

    pub(crate) fn last(&self) -> Option<&Entry> {
        self.entries.back()
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.iter()
    }

    /// The place of the first entry at or above `seqno`; the log's length if
    /// there is none.
    pub(crate) fn position(&self, seqno: u64) -> usize {
        let Some(first) = self.first() else { return 0 };
        if seqno <= first.seqno {
            return 0;
        }
        // A log without holes, the common one, tells by subtraction.
        if let Ok(guess) = usize::try_from(seqno - first.seqno)
            && self.entries.get(guess).is_some_and(|e| e.seqno == seqno)
        {
            return guess;
        }
        self.entries.partition_point(|e| e.seqno < seqno)
    }

    /// The place of the first entry for which `before` is false, where it
    /// holds for some first entries and for no others.
    pub(crate) fn partition_point(&self, before: impl FnMut(&Entry) -> bool) -> usize {
        self.entries.partition_point(before)
    }

    pub(crate) fn at(&self, position: usize) -> Option<&Entry> {
        self.entries.get(position)
    }

    pub(crate) fn get(&self, seqno: u64) -> Option<&Entry> {
        self.at(self.position(seqno)).filter(|e| e.seqno == seqno)
    }

    /// Puts an entry into its place; one of the same seqno is replaced. It
    /// takes the age of what it comes before, so that times ascend with
    /// seqnos: the lowest entry is the oldest.
    pub(crate) fn insert(&mut self, mut entry: Entry) {
        self.bytes += entry.cost();
        if self.last().is_none_or(|last| last.seqno < entry.seqno) {
            self.entries.push_back(entry);
            return;
        }
        let position = self.position(entry.seqno);
        if let Some(next) = self.entries.get(position) {
            entry.at = entry.at.min(next.at);
        }
        match self.entries.get_mut(position) {
            Some(same) if same.seqno == entry.seqno => {
                self.bytes -= same.cost();
                *same = entry;
            }
            _ => self.entries.insert(position, entry),
        }
    }

    /// Drops the entry of the lowest seqno.
    pub(crate) fn evict_first(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.bytes -= entry.cost();
        Some(entry)
    }

    /// Counts bytes that a diff of an entry has come to hold since it was
    /// inserted: a frame encoded on first need.
    pub(crate) fn grew(&mut self, bytes: usize) {
        self.bytes += bytes;
    }
}

/// Ranges of seqnos, both ends included, apart from each other and ascending.
/// Whoever adds to them bounds them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ranges {
    ranges: Vec<(u64, u64)>,
}

impl Ranges {
    pub(crate) fn contains(&self, seqno: u64) -> bool {
        let at = self.ranges.partition_point(|&(_, hi)| hi < seqno);
        self.ranges.get(at).is_some_and(|&(lo, _)| lo <= seqno)
    }

    pub(crate) fn add(&mut self, lo: u64, hi: u64) {
        let start = self
            .ranges
            .partition_point(|&(_, h)| h.saturating_add(1) < lo);
        let end = self
            .ranges
            .partition_point(|&(l, _)| l <= hi.saturating_add(1));
        let mut merged = (lo, hi);
        for &(l, h) in self.ranges.get(start..end).unwrap_or_default() {
            merged = (merged.0.min(l), merged.1.max(h));
        }
        self.ranges.splice(start..end.max(start), [merged]);
    }

    /// Takes one seqno out. False: it was not in.
    pub(crate) fn remove(&mut self, seqno: u64) -> bool {
        let at = self.ranges.partition_point(|&(_, hi)| hi < seqno);
        let Some(&(lo, hi)) = self.ranges.get(at).filter(|&&(lo, _)| lo <= seqno) else {
            return false;
        };
        let below = (lo < seqno).then(|| (lo, seqno - 1));
        let above = (seqno < hi).then(|| (seqno + 1, hi));
        self.ranges.splice(at..=at, below.into_iter().chain(above));
        true
    }

    /// Forgets the lowest ranges beyond so many.
    pub(crate) fn keep_highest(&mut self, ranges: usize) {
        let over = self.ranges.len().saturating_sub(ranges);
        self.ranges.drain(..over);
    }

    /// Joins the nearest to each other, with what is between them, until there
    /// are no more than so many.
    pub(crate) fn join_nearest(&mut self, ranges: usize) {
        while self.ranges.len() > ranges.max(1) {
            let between = |at: usize| {
                let (left, right) = (self.ranges.get(at), self.ranges.get(at + 1));
                left.zip(right).map_or(u64::MAX, |(l, r)| r.0 - l.1)
            };
            let at = (0..self.ranges.len() - 1).min_by_key(|&at| between(at));
            let at = at.unwrap_or(0);
            let right = self.ranges.remove(at + 1);
            if let Some(left) = self.ranges.get_mut(at) {
                left.1 = right.1;
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.ranges.iter().copied()
    }

    /// Forgets everything below `seqno`.
    pub(crate) fn forget_below(&mut self, seqno: u64) {
        let end = self.ranges.partition_point(|&(_, hi)| hi < seqno);
        self.ranges.drain(..end);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.ranges.len()
    }

    /// The parts of `lo..=hi` that are in none of the ranges, ascending.
    pub(crate) fn gaps_within(&self, lo: u64, hi: u64) -> impl Iterator<Item = (u64, u64)> {
        let mut next = Some(lo);
        let mut ranges = self.ranges.iter().copied().skip_while(move |r| r.1 < lo);
        std::iter::from_fn(move || {
            loop {
                let from = next.filter(|&n| n <= hi)?;
                match ranges.next() {
                    Some((l, h)) if l <= hi => {
                        next = h.checked_add(1);
                        if from < l {
                            return Some((from, l - 1));
                        }
                    }
                    _ => {
                        next = None;
                        return Some((from, hi));
                    }
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_are_a_set(steps in prop::collection::vec((any::<bool>(), 0_u64..60, 0_u64..6), 0..40), lo in 0_u64..60, len in 0_u64..20) {
            let mut ranges = Ranges::default();
            let mut set = BTreeSet::new();
            for (add, at, len) in steps {
                if add {
                    ranges.add(at, at + len);
                    set.extend(at..=at + len);
                } else {
                    prop_assert_eq!(ranges.remove(at), set.remove(&at));
                }
                for n in 0..70 {
                    prop_assert_eq!(ranges.contains(n), set.contains(&n));
                }
            }
            let missing: Vec<u64> = ranges.gaps_within(lo, lo + len).flat_map(|(a, b)| a..=b).collect();
            let expected: Vec<u64> = (lo..=lo + len).filter(|n| !set.contains(n)).collect();
            prop_assert_eq!(missing, expected);
        }

        /// Nothing is lost by joining, no more is taken in than has to be, and
        /// what stays apart is further apart than what was joined.
        #[test]
        fn joined_ranges_hold_all_and_are_few(at in prop::collection::btree_set(0_u64..200, 1..40), most in 0_usize..12) {
            let mut ranges = Ranges::default();
            at.iter().for_each(|&n| ranges.add(n, n));
            let before: Vec<_> = ranges.iter().collect();
            ranges.join_nearest(most);
            let after: Vec<_> = ranges.iter().collect();
            prop_assert_eq!(after.len(), before.len().min(most.max(1)));
            prop_assert!(at.iter().all(|&n| ranges.contains(n)));
            let ends = |ranges: &[(u64, u64)]| (ranges.first().map(|r| r.0), ranges.last().map(|r| r.1));
            prop_assert_eq!(ends(&before), ends(&after));
            let apart = |r: &[(u64, u64)]| r[1].0 - r[0].1;
            let kept = after.windows(2).map(apart).min();
            let joined = before.windows(2).filter(|r| ranges.contains(r[0].1 + 1)).map(apart).max();
            prop_assert!(kept.is_none_or(|kept| joined.is_none_or(|joined| joined <= kept)));
        }
    }
}
