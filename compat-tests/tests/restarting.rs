//! `kill -9` of the server under many sessions: everybody learns where their
//! shards stand, and the store is not trampled.

use std::time::Duration;

use persist_pubsub_compat_tests::child::Child;
use persist_pubsub_compat_tests::histogram::Histogram;
use persist_pubsub_compat_tests::ledger::{Diffs, Ledger};
use persist_pubsub_compat_tests::operator::Operator;
use persist_pubsub_compat_tests::proxy::Proxy;
use persist_pubsub_compat_tests::v1_peer::Peer;
use persist_pubsub_compat_tests::v1_process::V1Process;
use persist_pubsub_compat_tests::wait::until;
use persist_pubsub_proto::ShardId;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Verdict, quick_client, shards};

const SESSIONS: usize = 50;
const SUBSCRIPTIONS: usize = 200;
/// Each is followed by ten sessions.
const SHARDS: u64 = 1_000;
const WRITE_EVERY: Duration = Duration::from_millis(10);
/// How long fetches are counted: longer than the client's `resync_spread`.
const OBSERVED: Duration = Duration::from_secs(3);
/// What their spread is shown in.
const BUCKET: Duration = Duration::from_millis(250);

/// What happens to a shard while the server is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Nothing.
    Still,
    /// A diff is pushed in the moment of the kill, and lost with the
    /// connection.
    Lost,
    /// A diff is pushed when the writer knows that the server is away.
    Kept,
    /// It is written all along.
    Hot,
}

impl Fate {
    const ALL: [Self; 4] = [Self::Still, Self::Lost, Self::Kept, Self::Hot];

    /// One of 20 is hot, the others are shared evenly.
    fn of(index: usize) -> Self {
        match (index % 20, index % 3) {
            (0, _) => Self::Hot,
            (_, 0) => Self::Still,
            (_, 1) => Self::Lost,
            _ => Self::Kept,
        }
    }

    /// Fetches that it may cost a subscription. One is what has to be; a hot
    /// shard is announced when that was done already.
    fn most(self) -> u64 {
        if self == Self::Hot { 2 } else { 1 }
    }
}

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
    let fated = |fate: Fate| -> Vec<ShardId> {
        let of = all.iter().enumerate().filter(|(n, _)| Fate::of(*n) == fate);
        of.map(|(_, shard)| *shard).collect()
    };
    let writer = V1Process::start("writer", quick_client(&proxy.url())?, &ledger);
    let write = |shards: &[ShardId]| shards.iter().for_each(|&shard| writer.write(shard));
    write(&all);
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
    write(&all);
    for session in &sessions {
        session.reach(&ledger.heads(all.iter().copied())).await?;
        session.mark();
    }

    let killed = Instant::now();
    old.signal("KILL").await?;
    write(&fated(Fate::Lost));
    let noticed = "the writer to notice the kill";
    writer.wait(noticed, |a| a.disconnected > 0).await?;
    write(&fated(Fate::Kept));
    // Who is at these heads was told: before, nobody could know of them.
    let heads = ledger.heads(all.iter().copied());
    let new = Child::start::<&str>(&[]).await?;
    proxy.switch(new.addresses().listen);
    let back = killed.elapsed();

    let hot = fated(Fate::Hot);
    let writing = async {
        let mut beats = tokio::time::interval(WRITE_EVERY);
        for &shard in hot.iter().cycle() {
            beats.tick().await;
            writer.write(shard);
        }
    };
    let learning = async {
        let mut learning = JoinSet::new();
        for session in sessions {
            let heads = heads.clone();
            learning.spawn(async move {
                let reached = session.reach(&heads).await;
                reached.map(|()| (session, killed.elapsed()))
            });
        }
        let learned = learning.join_all().await;
        tokio::time::sleep_until(killed + back + OBSERVED).await;
        learned
    };
    let learned = tokio::select! {
        learned = learning => learned,
        () = writing => unreachable!("it has no end"),
    };
    // The next diff of every shard finds everybody.
    write(&all);

    let mut known = Histogram::default();
    let mut costs = Fate::ALL.map(|fate| (fate, Vec::new(), 0));
    let heads = ledger.heads(all.iter().copied());
    for outcome in learned {
        let (session, after) = outcome?;
        known.add(after);
        session.reach(&heads).await?;
        let account = session.account();
        assert!(
            account.violations.is_empty(),
            "{:?}",
            account.first_violations
        );
        for (n, shard) in all.iter().enumerate() {
            let Some(followed) = account.shards.get(shard) else {
                continue;
            };
            let fate = Fate::of(n);
            for (_, times, subscriptions) in costs.iter_mut().filter(|cost| cost.0 == fate) {
                times.extend(followed.fetched.map(|at| at - killed));
                *subscriptions += 1;
            }
            assert!(
                followed.fetches <= fate.most(),
                "{}: {} fetches of {shard}, {fate:?}",
                session.name(),
                followed.fetches
            );
        }
    }
    println!("{SESSIONS} sessions x {SUBSCRIPTIONS} subscriptions, kill -9; back after {back:?}");
    println!("  each session at the heads of the outage after: {known}");
    for (fate, times, subscriptions) in costs {
        let last = times.iter().max().copied().unwrap_or_default();
        let first = times.iter().min().copied().unwrap_or_default();
        println!(
            "  {fate:?}: {} of {subscriptions} subscriptions fetched, from {first:?} to {last:?}; per {BUCKET:?} {:?}",
            times.len(),
            buckets(&times)
        );
    }
    Ok(())
}

/// A restarted server may know less of a shard than its readers: a writer was
/// slow, and pushes to the new server what the old one had told already. What
/// a reader is told again has to come behind a resync, or not at all.
#[tokio::test]
async fn a_server_that_knows_less_sends_no_reader_back_without_a_resync() -> Verdict {
    let old = Child::start::<&str>(&[]).await?;
    let proxy = Proxy::start(old.addresses().listen).await?;
    let ledger = Ledger::new(Diffs::Numbered { bytes: 100 });
    let shard = shards(0x73, 1)[0];
    let reader = V1Process::start("reader", quick_client(&proxy.url())?, &ledger);
    reader.follow(shard);
    let writer = Peer::connect(&old.url(), "writer").await?;
    // Seqnos 2 to 11.
    for _ in 0..10 {
        let (seqno, diff) = ledger.append(shard);
        writer.sender().publish(shard, seqno, 1, diff).await?;
    }
    let told = "the old server's diffs";
    reader
        .wait(told, |account| account.diffs + account.fetches > 0)
        .await?;
    reader.reach(&ledger.heads([shard])).await?;
    // From here on the last that it was told is a diff.
    let (seqno, diff) = ledger.append(shard);
    writer.sender().publish(shard, seqno, 1, diff).await?;
    let before = reader.account().diffs;
    reader.wait("it as a diff", |a| a.diffs > before).await?;
    reader.reach(&ledger.heads([shard])).await?;

    let new = Child::start::<&str>(&[]).await?;
    let mut writer = Peer::connect(&new.url(), "slow-writer").await?;
    let again = async |writer: &Peer, seqno: u64| {
        let diff = ledger.diff(shard, seqno);
        writer.sender().publish(shard, seqno, 1, diff).await
    };
    for seqno in 2..=6 {
        again(&writer, seqno).await?;
    }
    // Answered in order: the server has them.
    writer.sender().unsubscribe(1, &[]).await?;
    writer.receiver().expect_unsubscribed("an answer").await?;
    proxy.switch(new.addresses().listen);
    old.signal("KILL").await?;
    let operator = Operator::connect(&new).await?;
    until(
        "the reader to be subscribed at the new server",
        async || {
            let shards = operator.shards().await.ok()?;
            (shards.first()?.subscribers == 1).then_some(())
        },
    )
    .await?;
    for seqno in 7..=12 {
        again(&writer, seqno).await?;
    }
    let (seqno, diff) = ledger.append(shard);
    writer.sender().publish(shard, seqno, 1, diff).await?;
    reader.reach(&ledger.heads([shard])).await?;
    let account = reader.account();
    assert!(
        account.violations.is_empty(),
        "{:?}",
        account.first_violations
    );
    Ok(())
}
