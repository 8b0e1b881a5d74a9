//! **convergence**: once publishing stops, every live session has been told, by a
//! diff or a gap, of the highest seqno that the server accepted on each of its
//! shards; across a lost connection or a restarted server too.
//!
//! Whatever is accepted marks its subscribers, under the lock under which they
//! read; what waits for a predecessor, or is evicted while it waits, is let
//! through; a client names what it has when it comes back, and announces what it
//! may have lost.
//!
//! Mutations: `evicted-while-held-is-not-let-through`,
//! `evicted-while-held-marks-nobody`, `own-that-releases-marks-not-itself`,
//! `reading-keeps-its-mark`, `released-marks-nobody`.

use std::time::Duration;

use fastrand::Rng;
use persist_pubsub_client::{Config as ClientConfig, Event, connect};
use persist_pubsub_compat_tests::child::Child;
use persist_pubsub_compat_tests::proxy::Proxy;
use persist_pubsub_compat_tests::wait::within;

use super::super::{Failure, Verdict};
use super::storm::{Arena, Ways, config, deal, jumbled, replicas_for, settle, shard};

#[tokio::test]
async fn convergence() -> Verdict {
    on(Ways::Network).await?;
    restarted().await
}

#[tokio::test]
async fn convergence_across_replicas() -> Verdict {
    match replicas_for("convergence") {
        true => on(Ways::Replicas).await,
        false => Ok(()),
    }
}

#[tokio::test]
async fn convergence_in_process() -> Verdict {
    on(Ways::InProcess).await?;
    on(Ways::Mixed).await
}

async fn on(ways: Ways) -> Verdict {
    for seed in 0..3 {
        last_ones(ways, seed).await?;
    }
    if ways == Ways::Replicas {
        // What makes a replica evict is of that replica alone.
        return Ok(());
    }
    evicted_by_another(ways).await
}

/// How a shard's last diff may come.
#[derive(Clone, Copy, Debug)]
enum Last {
    InOrder,
    /// Behind a hole that is never filled.
    Held,
    Announced,
    TooLarge,
    /// Held, and evicted while it waits by what comes behind it.
    Evicted,
    /// By a reader itself, behind others' that wait for it.
    Own,
}

async fn last_ones(ways: Ways, seed: u64) -> Result<(), Failure> {
    use Last::{Announced, Evicted, Held, InOrder, Own, TooLarge};
    let mut rng = Rng::with_seed(seed);
    let mut config = config();
    config.reorder_window = Duration::from_millis(20);
    config.log_entries_per_shard = 20;
    config.max_diff_bytes = 50_000;
    let arena = Arena::open(ways, config).await?;
    let publishers = arena.sessions("publisher", 3).await?;
    let mut readers = arena.sessions("reader", 3).await?;
    let kinds = [InOrder, Held, Announced, TooLarge, Evicted, Own];
    let shards: Vec<_> = (0..6).map(shard).collect();
    for reader in &mut readers {
        let all: Vec<_> = shards.iter().map(|&s| (s, Some(0))).collect();
        reader.subscribe(&all).await?;
        reader.answered().await?;
    }
    // One reads nothing until the end.
    readers[2].read(false);
    for (&shard, last) in shards.iter().zip(kinds) {
        arena.commit(shard, 1..=100, 3_000);
        let seqnos = jumbled(1..=100, 3, None, &mut rng);
        deal(&publishers, shard, &seqnos, &mut rng).await?;
        match last {
            InOrder => {
                arena.commit(shard, [101], 10);
                publishers[0].publish(shard, 101).await?;
            }
            Held => {
                arena.commit(shard, [105], 10);
                publishers[0].publish(shard, 105).await?;
            }
            Announced => {
                arena.truth.lock().commit_unpublished(shard, 101);
                publishers[0].publish(shard, 101).await?;
            }
            TooLarge => {
                arena.commit(shard, [101], 60_000);
                publishers[0].publish(shard, 101).await?;
            }
            Evicted => {
                arena.commit(shard, 102..=140, 10);
                for seqno in 102..=140 {
                    publishers[0].publish(shard, seqno).await?;
                }
            }
            Own => {
                arena.commit(shard, 101..=103, 10);
                publishers[0].publish(shard, 102).await?;
                publishers[0].publish(shard, 103).await?;
                readers[0].publish(shard, 101).await?;
            }
        }
    }
    settle(&readers[..2]).await?;
    readers[2].read(true);
    settle(&readers[2..]).await
}

/// What waits for a predecessor that never comes leaves with all that its shard
/// has, because the logs together grew too large: long before its wait is over.
async fn evicted_by_another(ways: Ways) -> Verdict {
    let mut config = config();
    config.reorder_window = Duration::from_secs(10);
    config.log_bytes_per_shard = 1 << 20;
    config.log_bytes_total = 1 << 20;
    config.max_diff_bytes = 64 * 1024;
    let arena = Arena::open(ways, config).await?;
    let publisher = arena.session("publisher").await?;
    let mut reader = arena.session("reader").await?;
    // Two, for each stays within its own bound, which is that of all.
    let (shard, others) = (shard(0), [shard(1), shard(2)]);
    reader.subscribe(&[(shard, Some(0))]).await?;
    reader.answered().await?;
    arena.commit(shard, 1..=3, 100);
    arena.commit(shard, [10], 100);
    for seqno in [1, 2, 3, 10] {
        publisher.publish(shard, seqno).await?;
    }
    // It may evict what has been read alone.
    reader
        .until("what is in order", |w| w.heard().0 == 3)
        .await?;
    for other in others {
        arena.commit(other, 1..=100, 20_000);
        for seqno in 1..=100 {
            publisher.publish(other, seqno).await?;
        }
    }
    reader.settle().await?;
    let diffs = reader.witness().heard().0;
    assert_eq!(
        diffs, 3,
        "the last was not evicted: the test proves nothing"
    );
    Ok(())
}

/// The server is killed under a publisher and a reader, over and over: each
/// time the reader learns how far the shard is.
async fn restarted() -> Verdict {
    let mut server = Child::start::<&str>(&[]).await?;
    let proxy = Proxy::start(server.addresses().listen).await?;
    let client = |name: &str| -> Result<_, Failure> {
        let config = ClientConfig::new(&proxy.url())?
            .client_name(name)
            .backoff(Duration::from_millis(10), Duration::from_millis(50))?;
        Ok(connect(config))
    };
    let (writer, _own) = client("writer")?;
    let (reader, mut events) = client("reader")?;
    let _token = reader.subscribe_from(&shard(0), 0);
    let mut seqno = 0;
    for _ in 0..4 {
        for _ in 0..50 {
            seqno += 1;
            writer.push_diff(&shard(0), seqno, seqno.to_be_bytes().to_vec().into());
        }
        let mut told = 0;
        within("the reader to learn of the last seqno", async {
            while told < seqno {
                match events.next().await {
                    Some(Event::Diff { seqno, .. }) => told = told.max(seqno),
                    Some(Event::Gap { to, .. }) => told = told.max(to),
                    Some(Event::Resync { highest, .. }) => told = told.max(highest.unwrap_or(0)),
                    Some(_) => {}
                    None => return Err(Failure::from("the events have ended")),
                }
            }
            Ok(())
        })
        .await??;
        // What is pushed while nobody is there to hear it is announced later.
        server.signal("KILL").await?;
        for _ in 0..50 {
            seqno += 1;
            writer.push_diff(&shard(0), seqno, seqno.to_be_bytes().to_vec().into());
        }
        server = Child::start::<&str>(&[]).await?;
        proxy.switch(server.addresses().listen);
    }
    Ok(())
}
