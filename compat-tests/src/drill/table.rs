//! What walks came to, as a table in Markdown, which reads in a terminal too.

use std::fmt::Write as _;
use std::time::Duration;

use super::account::{Account, PAIRS};
use super::disturbance::Variant;
use super::verdict::{both, both_write};
use super::walk::Walked;
use crate::histogram::Histogram;

const HEAD: &str = "\
| arrangement, step | 1 to 1 | 1 to 2 | 2 to 1 | 2 to 2 | discarded | polls that helped |
|---|---|---|---|---|---|---|
";

/// Milliseconds from a committed write to its visibility, p50 / p99 / max,
/// from the generation that writes to the one that reads.
#[must_use]
pub fn table(walks: &[(Walked, Account)]) -> String {
    let mut text = HEAD.to_owned();
    for (walked, account) in walks {
        // Writing to a String does not fail.
        let _ = writeln!(text, "| **{}** | | | | | | |", name(walked));
        for (index, step) in walked.steps.iter().enumerate() {
            let to = walked.steps.get(index + 1).map_or(walked.ended, |s| s.at);
            let label = format!("{} {}", index + 1, step.name);
            row(&mut text, &label, account, step.at, to);
        }
        let from = walked.steps.first().map_or(0, |step| step.at);
        row(&mut text, "all steps", account, from, walked.ended);
    }
    text
}

fn row(text: &mut String, label: &str, account: &Account, from: u64, to: u64) {
    let _ = write!(text, "| {label} |");
    for pair in PAIRS {
        let _ = write!(text, " {} |", cell(&account.latencies(pair, from, to)));
    }
    let discarded = discarded(account, from, to);
    let polls = during(&account.polls, from, to);
    let _ = writeln!(text, " {discarded} | {polls} |");
}

fn discarded(account: &Account, from: u64, to: u64) -> usize {
    [&account.discarded, &account.late, &account.excused]
        .map(|moments| during(moments, from, to))
        .iter()
        .sum()
}

fn during(moments: &[u64], from: u64, to: u64) -> usize {
    moments.iter().filter(|at| (from..to).contains(at)).count()
}

/// The arrangement, and what went wrong.
fn name(walked: &Walked) -> String {
    let arrangement = walked.plan.arrangement.name();
    match walked.plan.variant {
        Variant::Calm => arrangement.to_owned(),
        wrong => format!("{arrangement}, {}", wrong.name()),
    }
}

/// One line per walk: what matters when both generations write.
#[must_use]
pub fn summary(walks: &[(Walked, Account)]) -> String {
    let mut text = "\
| both generations write (steps 4 to 7) | within a generation | across generations | discarded | polls that helped |
|---|---|---|---|---|
"
    .to_owned();
    for (walked, account) in walks {
        let (within, across) = both(walked, account);
        let (from, to) = both_write(walked);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            name(walked),
            cell(&within),
            cell(&across),
            discarded(account, from, to),
            during(&account.polls, from, to)
        );
    }
    text
}

fn cell(latencies: &Histogram) -> String {
    if latencies.count() == 0 {
        return "-".to_owned();
    }
    let short = |latency: Duration| {
        let millis = latency.as_secs_f64() * 1e3;
        match millis {
            ..10.0 => format!("{millis:.2}"),
            ..100.0 => format!("{millis:.1}"),
            _ => format!("{millis:.0}"),
        }
    };
    let [p50, p99, max] = latencies.percentiles([50, 99, 100]).map(short);
    format!("{p50} / {p99} / {max}")
}
