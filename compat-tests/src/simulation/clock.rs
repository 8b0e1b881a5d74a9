//! The times of day in a simulation: they follow the simulated time, each from
//! where it was set, and jump.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use persist_pubsub_server::Clock;
use tokio::time::Instant;

/// Where every simulation begins: some day in 2026.
const START: Duration = Duration::from_secs(1_790_000_000);

thread_local! {
    static STARTED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The simulated time begins. One simulation runs in a thread at a time.
pub(super) fn start() {
    STARTED.set(Some(Instant::now()));
}

/// The simulated time since the start.
pub(super) fn since_start() -> Duration {
    STARTED
        .get()
        .map_or(Duration::ZERO, |started| started.elapsed())
}

/// One machine's time of day. A clone is the same one.
#[derive(Clone, Default)]
pub(super) struct SimClock(Arc<AtomicI64>);

impl SimClock {
    pub(super) fn now(&self) -> SystemTime {
        let off = self.0.load(Relaxed);
        let by = Duration::from_secs(off.unsigned_abs());
        let true_time = UNIX_EPOCH + START + since_start();
        if off < 0 {
            true_time - by
        } else {
            true_time + by
        }
    }

    /// Sets it so many seconds before or after the true time.
    pub(super) fn jump(&self, seconds: i64) {
        self.0.store(seconds, Relaxed);
    }

    pub(super) fn for_server(&self) -> Clock {
        let clock = self.clone();
        Clock::new(move || clock.now())
    }
}
