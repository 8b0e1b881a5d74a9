//! How long to wait before the next attempt to connect.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

use crate::config::Config;

type Delays = <ExponentialBuilder as BackoffBuilder>::Backoff;

/// Doubling, jittered delays that begin again only after a session that
/// lived for a while: a server that welcomes and dies is not hammered.
pub(crate) struct Backoff {
    builder: ExponentialBuilder,
    delays: Delays,
    cap: Duration,
    stable_after: Duration,
}

impl Backoff {
    pub(crate) fn new(config: &Config) -> Self {
        // backon's jitter adds up to the delay itself; from halves, the
        // jittered delay stays within the configured one.
        let builder = ExponentialBuilder::new()
            .with_min_delay(config.settings.backoff_first / 2)
            .with_max_delay(config.settings.backoff_cap / 2)
            .with_factor(2.0)
            .with_jitter()
            .without_max_times();
        Self {
            builder,
            delays: builder.build(),
            cap: config.settings.backoff_cap,
            stable_after: config.stable_after,
        }
    }

    /// The next delay: never zero unless half of the first rounds to it, never
    /// above the cap.
    pub(crate) fn next(&mut self) -> Duration {
        self.delays.next().unwrap_or(self.cap).min(self.cap)
    }

    /// A session lived for so long.
    pub(crate) fn lived(&mut self, time: Duration) {
        if time >= self.stable_after {
            self.delays = self.builder.build();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backoff(first: u64, cap: u64) -> Backoff {
        let ms = Duration::from_millis;
        Backoff::new(
            &Config::new("h")
                .unwrap()
                .backoff(ms(first), ms(cap))
                .unwrap(),
        )
    }

    #[test]
    fn delays_double_within_their_bounds() {
        for (first, cap) in [(100, 10_000), (1, 1), (7, 50), (10_000, 10_000)] {
            let mut backoff = backoff(first, cap);
            let mut nominal = Duration::from_millis(first);
            let cap = Duration::from_millis(cap);
            for _ in 0..40 {
                let delay = backoff.next();
                // Thousandths of play for the float arithmetic.
                assert!(delay >= nominal.mul_f64(0.499), "{delay:?} of {nominal:?}");
                assert!(delay <= nominal.mul_f64(1.001), "{delay:?} of {nominal:?}");
                nominal = (nominal * 2).min(cap);
            }
        }
    }

    #[test]
    fn only_a_stable_session_begins_again() {
        let mut backoff = backoff(100, 10_000);
        for _ in 0..5 {
            backoff.next();
        }
        backoff.lived(Duration::from_secs(9));
        assert!(backoff.next() > Duration::from_millis(1_000));
        backoff.lived(Duration::from_secs(10));
        assert!(backoff.next() <= Duration::from_millis(100));
    }

    #[test]
    fn clients_do_not_wait_in_step() {
        let firsts: std::collections::BTreeSet<_> =
            (0..100).map(|_| backoff(100, 1_000).next()).collect();
        assert!(firsts.len() > 50, "{}", firsts.len());
    }
}
