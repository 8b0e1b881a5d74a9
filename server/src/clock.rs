//! The time of day, in one place. Bounds and deadlines use tokio's clock.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where the time of day comes from. It is shown to people, stands in for
/// stamps that publishers leave out, and is what latencies are measured by;
/// nothing waits by it, so that it may jump.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Clock {
    /// The system's.
    #[must_use]
    pub fn system() -> Self {
        Self::new(SystemTime::now)
    }

    /// Another one, for a simulation. `now` is called for every batch that is
    /// sent and must not block.
    #[must_use]
    pub fn new(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    pub(crate) fn now(&self) -> SystemTime {
        (self.0)()
    }

    /// Nanoseconds since the Unix epoch; 0 for a clock set before it.
    pub(crate) fn unix_nanos(&self) -> u64 {
        since_epoch(self.now())
            .as_nanos()
            .try_into()
            .unwrap_or(u64::MAX)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}

/// The time as the operators' calls carry it.
pub(crate) fn timestamp(at: SystemTime) -> prost_types::Timestamp {
    let since = since_epoch(at);
    prost_types::Timestamp {
        seconds: since.as_secs().try_into().unwrap_or(i64::MAX),
        // Below 10^9.
        nanos: since.subsec_nanos().cast_signed(),
    }
}

fn since_epoch(at: SystemTime) -> Duration {
    at.duration_since(UNIX_EPOCH).unwrap_or_default()
}
