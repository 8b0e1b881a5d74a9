//! What replicas cost: one server and several over NATS, measured in turn on
//! one machine (`compat-tests/replicas-bench.sh`, which builds what this
//! needs), and a model of how far they reach, fed by these figures.
//!
//! Of each figure the median of the rounds counts. They are written to a file,
//! from which `--model-from` computes the model again, for another load or
//! other machines.

mod figures;
mod fleet;
mod measure;
mod model;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use figures::Figures;
use model::{Load, Machine};
use persist_pubsub_compat_tests::child::workspace;

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Measures replicas beside one server, and computes how far they reach.
#[derive(Debug, Parser)]
struct Args {
    /// How often everything is measured
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long each run measures
    #[arg(long, value_parser = humantime::parse_duration, default_value = "3s")]
    duration: Duration,
    /// Distinct shards whose subscriptions come and go
    #[arg(long, default_value_t = 20_000)]
    interests: usize,
    /// Where the figures are written
    #[arg(long)]
    out: Option<PathBuf>,
    /// Measures nothing, and computes with the figures of this file
    #[arg(long, value_name = "PATH")]
    model_from: Option<PathBuf>,
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    machine: Machine,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), Failure> {
    args.load.check()?;
    args.machine.check()?;
    let figures = match &args.model_from {
        Some(path) => Figures::parse(&std::fs::read_to_string(path)?)?,
        None => {
            let mut rounds = Vec::new();
            for round in 1..=args.rounds {
                let figures = measure::all(args.duration, args.interests).await?;
                eprintln!("round {round}\n{}", figures.text());
                rounds.push(figures);
            }
            let figures = Figures::median(&rounds).ok_or("at least one round")?;
            let out = args.out.clone();
            let out = out.unwrap_or_else(|| workspace().join("target/replicas-bench"));
            std::fs::create_dir_all(&out)?;
            let file = out.join("figures.json");
            std::fs::write(&file, figures.json())?;
            eprintln!("written: {}", file.display());
            figures
        }
    };
    print!("{}", figures.text());
    print!("{}", model::text(&figures, &args.load, &args.machine));
    Ok(())
}
