//! A host of the client crate: the smallest process that keeps the states of
//! some shards up to date, writes to them, and lets others do so too.
//!
//! ```console
//! $ cargo run --release                                  # a server
//! $ cargo run -p persist-pubsub-client --example host -- http://127.0.0.1:6879
//! ```
//!
//! Start it twice: each shows the commits of the other, and whether they were
//! pushed or fetched. With `off` instead of an address it lives from its slow
//! poll. `host/adapter.rs` is what a host needs to write; `host/cache.rs` is
//! what it does with what it hears; `host/consensus.rs` stands in for its
//! database.

#[path = "host/adapter.rs"]
mod adapter;
#[path = "host/cache.rs"]
mod cache;
#[path = "host/consensus.rs"]
mod consensus;

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use cache::{Cache, End, State};
use consensus::Consensus;
use persist_pubsub_client::{Config, ShardId};

/// The last resort: how late a state is when all else fails.
const POLL_EVERY: Duration = Duration::from_secs(10);
/// One commit by this process, at most.
const COMMIT_EVERY: Duration = Duration::from_millis(500);
const SHARDS: [ShardId; 3] = [
    ShardId::new([0x11; 16]),
    ShardId::new([0x22; 16]),
    ShardId::new([0x33; 16]),
];

/// Exit code 0: it was interrupted, or fenced out.
#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("host: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(tracing::Level::INFO)
        .init();
    let mut args = std::env::args().skip(1);
    let endpoint = args
        .next()
        .ok_or("usage: host http://HOST:PORT|off [FOLDER]")?;
    let folder = args.next().map_or_else(
        || std::env::temp_dir().join("persist-pubsub-host"),
        PathBuf::from,
    );

    let config = match endpoint.as_str() {
        "off" => None,
        endpoint => Some(
            Config::new(endpoint)?
                .client_name("host-example")
                .client_version(env!("CARGO_PKG_VERSION")),
        ),
    };
    let (sender, receiver) = adapter::open(config);
    let cache = Cache::new(Consensus::open(&folder)?, sender);
    for shard in SHARDS {
        cache.follow(shard);
    }
    tokio::select! {
        // In good order either way.
        End::Fenced | End::Closed = cache.run(receiver, POLL_EVERY) => Ok(()),
        failed = write(&cache) => failed,
        failed = show(&cache) => failed,
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
    }
}

/// Commits to one shard after the other, until that fails.
async fn write(cache: &Cache) -> Result<(), Box<dyn Error>> {
    for (turn, shard) in SHARDS.into_iter().cycle().enumerate() {
        // Not in step with another process.
        let pause = 0.5 + fastrand::f64() / 2.0;
        tokio::time::sleep(COMMIT_EVERY.mul_f64(pause)).await;
        let diff = Bytes::from(format!("{} of {}", turn, std::process::id()));
        // Another process may be first; its diff is on the way.
        let _first = cache.commit(shard, diff).await?;
    }
    Ok(())
}

/// Prints each state as it changes, until that fails.
async fn show(cache: &Cache) -> Result<(), Box<dyn Error>> {
    let mut watch = cache.watch();
    let mut shown = [0; SHARDS.len()];
    loop {
        watch.changed().await?;
        let mut lines = String::new();
        for (shown, (id, shard)) in shown.iter_mut().zip(watch.borrow_and_update().iter()) {
            let State { seqno, digest } = shard.state;
            if seqno != *shown {
                *shown = seqno;
                let (pushed, fetched) = (shard.pushed, shard.fetched);
                lines += &format!(
                    "{id} at {seqno}: {pushed} pushed, {fetched} fetched, digest {digest:016x}\n"
                );
            }
        }
        // Printed when nobody waits for it any more.
        std::io::stdout().write_all(lines.as_bytes())?;
    }
}
