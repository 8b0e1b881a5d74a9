//! What a reader published itself, and has not read past.

use super::log::Ranges;

/// Ranges of own publications kept of those that were doubted. They are in no
/// run, so nothing passes them; a client whose every word is doubted for long
/// may be told of its earlier ones as a gap.
const DOUBTED_RANGES: usize = 64;

/// A subscription's own publications: never sent to it, and never a gap to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Own {
    /// In the shard's run, at or above the cursor when they were published.
    unread: Ranges,
    /// Beside the shard's run: what they belong to may yet become the run,
    /// below the cursor as well.
    doubted: Ranges,
}

impl Own {
    pub(crate) fn add(&mut self, seqno: u64) {
        self.unread.add(seqno, seqno);
    }

    pub(crate) fn add_doubted(&mut self, seqno: u64) {
        self.doubted.add(seqno, seqno);
        self.doubted.keep_highest(DOUBTED_RANGES);
    }

    pub(crate) fn contains(&self, seqno: u64) -> bool {
        self.unread.contains(seqno) || self.doubted.contains(seqno)
    }

    /// The parts of `lo..=hi` that are not its own, ascending.
    pub(crate) fn gaps_within(&self, lo: u64, hi: u64) -> impl Iterator<Item = (u64, u64)> {
        let unread = self.unread.gaps_within(lo, hi);
        unread.flat_map(|(lo, hi)| self.doubted.gaps_within(lo, hi))
    }

    /// The cursor has read everything below `seqno`.
    pub(crate) fn forget_below(&mut self, seqno: u64) {
        self.unread.forget_below(seqno);
    }

    /// Forgets the lowest beyond so many ranges.
    pub(crate) fn keep_highest(&mut self, ranges: usize) {
        self.unread.keep_highest(ranges);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.unread.is_empty() && self.doubted.is_empty()
    }

    /// Ranges that wait to be read past: what has to be bounded.
    pub(crate) fn len(&self) -> usize {
        self.unread.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(unread: &[u64], doubted: &[u64]) -> Own {
        let mut own = Own::default();
        unread.iter().for_each(|&n| own.add(n));
        doubted.iter().for_each(|&n| own.add_doubted(n));
        own
    }

    #[test]
    fn a_gap_is_cut_at_both_kinds() {
        let own = own(&[3, 4, 8], &[6]);
        let gaps: Vec<_> = own.gaps_within(1, 9).collect();
        assert_eq!(gaps, [(1, 2), (5, 5), (7, 7), (9, 9)]);
        assert_eq!(own.gaps_within(3, 4).count(), 0);
        assert!(own.contains(6) && own.contains(8) && !own.contains(7));
    }

    #[test]
    fn reading_past_forgets_what_is_in_the_run_alone() {
        let mut own = own(&[3, 4, 8], &[2, 6]);
        own.forget_below(4);
        assert_eq!(own.len(), 2, "the range that ends at 4 is whole");
        own.forget_below(9);
        assert_eq!(own.len(), 0);
        assert!(own.contains(2) && own.contains(6) && !own.is_empty());
    }

    #[test]
    fn both_kinds_are_bounded() {
        let mut own = own(&[], &(0..200).map(|n| n * 2).collect::<Vec<_>>());
        assert_eq!(own.len(), 0, "what is doubted does not count");
        let kept = (0..200).filter(|n| own.contains(n * 2)).count();
        assert_eq!(kept, DOUBTED_RANGES);
        assert!(own.contains(398), "the highest");
        for n in 0..10 {
            own.add(n * 2);
        }
        own.keep_highest(3);
        assert_eq!(own.len(), 3);
        assert!(own.contains(18) && !own.contains(12));
    }
}
