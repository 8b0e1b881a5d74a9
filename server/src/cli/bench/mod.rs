//! `persist-pubsub bench`: a load generator, for a server of ours or, for
//! comparison, a NATS server.
//!
//! It shares the machine with what it measures, so it has to be the cheaper of
//! the two: all connections are served by one thread, bytes are read into one
//! buffer, and of a diff that arrives no more is looked at than its head. That
//! is why no gRPC and no NATS library is used here: they do for each message
//! what the server does.

mod drive;
mod grpc;
mod http2;
mod load;
mod meter;
mod nats;
mod pace;
mod peer;
mod plan;
mod relay;
mod report;
mod v0;
mod v1;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::target::{self, Server};
use super::{Failure, Format};
use crate::units;

/// What is spoken with the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Protocol {
    /// The unversioned protocol
    V0,
    /// persist.pubsub.v1
    V1,
    /// NATS, for comparison
    Nats,
    /// The relay of compat-tests: what TCP itself allows
    #[value(hide = true)]
    Relay,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    server: Server,
    /// Data port that those who publish connect to: another replica's, say; that of --server if not given
    #[arg(long, value_name = "URL", env = "PERSIST_PUBSUB_PUBLISH_TO")]
    publish_to: Option<String>,
    /// What to speak with it
    #[arg(long, env = "PERSIST_PUBSUB_WIRE", default_value = "v1")]
    wire: Protocol,
    /// Environment of the shards; the server's default if none (v1)
    #[arg(
        long,
        value_name = "NAME",
        env = "PERSIST_PUBSUB_ENVIRONMENT",
        default_value = ""
    )]
    environment: String,
    /// Connections that publish; each shard belongs to one of them
    #[arg(
        long,
        value_name = "COUNT",
        env = "PERSIST_PUBSUB_PUBLISHERS",
        default_value_t = 1
    )]
    publishers: usize,
    /// Connections that subscribe
    #[arg(
        long,
        value_name = "COUNT",
        env = "PERSIST_PUBSUB_SUBSCRIBERS",
        default_value_t = 10
    )]
    subscribers: usize,
    /// Connections that subscribe, and then do not read; nothing is expected of them
    #[arg(
        long,
        value_name = "COUNT",
        env = "PERSIST_PUBSUB_STALLED",
        default_value_t = 0
    )]
    stalled: usize,
    /// Shards; new ones, that nothing else uses
    #[arg(
        long,
        value_name = "COUNT",
        env = "PERSIST_PUBSUB_SHARDS",
        default_value_t = 1
    )]
    shards: usize,
    /// Shards that each subscriber follows; all if not given
    #[arg(
        long,
        value_name = "COUNT",
        env = "PERSIST_PUBSUB_SHARDS_PER_SUBSCRIBER"
    )]
    shards_per_subscriber: Option<usize>,
    /// Bytes of a diff, at least 24
    #[arg(long, value_name = "BYTES", value_parser = units::size, env = "PERSIST_PUBSUB_DIFF_SIZE", default_value = "900")]
    diff_size: usize,
    /// Draw the diffs' sizes from this recording instead
    #[arg(
        long,
        value_name = "FOLDER",
        env = "PERSIST_PUBSUB_SIZES_FROM",
        conflicts_with = "diff_size"
    )]
    sizes_from: Option<PathBuf>,
    /// Pushes a second, of all publishers together; without it, as many as the server takes
    #[arg(long, value_name = "PER_SECOND", env = "PERSIST_PUBSUB_RATE")]
    rate: Option<f64>,
    /// Without --rate: pushes of one publisher that may be on their way to subscribers
    #[arg(
        long,
        value_name = "PUSHES",
        env = "PERSIST_PUBSUB_WINDOW",
        default_value_t = 64
    )]
    window: u64,
    /// With --rate: so many pushes at a time, and as much more seldom
    #[arg(
        long,
        value_name = "PUSHES",
        env = "PERSIST_PUBSUB_BURST",
        default_value_t = 1
    )]
    burst: u64,
    /// How long to measure
    #[arg(long, value_name = "DURATION", value_parser = units::duration, env = "PERSIST_PUBSUB_DURATION", default_value = "10s")]
    duration: Duration,
    /// How long to push before that
    #[arg(long, value_name = "DURATION", value_parser = units::duration, env = "PERSIST_PUBSUB_WARMUP", default_value = "500ms")]
    warmup: Duration,
    /// How long the last diffs may take to arrive
    #[arg(long, value_name = "DURATION", value_parser = units::duration, env = "PERSIST_PUBSUB_SETTLE", default_value = "10s")]
    settle: Duration,
    /// Processes of the server, on this machine (replicas, and what is between them): their CPU time and memory are reported
    #[arg(
        long,
        value_name = "PID",
        value_delimiter = ',',
        env = "PERSIST_PUBSUB_PID",
        conflicts_with = "admin"
    )]
    pid: Vec<u32>,
    /// Operators' port of the server, to ask for its CPU time (in whole seconds) and memory
    #[arg(long, value_name = "URL", env = "PERSIST_PUBSUB_ADMIN")]
    admin: Option<String>,
    /// How the report is printed
    #[arg(long, env = "PERSIST_PUBSUB_FORMAT", default_value = "text")]
    format: Format,
}

/// Exits with a failure if diffs are missing, so that a script notices.
pub(super) async fn run(args: BenchArgs) -> Result<(), Failure> {
    let plan = plan::Plan::new(&args)?;
    let meter = meter::Meter::new(&args.pid, args.admin.as_deref())?;
    let subscribe_at = args.server.authority()?;
    let publish_at = match &args.publish_to {
        None => subscribe_at.clone(),
        Some(url) => target::authority("--publish-to", url)?,
    };
    let places = drive::Places {
        subscribe_at,
        publish_at,
    };
    let format = args.format;
    // A thread of its own, with everything in it: no lock and no wake-up
    // between threads on the way of a diff.
    let report = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, drive::run(&args, plan, &places, &meter))
    })
    .await??;
    match format {
        Format::Text => print!("{}", report.text()),
        Format::Json => println!("{}", report.json()),
    }
    match report.missing() {
        0 => Ok(()),
        missing => Err(format!("{missing} deliveries are missing").into()),
    }
}
