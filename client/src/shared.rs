//! What the handles, the events and the connection's task share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;

use crate::config::{Config, Mode};
use crate::interest::Interest;
use crate::outbox::Outbox;
use crate::stats::Counters;
use crate::system::System;

/// Each mutex is held for a few map operations, never over an await. Where
/// both are held, `interest` was taken first.
pub(crate) struct Shared {
    pub(crate) mode: Mode,
    pub(crate) system: Arc<dyn System>,
    pub(crate) interest: Mutex<Interest>,
    pub(crate) outbox: Mutex<Outbox>,
    pub(crate) stats: Counters,
    /// Wakes the connection's task: the handles are gone, or a session has
    /// something for it.
    pub(crate) nudge: Notify,
    /// No `Client` and no `Subscription` is left. Set once.
    released: AtomicBool,
}

impl Shared {
    pub(crate) fn new(config: &Config, system: Arc<dyn System>) -> Self {
        Self {
            system,
            mode: config.settings.mode,
            interest: Mutex::new(Interest::new(config)),
            outbox: Mutex::new(Outbox::new(config)),
            stats: Counters::default(),
            nudge: Notify::new(),
            released: AtomicBool::new(false),
        }
    }

    /// The time of day since the Unix epoch, for stamps that go to other
    /// processes. Nothing here waits by it.
    pub(crate) fn unix_time(&self) -> Duration {
        self.system
            .now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
    }

    pub(crate) fn is_released(&self) -> bool {
        self.released.load(Ordering::Acquire)
    }
}

/// Held by every `Client` and `Subscription`: the last one to go tells the
/// connection's task to finish.
pub(crate) struct Held(pub(crate) Arc<Shared>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.released.store(true, Ordering::Release);
        self.0.nudge.notify_one();
    }
}

/// Locks, also after a panic elsewhere: every critical section leaves its
/// data consistent at each step, and a host must not fail because of us.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A stamp of the protocol as a time; 0 means unknown.
pub(crate) fn from_unix_nanos(nanos: u64) -> Option<SystemTime> {
    if nanos == 0 {
        return None;
    }
    UNIX_EPOCH.checked_add(Duration::from_nanos(nanos))
}
