//! What cannot be believed at once, and what is taken back.
//!
//! One client's absurd seqno must not silence a shard (`poison_free` of the
//! protocol). A v1 server sees to that, and says when it has believed too much.
//! A v0 server cannot say anything: here stands what it would.

use super::{LinkId, Run, Tell};

/// What is further than this from the run is not believed at once. As the
/// server's `--max-seqno-jump` has it.
pub(super) const MAX_JUMP: u64 = 1_000;

impl Run {
    /// Whether a diff of a v0 session belongs to the shard's run. One that is
    /// far from it may be a mistake, or the run may have been one: the second
    /// in a row decides, in either direction. The host is told to fetch in any
    /// case.
    pub(super) fn believes(&mut self, seqno: u64, tell: &mut Tell) -> bool {
        let Some(have) = self.have else { return true };
        let lowest = self.delivered.unwrap_or(0).min(have);
        if seqno.saturating_sub(have) <= MAX_JUMP && lowest.saturating_sub(seqno) <= MAX_JUMP {
            return true;
        }
        let before = seqno.saturating_sub(1);
        if self.rival.replace(seqno) != Some(before) {
            tell.gap(seqno, seqno, have);
            return false;
        }
        self.rival = None;
        if seqno < have {
            self.told_up_to(before);
            self.delivered = self.delivered.min(Some(before));
            for source in &mut self.sources {
                source.passed = source.passed.min(Some(before));
                source.said = source.passed;
            }
        }
        true
    }

    /// A session is gone that may have told the host of an absurd seqno. Where
    /// those that remain are nowhere near it, it was: what they said below it
    /// meanwhile was no news then, and is told now. Not so where none of them
    /// has a position yet: then the seqno stays until the next reconnect or
    /// resync, and gaps below it are not told (the simulation's seed 710163).
    pub(super) fn disown(&mut self, tell: &mut Tell) {
        let passed = self.sources.iter().filter_map(|source| source.passed).max();
        let (Some(have), Some(passed)) = (self.have, passed) else {
            return;
        };
        if have.saturating_sub(passed) <= MAX_JUMP {
            return;
        }
        let missed = self.delivered.map_or(passed, |last| last.saturating_add(1));
        self.told_up_to(passed.max(self.delivered.unwrap_or(0)));
        if missed <= passed {
            tell.gap(missed, passed, passed);
        }
    }

    /// A v1 server told of `from` after what lies above it, or knows nothing
    /// any more above `highest`: it has given up what it held for the shard's
    /// run, and what the host was told of that run is not so. A hole that is
    /// told of late is no such thing: the server knows what lies above it.
    pub(super) fn take_back(&mut self, link: LinkId, from: u64, highest: Option<u64>) {
        let Some(source) = self.sources.iter_mut().find(|s| s.link == link) else {
            return;
        };
        let known = highest.unwrap_or(from.saturating_sub(1));
        // That it is a little below what the host named is nothing: it may have
        // been started again.
        let far = source.passed.unwrap_or(0).saturating_sub(known) > MAX_JUMP;
        if source.said <= Some(known) && !far {
            return;
        }
        let before = from.saturating_sub(1);
        source.said = Some(before);
        // What was delivered was so: it bars what lies below it. What other
        // sessions said above it may have been of the same run, or not: where
        // they are has to show.
        let so = Some(before).max(self.delivered);
        for source in &mut self.sources {
            if source.link == link {
                source.passed = Some(before);
            } else if source.passed > so {
                source.passed = None;
            }
        }
        if let Some(so) = so.filter(|_| so < self.have) {
            self.told_up_to(so);
        }
    }
}
