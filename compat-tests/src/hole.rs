//! How far a process was behind.

use std::fmt;
use std::time::Duration;

/// The largest hole that a process had in what it was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hole {
    /// The longest run of diffs that did not come: what one fetch of the
    /// store had to bring.
    pub diffs: u64,
    /// The longest time from a commit to its visibility in the process.
    pub time: Duration,
}

impl Hole {
    /// Diffs that had to be fetched, the oldest of which is so old.
    pub fn fetched(&mut self, diffs: u64, age: Duration) {
        self.diffs = self.diffs.max(diffs);
        self.waited(age);
    }

    /// A diff became visible at this age.
    pub fn waited(&mut self, age: Duration) {
        self.time = self.time.max(age);
    }

    /// The larger of both, in either respect.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            diffs: self.diffs.max(other.diffs),
            time: self.time.max(other.time),
        }
    }
}

impl fmt::Display for Hole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.time.as_secs_f64() * 1e3;
        write!(f, "{} diffs, {millis:.1} ms", self.diffs)
    }
}
