//! A few ranges of seqnos.

/// How many ranges are kept; the lowest goes first. What is forgotten costs a
/// gap that need not have been told, and nothing else. 16 bytes each, and most
/// shards have none: they are what the host pushed while others did too, and
/// there was no session or another one was slower.
const MOST: usize = 1_024;

/// Inclusive, ascending, neither overlapping nor touching.
#[derive(Debug, Default)]
pub(super) struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Adds `from..=to`; nothing if that is empty.
    pub(super) fn insert(&mut self, from: u64, to: u64) {
        if from > to {
            return;
        }
        // The ranges that it overlaps or touches become one with it.
        let begin = self
            .0
            .partition_point(|&(_, hi)| hi.saturating_add(1) < from);
        let end = self
            .0
            .partition_point(|&(lo, _)| lo <= to.saturating_add(1));
        let joined = self.0.get(begin..end).unwrap_or_default();
        let from = joined.first().map_or(from, |&(lo, _)| lo.min(from));
        let to = joined.last().map_or(to, |&(_, hi)| hi.max(to));
        self.0.splice(begin..end, [(from, to)]);
        if self.0.len() > MOST {
            self.0.remove(0);
        }
    }

    pub(super) fn contains(&self, seqno: u64) -> bool {
        let at = self.0.partition_point(|&(_, hi)| hi < seqno);
        self.0.get(at).is_some_and(|&(lo, _)| lo <= seqno)
    }

    pub(super) fn first(&self) -> Option<(u64, u64)> {
        self.0.first().copied()
    }

    /// Forgets what is not above `seqno`.
    pub(super) fn forget_through(&mut self, seqno: u64) {
        let gone = self.0.partition_point(|&(_, hi)| hi <= seqno);
        self.0.drain(..gone);
        if let Some((lo, _)) = self.0.first_mut() {
            *lo = (*lo).max(seqno.saturating_add(1));
        }
    }

    /// The parts of `from..=to` that are in none of the ranges.
    pub(super) fn outside(&self, from: u64, to: u64) -> Vec<(u64, u64)> {
        let mut parts = Vec::new();
        let mut next = from;
        let at = self.0.partition_point(|&(_, hi)| hi < from);
        for &(lo, hi) in self.0.iter().skip(at).take_while(|&&(lo, _)| lo <= to) {
            if lo > next {
                parts.push((next, lo - 1));
            }
            match hi.checked_add(1) {
                Some(after) => next = after,
                None => return parts,
            }
        }
        if next <= to {
            parts.push((next, to));
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Against a set of seqnos, while that is small enough to keep all.
    #[test]
    fn ranges_are_a_set() {
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for _ in 0..30 {
                let from = rng.u64(0..60);
                if rng.u8(0..5) == 0 {
                    ranges.forget_through(from);
                    set.retain(|&seqno| seqno > from);
                } else {
                    let to = from + rng.u64(0..5);
                    ranges.insert(from, to);
                    set.extend(from..=to);
                }
                for seqno in 0..70 {
                    assert_eq!(ranges.contains(seqno), set.contains(&seqno), "{seed}");
                }
                let (lo, hi) = (rng.u64(0..30), rng.u64(30..70));
                let outside: Vec<_> = ranges
                    .outside(lo, hi)
                    .into_iter()
                    .flat_map(|(lo, hi)| lo..=hi)
                    .collect();
                let expected: Vec<_> = (lo..=hi).filter(|seqno| !set.contains(seqno)).collect();
                assert_eq!(outside, expected, "{seed}");
                assert_eq!(
                    ranges.first().map(|(lo, _)| lo),
                    set.first().copied(),
                    "{seed}"
                );
                // Touching ranges are one.
                assert!(ranges.0.windows(2).all(|w| w[0].1 + 1 < w[1].0), "{seed}");
            }
        }
    }

    #[test]
    fn memory_is_bounded_and_ends_do_not_overflow() {
        let mut ranges = Ranges::default();
        for n in 0..10_000 {
            ranges.insert(n * 2, n * 2);
        }
        assert_eq!(ranges.0.len(), MOST);
        assert!(ranges.contains(19_998) && !ranges.contains(0));
        ranges.insert(u64::MAX - 1, u64::MAX);
        assert_eq!(ranges.outside(u64::MAX - 2, u64::MAX).len(), 1);
        ranges.insert(0, u64::MAX);
        assert_eq!(ranges.outside(0, u64::MAX), []);
        ranges.insert(5, 4);
        ranges.forget_through(u64::MAX);
        assert_eq!(ranges.first(), None);
    }
}
