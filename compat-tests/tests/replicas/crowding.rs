//! A thousand sessions of a killed replica come to one other at once, which has
//! none of their shards: each goes on where it was.

use std::time::Duration;

use persist_pubsub_compat_tests::ledger::{Diffs, Ledger};
use persist_pubsub_compat_tests::nats::conf::Conf;
use persist_pubsub_compat_tests::nats::{self, Nats};
use persist_pubsub_compat_tests::proxy::Proxy;
use persist_pubsub_compat_tests::replicas::Replicas;
use persist_pubsub_compat_tests::v1_process::V1Process;
use persist_pubsub_compat_tests::wait::until;
use tokio::time::Instant;

use super::super::{Failure, Verdict, quick_client, shards};
use super::stage::whole;

const SESSIONS: usize = 1_000;
const SUBSCRIPTIONS: usize = 10;
const SHARDS: u64 = 500;
const WRITE_EVERY: Duration = Duration::from_millis(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_sessions_go_on_at_one_other_replica() -> Verdict {
    if !nats::found("a_thousand_sessions_go_on_at_one_other_replica") {
        return Ok(());
    }
    let nats = Nats::start(&Conf::default()).await?;
    let flags = ["--reorder-window=10s", "--backplane-join-timeout=30s"];
    let mut replicas = Replicas::start(&[nats.address()], 3, &flags).await?;
    let ledger = Ledger::new(Diffs::Numbered { bytes: 100 });
    let all = shards(0xc0, SHARDS);
    let writer = V1Process::start("writer", quick_client(&replicas.one(0).url())?, &ledger);
    let service = Proxy::start(replicas.one(1).address()).await?;
    let mut sessions = Vec::new();
    for n in 0..SESSIONS {
        let client = quick_client(&service.url())?;
        let session = V1Process::start(&format!("s-{n}"), client, &ledger);
        for &shard in all.iter().cycle().skip(n).take(SUBSCRIPTIONS) {
            session.follow(shard);
        }
        sessions.push(session);
    }
    until("every subscription to stand", async || {
        let sessions = replicas.one(1).operator().sessions().await.ok()?;
        let total: u64 = sessions.iter().map(|s| s.subscriptions).sum();
        (total == (SESSIONS * SUBSCRIPTIONS) as u64).then_some(())
    })
    .await?;
    all.iter().for_each(|&shard| writer.write(shard));
    let heads = ledger.heads(all.iter().copied());
    for session in &sessions {
        session.reach(&heads).await?;
        session.mark();
    }

    let killed = Instant::now();
    replicas.one(1).child().signal("KILL").await?;
    service.switch(replicas.one(2).address());
    let writing = async {
        let mut beats = tokio::time::interval(WRITE_EVERY);
        for &shard in all.iter().cycle() {
            beats.tick().await;
            writer.write(shard);
        }
    };
    let moving = async {
        for session in &sessions {
            let back = "a session to be back";
            session.wait(back, |a| a.disconnected > 0 && a.up).await?;
        }
        println!("all were back after {:?}", killed.elapsed());
        let heads = ledger.heads(all.iter().copied());
        for session in &sessions {
            session.reach(&heads).await?;
        }
        println!("and up to date after {:?}", killed.elapsed());
        Ok::<_, Failure>(())
    };
    tokio::select! {
        moved = moving => moved?,
        () = writing => unreachable!("it has no end"),
    }
    let heads = ledger.heads(all.iter().copied());
    for session in &sessions {
        session.reach(&heads).await?;
        let account = session.account();
        let broken = &account.first_violations;
        assert!(broken.is_empty(), "{}: {broken:?}", session.name());
        let fetches: u64 = account.shards.values().map(|it| it.fetches).sum();
        // Another replica has it all.
        assert_eq!(fetches, 0, "{} had to fetch", session.name());
    }
    replicas.bury(1).await?;
    replicas.all().for_each(whole);
    Ok(())
}
