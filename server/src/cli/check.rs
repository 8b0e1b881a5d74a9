//! `persist-pubsub check`: one diff, published in one session and heard in
//! another, of a shard that nobody else has.

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use persist_pubsub_client::{Config, Event, Events, Mode, connect};
use persist_pubsub_proto::ShardId;
use tokio::time::Instant;

use super::Failure;
use super::tap::WireArg;
use super::target::Server;
use crate::logging::LogFormat;
use crate::units::duration;

/// What is published: the opening of no real diff.
const DIFF: &[u8] = b"persist-pubsub check";

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    server: Server,
    /// Wire version to speak
    #[arg(long, env = "PERSIST_PUBSUB_WIRE", default_value = "auto")]
    wire: WireArg,
    /// Environment of the shard; the server's default if none (v1)
    #[arg(
        long,
        value_name = "NAME",
        env = "PERSIST_PUBSUB_ENVIRONMENT",
        default_value = ""
    )]
    environment: String,
    /// How long it may take, until the diff is heard
    #[arg(long, value_name = "DURATION", value_parser = duration, env = "PERSIST_PUBSUB_TIMEOUT", default_value = "10s")]
    timeout: Duration,
}

pub(super) async fn run(args: CheckArgs) -> Result<(), Failure> {
    // Why there is no connection, on standard error: events say nothing of an
    // attempt that failed.
    crate::logging::init(LogFormat::Text, "warn")?;
    let config = args
        .server
        .config()?
        .client_name("persist-pubsub check")
        .client_version(env!("CARGO_PKG_VERSION"))
        .environment_id(&args.environment)
        .role("operator")
        .wire(args.wire.into());
    let mut stage = "a session";
    tokio::time::timeout(args.timeout, round(config, &mut stage))
        .await
        .unwrap_or_else(|_| Err(format!("{stage} has not come within {:?}", args.timeout).into()))
}

/// Subscribes, publishes and hears. `stage` names what it waits for.
async fn round(config: Config, stage: &mut &'static str) -> Result<(), Failure> {
    let shard = ShardId::new(fastrand::u128(..).to_be_bytes());
    let (hearer, mut heard) = connect(config.clone().mode(Mode::ReadOnly));
    let _token = hearer.subscribe(&shard);
    let (wire, server) = loop {
        if let Event::Connected { wire, server } = next(&mut heard).await? {
            break (wire, server);
        }
    };
    *stage = "the answer to a subscribe";
    // Only what is published after it comes as a diff.
    while !matches!(next(&mut heard).await?, Event::Resync { .. }) {}

    *stage = "the published diff";
    // In a session of its own: none hears its own publications.
    let (speaker, _said) = connect(config.mode(Mode::ReadWrite));
    let published = Instant::now();
    speaker.push_diff(&shard, 1, Bytes::from_static(DIFF));
    loop {
        match next(&mut heard).await? {
            Event::Diff { seqno, diff, .. } if seqno == 1 && diff == DIFF => break,
            Event::Diff { seqno, diff, .. } => {
                return Err(format!(
                    "heard seqno {seqno} with {} bytes, not what was published",
                    diff.len()
                )
                .into());
            }
            _ => {}
        }
    }
    let version = match server.version.as_str() {
        "" => String::new(),
        version => format!(" of server {version}"),
    };
    println!(
        "a diff of {shard} was published and heard over {wire}{version}, {:.1} ms with the connect",
        published.elapsed().as_secs_f64() * 1e3
    );
    Ok(())
}

async fn next(events: &mut Events) -> Result<Event, Failure> {
    match events.next().await {
        Some(Event::Fenced { reason, .. }) => Err(format!("fenced: {reason}").into()),
        // It comes back by itself, until the time is up; what is said of it
        // goes to standard error.
        Some(event) => Ok(event),
        None => Err("the client has ended".into()),
    }
}
