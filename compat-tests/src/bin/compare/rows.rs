//! The rows of the table: the work, and what is to be reached.

use std::time::Duration;

use super::contender::Contender;
use super::measurement::Figure;

/// What is to be reached.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    /// So many times NATS' figure.
    OfNats(f64),
    /// This.
    Is(f64),
    /// Shown alone.
    None,
}

/// Some work, and the figures that it is judged by.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    flags: &'static [&'static str],
    /// Whether it is over when everybody is connected.
    brief: bool,
    pub(crate) figures: &'static [(Figure, Goal)],
}

use Figure::{Completeness, Cpu, Left, Memory, P50, P99, Subscribing, Throughput};
use Goal::{Is, OfNats};

/// Diffs have 900 bytes in all of them.
const ROWS: [Row; 7] = [
    Row {
        name: "saturated-10-window-64",
        flags: &["--subscribers=10", "--window=64"],
        brief: false,
        figures: &[(Cpu, OfNats(0.6)), (Throughput, OfNats(1.3))],
    },
    Row {
        name: "saturated-10-window-1024",
        flags: &["--subscribers=10", "--window=1024"],
        brief: false,
        figures: &[(Cpu, OfNats(0.6)), (Throughput, OfNats(1.3))],
    },
    Row {
        name: "saturated-1",
        flags: &["--subscribers=1", "--window=64"],
        brief: false,
        figures: &[(Cpu, OfNats(0.7)), (Throughput, Goal::None)],
    },
    Row {
        name: "2000-a-second-to-10",
        flags: &["--subscribers=10", "--rate=2000"],
        brief: false,
        figures: &[(Cpu, OfNats(0.75)), (P50, Goal::None), (P99, OfNats(1.0))],
    },
    Row {
        name: "200-a-second-to-100",
        flags: &["--subscribers=100", "--rate=200"],
        brief: false,
        figures: &[(Cpu, OfNats(0.75)), (P50, Goal::None), (P99, OfNats(1.0))],
    },
    Row {
        name: "bursts-of-200-to-10",
        flags: &["--subscribers=10", "--rate=2000", "--burst=200"],
        brief: false,
        figures: &[(Completeness, Is(100.0)), (P99, Goal::None)],
    },
    Row {
        name: "500-sessions-500-shards",
        flags: &[
            "--subscribers=500",
            "--shards=500",
            "--rate=20",
            "--warmup=0s",
            "--duration=500ms",
        ],
        brief: true,
        figures: &[
            (Memory, Is(20.0)),
            (Left, Goal::None),
            (Subscribing, Is(0.5)),
        ],
    },
];

pub(crate) fn all() -> Vec<Row> {
    ROWS.to_vec()
}

impl Row {
    /// Whether the contender can do it.
    pub(crate) fn suits(&self, contender: &Contender) -> bool {
        // A queue of 25 stands still under saturation, where pushes wait for
        // deliveries that were dropped.
        let saturates = !self.flags.iter().any(|flag| flag.starts_with("--rate"));
        (contender.knows_shards() || !self.brief)
            && !(contender.is_today() && (saturates || self.brief))
    }

    pub(crate) fn flags(&self, duration: Duration) -> Vec<String> {
        let mut flags: Vec<_> = self.flags.iter().map(|flag| (*flag).to_owned()).collect();
        if !self.brief {
            flags.push(format!("--duration={}ms", duration.as_millis()));
        }
        // What is lost does not come.
        flags.push("--settle=2s".to_owned());
        flags
    }
}

/// Whether a goal is reached, given NATS' figure.
pub(crate) fn reached(figure: Figure, goal: Goal, value: f64, nats: f64) -> Option<bool> {
    let wanted = match goal {
        OfNats(factor) => factor * nats,
        Is(value) => value,
        Goal::None => return None,
    };
    Some(if figure.less_is_better() {
        value <= wanted
    } else {
        value >= wanted
    })
}
