//! Runs the simulation over many seeds, or over one and tells what happens in
//! it. The exit code is 0 only if every promise was kept.

use std::io::{IsTerminal, Write};
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use clap::Parser;
use persist_pubsub_compat_tests::simulation::{Counts, Outcome, run};
use tokio::time::Instant;

/// The real server and client over a simulated network and clock
#[derive(Parser)]
struct Args {
    /// How many seeds
    #[arg(long, env = "SEEDS", default_value_t = 100)]
    seeds: u64,
    /// The first seed
    #[arg(long, env = "SEED", default_value_t = 0)]
    seed: u64,
    /// Threads; each runs one seed at a time
    #[arg(long, default_value_t = threads())]
    threads: usize,
    /// Tell what happens, line by line
    #[arg(long)]
    lines: bool,
    /// Run each seed twice, and demand that both runs are the same
    #[arg(long)]
    twice: bool,
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

fn main() -> ExitCode {
    let args = Args::parse();
    let began = Instant::now();
    let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let totals = Mutex::new((Counts::default(), 0_u64));
    std::thread::scope(|scope| {
        for _ in 0..args.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Relaxed);
                    if at >= args.seeds {
                        return;
                    }
                    let failed = one(args.seed.wrapping_add(at), &args, &totals);
                    if failed && let Ok(mut totals) = totals.lock() {
                        totals.1 += 1;
                    }
                    progress(done.fetch_add(1, Relaxed) + 1, args.seeds);
                }
            });
        }
    });
    let (counts, failed) = totals.into_inner().unwrap_or_default();
    println!(
        "{} seeds from {} in {:.1?}: {failed} failed; {counts:?}",
        args.seeds,
        args.seed,
        began.elapsed()
    );
    ExitCode::from(u8::from(failed > 0))
}

/// Runs a seed; whether it failed.
fn one(seed: u64, args: &Args, totals: &Mutex<(Counts, u64)>) -> bool {
    let outcome = match run(seed, args.lines) {
        Ok(outcome) => outcome,
        Err(error) => {
            println!("seed {seed}: {error}");
            return true;
        }
    };
    if let Ok(mut totals) = totals.lock() {
        totals.0.add(&outcome.counts);
    }
    for line in &outcome.lines {
        println!("{line}");
    }
    let mut failed = tell(&outcome);
    if args.twice {
        match run(seed, false) {
            Ok(again) if again.digest == outcome.digest => {}
            again => {
                failed = true;
                println!(
                    "seed {seed}: another run of it was another run: {:?}, then {:?}",
                    outcome.digest,
                    again.map(|again| again.digest)
                );
            }
        }
    }
    failed
}

fn tell(outcome: &Outcome) -> bool {
    let Some(first) = outcome.violations.first() else {
        return false;
    };
    let seed = outcome.seed;
    println!(
        "seed {seed} FAILED: {first} (and {} more)\n  \
         repeat: cargo run -p persist-pubsub-compat-tests --bin simulate -- --seed {seed} --seeds 1 --lines",
        outcome.violations.len() - 1
    );
    true
}

fn progress(done: u64, of: u64) {
    let mut out = std::io::stderr();
    if out.is_terminal() && (done.is_multiple_of(10) || done == of) {
        // For the eye alone.
        let _ = write!(
            out,
            "\r{done} of {of} seeds{}",
            if done == of { "\n" } else { "" }
        );
    }
}
