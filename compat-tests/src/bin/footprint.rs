//! Measures what sessions and subscriptions cost the server in memory:
//! `cargo run --release -p persist-pubsub-compat-tests --bin footprint`.
//!
//! Starts the real server, opens sessions in steps, and prints the server's
//! resident memory after each. The allocator keeps some of what is freed, so
//! the figures of "gone" are upper bounds.

use bytes::Bytes;
use persist_pubsub_compat_tests::child::Child;
use persist_pubsub_compat_tests::operator::Operator;
use persist_pubsub_compat_tests::{v0_peer, v1_peer, wait};
use persist_pubsub_proto::ShardId;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const SESSIONS: u64 = 500;
const SHARDS: u64 = 500;
const DIFFS: u64 = 10_000;
const DIFF_BYTES: usize = 900;

/// The server's resident memory, and what it was when last read.
struct Meter<'a> {
    server: &'a Child,
    last: u64,
}

impl Meter<'_> {
    fn read(&mut self, what: &str, of: u64) -> Result<(), Failure> {
        let kib = self.server.resident_kib()?;
        let grown = kib.cast_signed() - self.last.cast_signed();
        let each = grown * 1024 / of.max(1).cast_signed();
        println!("{what:<36} {kib:>8} KiB  {grown:>+8} KiB  {each:>7} bytes each");
        self.last = kib;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let server = Child::start::<&str>(&[]).await?;
    let operator = Operator::connect(&server).await?;
    let url = server.url();
    let mut meter = Meter {
        server: &server,
        last: 0,
    };
    meter.read("idle", 1)?;

    let mut sessions = Vec::new();
    for n in 0..SESSIONS {
        sessions.push(v1_peer::Peer::connect(&url, &format!("footprint-{n}")).await?);
    }
    meter.read(&format!("{SESSIONS} v1 sessions"), SESSIONS)?;

    let shards: Vec<(ShardId, Option<u64>)> = (0..SHARDS)
        .map(|n| (u128::from(n) << 64 | u128::from(n)).to_be_bytes())
        .map(|bytes| (ShardId::new(bytes), None))
        .collect();
    let began = tokio::time::Instant::now();
    for session in &mut sessions {
        session.sender().subscribe(1, &shards).await?;
        let mut answered = 0;
        while answered < shards.len() {
            let answer = session.receiver().expect_subscribed("an answer").await?;
            answered += answer.shards.len();
        }
    }
    let took = began.elapsed();
    let subscriptions = SESSIONS * SHARDS;
    meter.read(
        &format!("{SESSIONS} x {SHARDS} subscriptions"),
        subscriptions,
    )?;
    println!("  (one session after another, in {} ms)", took.as_millis());

    drop(sessions);
    wait_until_alone(&operator).await?;
    meter.read("all gone", subscriptions)?;

    let mut peers = Vec::new();
    for n in 0..SESSIONS {
        peers.push(v0_peer::Peer::connect(&url, &format!("footprint-{n}")).await?);
    }
    meter.read(&format!("{SESSIONS} v0 sessions"), SESSIONS)?;
    drop(peers);
    wait_until_alone(&operator).await?;

    let publisher = v1_peer::Peer::connect(&url, "footprint").await?;
    meter.read("all gone, one v1 session", 1)?;
    let diff = Bytes::from(vec![7; DIFF_BYTES]);
    for seqno in 1..=DIFFS {
        let (shard, _) = shards[usize::try_from(seqno % SHARDS)?];
        publisher
            .sender()
            .publish(shard, seqno, 1, diff.clone())
            .await?;
    }
    let pushed = "mz_persist_pubsub_server_call_count{call=\"push\"}";
    wait::until("every diff to be in a log", async || {
        let taken = operator.metric(pushed).await.ok()?;
        (taken >= DIFFS as f64).then_some(())
    })
    .await?;
    meter.read(&format!("{DIFFS} diffs of {DIFF_BYTES} bytes"), DIFFS)?;
    let log_bytes = operator.metric("persist_pubsub_log_bytes").await?;
    println!("  (persist_pubsub_log_bytes: {log_bytes})");
    Ok(())
}

async fn wait_until_alone(operator: &Operator) -> Result<(), Failure> {
    wait::until("the sessions to end", async || {
        operator.sessions().await.ok()?.is_empty().then_some(())
    })
    .await?;
    Ok(())
}
