//! Walks the grid of `simulation::migration`, or one cell of it:
//! `cargo run -p persist-pubsub-compat-tests --bin migrate -- --every 7`.

use std::process::ExitCode;

use clap::Parser;
use persist_pubsub_compat_tests::simulation::migration::{Cell, Told};

/// From the embedded server to the standalone one, and back, with crashes.
#[derive(Parser)]
struct Args {
    /// The cell to begin with
    #[arg(long, default_value_t = 0)]
    from: usize,
    /// How many cells, at most
    #[arg(long, default_value_t = usize::MAX)]
    cells: usize,
    /// Every so many cells, one
    #[arg(long, default_value_t = 1)]
    every: usize,
    /// Tell what happened, line by line
    #[arg(long)]
    lines: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let began = tokio::time::Instant::now();
    let (mut told, mut run, mut failed) = (Told::default(), 0_u64, 0_u64);
    let cells = Cell::all().enumerate().skip(args.from);
    for (number, cell) in cells.step_by(args.every.max(1)).take(args.cells) {
        run += 1;
        let outcome = match cell.run(number as u64, args.lines) {
            Ok(outcome) => outcome,
            Err(error) => {
                eprintln!("no runtime: {error}");
                return ExitCode::FAILURE;
            }
        };
        told.add(&outcome.told);
        outcome.lines.iter().for_each(|line| println!("{line}"));
        if let Some(first) = outcome.violations.first() {
            failed += 1;
            let all = outcome.violations.len();
            println!("cell {number} {cell:?}: {all} violations, first: {first}");
        }
    }
    println!(
        "{run} cells in {} s, {failed} with violations: {told:?}",
        began.elapsed().as_secs()
    );
    match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
