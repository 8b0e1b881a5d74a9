//! NATS is gone, and comes back: every replica serves its own sessions on,
//! says so, and heals without a restart.

use std::time::Duration;

use persist_pubsub_compat_tests::nats::conf::Conf;
use persist_pubsub_compat_tests::nats::{self, Nats};
use persist_pubsub_compat_tests::replicas::{CONNECTED, Replica, Replicas, next_prefix};
use persist_pubsub_compat_tests::v1_process::V1Process;
use persist_pubsub_compat_tests::wait::until;
use tokio::time::Instant;

use super::super::{Failure, Verdict};
use super::stage::{Stage, whole};

/// How long it is away.
const AWAY: Duration = Duration::from_secs(2);

/// `/readyz` says that it is ready; what else it says.
async fn detail(replica: &Replica) -> Result<String, Failure> {
    let (code, body) = replica.operator().get("/readyz").await?;
    assert_eq!(code, 200, "{}: {body}", replica.name());
    Ok(body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_nats_replicas_serve_their_own_sessions_and_heal() -> Verdict {
    if !nats::found("without_nats_replicas_serve_their_own_sessions_and_heal") {
        return Ok(());
    }
    let mut nats = Nats::start(&Conf::default()).await?;
    let replicas = Replicas::start(&[nats.address()], 3, &["--reorder-window=1s"]).await?;
    let mut stage = Stage::set(replicas).await?;
    for replica in stage.replicas.all() {
        assert_eq!(detail(replica).await?, "ready\n", "{}", replica.name());
    }

    let gone = Instant::now();
    nats.kill().await?;
    for replica in stage.replicas.all() {
        replica
            .tells("it to notice", CONNECTED, |connected| connected == 0.0)
            .await?;
        let said = detail(replica).await?;
        assert!(said.contains("backplane"), "{said:?}");
    }
    // Each reader hears of what the writer at its own replica writes, as if
    // nothing were wrong.
    stage.readers.iter().for_each(V1Process::mark);
    stage.write_for(AWAY).await?;
    for replica in 0..3 {
        let shard = stage.own(replica);
        let heads = stage.ledger.heads([shard]);
        for reader in stage.readers_of(replica) {
            reader.reach(&heads).await?;
            let fetches = reader.account().shards[&shard].fetches;
            assert_eq!(fetches, 0, "{} of its own replica's", reader.name());
        }
    }
    // A session that comes now is served at once, with what is there.
    let shard = stage.own(0);
    let newcomer = V1Process::start(
        "newcomer",
        super::super::quick_client(&stage.services[0].url())?,
        &stage.ledger,
    );
    newcomer.follow(shard);
    newcomer.wait("a session", |a| a.connected > 0).await?;
    stage.write_all();
    newcomer.reach(&stage.ledger.heads([shard])).await?;

    nats.restart().await?;
    stage.replicas.moved(0, nats.address());
    stage.replicas.know_each_other().await?;
    println!("NATS was away for {:?}", gone.elapsed());
    let back = Instant::now();
    // Nobody writes: what was written while it was away is told by itself.
    stage.converge().await?;
    println!("everybody was up to date {:?} after", back.elapsed());
    for replica in stage.replicas.all() {
        until("its readiness to be plain again", async || {
            (detail(replica).await.ok()? == "ready\n").then_some(())
        })
        .await?;
        let log = replica.child().log();
        let lines = log.lines().filter(|line| line.contains("backplane"));
        println!("{} wrote {} lines of it", replica.name(), lines.count());
    }
    for process in stage.readers.iter().chain(&stage.writers) {
        assert_eq!(process.account().disconnected, 0, "{}", process.name());
    }
    stage.as_promised("NATS was gone");
    // And it is as it was: nothing is fetched any more.
    let fetches: Vec<_> = stage.readers.iter().map(|r| r.account().fetches).collect();
    stage.write_for(Duration::from_millis(300)).await?;
    stage.converge().await?;
    let after: Vec<_> = stage.readers.iter().map(|r| r.account().fetches).collect();
    assert_eq!(after, fetches, "fetches, healed");
    Ok(())
}

/// A replica that starts before NATS does waits for it, and serves meanwhile.
#[tokio::test]
async fn a_replica_starts_without_nats_and_joins_later() -> Verdict {
    if !nats::found("a_replica_starts_without_nats_and_joins_later") {
        return Ok(());
    }
    // A port that is taken, and on which nobody listens.
    let nobody = tokio::net::TcpSocket::new_v4()?;
    nobody.bind(([127, 0, 0, 1], 0).into())?;
    let (nowhere, prefix) = (nobody.local_addr()?, next_prefix());
    let mut replicas = Vec::new();
    for n in 0..2 {
        let name = format!("early-{n}");
        replicas.push(Replica::start(name, &[nowhere], &prefix, &[]).await?);
    }
    for replica in &replicas {
        let said = detail(replica).await?;
        assert!(said.contains("backplane"), "{said:?}");
        let log = replica.child().log();
        assert!(log.contains("backplane"), "{log}");
    }
    let nats = Nats::start(&Conf::default()).await?;
    for replica in &replicas {
        replica.lines()[0].switch(nats.address());
    }
    for replica in &replicas {
        replica.knows(1).await?;
        whole(replica);
    }
    Ok(())
}
