//! `persist-pubsub tap`.

use std::io::Write;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use persist_pubsub_client::{Event, WirePreference, connect};
use persist_pubsub_proto::{MAX_SEQNO, ShardId};
use serde_json::json;

use super::target::Server;
use super::{Failure, Format};
use crate::logging::LogFormat;

/// A wire version on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum WireArg {
    /// v1, or v0 if the server has no v1
    Auto,
    /// The unversioned protocol
    V0,
    /// persist.pubsub.v1
    V1,
}

impl From<WireArg> for WirePreference {
    fn from(wire: WireArg) -> Self {
        match wire {
            WireArg::Auto => Self::Auto,
            WireArg::V0 => Self::V0,
            WireArg::V1 => Self::V1,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct TapArgs {
    #[command(flatten)]
    server: Server,
    /// Wire version to speak
    #[arg(long, env = "PERSIST_PUBSUB_WIRE", default_value = "auto")]
    wire: WireArg,
    /// Environment of the shards; the server's default if none (v1)
    #[arg(
        long,
        value_name = "NAME",
        env = "PERSIST_PUBSUB_ENVIRONMENT",
        default_value = ""
    )]
    environment: String,
    /// How events are printed
    #[arg(long, env = "PERSIST_PUBSUB_FORMAT", default_value = "text")]
    format: Format,
    /// Print the diffs' bytes, in hexadecimal
    #[arg(long, env = "PERSIST_PUBSUB_DIFFS")]
    diffs: bool,
    /// End after so many diffs
    #[arg(long, value_name = "COUNT", env = "PERSIST_PUBSUB_COUNT")]
    count: Option<u64>,
    /// Shards: s and a UUID; with @SEQNO, everything past that seqno
    #[arg(required = true, value_name = "SHARD[@SEQNO]")]
    shards: Vec<Position>,
}

/// A shard, and what is had of it.
#[derive(Clone, Copy, Debug)]
struct Position {
    shard: ShardId,
    seqno: Option<u64>,
}

impl FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (shard, seqno) = match text.split_once('@') {
            None => (text, None),
            Some((shard, seqno)) => {
                let seqno = seqno.parse().ok().filter(|&n| n <= MAX_SEQNO);
                (
                    shard,
                    Some(seqno.ok_or("the seqno behind @ is a number up to 2^63 - 1")?),
                )
            }
        };
        Ok(Self {
            shard: shard.parse().map_err(|e| format!("{e}"))?,
            seqno,
        })
    }
}

pub(super) async fn run(args: TapArgs) -> Result<(), Failure> {
    // Why there is no connection, on standard error: events say nothing of an
    // attempt that failed.
    crate::logging::init(LogFormat::Text, "warn")?;
    let config = args
        .server
        .config()?
        .client_name("persist-pubsub tap")
        .client_version(env!("CARGO_PKG_VERSION"))
        .environment_id(&args.environment)
        .role("operator")
        .mode(persist_pubsub_client::Mode::ReadOnly)
        .wire(args.wire.into());
    let (client, mut events) = connect(config);
    let _tokens: Vec<_> = args
        .shards
        .iter()
        .map(|p| match p.seqno {
            Some(seqno) => client.subscribe_from(&p.shard, seqno),
            None => client.subscribe(&p.shard),
        })
        .collect();
    let mut left = args.count;
    while left != Some(0) {
        let event = tokio::select! {
            event = events.next() => event,
            _ = tokio::signal::ctrl_c() => break,
        };
        let Some(event) = event else { break };
        if matches!(event, Event::Diff { .. }) {
            left = left.map(|n| n - 1);
        }
        let line = match args.format {
            Format::Text => text(&event, args.diffs),
            Format::Json => json(&event, args.diffs).to_string(),
        };
        // Standard output is a pipe that was closed: nobody wants more.
        if writeln!(std::io::stdout(), "{line}").is_err() {
            break;
        }
        if let Event::Fenced { reason, .. } = event {
            return Err(format!("fenced: {reason}").into());
        }
    }
    Ok(())
}

fn latency_ms(committed: Option<SystemTime>) -> Option<f64> {
    let passed = committed?.elapsed();
    Some(passed.map_or_else(
        |ahead| -ahead.duration().as_secs_f64() * 1e3,
        |d| d.as_secs_f64() * 1e3,
    ))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn text(event: &Event, diffs: bool) -> String {
    match event {
        Event::Diff {
            shard,
            seqno,
            diff,
            committed,
        } => {
            let latency = latency_ms(*committed)
                .map_or_else(String::new, |ms| format!("  {ms:.3} ms after its commit"));
            let bytes = if diffs {
                format!("  {}", hex(diff))
            } else {
                String::new()
            };
            format!(
                "diff    {shard} {seqno}  {} bytes{latency}{bytes}",
                diff.len()
            )
        }
        Event::Gap {
            shard,
            from,
            to,
            highest,
        } => format!("gap     {shard} {from} to {to} will not come; the shard is at {highest}"),
        Event::Resync { shard, highest } => match highest {
            Some(highest) => format!("resync  {shard} is at {highest}"),
            None => format!("resync  {shard}: the server knows nothing of it yet"),
        },
        Event::Connected { wire, server } => {
            format!(
                "connected over {wire} {} {}",
                server.version, server.instance_id
            )
        }
        Event::Disconnected { reason } => format!("disconnected: {reason}"),
        Event::Fenced { reason, .. } => format!("fenced: {reason}"),
        other => format!("{other:?}"),
    }
}

fn json(event: &Event, diffs: bool) -> serde_json::Value {
    match event {
        Event::Diff {
            shard,
            seqno,
            diff,
            committed,
        } => {
            let nanos = committed
                .and_then(|at| at.duration_since(UNIX_EPOCH).ok())
                .map(|d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX));
            let mut value = json!({
                "event": "diff", "shard": shard.to_string(), "seqno": seqno,
                "bytes": diff.len(), "committed_unix_nanos": nanos,
                "latency_ms": latency_ms(*committed),
            });
            if diffs {
                value["diff"] = hex(diff).into();
            }
            value
        }
        Event::Gap {
            shard,
            from,
            to,
            highest,
        } => json!({
            "event": "gap", "shard": shard.to_string(),
            "from": from, "to": to, "highest": highest,
        }),
        Event::Resync { shard, highest } => {
            json!({ "event": "resync", "shard": shard.to_string(), "highest": highest })
        }
        Event::Connected { wire, server } => json!({
            "event": "connected", "wire": wire.to_string(),
            "server_version": server.version, "server_instance_id": server.instance_id,
            "session_id": server.session_id,
        }),
        Event::Disconnected { reason } => {
            json!({ "event": "disconnected", "reason": reason.to_string() })
        }
        Event::Fenced {
            generation,
            epoch,
            reason,
        } => json!({
            "event": "fenced", "generation": generation, "epoch": epoch, "reason": reason,
        }),
        other => json!({ "event": format!("{other:?}") }),
    }
}
