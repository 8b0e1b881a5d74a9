//! A reader whose socket nobody reads, among 100 that are read: the others'
//! latencies stay what they were, and the server's memory within its bounds.

use std::time::Duration;

use persist_pubsub_compat_tests::child::Child;
use persist_pubsub_compat_tests::histogram::Histogram;
use persist_pubsub_compat_tests::ledger::{Diffs, Ledger};
use persist_pubsub_compat_tests::operator::Operator;
use persist_pubsub_compat_tests::proxy::{Passing, Proxy, Way};
use persist_pubsub_compat_tests::store::CREATED;
use persist_pubsub_compat_tests::v0_peer::PeerError;
use persist_pubsub_compat_tests::wait::{until, within};
use persist_pubsub_compat_tests::{v0_peer, v1_peer};
use persist_pubsub_proto::ShardId;
use persist_pubsub_proto::v1::session_response::Message as Response;
use tokio::task::JoinSet;

use super::{Failure, Verdict, server};

const SHARD: ShardId = ShardId::new([0x51; 16]);
/// Readers that read, half of each wire version.
const READERS: usize = 100;
const PUSH_EVERY: Duration = Duration::from_millis(40);
/// Pushes before the reader stalls, and as many while it does.
const PUSHES: u64 = 150;
const LAST_BEFORE: u64 = CREATED + PUSHES;
const LAST: u64 = LAST_BEFORE + PUSHES;
/// So that a stalled reader misses what the log cannot hold, and one that a
/// busy machine stalls for a second or two does not.
const DIFF_BYTES: usize = 16 * 1024;
const LOG_BYTES: f64 = 768.0 * 1024.0;
/// Far below the 480 MiB that are delivered.
const MEMORY_MIB: u64 = 120;

/// Latencies before the stall and during it.
#[derive(Default)]
struct Latencies([Histogram; 2]);

impl Latencies {
    fn seen(&mut self, seqno: u64, ledger: &Ledger) {
        self.0[usize::from(seqno > LAST_BEFORE)].add(ledger.age(SHARD, seqno));
    }
}

async fn read_v1(mut receiver: v1_peer::Receiver, ledger: Ledger) -> Result<Latencies, PeerError> {
    let mut latencies = Latencies::default();
    for due in CREATED + 1..=LAST {
        let diff = receiver.expect_diff("the next diff").await?;
        latencies.seen(diff.seqno, &ledger);
        assert_eq!(diff.seqno, due);
    }
    Ok(latencies)
}

async fn read_v0(mut receiver: v0_peer::Receiver, ledger: Ledger) -> Result<Latencies, PeerError> {
    let mut latencies = Latencies::default();
    for due in CREATED + 1..=LAST {
        let diff = receiver.expect_push("the next diff").await?;
        latencies.seen(diff.seqno, &ledger);
        assert_eq!(diff.seqno, due);
    }
    Ok(latencies)
}

/// Reads to the last diff; how many it was told it will not get.
async fn converge_v1(mut receiver: v1_peer::Receiver) -> Result<u64, PeerError> {
    let (mut state, mut missed) = (CREATED, 0);
    while state < LAST {
        match receiver.expect("what is left").await? {
            Response::Diff(diff) => {
                assert_eq!(diff.seqno, state + 1, "a silent gap");
                state = diff.seqno;
            }
            Response::Gap(gap) => {
                assert_eq!(gap.from_seqno, state + 1, "a silent gap");
                missed += gap.to_seqno - state;
                state = gap.to_seqno;
            }
            other => {
                return Err(PeerError::Other {
                    what: "a diff or a gap".to_owned(),
                    got: format!("{other:?}"),
                });
            }
        }
    }
    Ok(missed)
}

/// The same of v0, which is told nothing: those that did not come.
async fn converge_v0(mut receiver: v0_peer::Receiver) -> Result<u64, PeerError> {
    let (mut state, mut missed) = (CREATED, 0);
    while state < LAST {
        let push = receiver.expect_push("what is left").await?;
        assert!(push.seqno > state, "{} after {state}", push.seqno);
        missed += push.seqno - state - 1;
        state = push.seqno;
    }
    Ok(missed)
}

/// What the memory of a server is bounded to, and what it is.
async fn within_bounds(server: &Child, operator: &Operator, when: &str) -> Verdict {
    let mib = server.resident_kib()? / 1024;
    let held = operator.metric("persist_pubsub_log_bytes").await?;
    let limit = operator.metric("persist_pubsub_log_bytes_limit").await?;
    println!("  {when}: {mib} MiB resident, {held} of {limit} bytes in logs");
    assert!(mib < MEMORY_MIB, "{mib} MiB");
    assert!(limit == LOG_BYTES && held <= limit, "{held} of {limit}");
    Ok(())
}

async fn publish(writer: &v1_peer::Sender, ledger: &Ledger) -> Verdict {
    let mut beats = tokio::time::interval(PUSH_EVERY);
    for _ in 0..PUSHES {
        beats.tick().await;
        let (seqno, diff) = ledger.append(SHARD);
        writer.publish(SHARD, seqno, 1, diff).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_nobody_reads_among_100_delays_none_of_them() -> Verdict {
    let server = server(&[
        // No log may be smaller than a diff.
        "--max-diff-bytes=64KiB",
        "--log-bytes-total=768KiB",
        "--log-bytes-per-shard=768KiB",
        // A stall, not a death: those are in half_open.
        "--keepalive-timeout=1h",
    ])
    .await?;
    let url = server.url();
    let operator = Operator::connect(&server).await?;
    let proxy = Proxy::start(server.addresses().listen).await?;
    let ledger = Ledger::new(Diffs::Numbered { bytes: DIFF_BYTES });

    let mut readers = JoinSet::new();
    let mut kept = Vec::new();
    for n in 0..READERS {
        if n % 2 == 0 {
            let mut peer = v1_peer::Peer::connect(&url, &format!("reader-{n}")).await?;
            peer.follow(SHARD, Some(CREATED)).await?;
            let (sender, receiver) = peer.split();
            kept.push(Ok(sender));
            readers.spawn(read_v1(receiver, ledger.clone()));
        } else {
            let peer = v0_peer::Peer::connect(&url, &format!("reader-{n}")).await?;
            peer.sender().subscribe(SHARD).await?;
            let (sender, receiver) = peer.split();
            kept.push(Err(sender));
            readers.spawn(read_v0(receiver, ledger.clone()));
        }
    }
    let mut v1 = v1_peer::Peer::connect(&proxy.url(), "stalled-v1").await?;
    v1.follow(SHARD, Some(CREATED)).await?;
    let (_v1, receiver) = v1.split();
    let v1 = tokio::spawn(converge_v1(receiver));
    let (v0, receiver) = v0_peer::Peer::connect(&proxy.url(), "stalled-v0")
        .await?
        .split();
    v0.subscribe(SHARD).await?;
    let v0_reading = tokio::spawn(converge_v0(receiver));
    until("everybody to be subscribed", async || {
        let shards = operator.shards().await.ok()?;
        (shards.first()?.subscribers == READERS as u64 + 2).then_some(())
    })
    .await?;

    let (writer, _receiver) = v1_peer::Peer::connect(&url, "writer").await?.split();
    publish(&writer, &ledger).await?;
    within_bounds(&server, &operator, "before").await?;
    proxy.pass(Way::ToClient, Passing::Held);
    publish(&writer, &ledger).await?;

    let mut latencies = Latencies::default();
    while let Some(reader) = within("the readers", readers.join_next()).await? {
        let Latencies(of_one) = reader??;
        for (all, one) in latencies.0.iter_mut().zip(&of_one) {
            all.merge(one);
        }
    }
    println!(
        "{READERS} readers, {} KiB each {PUSH_EVERY:?}:",
        DIFF_BYTES / 1024
    );
    println!("  before:      {}", latencies.0[0]);
    println!("  with a stall: {}", latencies.0[1]);
    within_bounds(&server, &operator, "with a stall").await?;
    let sessions = operator.sessions().await?;
    let behind = sessions.iter().filter(|s| s.shards_behind > 0);
    let mut behind: Vec<_> = behind.map(|s| s.caller_id.as_str()).collect();
    behind.sort_unstable();
    assert_eq!(behind, ["stalled-v0", "stalled-v1"]);

    proxy.pass_freely();
    let missed = [
        within("the v1 reader to converge", v1).await???,
        within("the v0 reader to converge", v0_reading).await???,
    ];
    println!("  the stalled readers missed {missed:?} of {PUSHES} diffs, and are at the last");
    // Otherwise the log held everything, and the test proves nothing.
    assert!(missed.iter().all(|&n| n > 0), "{missed:?}");
    within_bounds(&server, &operator, "after").await?;
    drop((kept, v0));
    Ok::<_, Failure>(())
}
