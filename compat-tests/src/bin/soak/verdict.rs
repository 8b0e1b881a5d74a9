//! What was seen, and whether it is as promised.

use std::collections::BTreeMap;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use persist_pubsub_compat_tests::hole::Hole;
use persist_pubsub_compat_tests::v1_process::V1Process;

use crate::world::{MEMORY_MIB, World};

/// Violations that are printed; all are counted.
const SHOWN: usize = 40;

#[derive(Default)]
pub(crate) struct Tally {
    faults: BTreeMap<&'static str, u64>,
    violations: BTreeMap<&'static str, u64>,
    shown: Vec<String>,
    processes: Processes,
    collected: bool,
    rounds: u64,
    slowest: Duration,
    most_mib: u64,
    most_log: f64,
    log_limit: f64,
    servers: u64,
}

/// What the processes counted.
#[derive(Default)]
struct Processes {
    pushes_v1: u64,
    pushes_v0: u64,
    deliveries_v1: u64,
    deliveries_v0: u64,
    gaps: u64,
    resyncs: u64,
    fetches: u64,
    late_echoes: u64,
    own_gaps: u64,
    reconnects_v1: u64,
    reconnects_v0: u64,
    early_v0: u64,
    polled_v0: u64,
    hole_v1: Hole,
    hole_v0: Hole,
}

impl Tally {
    pub(crate) fn fault(&mut self, name: &'static str) {
        *self.faults.entry(name).or_default() += 1;
    }

    pub(crate) fn violated(&mut self, promise: &'static str, what: &str) {
        *self.violations.entry(promise).or_default() += 1;
        if self.shown.len() < SHOWN {
            println!("VIOLATION of {promise}: {what}");
            self.shown.push(format!("{promise}: {what}"));
        }
    }

    pub(crate) fn converged(&mut self, after: Duration) {
        self.rounds += 1;
        self.slowest = self.slowest.max(after);
    }

    pub(crate) fn memory(&mut self, mib: u64) {
        if mib > MEMORY_MIB && self.most_mib <= MEMORY_MIB {
            self.violated(
                "memory",
                &format!("the server uses {mib} MiB of {MEMORY_MIB}"),
            );
        }
        self.most_mib = self.most_mib.max(mib);
    }

    pub(crate) fn log_bytes(&mut self, held: f64, limit: f64) {
        if held > limit && self.most_log <= limit {
            self.violated("memory", &format!("the logs hold {held} of {limit} bytes"));
        }
        self.most_log = self.most_log.max(held);
        self.log_limit = limit;
    }

    /// A server ended: killed, or with this status when it was told to go.
    pub(crate) fn server_ended(&mut self, log: &str, status: Option<ExitStatus>) {
        self.servers += 1;
        if let Some(line) = log.lines().find(|line| line.contains("panicked")) {
            self.violated("running", &format!("the server wrote: {line}"));
        }
        if let Some(status) = status.filter(|status| !status.success()) {
            self.violated("draining", &format!("the server ended with {status}"));
        }
    }

    pub(crate) fn print_round(&self, world: &World) {
        let of_process =
            |process: &Arc<V1Process>| process.account().violations.into_values().sum::<u64>();
        let of_processes: u64 = world.v1.iter().map(of_process).sum();
        println!(
            "round {}: {} faults, {} violations, {} MiB at most",
            self.rounds,
            self.faults.values().sum::<u64>(),
            self.violations.values().sum::<u64>() + of_processes,
            self.most_mib
        );
    }

    pub(crate) fn passed(&self) -> bool {
        self.violations.is_empty()
    }

    pub(crate) fn print(&self, lasted: Duration) {
        let p = &self.processes;
        let lasted = Duration::from_secs(lasted.as_secs());
        println!("\nafter {}:", humantime::format_duration(lasted));
        println!("  pushes      v1 {}, v0 {}", p.pushes_v1, p.pushes_v0);
        println!(
            "  deliveries  v1 {}, v0 {}",
            p.deliveries_v1, p.deliveries_v0
        );
        println!(
            "  v1          {} gaps, {} resyncs, {} fetches, {} reconnects; of its own: {} diffs over a later session, {} gaps",
            p.gaps, p.resyncs, p.fetches, p.reconnects_v1, p.late_echoes, p.own_gaps
        );
        println!(
            "  v0          {} discarded as early, {} found by a poll, {} reconnects",
            p.early_v0, p.polled_v0, p.reconnects_v0
        );
        println!("  largest hole  v1 {}; v0 {}", p.hole_v1, p.hole_v0);
        let faults: Vec<_> = self
            .faults
            .iter()
            .map(|(name, n)| format!("{name} {n}"))
            .collect();
        println!("  faults      {}", faults.join(", "));
        println!(
            "  converged   {} times, the slowest in {:.1} ms from when all were connected",
            self.rounds,
            self.slowest.as_secs_f64() * 1e3
        );
        println!(
            "  servers     {} ended; {} MiB resident at most (bound {MEMORY_MIB}), {} bytes in logs at most (bound {})",
            self.servers, self.most_mib, self.most_log, self.log_limit
        );
        if self.passed() {
            println!("PASSED: no violation");
        } else {
            println!("FAILED: {:?}", self.violations);
            for text in &self.shown {
                println!("  {text}");
            }
        }
    }
}

/// Adds what the processes counted. Once: when they are gone there is nothing
/// to count any more.
pub(crate) fn collect(world: &World, tally: &mut Tally) {
    if std::mem::replace(&mut tally.collected, true) {
        return;
    }
    let p = &mut tally.processes;
    let mut shown = Vec::new();
    for process in &world.v1 {
        let (account, stats) = (process.account(), process.stats());
        p.pushes_v1 += stats.pushes;
        p.deliveries_v1 += account.diffs;
        p.gaps += account.gaps;
        p.resyncs += account.resyncs;
        p.fetches += account.fetches;
        p.late_echoes += account.late_echoes;
        p.reconnects_v1 += account.connected.saturating_sub(1);
        p.hole_v1 = p.hole_v1.max(account.hole);
        p.own_gaps += account.own_gaps;
        for text in account.first_violations {
            shown.push(format!("{text} ({})", process.name()));
        }
        for (promise, times) in account.violations {
            *tally.violations.entry(promise).or_default() += times;
        }
    }
    for process in &world.v0 {
        let account = process.account();
        p.pushes_v0 += account.pushes;
        p.deliveries_v0 += account.diffs;
        p.early_v0 += account.early;
        p.polled_v0 += account.polled;
        p.reconnects_v0 += account.lost;
        p.hole_v0 = p.hole_v0.max(account.hole);
        if account.altered > 0 {
            *tally.violations.entry("opaque").or_default() += account.altered;
            shown.push(format!(
                "opaque: {} diffs ({})",
                account.altered,
                process.name()
            ));
        }
    }
    shown.truncate(SHOWN.saturating_sub(tally.shown.len()));
    tally.shown.append(&mut shown);
}
