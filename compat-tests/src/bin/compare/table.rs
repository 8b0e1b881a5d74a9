//! All measurements, and what they say of each other.

use std::fmt::Write as _;

use super::contender::{Contender, NATS};
use super::measurement::{Figure, Measurement};
use super::rows::{Goal, Row, reached};

/// The measurements of every row and contender, in the order of the rounds.
pub(crate) struct Table {
    pub(crate) rows: Vec<Row>,
    pub(crate) contenders: Vec<Contender>,
    /// By row, then by contender.
    cells: Vec<Vec<Vec<Measurement>>>,
}

/// A figure over all rounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<_> = values.into_iter().filter(|v| v.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (Some(least), Some(most)) = (values.first(), values.last()) else {
            return None;
        };
        Some(Self {
            median: *values.get(values.len() / 2)?,
            least: *least,
            most: *most,
        })
    }
}

impl Table {
    pub(crate) fn new(rows: &[Row], contenders: &[Contender]) -> Self {
        Self {
            rows: rows.to_vec(),
            contenders: contenders.to_vec(),
            cells: vec![vec![Vec::new(); contenders.len()]; rows.len()],
        }
    }

    pub(crate) fn add(&mut self, row: usize, contender: usize, measurement: Measurement) {
        self.cells[row][contender].push(measurement);
    }

    /// What a contender measured.
    pub(crate) fn spread(&self, row: usize, contender: usize, figure: Figure) -> Option<Spread> {
        Spread::of(self.cells[row][contender].iter().map(|m| m.get(figure)))
    }

    /// The same as a multiple of NATS' in the same round.
    pub(crate) fn ratio(&self, row: usize, contender: usize, figure: Figure) -> Option<Spread> {
        let nats = self.contenders.iter().position(|c| c.name == NATS)?;
        let pairs = self.cells[row][contender]
            .iter()
            .zip(&self.cells[row][nats]);
        Spread::of(pairs.map(|(ours, nats)| ours.get(figure) / nats.get(figure)))
    }

    /// Whether nothing was lost by whoever may lose nothing.
    pub(crate) fn complete(&self) -> bool {
        self.cells.iter().all(|row| {
            let of_ours = row
                .iter()
                .zip(&self.contenders)
                .filter(|(_, c)| c.is_ours());
            of_ours
                .flat_map(|(cell, _)| cell)
                .all(Measurement::is_complete)
        })
    }

    pub(crate) fn text(&self) -> String {
        let mut out = format!("{}\n", machine());
        for (at, row) in self.rows.iter().enumerate() {
            let _ = writeln!(out, "\n{}", row.name);
            for (figure, goal) in row.figures {
                let _ = writeln!(out, "  {}{}", figure.name(), wanted(*goal));
                for (who, contender) in self.contenders.iter().enumerate() {
                    let Some(spread) = self.spread(at, who, *figure) else {
                        continue;
                    };
                    let ratio = self.ratio(at, who, *figure).map_or(String::new(), |r| {
                        format!("{:.2} x nats ({:.2} to {:.2})", r.median, r.least, r.most)
                    });
                    let verdict = match self.verdict(at, who, *figure, *goal) {
                        Some(true) => "reached",
                        Some(false) => "NOT reached",
                        None => "",
                    };
                    let _ = writeln!(
                        out,
                        "    {:<16} {:>11}  ({} to {})  {ratio}  {verdict}",
                        contender.name,
                        number(spread.median),
                        number(spread.least),
                        number(spread.most),
                    );
                }
            }
        }
        out
    }

    /// Whether a build of ours reaches a goal, by the median of the ratios.
    fn verdict(&self, row: usize, who: usize, figure: Figure, goal: Goal) -> Option<bool> {
        if !self.contenders[who].is_ours() {
            return None;
        }
        match goal {
            Goal::OfNats(_) => {
                let ratio = self.ratio(row, who, figure)?;
                reached(figure, goal, ratio.median, 1.0)
            }
            _ => reached(figure, goal, self.spread(row, who, figure)?.median, 1.0),
        }
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        let rows = self.rows.iter().zip(&self.cells).map(|(row, cells)| {
            let runs = self.contenders.iter().zip(cells).map(|(contender, cell)| {
                let runs: Vec<_> = cell.iter().map(Measurement::json).collect();
                (contender.name.clone(), serde_json::json!(runs))
            });
            (
                row.name.to_owned(),
                runs.collect::<serde_json::Map<_, _>>().into(),
            )
        });
        rows.collect::<serde_json::Map<_, _>>().into()
    }
}

fn wanted(goal: Goal) -> String {
    match goal {
        Goal::OfNats(factor) => format!(", wanted: {factor} x nats"),
        Goal::Is(value) => format!(", wanted: {value}"),
        Goal::None => String::new(),
    }
}

/// Three digits, or all of a large number.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// What this was measured on.
pub(crate) fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let models: Vec<_> = cpus
        .lines()
        .filter_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map(|(_, name)| name.trim())
        .collect();
    let load = read("/proc/loadavg");
    format!(
        "{} x {}, Linux {}, load {} at the end",
        models.len(),
        models.first().unwrap_or(&"unknown CPU"),
        read("/proc/sys/kernel/osrelease").trim(),
        load.split_whitespace().next().unwrap_or("unknown"),
    )
}
