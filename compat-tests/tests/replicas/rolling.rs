//! A rolling update: each of three replicas is replaced in turn, the new one
//! before the old one goes, while processes of both wire versions write what
//! was recorded and read it.

use std::collections::BTreeSet;
use std::sync::Arc;

use persist_pubsub_compat_tests::hole::Hole;
use persist_pubsub_compat_tests::ledger::{Diffs, Ledger};
use persist_pubsub_compat_tests::nats::conf::Conf;
use persist_pubsub_compat_tests::nats::{self, Nats};
use persist_pubsub_compat_tests::proxy::Proxy;
use persist_pubsub_compat_tests::recording::{self, Recording};
use persist_pubsub_compat_tests::replicas::Replicas;
use persist_pubsub_compat_tests::v0_process::V0Process;
use persist_pubsub_compat_tests::v1_process::{Account, V1Process};
use persist_pubsub_compat_tests::wait::until;
use persist_pubsub_proto::ShardId;
use tokio::time::Instant;

use super::super::{Failure, Verdict, quick_client};
use super::stage::whole;

const REPLICAS: usize = 3;
/// Of each replica.
const READERS: usize = 2;
/// Recorded shards that a v0 process writes: what it writes within its 5 s
/// nobody can be told.
const V0_SHARDS: usize = 4;
const FLAGS: [&str; 6] = [
    "--drain-window=1s",
    "--drain-timeout=20s",
    // However long a busy machine stalls somebody.
    "--reorder-window=10s",
    "--v0-replay-window=60s",
    "--backplane-join-timeout=30s",
    "--log-age=120s",
];

/// Who writes, who reads, and where they come to.
struct Cast {
    ledger: Ledger,
    /// Of each replica's place.
    services: Vec<Proxy>,
    /// By the callers of the recording.
    writers: Vec<V1Process>,
    v0_writer: V0Process,
    v0_shards: BTreeSet<ShardId>,
    readers: Vec<V1Process>,
    v0_readers: Vec<V0Process>,
}

impl Cast {
    async fn gather(replicas: &Replicas, recording: &Recording) -> Result<Self, Failure> {
        let recorded = recording.diffs().into_iter();
        let recorded = recorded.map(|(shard, diffs)| (shard, diffs.into_values().collect()));
        let ledger = Ledger::new(Diffs::Recorded(Arc::new(recorded.collect())));
        let shards: Vec<_> = recording.diffs().into_keys().collect();
        let (v0_shards, v1_shards) = shards.split_at(V0_SHARDS);
        let mut services = Vec::new();
        for replica in replicas.all() {
            services.push(Proxy::start(replica.address()).await?);
        }
        let url = |n: usize| services[n % REPLICAS].url();
        let mut writers = Vec::new();
        for (n, caller) in recording.callers.iter().enumerate() {
            writers.push(V1Process::start(caller, quick_client(&url(n))?, &ledger));
        }
        let v0_writer = V0Process::start("v0-writer", &url(1), None, &ledger, []);
        let (mut readers, mut v0_readers) = (Vec::new(), Vec::new());
        for n in 0..REPLICAS * READERS {
            let reader = V1Process::start(&format!("reader-{n}"), quick_client(&url(n))?, &ledger);
            shards.iter().for_each(|&shard| reader.follow(shard));
            readers.push(reader);
        }
        for n in 0..REPLICAS {
            let all = v1_shards.iter().copied();
            let name = format!("v0-reader-{n}");
            v0_readers.push(V0Process::start(&name, &url(n), None, &ledger, all));
        }
        let cast = Self {
            v0_shards: v0_shards.iter().copied().collect(),
            ledger,
            services,
            writers,
            v0_writer,
            readers,
            v0_readers,
        };
        cast.is_there(replicas, shards.len(), v1_shards.len())
            .await?;
        Ok(cast)
    }

    async fn is_there(&self, replicas: &Replicas, v1: usize, v0: usize) -> Verdict {
        for writer in &self.writers {
            let session = "a writer's session";
            writer.wait(session, |a| a.connected > 0).await?;
        }
        let session = "the v0 writer's session";
        self.v0_writer.wait(session, |a| a.connected).await?;
        let everybody = self.readers.len() * v1 + self.v0_readers.len() * v0;
        until("every subscription to stand", async || {
            let mut total = 0;
            for replica in replicas.all() {
                let shards = replica.operator().shards().await.ok()?;
                total += shards.iter().map(|s| s.subscribers).sum::<u64>();
            }
            (total == everybody as u64).then_some(())
        })
        .await?;
        for reader in &self.readers {
            let answers = |a: &Account| a.resyncs >= v1 as u64;
            reader.wait("the answers to subscriptions", answers).await?;
        }
        Ok(())
    }

    fn write(&self, caller: usize, shard: ShardId) {
        if self.v0_shards.contains(&shard) {
            self.v0_writer.write(shard);
        } else {
            self.writers[caller].write(shard);
        }
    }

    /// What was recorded, at its pace, over and over.
    async fn writes(&self, recording: &Recording) {
        let pushes: Vec<_> = recording.pushes().collect();
        loop {
            let begun = Instant::now();
            for (index, push) in &pushes {
                let record = &recording.records[*index];
                // The recording's own timing; nothing is assumed ready by then.
                tokio::time::sleep_until(begun + record.at).await;
                self.write(record.caller, push.shard);
            }
        }
    }

    async fn converge(&self, shards: &[ShardId]) -> Verdict {
        let heads = self.ledger.heads(shards.iter().copied());
        for reader in &self.readers {
            reader.reach(&heads).await?;
        }
        for reader in &self.v0_readers {
            reader.reach(&heads).await?;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_update_costs_v1_nothing_and_v0_its_backoff() -> Verdict {
    if !nats::found("a_rolling_update_costs_v1_nothing_and_v0_its_backoff") {
        return Ok(());
    }
    let recording = recording::named("v0-contended")?;
    let shards: Vec<_> = recording.diffs().into_keys().collect();
    let nats = Nats::start(&Conf::default()).await?;
    let mut replicas = Replicas::start(&[nats.address()], REPLICAS, &FLAGS).await?;
    let cast = Cast::gather(&replicas, &recording).await?;
    for &shard in &shards {
        cast.write(0, shard);
    }
    cast.converge(&shards).await?;
    cast.readers.iter().for_each(V1Process::mark);
    let before: Vec<_> = cast.readers.iter().map(V1Process::account).collect();

    let rolling = async {
        for place in 0..REPLICAS {
            let began = Instant::now();
            let old = replicas.begin_to_replace(place).await?;
            replicas.know_each_other().await?;
            cast.services[place].switch(replicas.one(place).address());
            old.leave().await?;
            println!("replica {place} was replaced within {:?}", began.elapsed());
        }
        for process in cast.readers.iter().chain(&cast.writers) {
            let moved = "a v1 process to have moved";
            process.wait(moved, |a| a.connected > 1).await?;
        }
        for process in cast.v0_readers.iter().chain([&cast.v0_writer]) {
            let back = "a v0 process to be back";
            process.wait(back, |a| a.lost > 0 && a.connected).await?;
        }
        Ok::<_, Failure>(())
    };
    tokio::select! {
        rolled = rolling => rolled?,
        () = cast.writes(&recording) => unreachable!("it has no end"),
    }
    // Of the v0 writer's shards too: the next diff tells of those before.
    for &shard in &shards {
        cast.write(0, shard);
    }
    cast.converge(&shards).await?;

    let mut largest = Hole::default();
    for (reader, before) in cast.readers.iter().zip(&before) {
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
        let broken = &account.first_violations;
        assert!(broken.is_empty(), "{}: {broken:?}", reader.name());
        assert_eq!(account.disconnected, 0, "{}", reader.name());
        for (shard, followed) in &account.shards {
            // What v1 wrote came whole; what v0 lost was told.
            if !cast.v0_shards.contains(shard) {
                assert_eq!(followed.fetches, 0, "{}: {shard}", reader.name());
            }
        }
    }
    println!("largest hole of a v1 process: {largest}");
    for reader in &cast.v0_readers {
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
        // Deaf between its end and its return; before and after, it is sent an
        // unbroken run.
        let cost = (account.lost, account.early, account.altered);
        assert_eq!(cost, (1, 0, 0), "{}", reader.name());
    }
    replicas.all().for_each(whole);
    Ok(())
}
