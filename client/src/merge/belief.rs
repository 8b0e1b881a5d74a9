//! What cannot be believed at once, and what is taken back.
//!
//! One client's absurd seqno must not silence a shard (`poison_free` of the
//! protocol). A v1 server sees to that, and says when it has believed too much.
//! A v0 server cannot say anything: here stands what it would.

use super::{LinkId, Run, Tell};

/// v0: a diff further than this from the run is not believed until the next
/// one follows it. As the server's `--max-seqno-jump` has it.
const MAX_JUMP: u64 = 1_000;

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
            }
        }
        true
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
        if source.passed <= Some(known) {
            return;
        }
        // What was delivered was so: it bars what lies below it. What other
        // sessions said above it may have been of the same run: if it was
        // not, it costs a gap that was told before.
        let so = Some(from.saturating_sub(1)).max(self.delivered);
        for source in &mut self.sources {
            source.passed = source.passed.min(so);
        }
        if let Some(so) = so.filter(|_| so < self.have) {
            self.told_up_to(so);
        }
    }
}
