//! What one subscription may and must be told, in as few lines as that takes.

use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::frame::Wire;
use crate::topic::Ranges;

/// What came of a subscription's shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Diff(u64),
    Gap(u64, u64, u64),
}

/// A subscription, from its answer on.
#[derive(Debug)]
pub(super) struct Reference {
    wire: Wire,
    /// The first seqno that is owed; None: the first diff that comes.
    from: Option<u64>,
    /// Told, by a diff or a gap, or published by the session itself.
    covered: Ranges,
    own: BTreeSet<u64>,
    /// Published by anybody since.
    owed: BTreeSet<u64>,
    /// Announced by the session alone, without the diff.
    announced: BTreeSet<u64>,
    diffs: Vec<u64>,
}

impl Reference {
    /// `known`: what the session says that it has, and what it published
    /// before. That is not sent to it either, but is told as a gap when it has
    /// left the log.
    pub(super) fn new(wire: Wire, from: Option<u64>, known: impl Iterator<Item = u64>) -> Self {
        let mut covered = Ranges::default();
        known.for_each(|n| covered.add(n, n));
        Self {
            wire,
            from,
            covered,
            own: BTreeSet::new(),
            owed: BTreeSet::new(),
            announced: BTreeSet::new(),
            diffs: Vec::new(),
        }
    }

    pub(super) fn from(&self) -> Option<u64> {
        self.from
    }

    pub(super) fn published(&mut self, seqno: u64, owed: bool) {
        if owed {
            self.owed.insert(seqno);
        }
    }

    pub(super) fn published_itself(&mut self, seqno: u64, announced: bool) {
        if announced && !self.own.contains(&seqno) {
            self.announced.insert(seqno);
        } else {
            self.announced.remove(&seqno);
            self.own.insert(seqno);
        }
        self.covered.add(seqno, seqno);
    }

    pub(super) fn published_by_another(&mut self, seqno: u64) {
        self.announced.remove(&seqno);
    }

    /// What the answer to the subscription said is gone.
    pub(super) fn gone(&mut self, from: u64, to: u64) {
        self.covered.add(from, to);
    }

    pub(super) fn told(&mut self, told: Told) -> Result<(), TestCaseError> {
        match told {
            Told::Diff(n) if self.wire == Wire::V0 => self.diffs.push(n),
            Told::Diff(n) => {
                let last = self.diffs.last().copied();
                prop_assert!(last < Some(n), "order: {n} after {last:?}");
                prop_assert!(!self.own.contains(&n), "no_echo: {n}");
                let first = last.map(|last| last + 1).max(self.from);
                let missing = first.and_then(|first| self.covered.gaps_within(first, n - 1).next());
                let missing = missing.filter(|_| first < Some(n));
                prop_assert_eq!(missing, None, "no_silent_gap: before {}", n);
                self.diffs.push(n);
                self.covered.add(n, n);
                self.from.get_or_insert(n);
            }
            Told::Gap(from, to, highest) => {
                prop_assert!(from <= to && (to <= highest || highest < from));
                let own = self.own.range(from..=to).next();
                let own = own.or(self.announced.range(from..=to).next());
                prop_assert_eq!(own, None, "no_echo: in the gap {}..={}", from, to);
                self.covered.add(from, to);
            }
        }
        Ok(())
    }

    /// Publishing has stopped, and everything was read.
    pub(super) fn converged(&self, head: u64, run: u64) -> Result<(), TestCaseError> {
        if self.wire == Wire::V0 {
            let first = self.from.unwrap_or(run).max(run);
            if first <= head && !self.owed.is_empty() {
                let applied = self.applied(first - 1);
                prop_assert!(
                    applied >= head,
                    "convergence: at {applied} of {first}..={head} by {:?}",
                    self.diffs
                );
            }
            return Ok(());
        }
        for &n in &self.owed {
            let owed = self.from.is_none_or(|from| from <= n);
            prop_assert!(!owed || self.covered.contains(n), "join, convergence: {n}");
        }
        Ok(())
    }

    /// A reader that applies the seqno above its state and discards the rest.
    fn applied(&self, state: u64) -> u64 {
        let own = |mut state: u64| {
            while self.covered.contains(state + 1) {
                state += 1;
            }
            state
        };
        self.diffs.iter().fold(
            own(state),
            |state, &n| {
                if n == state + 1 { own(n) } else { state }
            },
        )
    }
}
