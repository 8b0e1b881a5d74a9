//! What came by one session and waits for the hole before it, which another may
//! fill.

use tokio::time::Instant;

use super::{Outcome, Run};
use crate::connection::wire::Diff;

/// What is counted for a thing that waits, beside its diff, in bytes.
const OVERHEAD: usize = 64;

/// A diff that waits, or the end of a gap.
pub(super) struct Waiting {
    pub(super) since: Instant,
    /// The highest seqno that the session knows.
    pub(super) highest: u64,
    /// `None`: a session's gap ends here.
    pub(super) diff: Option<Diff>,
}

impl Run {
    pub(super) fn wait(
        &mut self,
        seqno: u64,
        highest: u64,
        diff: Option<Diff>,
        now: Instant,
    ) -> Outcome {
        let mut since = now;
        if let Some(known) = self.waiting.remove(&seqno) {
            if known.diff.is_some() {
                self.waiting.insert(seqno, known);
                return Outcome::Duplicate;
            }
            self.waiting_bytes -= known.cost();
            since = known.since;
        }
        let waiting = Waiting {
            since,
            highest,
            diff,
        };
        self.waiting_bytes += waiting.cost();
        self.waiting.insert(seqno, waiting);
        Outcome::Waits
    }
}

impl Waiting {
    /// Where the hole ends that this entry, at `seqno`, waits for.
    pub(super) fn hole_end(&self, seqno: u64) -> u64 {
        match self.diff {
            Some(_) => seqno.saturating_sub(1),
            None => seqno,
        }
    }

    pub(super) fn cost(&self) -> usize {
        let diff = self.diff.as_ref().map_or(0, |diff| diff.diff.len());
        diff.saturating_add(OVERHEAD)
    }
}
