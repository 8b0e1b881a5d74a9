//! `persist-pubsub replay`.

use std::path::PathBuf;

use clap::Args;

use super::Failure;
use super::target::Server;
use crate::recording::Recording;
use crate::recording::player::{self, Speed};

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    server: Server,
    /// How fast: 1 is as recorded, 10 ten times as fast, `full` as fast as the server takes it
    #[arg(long, value_name = "TIMES", value_parser = speed, env = "PERSIST_PUBSUB_SPEED", default_value = "1")]
    speed: Speed,
    /// Folder of .frames files, such as compat-tests/recordings/v0-contended
    folder: PathBuf,
}

fn speed(text: &str) -> Result<Speed, String> {
    if text == "full" {
        return Ok(Speed::Full);
    }
    match text.parse::<f64>() {
        Ok(times) if times.is_finite() && times >= 0.001 => Ok(Speed::Times(times)),
        _ => Err("a number from 0.001 on, or full".to_owned()),
    }
}

pub(super) async fn run(args: ReplayArgs) -> Result<(), Failure> {
    let recording = Recording::read(&args.folder)?;
    let endpoint = args.server.endpoint()?;
    let authorization = args.server.authorization().await?;
    eprintln!(
        "{}: {} messages of {} clients, {:.1} s as recorded",
        args.folder.display(),
        recording.records.len(),
        recording.callers.len(),
        recording.length().as_secs_f64(),
    );
    let played = player::play(&recording, &endpoint, authorization.value(), args.speed).await?;
    let seconds = played.took.as_secs_f64().max(1e-9);
    println!(
        "sent {} messages ({} pushes, {} bytes) in {:.3} s: {:.0} messages/s; received {} diffs",
        played.messages,
        played.pushes,
        played.bytes,
        seconds,
        to_f64(played.messages) / seconds,
        played.received,
    );
    Ok(())
}

/// Counts of a recording are far below 2^53.
#[expect(clippy::cast_precision_loss, reason = "for people")]
fn to_f64(n: usize) -> f64 {
    n as f64
}
