//! A cluster of three nats-servers, one of which is killed, stands still, comes
//! back with nothing, or cannot be reached by one replica: replicas go to
//! another or wait, sessions live on, and everybody learns where every shard
//! is.

use std::time::Duration;

use persist_pubsub_compat_tests::nats;
use persist_pubsub_compat_tests::nats::cluster::Cluster;
use persist_pubsub_compat_tests::nats::conf::Conf;
use persist_pubsub_compat_tests::proxy::Cut;
use persist_pubsub_compat_tests::replicas::{CONNECTED, Replicas};
use persist_pubsub_compat_tests::wait::until;
use tokio::time::Instant;

use super::super::{Failure, Verdict};
use super::stage::Stage;

const MEMBERS: usize = 3;
/// How long a fault lasts where nothing else says so.
const FAULT: Duration = Duration::from_secs(2);

struct Broken {
    stage: Stage,
    cluster: Cluster,
}

impl Broken {
    async fn start() -> Result<Self, Failure> {
        let cluster = Cluster::start(&Conf::default().attentive(), MEMBERS).await?;
        let replicas = Replicas::start(&cluster.addresses(), 3, &[]).await?;
        Ok(Self {
            stage: Stage::set(replicas).await?,
            cluster,
        })
    }

    /// The nats-server at which a replica is; another if it has been at several.
    fn of(&self, replica: usize) -> usize {
        self.stage.replicas.one(replica).is_at().unwrap_or(0)
    }

    /// A diff that is written at each replica is told at all others: nobody
    /// waits for what was lost.
    async fn heals(&self, what: &str, since: Instant) -> Verdict {
        self.stage.replicas.know_each_other().await?;
        self.stage.write_all();
        self.stage.converge().await?;
        println!(
            "{what}: everybody was up to date after {:?}",
            since.elapsed()
        );
        // No session has noticed more than what it was told of its shards.
        for process in self.stage.readers.iter().chain(&self.stage.writers) {
            assert_eq!(process.account().disconnected, 0, "{}", process.name());
        }
        for process in &self.stage.v0 {
            assert_eq!(process.account().lost, 0, "{}", process.name());
        }
        self.stage.as_promised(what);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nats_server_is_killed_and_comes_back_with_nothing() -> Verdict {
    if !nats::found("a_nats_server_is_killed_and_comes_back_with_nothing") {
        return Ok(());
    }
    let mut broken = Broken::start().await?;
    let member = broken.of(0);
    let killed = Instant::now();
    broken.cluster.member(member).kill().await?;
    broken.stage.write_for(FAULT).await?;
    broken
        .heals("one of three nats-servers was killed", killed)
        .await?;

    broken.cluster.restart(member).await?;
    let back = broken.cluster.member(member).address();
    broken.stage.replicas.moved(member, back);
    broken.cluster.is_whole().await?;
    // All others go: the one that knows nothing is left.
    let went = Instant::now();
    for other in (0..MEMBERS).filter(|other| *other != member) {
        broken.cluster.member(other).kill().await?;
    }
    broken.stage.write_for(FAULT).await?;
    broken
        .heals("the one with nothing was left alone", went)
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nats_server_stands_still() -> Verdict {
    if !nats::found("a_nats_server_stands_still") {
        return Ok(());
    }
    let mut broken = Broken::start().await?;
    let member = broken.of(0);
    // For a moment: nobody need notice.
    let stopped = Instant::now();
    broken.cluster.member(member).signal("STOP").await?;
    broken.stage.write_for(Duration::from_millis(500)).await?;
    broken.cluster.member(member).signal("CONT").await?;
    broken
        .heals("a nats-server stood still for a moment", stopped)
        .await?;

    // For good: whoever was there goes to another.
    let stopped = Instant::now();
    let member = broken.of(0);
    broken.cluster.member(member).signal("STOP").await?;
    broken.stage.write_for(FAULT).await?;
    broken
        .heals("a nats-server stood still for good", stopped)
        .await?;
    // And when it goes on, it may hold what it was told before.
    let goes_on = Instant::now();
    broken.cluster.member(member).signal("CONT").await?;
    broken.stage.write_for(Duration::from_millis(500)).await?;
    broken.heals("it went on", goes_on).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_parted_from_nats() -> Verdict {
    if !nats::found("a_replica_is_parted_from_nats") {
        return Ok(());
    }
    let broken = Broken::start().await?;
    let replica = broken.stage.replicas.one(0);
    // Nothing passes, and then everything that waited.
    let parted = Instant::now();
    replica.part();
    broken.stage.write_for(FAULT).await?;
    replica.mend();
    broken.heals("parted for two seconds", parted).await?;

    // Until it has noticed.
    let parted = Instant::now();
    replica.part();
    let noticed = async {
        replica
            .tells("it to notice", CONNECTED, |connected| connected == 0.0)
            .await?;
        println!("the replica noticed after {:?}", parted.elapsed());
        Ok(())
    };
    broken.stage.while_writing(noticed).await?;
    replica.mend();
    broken.heals("parted until it noticed", parted).await?;

    // Cut, with what was under way, again and again.
    let began = Instant::now();
    let cuts = async {
        for how in [Cut::Reset, Cut::Fin, Cut::Reset] {
            let before: u64 = replica.lines().iter().map(|line| line.accepted()).sum();
            replica.lines().iter().for_each(|line| line.cut(how));
            until("the replica to be back", async || {
                let now: u64 = replica.lines().iter().map(|line| line.accepted()).sum();
                (now > before).then_some(())
            })
            .await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    };
    broken.stage.while_writing(cuts).await?;
    broken.heals("cut three times", began).await
}
