//! What the reading half of a session tells its writing half.

use std::sync::Mutex;
use std::task::Waker;
use std::time::Duration;

use crate::config::Mode;
use crate::outbox::Takes;
use crate::shared::lock;

/// Names one session within a client. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkId(u64);

impl LinkId {
    pub(crate) const fn new(n: u64) -> Self {
        Self(n)
    }
}

/// How far a session is: `Greeting`, then `Open`, then `Finishing`; never
/// back. Changed by the connection's task alone.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Phase {
    /// Nothing but the greeting may be sent.
    Greeting,
    /// The session runs, on these terms.
    Open(Terms),
    /// What waits to be published goes out, then the stream is half-closed.
    Finishing(Terms),
}

/// What was agreed in the greeting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) takes: Takes,
    /// Something is sent at least this often. `None`: no heartbeats.
    pub(crate) heartbeat: Option<Duration>,
    /// Whether the session's mode can be changed on the way.
    pub(crate) sets_mode: bool,
}

/// In which mode a session is, and is to be. One change at a time: while one
/// is not answered nothing is published, so that no push meets the wrong mode.
#[derive(Clone, Copy, Debug)]
struct Talk {
    wanted: Mode,
    said: Mode,
    waits: bool,
}

/// The phase, and the waker of the stream that the network polls.
#[derive(Default)]
pub(crate) struct Gate(Mutex<Inner>);

struct Inner {
    phase: Phase,
    waker: Option<Waker>,
    /// `None`: the mode of the greeting stays.
    talk: Option<Talk>,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            phase: Phase::Greeting,
            waker: None,
            talk: None,
        }
    }
}

impl Gate {
    /// Registers whom to wake, and says the phase. Whatever is looked at
    /// after this call and changes later is followed by a ring.
    pub(crate) fn enter(&self, waker: &Waker) -> Phase {
        let mut inner = lock(&self.0);
        match &mut inner.waker {
            Some(known) if known.will_wake(waker) => {}
            slot => *slot = Some(waker.clone()),
        }
        inner.phase
    }

    /// Something may have changed: the writing half looks again.
    pub(crate) fn ring(&self) {
        // Not under the lock: to wake a thread may be a system call.
        let waker = lock(&self.0).waker.clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// `mode` is what the greeting said.
    pub(crate) fn open(&self, terms: Terms, mode: Mode) {
        let mut inner = lock(&self.0);
        inner.phase = Phase::Open(terms);
        inner.talk = terms.sets_mode.then_some(Talk {
            wanted: mode,
            said: mode,
            waits: false,
        });
        drop(inner);
        self.ring();
    }

    /// Asks for a mode. Whether the session is in it already; `None`: this
    /// session cannot change it.
    pub(crate) fn want(&self, mode: Mode) -> Option<bool> {
        let mut inner = lock(&self.0);
        let talk = inner.talk.as_mut()?;
        talk.wanted = mode;
        let settled = talk.said == mode && !talk.waits;
        drop(inner);
        self.ring();
        Some(settled)
    }

    /// The mode is of no importance any more: another session has taken this
    /// one's place.
    pub(crate) fn keep_mode(&self) {
        lock(&self.0).talk = None;
    }

    /// Whether what was pushed may be said now.
    pub(crate) fn publishes(&self) -> bool {
        lock(&self.0).talk.is_none_or(|talk| !talk.waits)
    }

    /// The mode that is to be said now: once nothing is left to be published
    /// in the one before.
    pub(crate) fn next_mode(&self) -> Option<Mode> {
        let mut inner = lock(&self.0);
        let talk = inner.talk.as_mut()?;
        if talk.waits || talk.wanted == talk.said {
            return None;
        }
        (talk.said, talk.waits) = (talk.wanted, true);
        Some(talk.said)
    }

    /// The server has answered. Returns the mode that the session has now, and
    /// whether it is the wanted one; `None`: nothing was asked, or something
    /// else.
    pub(crate) fn answered(&self, mode: Mode) -> Option<bool> {
        let mut inner = lock(&self.0);
        let talk = inner.talk.as_mut()?;
        if !talk.waits || talk.said != mode {
            return None;
        }
        talk.waits = false;
        Some(talk.wanted == mode)
    }

    /// Ends the session from this side. Before it is open: nothing to end.
    pub(crate) fn finish(&self) {
        let mut inner = lock(&self.0);
        if let Phase::Open(terms) = inner.phase {
            inner.phase = Phase::Finishing(terms);
        }
        drop(inner);
        self.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(sets_mode: bool) -> Gate {
        let gate = Gate::default();
        let takes = Takes {
            diff_bytes: 1,
            announcements: true,
        };
        let terms = Terms {
            takes,
            heartbeat: None,
            sets_mode,
        };
        gate.open(terms, Mode::ReadOnly);
        gate
    }

    #[test]
    fn one_change_at_a_time_and_nothing_is_published_meanwhile() {
        use Mode::{ReadOnly, ReadWrite};
        let gate = open(true);
        assert_eq!(gate.next_mode(), None);
        assert_eq!(gate.want(ReadWrite), Some(false));
        assert!(gate.publishes());
        assert_eq!(gate.next_mode(), Some(ReadWrite));
        assert!(!gate.publishes());
        // Taken back, and again: the first has to be answered.
        assert_eq!(gate.want(ReadOnly), Some(false));
        assert_eq!(gate.next_mode(), None);
        assert_eq!(gate.answered(ReadOnly), None, "that was not asked");
        assert_eq!(gate.answered(ReadWrite), Some(false));
        assert!(gate.publishes());
        assert_eq!(gate.next_mode(), Some(ReadOnly));
        assert_eq!(gate.answered(ReadOnly), Some(true));
        assert_eq!(gate.answered(ReadOnly), None, "nothing was asked");
    }

    #[test]
    fn a_change_that_is_taken_back_in_time_is_not_asked_for() {
        let gate = open(true);
        assert_eq!(gate.want(Mode::ReadWrite), Some(false));
        assert_eq!(gate.want(Mode::ReadOnly), Some(true));
        assert_eq!(gate.next_mode(), None);
    }

    #[test]
    fn without_the_capability_the_mode_stays() {
        let gate = open(false);
        assert_eq!(gate.want(Mode::ReadWrite), None);
        assert_eq!(gate.next_mode(), None);
        assert!(gate.publishes());
    }
}
