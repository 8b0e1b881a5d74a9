//! How the server goes: in named steps, each with a deadline and a reason.
//!
//! ```text
//! Serving -> NotReady -> Draining -> Closed
//!            readiness   streams     no stream is left, or the
//!            is off      are ended   deadline has passed
//! ```

use std::pin::pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::error::EndReason;
use crate::frame::Wire;
use crate::generation::Census;
use crate::outbox::When;
use crate::service::v1;

/// How often a drain looks for sessions that have come late.
const LATECOMERS: Duration = Duration::from_millis(100);

/// Where the server stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DrainState {
    /// It takes streams.
    Serving,
    /// It still takes streams, but says that it is not ready.
    NotReady,
    /// It takes no stream, and ends those that it has.
    Draining,
    /// It has no stream.
    Closed,
}

impl DrainState {
    /// "serving", "not-ready", "draining" or "closed".
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::NotReady => "not-ready",
            Self::Draining => "draining",
            Self::Closed => "closed",
        }
    }

    /// Whether new streams are refused.
    pub(crate) fn is_leaving(self) -> bool {
        self >= Self::Draining
    }
}

/// The state, and who may change it: [`Drain::run`], once.
#[derive(Clone, Debug)]
pub(crate) struct Drain(Arc<Progress>);

/// Not a watch channel, which wakes those who wait in an order that it draws:
/// here they go in the order in which they came.
#[derive(Debug)]
struct Progress {
    state: Mutex<DrainState>,
    changed: Notify,
    /// Why an operator wants it to begin. The first one stands.
    asked: OnceLock<String>,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainOutcome {
    /// Every stream ended in time.
    Complete,
    /// So many streams were left at the deadline, and are cut.
    DeadlinePassed(usize),
}

impl Drain {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Progress {
            state: Mutex::new(DrainState::Serving),
            changed: Notify::new(),
            asked: OnceLock::new(),
        }))
    }

    pub(crate) fn state(&self) -> DrainState {
        *self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Completes when the server stands at `state` or further.
    pub(crate) async fn reached(&self, state: DrainState) {
        loop {
            let mut changed = pin!(self.0.changed.notified());
            // Before the look: no change in between is missed.
            changed.as_mut().enable();
            if self.state() >= state {
                return;
            }
            changed.await;
        }
    }

    /// Asks whoever runs the server to begin.
    pub(crate) fn ask(&self, why: String) {
        if self.0.asked.set(why).is_ok() {
            self.0.changed.notify_waiters();
        }
    }

    /// Completes when somebody has asked, with why.
    pub(crate) async fn asked(&self) -> &str {
        loop {
            let mut changed = pin!(self.0.changed.notified());
            // As in `reached`.
            changed.as_mut().enable();
            if let Some(why) = self.0.asked.get() {
                return why;
            }
            changed.await;
        }
    }

    fn enter(&self, state: DrainState, why: &str) {
        tracing::info!(state = state.as_str(), why, "drain");
        *self.0.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        self.0.changed.notify_waiters();
    }

    /// Ends every stream: v1 sessions are told at once and ended when the
    /// window is over, v0 streams at moments spread over the window, so that
    /// their clients do not all come back in one. Everything within
    /// `timeout`, whatever the peers do.
    pub(crate) async fn run(
        &self,
        census: &Arc<Census>,
        reason: &str,
        window: Duration,
        timeout: Duration,
    ) -> DrainOutcome {
        let deadline = Instant::now() + timeout;
        let window = window.min(timeout.mul_f64(0.8));
        self.enter(DrainState::NotReady, reason);
        self.enter(DrainState::Draining, reason);
        let ending = tokio::spawn(end_all(Arc::clone(census), reason.to_owned(), window));
        let emptied = tokio::time::timeout_at(deadline, census.emptied()).await;
        ending.abort();
        let left = census.streams();
        if emptied.is_ok() {
            self.enter(DrainState::Closed, "every stream has ended");
            DrainOutcome::Complete
        } else {
            self.enter(DrainState::Closed, "the deadline has passed");
            DrainOutcome::DeadlinePassed(left)
        }
    }
}

async fn end_all(census: Arc<Census>, reason: String, window: Duration) {
    let start = Instant::now();
    let mut ends = Vec::new();
    for session in census.all() {
        let at = match session.wire {
            Wire::V1 => {
                session.answer(v1::draining(&reason, window));
                // Not all in one moment, even those that did not go by
                // themselves.
                window + window.mul_f64(0.2 * fastrand::f64())
            }
            Wire::V0 => window.mul_f64(fastrand::f64()),
        };
        ends.push((start + at, session));
    }
    ends.sort_by_key(|(at, session)| (*at, session.id));
    for (at, session) in ends {
        tokio::time::sleep_until(at).await;
        session.end(EndReason::Draining, When::Flushed);
    }
    // Those that had not said who they are when the drain began: until the
    // drain is over, for they may say it at any moment.
    tokio::time::sleep_until(start + window).await;
    loop {
        for session in census.all() {
            session.end(EndReason::Draining, When::Flushed);
        }
        tokio::time::sleep(LATECOMERS).await;
    }
}
