//! Whether what a walk came to is as it has to be. By comparison within one
//! run: no figure is good or bad by itself.

use std::fmt;
use std::time::Duration;

use super::account::Account;
use super::walk::Walked;
use crate::histogram::Histogram;

/// How much longer a write may take from one generation to the other than
/// within one: the 99th of 100.
const TIMES: u32 = 3;

/// One thing that has to be so.
#[derive(Debug)]
pub struct Finding {
    /// Whether it is.
    pub holds: bool,
    /// Whether it is about what is right, not about how fast.
    pub is_safety: bool,
    /// What it is, with its figures.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let holds = if self.holds { "ok  " } else { "FAIL" };
        write!(f, "{holds} {}", self.text)
    }
}

/// What has to be so of every arrangement: pubsub or not, nobody is ever
/// wrong.
#[must_use]
pub fn of_all(account: &Account) -> Finding {
    Finding {
        holds: account.wrongs == 0 && account.states > 0,
        is_safety: true,
        text: format!(
            "every state of every process is a prefix of the log, and every process ended well: {} exceptions among {} states",
            account.wrongs, account.states
        ),
    }
}

/// What has to be so of this service.
#[must_use]
pub fn of_service(walked: &Walked, account: &Account) -> [Finding; 3] {
    let excused = match account.excused.len() {
        0 => String::new(),
        n => {
            let reasons = account.excuses.iter();
            let reasons: Vec<_> = reasons.map(|(why, n)| format!("{n}: {why}")).collect();
            format!(
                ", and {n} for want of one that never came to the service ({})",
                reasons.join("; ")
            )
        }
    };
    let (within, across) = both(walked, account);
    let [p99_within] = within.percentiles([99]);
    let [p99_across] = across.percentiles([99]);
    [
        Finding {
            holds: account.discarded.is_empty(),
            is_safety: true,
            text: format!(
                "readers whose session lived discarded {} diffs{excused}",
                account.discarded.len()
            ),
        },
        Finding {
            holds: account.late.is_empty(),
            is_safety: false,
            text: format!(
                "and {} whose predecessor came later than the service waits for it, or after one that did",
                account.late.len()
            ),
        },
        Finding {
            holds: across.count() > 0 && p99_across <= p99_within * TIMES,
            is_safety: false,
            text: format!(
                "p99 is {} across generations and {} within one: at most {TIMES} times that is allowed",
                millis(p99_across),
                millis(p99_within)
            ),
        },
    ]
}

/// The latencies within a generation and across, while both write (steps 4 to
/// 7) and nothing is wrong on purpose.
#[must_use]
pub fn both(walked: &Walked, account: &Account) -> (Histogram, Histogram) {
    let (from, to) = both_write(walked);
    let calm = |at: u64| {
        let during = |(from, to): &(u64, u64)| (*from..*to).contains(&at);
        !walked.disturbed.iter().any(during)
    };
    let pair = |is_within: bool| {
        account.among(from, to, |sample| {
            (sample.pair.0 == sample.pair.1) == is_within && calm(sample.at)
        })
    };
    (pair(true), pair(false))
}

/// From when to when both generations write: steps 4 to 7.
#[must_use]
pub fn both_write(walked: &Walked) -> (u64, u64) {
    let step = |n: usize| walked.steps.get(n).map_or(walked.ended, |step| step.at);
    (step(3), step(7))
}

/// A latency, as people read it.
#[must_use]
pub fn millis(latency: Duration) -> String {
    let millis = latency.as_secs_f64() * 1e3;
    match millis {
        ..10.0 => format!("{millis:.2} ms"),
        ..100.0 => format!("{millis:.1} ms"),
        _ => format!("{millis:.0} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_read_well() {
        let micros = [0, 340, 9_990, 12_340, 1_276_400].map(Duration::from_micros);
        assert_eq!(
            micros.map(millis),
            ["0.00 ms", "0.34 ms", "9.99 ms", "12.3 ms", "1276 ms"]
        );
    }
}
