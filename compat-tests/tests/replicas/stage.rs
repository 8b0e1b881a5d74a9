//! Processes of both wire versions that are spread over replicas, write and
//! follow the same shards.

use std::time::Duration;

use persist_pubsub_compat_tests::ledger::{Diffs, Ledger};
use persist_pubsub_compat_tests::proxy::Proxy;
use persist_pubsub_compat_tests::replicas::{Replica, Replicas};
use persist_pubsub_compat_tests::v0_process::V0Process;
use persist_pubsub_compat_tests::v1_process::{Account, V1Process};
use persist_pubsub_compat_tests::wait::until;
use persist_pubsub_proto::ShardId;

use super::super::{Failure, Verdict, quick_client, shards};

/// Shards that the writers of all replicas write in turn.
const SHARED: usize = 6;
/// How often somebody writes.
const WRITE_EVERY: Duration = Duration::from_millis(5);

/// At each replica a writer and two readers that speak v1, and a reader that
/// speaks v0. Everybody reads all shards: of each writer one that it alone
/// writes, and those that all write in turn.
pub(super) struct Stage {
    pub(super) replicas: Replicas,
    /// Of each replica, how its processes reach it.
    pub(super) services: Vec<Proxy>,
    pub(super) writers: Vec<V1Process>,
    /// Two of each replica, one after the other.
    pub(super) readers: Vec<V1Process>,
    pub(super) v0: Vec<V0Process>,
    pub(super) ledger: Ledger,
    shards: Vec<ShardId>,
}

impl Stage {
    /// Starts everybody, and waits until all have heard of each shard.
    pub(super) async fn set(replicas: Replicas) -> Result<Self, Failure> {
        let ledger = Ledger::new(Diffs::Numbered { bytes: 500 });
        let mut stage = Self {
            services: Vec::new(),
            writers: Vec::new(),
            readers: Vec::new(),
            v0: Vec::new(),
            shards: shards(0x4e, u64::try_from(SHARED + replicas.all().count())?),
            ledger,
            replicas,
        };
        for (n, replica) in stage.replicas.all().enumerate() {
            let service = Proxy::start(replica.address()).await?;
            let url = service.url();
            let start = |role: &str| -> Result<_, Failure> {
                let client = quick_client(&url)?;
                let name = format!("{role}-of-{n}");
                Ok(V1Process::start(&name, client, &stage.ledger))
            };
            stage.writers.push(start("writer")?);
            for role in ["reader", "other-reader"] {
                let reader = start(role)?;
                stage.shards.iter().for_each(|&shard| reader.follow(shard));
                stage.readers.push(reader);
            }
            stage.v0.push(V0Process::start(
                &format!("v0-of-{n}"),
                &url,
                None,
                &stage.ledger,
                stage.shards.iter().copied(),
            ));
            stage.services.push(service);
        }
        stage.begin().await?;
        Ok(stage)
    }

    async fn begin(&self) -> Verdict {
        for writer in &self.writers {
            let session = "a writer's session";
            writer.wait(session, |a| a.connected > 0).await?;
        }
        self.subscriptions_stand().await?;
        let shards = self.shards.len() as u64;
        for reader in &self.readers {
            // What a new subscription to an unknown shard costs is no part of
            // any test.
            let answers = |a: &Account| a.resyncs >= shards;
            reader.wait("the answers to subscriptions", answers).await?;
        }
        self.write_all();
        self.converge().await?;
        self.readers.iter().for_each(V1Process::mark);
        Ok(())
    }

    /// Waits until everybody is subscribed to all shards, somewhere.
    pub(super) async fn subscriptions_stand(&self) -> Verdict {
        let everybody = (self.readers.len() + self.v0.len()) * self.shards.len();
        until("every subscription to stand", async || {
            let mut total = 0;
            for replica in self.replicas.all() {
                let shards = replica.operator().shards().await.ok()?;
                total += shards.iter().map(|s| s.subscribers).sum::<u64>();
            }
            (total == everybody as u64).then_some(())
        })
        .await?;
        Ok(())
    }

    /// The shard that the writer of a replica alone writes.
    pub(super) fn own(&self, replica: usize) -> ShardId {
        self.shards[replica]
    }

    /// Writes each shard once, each by who may.
    pub(super) fn write_all(&self) {
        (0..self.shards.len()).for_each(|turn| self.write(turn));
    }

    fn write(&self, turn: usize) {
        let shard = turn % self.shards.len();
        let own = (shard < self.writers.len()).then_some(shard);
        let writer = own.unwrap_or((turn / self.shards.len() + turn) % self.writers.len());
        self.writers[writer].write(self.shards[shard]);
    }

    /// Writes all shards, over and over, while something happens.
    pub(super) async fn while_writing<T>(
        &self,
        happens: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let writing = async {
            let mut beats = tokio::time::interval(WRITE_EVERY);
            for turn in 0.. {
                beats.tick().await;
                self.write(turn);
            }
        };
        tokio::select! {
            happened = happens => happened,
            () = writing => Err("writing has no end".into()),
        }
    }

    /// Writes for a time, in which something is to be seen or not.
    pub(super) async fn write_for(&self, time: Duration) -> Verdict {
        let passes = async {
            tokio::time::sleep(time).await;
            Ok(())
        };
        self.while_writing(passes).await
    }

    /// Nobody writes: waits until everybody knows where all shards are.
    pub(super) async fn converge(&self) -> Verdict {
        let heads = self.ledger.heads(self.shards.iter().copied());
        for reader in &self.readers {
            reader.reach(&heads).await?;
        }
        for reader in &self.v0 {
            reader.reach(&heads).await?;
        }
        Ok(())
    }

    /// The v1 readers that a replica had at the beginning.
    pub(super) fn readers_of(&self, replica: usize) -> &[V1Process] {
        &self.readers[2 * replica..2 * replica + 2]
    }

    /// What anybody could have been told was as promised; prints what it
    /// cost since the last call.
    #[track_caller]
    pub(super) fn as_promised(&self, what: &str) {
        println!("{what}:");
        for process in self.readers.iter().chain(&self.writers) {
            let account = process.account();
            println!(
                "  {}: {} diffs, {} gaps, {} resyncs, {} fetches; {} sessions lost; largest hole {}",
                process.name(),
                account.diffs,
                account.gaps,
                account.resyncs,
                account.fetches,
                account.disconnected,
                account.hole,
            );
            let broken = &account.first_violations;
            assert!(broken.is_empty(), "{}: {broken:?}", process.name());
            process.mark();
        }
        for process in &self.v0 {
            let account = process.account();
            println!(
                "  {}: {} diffs, {} early, {} polled, {} sessions lost; largest hole {}",
                process.name(),
                account.diffs,
                account.early,
                account.polled,
                account.lost,
                account.hole,
            );
            assert_eq!(account.altered, 0, "{}", process.name());
        }
        for replica in self.replicas.all() {
            whole(replica);
        }
    }
}

/// Nothing in it has panicked.
#[track_caller]
pub(super) fn whole(replica: &Replica) {
    let log = replica.child().log();
    assert!(!log.contains("panicked"), "{}: {log}", replica.name());
}
