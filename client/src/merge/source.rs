//! Sessions that begin and end to bring a shard, and what the host is owed
//! because of it.

use std::time::Duration;

use tokio::time::Instant;

use super::{Clock, End, Position, Run, Tell};
use crate::connection::gate::LinkId;
use crate::event::Wire;

/// How long two sessions have to bring a shard together until one of them knows
/// what the other does: by then, who publishes has come back to a server that
/// was started again too, and has announced there what it published lately. As
/// long as the longest delay between attempts to connect, by default.
pub(super) const OVERLAP: Duration = Duration::from_secs(10);

/// A session that brings the shard.
pub(super) struct Source {
    pub(super) link: LinkId,
    pub(super) wire: Wire,
    /// It has accounted for everything up to here. `None`: it began somewhere
    /// that neither end knows.
    pub(super) passed: Option<u64>,
    /// The highest seqno that it has told of by a diff or a gap: not what the
    /// host named, nor the head that it has yet to come to.
    pub(super) said: Option<u64>,
    /// The host has missed nothing of what it told before it joined.
    pub(super) proven: bool,
    /// Since when it brings the shard.
    pub(super) since: Instant,
    /// It was waited for in vain, and has said nothing since.
    pub(super) behind: bool,
}

/// A resync that the host will be told, unless it turns out to need none.
pub(super) struct Owed {
    pub(super) due: Instant,
    /// The highest seqno that the server knew. Below what the host was told:
    /// one of the two is wrong.
    pub(super) highest: Option<u64>,
}

impl Run {
    /// v0: a session asks, and there will be no answer. It brings what comes.
    pub(crate) fn asked_v0(&mut self, link: LinkId, now: Instant) {
        self.sources.push(Source {
            link,
            wire: Wire::V0,
            passed: self.have,
            said: None,
            since: now,
            proven: false,
            behind: false,
        });
    }

    /// v0: it has asked. What was missed until then nobody can say.
    pub(crate) fn unanswerable(&mut self, link: LinkId, clock: Clock, tell: &mut Tell) {
        if !std::mem::replace(&mut self.begun, true) {
            self.prove(link);
            tell.resync(None);
        } else if !self.is_proven() {
            self.owe(None, clock);
        }
    }

    /// v1: a session's subscribe, which named `asked`, was answered. Returns
    /// the seqno from which it has to be asked again, if that has to be.
    pub(crate) fn answered(
        &mut self,
        link: LinkId,
        asked: Position,
        highest: Option<u64>,
        clock: Clock,
        tell: &mut Tell,
    ) -> Option<u64> {
        let first = !std::mem::replace(&mut self.begun, true);
        // Another session brings all that there is: nothing is missed,
        // whatever this one does not know.
        let covered = self.is_proven();
        if let (Some(sure), Some(highest)) = (asked.sure, highest)
            && highest < sure
        {
            // The server knows less than the host was told: one of the two is
            // wrong, and the server's cursor stands above what it will accept
            // next. From its own head, nothing that it accepts can be missed.
            if !covered {
                if first {
                    self.resync(Some(highest), tell);
                } else {
                    // Until then what the host was told stands: a server that
                    // was started again is told of it by who published it.
                    self.owe(Some(highest), clock);
                }
            }
            return Some(highest);
        }
        self.sources.push(Source {
            link,
            wire: Wire::V1,
            passed: asked.have.or(highest),
            said: None,
            since: clock.now,
            proven: first || highest.is_some(),
            behind: false,
        });
        match (asked.have, highest) {
            // All that is above comes, or a gap.
            (Some(_), Some(_)) => {}
            (None, Some(highest)) if self.have.is_none_or(|have| have < highest) => {
                if self.have.is_none() || !covered {
                    // What the host has nobody knows.
                    self.told_up_to(highest);
                    tell.resync(Some(highest));
                } else {
                    self.wait(highest, highest, None, clock.now);
                }
            }
            // What it does not bring another has told.
            (None, Some(_)) if !first => {}
            _ if first => tell.resync(highest),
            // It has forgotten. What the host was told stays true.
            _ if !covered => self.owe(None, clock),
            _ => {}
        }
        self.advance(tell);
        None
    }

    /// The session brings the shard no more.
    pub(crate) fn left(&mut self, link: LinkId, end: End, clock: Clock, tell: &mut Tell) {
        let Some(at) = self.sources.iter().position(|s| s.link == link) else {
            return;
        };
        let gone = self.sources.remove(at);
        self.disown(tell);
        if gone.proven && !self.is_proven() && !self.sources.is_empty() {
            // One that ends in good order told all that it had, and its server
            // asks all that publish to do so at the next: what it has not told,
            // the others will. Those that were there for long enough miss
            // nothing either, for all that publish have been there too. (A v0
            // session began nobody knows where.)
            for source in &mut self.sources {
                let known = clock.now.saturating_duration_since(source.since) >= OVERLAP;
                source.proven = source.wire == Wire::V1 && (end == End::Complete || known);
            }
            if !self.is_proven() {
                self.owe(None, clock);
            }
        }
        self.advance(tell);
    }

    /// Puts a resync off to a moment of its own: after a restart every client
    /// has one for each of its shards.
    fn owe(&mut self, highest: Option<u64>, clock: Clock) {
        if self.owed.is_none() {
            let due = clock.now + clock.spread.mul_f64(fastrand::f64());
            self.owed = Some(Owed { due, highest });
        }
    }

    /// Tells the host to fetch. Of what was told before, it misses nothing.
    pub(super) fn resync(&mut self, highest: Option<u64>, tell: &mut Tell) {
        self.sources.iter_mut().for_each(|s| s.proven = true);
        let heard = self.sources.iter().filter_map(|source| source.passed).max();
        let highest = highest.map(|highest| heard.unwrap_or(0).max(highest));
        if let Some(highest) = highest.filter(|&highest| Some(highest) < self.have) {
            // The host was told too much, or the server has forgotten too
            // much. From where the server is, all comes.
            self.told_up_to(highest);
            self.delivered = self.delivered.min(Some(highest));
        }
        tell.resync(highest);
    }

    /// The host was told of the seqno right behind what it had: it needs no
    /// resync. Seqnos are committed in order, so it has, or was told to fetch,
    /// all there was up to here. Above it: what was published before this
    /// session subscribed, its server would have known, and what comes after
    /// that the session brings. What was lost on the way to the server before
    /// it, its publisher announces again. (One that cannot, because it speaks
    /// v0 or has died, leaves what it published last to the host's own poll,
    /// as without us; and that much is so after any lost connection.)
    pub(super) fn cancel(&mut self, tell: &mut Tell) {
        if self.owed.take().is_some() {
            tell.told.cancelled += 1;
        }
    }

    fn prove(&mut self, link: LinkId) {
        for source in self.sources.iter_mut().filter(|s| s.link == link) {
            source.proven = true;
        }
    }

    fn is_proven(&self) -> bool {
        self.sources.iter().any(|source| source.proven)
    }
}
