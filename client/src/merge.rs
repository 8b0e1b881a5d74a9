//! One shard, heard over any number of sessions, told as one run: in order,
//! without duplicates, and with a gap only for what no session brings.
//!
//! Each session accounts for the shard in order of seqno: by a diff, by a gap,
//! or by silence, which of a v1 server means that the host pushed it itself.
//! So one number says how far it has come. The host's position is `have`, and
//! then:
//!
//! - What fits behind `have` is told at once, whichever session brings it.
//! - What is at or below it another session brought first.
//! - What is above it waits, for what lies between may come by another
//!   session: at the time of an upgrade a publisher that has moved early feeds
//!   the new server, one that has not the old one (and both, while it has both).
//!   When every session has come past the hole, it is a gap, and is told.
//! - A session that does not come past it in time is not waited for: `give_up`.
//!   Nor is it for the next hole, until it says something of the shard.
//!
//! With one session nothing ever waits. Nothing here knows why there are
//! several: the old and the new one of a drain, or several homes.

mod belief;
mod ranges;
mod source;
mod tell;
mod waiting;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::connection::gate::LinkId;
use crate::connection::wire::{Diff, Gap};
use crate::event::Wire;
use ranges::Ranges;
use source::{Owed, Source};
pub(crate) use tell::{Tell, Told};
use waiting::Waiting;

/// A shard's run, as far as the host was told.
#[derive(Default)]
pub(crate) struct Run {
    /// Up to where the host has it: the seqno of a diff, the end of a gap, the
    /// head of a resync, what the host named, and its own pushes behind that.
    have: Option<u64>,
    /// `have` without the pushes at its end, if it ends with some.
    sure: Option<u64>,
    /// No diff at or below it is told. May be below `have`, for a gap can turn
    /// out to have claimed too much.
    delivered: Option<u64>,
    /// Above `have`: what the host pushed itself.
    own: Ranges,
    /// What one session did not have and another told: no gap when it
    /// surfaces late at the one.
    filled: Ranges,
    sources: Vec<Source>,
    /// Above `have`, by seqno: what waits for the hole before it.
    waiting: BTreeMap<u64, Waiting>,
    waiting_bytes: usize,
    /// A session has answered for it.
    begun: bool,
    owed: Option<Owed>,
    /// v0: a seqno far from the run, not believed yet.
    rival: Option<u64>,
}

/// The position that a subscribe names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) have: Option<u64>,
    /// Without the host's own pushes at its end: a server that has not got
    /// them is not ignorant.
    pub(crate) sure: Option<u64>,
}

/// What became of a message about a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Told to the host.
    Told,
    /// Told before, or not the host's to be told.
    Duplicate,
    /// It waits for what lies before it.
    Waits,
    /// Not of a current subscription.
    Stale,
}

/// What a push of the host made of its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pushed {
    /// Something that waited can be told.
    pub(crate) frees: bool,
    /// A resync that was owed is not needed any more.
    pub(crate) cancels: bool,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// By its server, in good order: what it had was told.
    Complete,
    /// In any other way: something may have been lost with it.
    Lost,
}

/// The moment, and what is drawn from it.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    pub(crate) now: Instant,
    /// `Config::resync_spread`.
    pub(crate) spread: Duration,
}

impl Run {
    pub(crate) fn new(have: Option<u64>) -> Self {
        Self {
            have,
            sure: have,
            delivered: have,
            ..Self::default()
        }
    }

    pub(crate) fn position(&self) -> Position {
        Position {
            have: self.have,
            sure: self.sure,
        }
    }

    /// Whether a session has come further than any of the others: what it told
    /// they have yet to tell, or never will.
    pub(crate) fn lags(&self, behind: LinkId, others: &[LinkId]) -> bool {
        let Some(passed) = self.source(behind).and_then(|source| source.passed) else {
            return false;
        };
        let mut others = self.sources.iter().filter(|s| others.contains(&s.link));
        others.all(|source| source.passed < Some(passed))
    }

    /// Bytes and number of what waits.
    pub(crate) fn waits(&self) -> (usize, usize) {
        (self.waiting_bytes, self.waiting.len())
    }

    /// When [`due`](Self::due) has something to do.
    pub(crate) fn next_due(&self, grace: Duration) -> Option<Instant> {
        // The lowest came first, or fills a part of the hole before what did.
        let hole = self.waiting.values().next().map(|w| w.since + grace);
        let owed = self.owed.as_ref().map(|owed| owed.due);
        hole.into_iter().chain(owed).min()
    }

    pub(crate) fn due(&mut self, now: Instant, grace: Duration, tell: &mut Tell) {
        if self
            .waiting
            .values()
            .next()
            .is_some_and(|waiting| waiting.since + grace <= now)
        {
            self.give_up(tell);
        }
        if self.owed.as_ref().is_some_and(|owed| owed.due <= now)
            && let Some(owed) = self.owed.take()
        {
            self.resync(owed.highest, tell);
        }
    }

    /// Waits no longer for the sessions that have not come past the hole.
    pub(crate) fn give_up(&mut self, tell: &mut Tell) {
        let Some((&seqno, first)) = self.waiting.first_key_value() else {
            return;
        };
        let hole = first.hole_end(seqno);
        for source in &mut self.sources {
            source.behind |= source.passed < Some(hole);
        }
        self.advance(tell);
    }

    /// The host pushed `seqno`. To be told nothing of it, by no session: and
    /// where it fits behind `have`, the host has it. Where it does not fit,
    /// it says nothing of what lies between. What waited for it goes on with
    /// the next [`advance`](Self::advance).
    pub(crate) fn pushed(&mut self, seqno: u64) -> Pushed {
        let before = self.have;
        if self.have.is_none_or(|have| seqno > have) {
            self.own.insert(seqno, seqno);
            self.absorb();
        }
        let fits = self.have != before;
        Pushed {
            frees: fits && !self.waiting.is_empty(),
            // As for a diff that fits: see `cancel`.
            cancels: fits && self.owed.take().is_some(),
        }
    }

    pub(crate) fn diff(
        &mut self,
        link: LinkId,
        diff: Diff,
        now: Instant,
        tell: &mut Tell,
    ) -> Outcome {
        let seqno = diff.seqno;
        match self.source(link).map(|source| source.wire) {
            None => return Outcome::Stale,
            Some(Wire::V0) if !self.believes(seqno, tell) => return Outcome::Told,
            Some(Wire::V0) => {}
            // In v1 seqnos rise, while the server stands by what it said.
            Some(Wire::V1) => self.take_back(link, seqno, None),
        }
        self.passes(link, seqno, seqno);
        let outcome = match self.have {
            _ if Some(seqno) <= self.delivered || self.own.contains(seqno) => Outcome::Duplicate,
            // A gap told too much. Not lost on the host, if it has not fetched.
            Some(have) if seqno <= have => {
                if !self.is_alone() {
                    self.filled.insert(seqno, seqno);
                }
                self.delivered = Some(seqno);
                tell.diff(diff);
                Outcome::Told
            }
            Some(have) if seqno - have > 1 => self.wait(seqno, seqno, Some(diff), now),
            have => {
                let v0 = |s: &Source| s.link == link && s.wire == Wire::V0;
                if have.is_none() && seqno > 0 && self.sources.iter().any(v0) {
                    // v0 does not speak of holes, and of what was pushed while
                    // the subscribe was under way neither end knows.
                    for (from, to) in self.own.outside(0, seqno - 1) {
                        tell.gap(from, to, seqno);
                    }
                }
                self.bring(diff, have.is_some(), tell);
                Outcome::Told
            }
        };
        self.advance(tell);
        outcome
    }

    pub(crate) fn gap(
        &mut self,
        link: LinkId,
        gap: &Gap,
        now: Instant,
        tell: &mut Tell,
    ) -> Outcome {
        // Beyond the highest, it is only somebody's word: passed on, and
        // nothing is believed of it.
        let beyond = gap.highest.saturating_add(1);
        let doubted = gap.from.max(beyond);
        let to = gap.to.min(gap.highest);
        self.take_back(link, gap.from.min(beyond), Some(gap.highest));
        if gap.from <= to {
            let passed = self.source(link).and_then(|source| source.passed);
            if !self.passes(link, gap.from, to) {
                return Outcome::Stale;
            }
            let late = passed.map_or(0, |passed| passed.min(to).saturating_add(1));
            if let Some(have) = self.have
                && gap.from < late
            {
                // It surfaced below what this session told before.
                for (from, to) in self.filled.outside(gap.from, (late - 1).min(have)) {
                    tell.gap(from, to, gap.highest);
                }
            }
            let new = gap.from.max(late);
            match self.have {
                _ if new > to => {}
                None => {
                    self.told_up_to(to);
                    for (from, to) in self.own.outside(new, to) {
                        tell.gap(from, to, gap.highest);
                    }
                }
                Some(have) => {
                    self.filled.insert(new, to.min(have));
                    if to > have {
                        self.wait(to, gap.highest, None, now);
                    }
                }
            }
            self.advance(tell);
        } else if self.source(link).is_none() {
            return Outcome::Stale;
        }
        if doubted <= gap.to
            && self
                .have
                .is_none_or(|have| doubted > have || self.is_alone())
        {
            tell.gap(doubted, gap.to, gap.highest);
        }
        Outcome::Told
    }

    /// Tells all that can be told now.
    pub(crate) fn advance(&mut self, tell: &mut Tell) {
        loop {
            self.absorb();
            let Some(have) = self.have else { return };
            while let Some(entry) = self.waiting.first_entry()
                && *entry.key() <= have
            {
                self.waiting_bytes -= entry.remove().cost();
            }
            let Some((&seqno, first)) = self.waiting.first_key_value() else {
                return;
            };
            let next = have.saturating_add(1);
            let hole = first.hole_end(seqno);
            if hole < next {
                if let Some(waited) = self.waiting.remove(&seqno) {
                    self.waiting_bytes -= waited.cost();
                    if let Some(diff) = waited.diff {
                        self.bring(diff, true, tell);
                    }
                }
                continue;
            }
            // A hole, up to what the host pushed itself; and of that, what
            // nobody will bring any more.
            let own = self.own.first().map_or(u64::MAX, |(lo, _)| lo - 1);
            let past = self.sources.iter().filter(|source| !source.behind);
            let past = past.map(|source| source.passed).min();
            let Some(past) = past.unwrap_or(Some(u64::MAX)) else {
                return;
            };
            let to = hole.min(own).min(past);
            if to < next {
                return;
            }
            tell.gap(next, to, first.highest);
            self.told_up_to(to);
            self.cancel(tell);
        }
    }

    /// Notes that the session has come to `to`, and said nothing of what is
    /// before `from`. False: it does not bring this shard.
    fn passes(&mut self, link: LinkId, from: u64, to: u64) -> bool {
        let Some(source) = self.sources.iter_mut().find(|s| s.link == link) else {
            return false;
        };
        if let (Wire::V1, Some(passed)) = (source.wire, source.passed) {
            let unsaid = passed.max(self.have.unwrap_or(0)).saturating_add(1);
            // Over a leap it means nothing: where the session had no position,
            // its server begins with whatever came first, a lie perhaps.
            if from.saturating_sub(unsaid) <= belief::MAX_JUMP {
                self.own.insert(unsaid, from.saturating_sub(1));
            }
        }
        source.passed = source.passed.max(Some(to));
        source.said = source.said.max(Some(to));
        source.proven = true;
        source.behind = false;
        true
    }

    /// Tells a diff that fits. `follows`: behind what the host was told.
    fn bring(&mut self, diff: Diff, follows: bool, tell: &mut Tell) {
        let seqno = diff.seqno;
        if self.sources.iter().any(|s| s.passed > Some(seqno)) {
            self.filled.insert(seqno, seqno);
        }
        self.told_up_to(seqno);
        self.delivered = Some(seqno);
        tell.diff(diff);
        if follows {
            self.cancel(tell);
        }
    }

    /// The host's own pushes that fit behind what it has.
    fn absorb(&mut self) {
        let Some(mut have) = self.have else { return };
        while let Some((lo, hi)) = self.own.first()
            && lo <= have.saturating_add(1)
        {
            have = have.max(hi);
            self.own.forget_through(have);
        }
        if self.have != Some(have) {
            self.have = Some(have);
            self.delivered = self.delivered.max(Some(have));
        }
    }

    fn told_up_to(&mut self, seqno: u64) {
        self.have = Some(seqno);
        self.sure = Some(seqno);
    }

    fn is_alone(&self) -> bool {
        self.sources.len() <= 1
    }

    fn source(&self, link: LinkId) -> Option<&Source> {
        self.sources.iter().find(|source| source.link == link)
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
