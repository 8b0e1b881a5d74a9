//! A replica is killed (`kill -9`) under load: its processes come to another,
//! and lose nothing that another holds.

use persist_pubsub_compat_tests::nats::conf::Conf;
use persist_pubsub_compat_tests::nats::{self, Nats};
use persist_pubsub_compat_tests::replicas::Replicas;
use tokio::time::Instant;

use super::super::Verdict;
use super::stage::Stage;

/// The replica that is killed, and where its processes come to.
const KILLED: usize = 0;
const OTHER: usize = 1;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_replica_costs_nothing_that_another_holds() -> Verdict {
    if !nats::found("a_killed_replica_costs_nothing_that_another_holds") {
        return Ok(());
    }
    let nats = Nats::start(&Conf::default()).await?;
    let flags = [
        // However long a busy machine takes.
        "--reorder-window=10s",
        "--backplane-join-timeout=10s",
    ];
    let replicas = Replicas::start(&[nats.address()], 3, &flags).await?;
    let mut stage = Stage::set(replicas).await?;
    stage
        .write_for(std::time::Duration::from_millis(300))
        .await?;

    let killed = Instant::now();
    let kill = async {
        stage.replicas.one(KILLED).child().signal("KILL").await?;
        stage.services[KILLED].switch(stage.replicas.one(OTHER).address());
        for process in stage
            .readers_of(KILLED)
            .iter()
            .chain([&stage.writers[KILLED]])
        {
            let back = "a v1 process to be back";
            process.wait(back, |a| a.disconnected > 0 && a.up).await?;
        }
        println!("v1 processes were back after {:?}", killed.elapsed());
        let back = "a v0 process to be back";
        let v0 = &stage.v0[KILLED];
        v0.wait(back, |a| a.lost > 0 && a.connected).await?;
        println!("a v0 process was back after {:?}", killed.elapsed());
        Ok(())
    };
    stage.while_writing(kill).await?;
    // What was on its way through the one that was killed is told by the next.
    stage.write_all();
    stage.converge().await?;
    for reader in &stage.readers {
        let account = reader.account();
        for replica in [1, 2] {
            // It was never only where it is lost.
            let followed = &account.shards[&stage.own(replica)];
            assert_eq!(
                followed.fetches,
                0,
                "{} had to fetch what the writer of replica {replica} wrote",
                reader.name(),
            );
        }
    }
    let others = stage.readers_of(1).iter().chain(stage.readers_of(2));
    let lost: u64 = others.map(|it| it.account().disconnected).sum();
    assert_eq!(lost, 0, "sessions of other replicas were lost");
    stage.replicas.bury(KILLED).await?;
    stage.as_promised("a replica was killed");
    Ok(())
}

/// The same with a diff in the moment of the kill, over and over: whoever
/// published it announces it where it comes to, and everybody learns of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_replica_took_with_it_is_announced() -> Verdict {
    if !nats::found("what_a_killed_replica_took_with_it_is_announced") {
        return Ok(());
    }
    let nats = Nats::start(&Conf::default()).await?;
    let replicas = Replicas::start(&[nats.address()], 2, &[]).await?;
    let mut stage = Stage::set(replicas).await?;
    for round in 0..3_usize {
        let (killed, other) = (round % 2, 1 - round % 2);
        for _ in 0..20 {
            stage.write_all();
        }
        stage.replicas.one(killed).child().signal("KILL").await?;
        stage.write_all();
        for service in &stage.services {
            service.switch(stage.replicas.one(other).address());
        }
        stage.converge().await?;
        stage.replicas.bury(killed).await?;
        // In its place another, for the next round.
        drop(stage.replicas.begin_to_replace(killed).await?);
        stage.replicas.know_each_other().await?;
        stage.as_promised(&format!("round {round}"));
    }
    Ok(())
}
