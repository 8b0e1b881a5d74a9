//! `kill -9` of the server under many sessions: everybody learns where their
//! shards stand, and the store is not trampled.

use std::time::Duration;

use persist_pubsub_compat_tests::child::Child;
use persist_pubsub_compat_tests::histogram::Histogram;
use persist_pubsub_compat_tests::ledger::{Diffs, Ledger};
use persist_pubsub_compat_tests::operator::Operator;
use persist_pubsub_compat_tests::proxy::Proxy;
use persist_pubsub_compat_tests::v1_process::V1Process;
use persist_pubsub_compat_tests::wait::until;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Verdict, quick_client, shards};

const SESSIONS: usize = 50;
const SUBSCRIPTIONS: usize = 200;
/// Each is followed by ten sessions.
const SHARDS: u64 = 1_000;
/// Shards that are written all along, the first of all.
const HOT: usize = 50;
const WRITE_EVERY: Duration = Duration::from_millis(10);
/// What the spread of the fetches is shown in.
const BUCKET: Duration = Duration::from_millis(250);

/// How many fetches there were in each bucket since the kill.
fn buckets(fetches: &[Duration]) -> Vec<usize> {
    let mut counts = Vec::new();
    for fetch in fetches {
        let bucket = usize::try_from(fetch.as_millis() / BUCKET.as_millis()).unwrap_or(0);
        counts.resize(counts.len().max(bucket + 1), 0);
        counts[bucket] += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_kill_every_session_learns_where_it_stands() -> Verdict {
    let old = Child::start::<&str>(&[]).await?;
    let operator = Operator::connect(&old).await?;
    let proxy = Proxy::start(old.addresses().listen).await?;
    let ledger = Ledger::new(Diffs::Numbered { bytes: 200 });
    let all = shards(0x72, SHARDS);
    let writer = V1Process::start("writer", quick_client(&proxy.url())?, &ledger);
    for &shard in &all {
        writer.write(shard);
    }
    let mut sessions = Vec::new();
    for n in 0..SESSIONS {
        let session = V1Process::start(&format!("s-{n}"), quick_client(&proxy.url())?, &ledger);
        // Overlapping runs of the shards.
        for &shard in all.iter().cycle().skip(n * 20).take(SUBSCRIPTIONS) {
            session.follow(shard);
        }
        sessions.push(session);
    }
    until("every subscription to stand", async || {
        let sessions = operator.sessions().await.ok()?;
        let total: u64 = sessions.iter().map(|s| s.subscriptions).sum();
        (total == (SESSIONS * SUBSCRIPTIONS) as u64).then_some(())
    })
    .await?;
    for &shard in &all {
        writer.write(shard);
    }
    for session in &sessions {
        session.reach(&ledger.heads(all.iter().copied())).await?;
        session.mark();
    }
    let before: Vec<_> = sessions.iter().map(|s| s.account().fetches).collect();

    let killed = Instant::now();
    old.signal("KILL").await?;
    // While nobody can be told, every shard moves on: who is at its head
    // afterwards was told.
    for &shard in &all {
        writer.write(shard);
    }
    let heads = ledger.heads(all.iter().copied());
    let new = Child::start::<&str>(&[]).await?;
    proxy.switch(new.addresses().listen);
    let back = killed.elapsed();
    let hot = async {
        let mut beats = tokio::time::interval(WRITE_EVERY);
        for &shard in all.iter().take(HOT).cycle() {
            beats.tick().await;
            writer.write(shard);
        }
    };
    let learn = async {
        let mut learning = JoinSet::new();
        for session in sessions {
            let heads = heads.clone();
            learning.spawn(async move {
                session.reach(&heads).await?;
                Ok::<_, persist_pubsub_compat_tests::wait::TimedOut>((session, killed.elapsed()))
            });
        }
        learning.join_all().await
    };
    let learned = tokio::select! {
        learned = learn => learned,
        () = hot => unreachable!("it has no end"),
    };

    let mut known = Histogram::default();
    let mut sessions = Vec::new();
    for outcome in learned {
        let (session, after) = outcome?;
        known.add(after);
        sessions.push(session);
    }
    // Those that were written last are told as well.
    let heads = ledger.heads(all.iter().copied());
    let (mut fetches, mut times) = (0, Vec::new());
    for session in &sessions {
        session.reach(&heads).await?;
        let account = session.account();
        let number: usize = session.name().trim_start_matches("s-").parse()?;
        let cost = account.fetches - before[number];
        fetches += cost;
        times.extend(account.shards.values().filter_map(|s| s.fetched));
        assert!(
            account.violations.is_empty(),
            "{:?}",
            account.first_violations
        );
        // One for each shard of which it had to learn. A hot one may cost a
        // second: what was lost on its way to the old server is announced to
        // the new one, at any time after the first.
        let hot = account.shards.keys().filter(|s| all[..HOT].contains(s));
        let most = (SUBSCRIPTIONS + hot.count()) as u64;
        assert!(cost <= most, "{}: {cost} of {most}", session.name());
    }
    let times: Vec<_> = times.into_iter().map(|at| at - killed).collect();
    let first = times.iter().min().copied().unwrap_or_default();
    let last = times.iter().max().copied().unwrap_or_default();
    println!("{SESSIONS} sessions x {SUBSCRIPTIONS} subscriptions, kill -9; back after {back:?}");
    println!("  each session knows where it stands after: {known}");
    println!(
        "  {fetches} fetches for {} subscriptions, from {first:?} to {last:?} after the kill",
        SESSIONS * SUBSCRIPTIONS
    );
    println!("  per {BUCKET:?}: {:?}", buckets(&times));
    Ok(())
}
