//! **isolation**: a slow, stalled or dead session delays no other session, loses no
//! other session's diffs, and holds bounded memory.
//!
//! Nothing is queued for a session: it is marked, and reads the log when its
//! socket has room. How much memory a real server needs under readers that do
//! not read is in `crate::isolation`.
//!
//! Mutations: `a-full-sink-drops-the-log`, `a-shard-is-not-bounded`,
//! `total-is-not-relieved`.

use super::super::{Failure, Verdict};
use super::storm::{Arena, Ways, config, replicas_for, settle, shard};

/// To each of two shards.
const DIFFS: u64 = 1_000;
const BYTES: usize = 8 * 1024;
/// Under way at a time: the sessions that read keep up.
const IN_FLIGHT: u64 = 100;
const SHARD_BYTES: u64 = 4 << 20;
/// Less than the two shards' together.
const TOTAL_BYTES: u64 = 6 << 20;

#[tokio::test]
async fn isolation() -> Verdict {
    on(Ways::Network).await
}

#[tokio::test]
async fn isolation_across_replicas() -> Verdict {
    match replicas_for("isolation") {
        true => on(Ways::Replicas).await,
        false => Ok(()),
    }
}

#[tokio::test]
async fn isolation_in_process() -> Verdict {
    on(Ways::InProcess).await?;
    on(Ways::Mixed).await
}

async fn on(ways: Ways) -> Verdict {
    let mut config = config();
    // A loaded machine may stall the publishers against each other.
    config.reorder_window = std::time::Duration::from_secs(10);
    config.log_bytes_per_shard = usize::try_from(SHARD_BYTES)?;
    config.log_bytes_total = usize::try_from(TOTAL_BYTES)?;
    config.max_diff_bytes = 64 * 1024;
    let arena = Arena::open(ways, config).await?;
    let shards = [shard(0), shard(1)];
    let publishers = arena.sessions("publisher", 2).await?;
    let mut readers = arena.sessions("reader", 3).await?;
    let mut stalled = arena.sessions("stalled", 3).await?;
    let mut dead = arena.sessions("dead", 2).await?;
    for session in readers.iter_mut().chain(&mut stalled).chain(&mut dead) {
        session.subscribe(&shards.map(|s| (s, Some(0)))).await?;
        session.answered().await?;
    }
    // All of it is published in time for those that read to have every diff.
    stalled.iter().for_each(|session| session.read(false));
    // One shard after the other, so that each bound bites.
    for (shard, bound) in shards.into_iter().zip([SHARD_BYTES, TOTAL_BYTES]) {
        arena.commit(shard, 1..=DIFFS, BYTES);
        for seqno in 1..=DIFFS {
            let publisher = usize::from(seqno % 2 == 0);
            publishers[publisher].publish(shard, seqno).await?;
            if seqno == DIFFS / 2 {
                dead.clear();
            }
            // The first is awaited, or the other publisher's may come before it as
            // the shard's first.
            if seqno == 1 || seqno.is_multiple_of(IN_FLIGHT) {
                for reader in &readers {
                    heard(reader, shard, seqno).await?;
                }
                for held in arena.log_bytes().await? {
                    assert!((1..=bound).contains(&held), "{held} bytes");
                }
            }
        }
    }
    settle(&readers).await?;
    let all = DIFFS * shards.len() as u64;
    for reader in &readers {
        assert_eq!(reader.witness().heard(), (all, 0), "a reader lost diffs");
    }
    stalled.iter().for_each(|session| session.read(true));
    settle(&stalled).await?;
    for session in &stalled {
        let (diffs, gaps) = session.witness().heard();
        assert!(gaps > 0 && diffs < all, "it was not stalled");
    }
    Ok(())
}

async fn heard(
    reader: &persist_pubsub_compat_tests::watched::Watched,
    shard: persist_pubsub_proto::ShardId,
    seqno: u64,
) -> Result<(), Failure> {
    let told = |w: &persist_pubsub_compat_tests::witness::Witness| w.told(shard) >= Some(seqno);
    Ok(reader.until("what was published", told).await?)
}
