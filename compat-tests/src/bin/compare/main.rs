//! Measures the server beside others, in one go on one machine:
//! `compat-tests/bench.sh`, which builds what this needs.
//!
//! Every row of the table (`rows.rs`) is run against every contender in turn,
//! each in a fresh process, and the whole of it several times over, so that
//! what the machine does besides falls on all alike. What counts is the ratio
//! within a round; its spread over the rounds says how far to trust it.

mod chart;
mod contender;
mod curves;
mod measurement;
mod rows;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use contender::{Build, Contender};
use measurement::Measurement;
use persist_pubsub_compat_tests::child::workspace;
use table::Table;

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Measures the server beside others.
#[derive(Debug, Parser)]
struct Args {
    /// A second or so for each run, one round, and only what it is compared with most
    #[arg(long)]
    quick: bool,
    /// How often everything is run
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long each run measures
    #[arg(long, value_parser = humantime::parse_duration, default_value = "3s")]
    duration: Duration,
    /// Only these rows; `--rows list` names them
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Only these contenders
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Another build of the server, to measure beside this one: NAME=PATH
    #[arg(long, value_name = "NAME=PATH")]
    also: Vec<Build>,
    /// Also measure how cost grows with subscribers, sessions, shards, cores and log
    #[arg(long)]
    curves: bool,
    /// Where the figures and the chart are written
    #[arg(long)]
    out: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("diffs were missing where none may be: see above");
            ExitCode::FAILURE
        }
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything arrived that a contender of ours was given.
async fn run(mut args: Args) -> Result<bool, Failure> {
    if args.quick {
        args.rounds = 1;
        args.duration = args.duration.min(Duration::from_secs(1));
    }
    let rows: Vec<_> = rows::all()
        .into_iter()
        .filter(|row| args.rows.is_empty() || args.rows.iter().any(|name| name == row.name))
        .collect();
    if rows.is_empty() && !args.rows.is_empty() {
        let names: Vec<_> = rows::all().iter().map(|row| row.name).collect();
        return Err(format!("the rows are {}", names.join(", ")).into());
    }
    let contenders: Vec<_> = contender::all(&args.also, args.quick)
        .into_iter()
        .filter(|c| args.only.is_empty() || args.only.contains(&c.name))
        .collect();
    let out = args.out.unwrap_or_else(|| workspace().join("target/bench"));
    std::fs::create_dir_all(&out)?;

    let mut table = Table::new(&rows, &contenders);
    for round in 0..args.rounds {
        for (at, row) in rows.iter().enumerate() {
            for turn in 0..contenders.len() {
                // Nobody is always first, nor always behind the same other.
                let who = (turn + round + at) % contenders.len();
                let contender = &contenders[who];
                if !row.suits(contender) {
                    continue;
                }
                let measured = measure(contender, &row.flags(args.duration)).await?;
                eprintln!(
                    "{:>2}  {:<26} {:<16} {measured}",
                    round + 1,
                    row.name,
                    contender.name
                );
                table.add(at, who, measured);
            }
        }
    }
    let curves = if args.curves {
        curves::measure(args.duration).await?
    } else {
        Vec::new()
    };
    let text = format!("{}{}", table.text(), curves::text(&curves));
    println!("{text}");
    std::fs::write(out.join("report.txt"), &text)?;
    let json = serde_json::json!({
        "machine": table::machine(),
        "rounds": args.rounds,
        "seconds": args.duration.as_secs_f64(),
        "rows": table.json(),
        "curves": curves::json(&curves),
    });
    std::fs::write(out.join("report.json"), format!("{json:#}\n"))?;
    std::fs::write(out.join("report.svg"), chart::svg(&table, &curves))?;
    eprintln!("written: {}/report.{{txt,json,svg}}", out.display());
    Ok(table.complete())
}

/// One run of one contender.
async fn measure(contender: &Contender, flags: &[String]) -> Result<Measurement, Failure> {
    let running = contender.start(&[]).await?;
    running.bench(flags).await
}
