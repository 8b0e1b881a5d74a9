//! What the reading half of a session tells its writing half.

use std::sync::Mutex;
use std::task::Waker;
use std::time::Duration;

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
}

/// The phase, and the waker of the stream that the network polls.
#[derive(Default)]
pub(crate) struct Gate(Mutex<Inner>);

struct Inner {
    phase: Phase,
    waker: Option<Waker>,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            phase: Phase::Greeting,
            waker: None,
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
        let inner = lock(&self.0);
        if let Some(waker) = &inner.waker {
            waker.wake_by_ref();
        }
    }

    pub(crate) fn open(&self, terms: Terms) {
        let mut inner = lock(&self.0);
        inner.phase = Phase::Open(terms);
        drop(inner);
        self.ring();
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
