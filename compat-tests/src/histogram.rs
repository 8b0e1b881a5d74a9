//! Latencies, printed. Nothing asserts on them.

use std::fmt;
use std::time::Duration;

/// Latencies, each kept: the measurements of a test are few.
#[derive(Clone, Debug, Default)]
pub struct Histogram(Vec<Duration>);

impl Histogram {
    /// Adds one.
    pub fn add(&mut self, latency: Duration) {
        self.0.push(latency);
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Self) {
        self.0.extend_from_slice(&other.0);
    }

    /// The latencies below which so many percent of them lie, for each of
    /// `percents`. Zero if there is none.
    #[must_use]
    pub fn percentiles<const N: usize>(&self, percents: [usize; N]) -> [Duration; N] {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        percents.map(|percent| {
            let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
            sorted.get(index).copied().unwrap_or_default()
        })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

/// `n=1000 p50=0.31 p90=0.52 p99=1.10 max=2.00 ms`
impl fmt::Display for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.count();
        let millis = |latency: Duration| latency.as_secs_f64() * 1e3;
        let [p50, p90, p99, max] = self.percentiles([50, 90, 99, 100]).map(millis);
        write!(
            f,
            "n={n} p50={p50:.2} p90={p90:.2} p99={p99:.2} max={max:.2} ms"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_sorted_latencies() {
        let mut histogram = Histogram::default();
        for millis in (1..=100).rev() {
            histogram.add(Duration::from_millis(millis));
        }
        assert_eq!(
            histogram.to_string(),
            "n=100 p50=51.00 p90=91.00 p99=100.00 max=100.00 ms"
        );
        assert_eq!(
            Histogram::default().to_string(),
            "n=0 p50=0.00 p90=0.00 p99=0.00 max=0.00 ms"
        );
    }
}
