//! What a run came to.

use std::fmt::Write as _;
use std::time::Duration;

use bytesize::ByteSize;
use clap::ValueEnum;
use serde_json::json;

use super::Protocol;
use super::load::{Counts, Latencies};

/// Resident memory of the server at some moments, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    /// Before the first connection.
    pub(super) before: u64,
    pub(super) connected: u64,
    pub(super) subscribed: u64,
    /// While pushing.
    pub(super) peak: u64,
    /// When everything had arrived.
    pub(super) loaded: u64,
    /// When all connections had gone.
    pub(super) gone: u64,
}

impl Memory {
    /// Of two processes together. Both peaks need not be of one moment: the
    /// sum is at least what there was.
    fn and(&self, other: &Self) -> Self {
        Self {
            before: self.before + other.before,
            connected: self.connected + other.connected,
            subscribed: self.subscribed + other.subscribed,
            peak: self.peak + other.peak,
            loaded: self.loaded + other.loaded,
            gone: self.gone + other.gone,
        }
    }
}

/// What one process used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Process {
    /// Of its CPU time, while it was measured.
    pub(super) cpu: Duration,
    pub(super) memory: Memory,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) wire: Protocol,
    /// Of the measured time.
    pub(super) counts: Counts,
    /// With the warm-up.
    pub(super) whole: Counts,
    pub(super) latencies: Latencies,
    pub(super) latest_push: Duration,
    pub(super) connect: Duration,
    pub(super) subscribe: Duration,
    /// How long was pushed, and until the last delivery.
    pub(super) pushing: Duration,
    pub(super) took: Duration,
    /// The generator's CPU time.
    pub(super) own: Duration,
    /// Those of the server; none if it is not measured.
    pub(super) processes: Vec<Process>,
    pub(super) interrupted: bool,
    pub(super) connections: usize,
    pub(super) subscriptions: usize,
    pub(super) shards: usize,
}

/// Quantiles that are reported, with their names.
const QUANTILES: [(&str, f64); 5] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p999", 0.999),
    ("max", 1.0),
];

impl Report {
    /// Deliveries that were expected and did not come.
    pub(super) fn missing(&self) -> u64 {
        self.whole.expected.saturating_sub(self.whole.delivered)
    }

    fn wire(&self) -> String {
        let value = self.wire.to_possible_value();
        value.map_or_else(String::new, |v| v.get_name().to_owned())
    }

    /// Microseconds of the server's CPU for each delivery.
    fn cpu_of_delivery(&self, cpu: Duration) -> f64 {
        let deliveries = self.counts.delivered.max(1);
        cpu.as_secs_f64() * 1e6 / float(deliveries)
    }

    /// All processes together; None if nothing is measured.
    fn server(&self) -> Option<Process> {
        self.processes.iter().copied().reduce(|a, b| Process {
            cpu: a.cpu + b.cpu,
            memory: a.memory.and(&b.memory),
        })
    }

    pub(super) fn json(&self) -> serde_json::Value {
        let counts = &self.counts;
        let pushing = self.pushing.as_secs_f64().max(1e-9);
        let took = self.took.as_secs_f64().max(1e-9);
        let mut latency: serde_json::Map<_, _> = QUANTILES
            .iter()
            .map(|(name, q)| ((*name).to_owned(), json!(self.micros(*q))))
            .collect();
        latency.insert("mean".to_owned(), json!(self.latencies.mean() / 1e3));
        json!({
            "wire": self.wire(),
            "connections": self.connections,
            "subscriptions": self.subscriptions,
            "shards": self.shards,
            "interrupted": self.interrupted,
            "connect_seconds": self.connect.as_secs_f64(),
            "subscribe_seconds": self.subscribe.as_secs_f64(),
            "seconds": took,
            "pushes": counts.pushed,
            "push_bytes": counts.pushed_bytes,
            "deliveries": counts.delivered,
            "expected_in_all": self.whole.expected,
            "delivered_in_all": self.whole.delivered,
            "missing": self.missing(),
            "repeated": self.whole.repeated,
            "gaps": self.whole.gaps,
            "pushes_per_second": float(counts.pushed) / pushing,
            "deliveries_per_second": float(counts.delivered) / took,
            "latency_micros": latency,
            "latest_push_micros": self.latest_push.as_secs_f64() * 1e6,
            "generator_cpu_seconds": self.own.as_secs_f64(),
            "server": self.server().map(|all| self.process_json(&all)),
            "processes": self.processes.iter().map(|one| self.process_json(one)).collect::<Vec<_>>(),
        })
    }

    fn process_json(&self, process: &Process) -> serde_json::Value {
        let Process { cpu, memory } = process;
        json!({
            "cpu_seconds": cpu.as_secs_f64(),
            "cpu_micros_per_delivery": self.cpu_of_delivery(*cpu),
            "resident_bytes": {
                "before": memory.before,
                "connected": memory.connected,
                "subscribed": memory.subscribed,
                "peak": memory.peak,
                "loaded": memory.loaded,
                "gone": memory.gone,
            },
        })
    }

    fn micros(&self, quantile: f64) -> f64 {
        float(self.latencies.value_at_quantile(quantile)) / 1e3
    }

    pub(super) fn text(&self) -> String {
        let counts = &self.counts;
        let took = self.took.as_secs_f64().max(1e-9);
        let pushing = self.pushing.as_secs_f64().max(1e-9);
        let mut out = String::new();
        let mut line = |name: &str, text: String| {
            // A String grows: writing to it cannot fail.
            let _ = writeln!(out, "{name:<13} {text}");
        };
        if self.interrupted {
            line(
                "interrupted",
                format!("after {:.1} s", self.pushing.as_secs_f64()),
            );
        }
        line(
            "connections",
            format!(
                "{} over {}, in {:.3} s; {} subscriptions to {} shards, in {:.3} s",
                self.connections,
                self.wire(),
                self.connect.as_secs_f64(),
                self.subscriptions,
                self.shards,
                self.subscribe.as_secs_f64(),
            ),
        );
        line(
            "pushes",
            format!(
                "{} in {pushing:.2} s: {:.0}/s, {}/s",
                counts.pushed,
                float(counts.pushed) / pushing,
                ByteSize((float(counts.pushed_bytes) / pushing) as u64),
            ),
        );
        line(
            "deliveries",
            format!(
                "{} in {took:.2} s: {:.0}/s",
                counts.delivered,
                float(counts.delivered) / took
            ),
        );
        line(
            "completeness",
            format!(
                "{:.4} %: {} of {} expected, {} missing, {} once more, {} told as gaps",
                100.0 * float(self.whole.delivered) / float(self.whole.expected.max(1)),
                self.whole.delivered,
                self.whole.expected,
                self.missing(),
                self.whole.repeated,
                self.whole.gaps,
            ),
        );
        let quantiles: Vec<_> = QUANTILES
            .iter()
            .map(|(name, q)| format!("{name} {:.0}", self.micros(*q)))
            .collect();
        line(
            "latency",
            format!("{} us, from stamp to receipt", quantiles.join("  ")),
        );
        let busy = 100.0 * self.own.as_secs_f64() / took;
        let warning = if busy > 90.0 {
            ": the generator may be what limits this run"
        } else {
            ""
        };
        line(
            "generator",
            format!(
                "{busy:.0} % of a core{warning}; pushes at most {:.0} us behind their time",
                self.latest_push.as_secs_f64() * 1e6
            ),
        );
        if let Some(Process { cpu, memory }) = self.server() {
            line(
                "server",
                format!(
                    "{:.2} s of CPU, {:.0} % of a core, {:.2} us for each delivery",
                    cpu.as_secs_f64(),
                    100.0 * cpu.as_secs_f64() / took,
                    self.cpu_of_delivery(cpu),
                ),
            );
            let size = |bytes| ByteSize(bytes).to_string();
            line(
                "memory",
                format!(
                    "{} before, {} connected, {} subscribed, {} at most, {} when all had gone",
                    size(memory.before),
                    size(memory.connected),
                    size(memory.subscribed),
                    size(memory.peak),
                    size(memory.gone),
                ),
            );
        }
        out
    }
}

/// Counts of a run are far below 2^53.
#[expect(clippy::cast_precision_loss, reason = "for people")]
fn float(n: u64) -> f64 {
    n as f64
}
