//! A server is replaced by another behind a Service, while processes of both
//! wire versions write and follow the same shards: v1 processes miss nothing
//! and see nothing twice, v0 processes lose what their own backoff of 5 s
//! makes them lose.

use std::time::Duration;

use persist_pubsub_compat_tests::child::Child;
use persist_pubsub_compat_tests::hole::Hole;
use persist_pubsub_compat_tests::ledger::{Diffs, Ledger};
use persist_pubsub_compat_tests::operator::Operator;
use persist_pubsub_compat_tests::proxy::Proxy;
use persist_pubsub_compat_tests::v0_process::V0Process;
use persist_pubsub_compat_tests::v1_process::{Account, V1Process};
use persist_pubsub_compat_tests::wait::until;
use tokio::time::Instant;

use super::{Verdict, quick_client, shards};

const SHARDS: u64 = 8;
const WRITERS: usize = 3;
const READERS: usize = 6;
const V0_READERS: usize = 3;
const WRITE_EVERY: Duration = Duration::from_millis(5);
const FLAGS: [&str; 3] = [
    "--drain-window=2s",
    "--drain-timeout=20s",
    // The writers of a shard take turns on connections of their own, and a
    // busy machine stalls one of them for longer than the default.
    "--reorder-window=1s",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_server_costs_v1_nothing_and_v0_its_backoff() -> Verdict {
    let mut old = Child::start(&FLAGS).await?;
    let proxy = Proxy::start(old.addresses().listen).await?;
    let url = proxy.url();
    let ledger = Ledger::new(Diffs::Numbered { bytes: 500 });
    let shards = shards(0xd1, SHARDS);
    let (mut writers, mut readers, mut v0) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..WRITERS {
        writers.push(V1Process::start(
            &format!("writer-{n}"),
            quick_client(&url)?,
            &ledger,
        ));
    }
    for n in 0..READERS {
        let reader = V1Process::start(&format!("reader-{n}"), quick_client(&url)?, &ledger);
        for &shard in &shards {
            reader.follow(shard);
        }
        readers.push(reader);
    }
    for n in 0..V0_READERS {
        let all = shards.iter().copied();
        v0.push(V0Process::start(
            &format!("v0-{n}"),
            &url,
            None,
            &ledger,
            all,
        ));
    }
    for writer in &writers {
        writer
            .wait("a writer's session", |a| a.connected > 0)
            .await?;
    }
    let operator = Operator::connect(&old).await?;
    let everybody = (READERS + V0_READERS) as u64 * SHARDS;
    until("every subscription to stand", async || {
        let shards = operator.shards().await.ok()?;
        let total: u64 = shards.iter().map(|s| s.subscribers).sum();
        (total == everybody).then_some(())
    })
    .await?;
    // What a new subscription to an unknown shard costs is no part of it.
    for reader in &readers {
        let answers = |a: &Account| a.resyncs >= SHARDS;
        reader.wait("the answers to subscriptions", answers).await?;
    }
    for (turn, &shard) in shards.iter().enumerate() {
        writers[turn % WRITERS].write(shard);
    }
    let heads = ledger.heads(shards.iter().copied());
    for reader in &readers {
        reader.reach(&heads).await?;
        reader.mark();
    }
    for reader in &v0 {
        reader.reach(&heads).await?;
    }
    let before: Vec<_> = readers.iter().map(V1Process::account).collect();

    let writing = async {
        let mut beats = tokio::time::interval(WRITE_EVERY);
        for turn in 0_usize.. {
            beats.tick().await;
            // Every shard is written by every writer, in turn.
            let shard = shards[turn % shards.len()];
            writers[(turn / shards.len() + turn) % WRITERS].write(shard);
        }
    };
    let replacing = async {
        let new = Child::start(&FLAGS).await?;
        proxy.switch(new.addresses().listen);
        let began = Instant::now();
        old.terminate().await?;
        let status = old.wait().await?;
        println!(
            "the old server ended with {status} after {:?}",
            began.elapsed()
        );
        assert_eq!(status.code(), Some(0), "{}", old.log());
        for reader in &v0 {
            let back = "a v0 process to be back";
            reader.wait(back, |a| a.lost > 0 && a.connected).await?;
        }
        for process in readers.iter().chain(&writers) {
            let moved = "a v1 process to have moved";
            process.wait(moved, |a| a.connected > 1).await?;
        }
        println!(
            "everybody was on the new server after {:?}",
            began.elapsed()
        );
        Ok::<_, super::Failure>(new)
    };
    let _new = tokio::select! {
        replaced = replacing => replaced?,
        () = writing => unreachable!("it has no end"),
    };
    let heads = ledger.heads(shards.iter().copied());
    for reader in &readers {
        reader.reach(&heads).await?;
    }
    for reader in &v0 {
        reader.reach(&heads).await?;
    }

    let (mut largest, mut largest_v0, mut tail) =
        (Hole::default(), Hole::default(), Hole::default());
    for reader in &v0 {
        let account = reader.account();
        println!(
            "  {}: deaf for {:?}; {} early, {} polled; largest hole {}; at its end {} behind",
            reader.name(),
            account.deaf,
            account.early,
            account.polled,
            account.hole,
            account.tail
        );
        largest_v0 = largest_v0.max(account.hole);
        tail = tail.max(account.tail);
    }
    let mut costs = Vec::new();
    for (reader, before) in readers.iter().zip(&before) {
        let account = reader.account();
        println!(
            "  {}: {} diffs, {} gaps, {} resyncs, {} fetches; {} sessions lost; largest hole {}",
            reader.name(),
            account.diffs - before.diffs,
            account.gaps - before.gaps,
            account.resyncs - before.resyncs,
            account.fetches - before.fetches,
            account.disconnected,
            account.hole
        );
        largest = largest.max(account.hole);
        costs.push((
            account.fetches - before.fetches,
            account.disconnected,
            account.first_violations.len(),
        ));
    }
    println!("largest hole of a v1 process: {largest}; of a v0 process: {largest_v0}");

    for reader in &v0 {
        let account = reader.account();
        // Between its end and its return it is deaf. Before and after, it is
        // sent an unbroken run.
        assert_eq!(
            (account.early, account.altered),
            (0, 0),
            "{}",
            reader.name()
        );
        assert_eq!((account.lost, account.polled), (1, 0), "{}", reader.name());
    }
    // Nothing that it had to fetch, no moment without a session, and nothing
    // twice or out of order.
    assert_eq!(costs, [(0, 0, 0); READERS]);
    for reader in &readers {
        let account = reader.account();
        // Each diff that others wrote came, once.
        assert_eq!(account.stale, 0, "{}", reader.name());
    }
    Ok(())
}
