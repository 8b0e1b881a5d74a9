//! The wall clock, in one place. Bounds and deadlines use tokio's clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Nanoseconds since the Unix epoch; 0 for a clock set before it.
pub(crate) fn unix_nanos() -> u64 {
    since_epoch(SystemTime::now())
        .as_nanos()
        .try_into()
        .unwrap_or(u64::MAX)
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
