//! **no_silent_gap**: if a seqno between two delivered diffs will not come, a gap
//! that covers it comes before the second of them.
//!
//! A cursor knows the next seqno that it is to read; whatever lies between it and
//! the next entry of the log is a hole, and is told before the entry.
//!
//! Mutations: `announcement-is-not-told`, `gap-ends-one-short`, `hole-is-not-told`.

use fastrand::Rng;

use super::super::{Failure, Verdict};
use super::storm::{Arena, Ways, config, deal, jumbled, replicas_for, settle, shard};

const DIFFS: u64 = 600;

#[tokio::test]
async fn no_silent_gap() -> Verdict {
    on(Ways::Network).await
}

#[tokio::test]
async fn no_silent_gap_across_replicas() -> Verdict {
    match replicas_for("no_silent_gap") {
        true => on(Ways::Replicas).await,
        false => Ok(()),
    }
}

#[tokio::test]
async fn no_silent_gap_in_process() -> Verdict {
    on(Ways::InProcess).await?;
    on(Ways::Mixed).await
}

async fn on(ways: Ways) -> Verdict {
    for seed in 0..3 {
        storm(ways, seed).await?;
    }
    Ok(())
}

/// Holes of every kind: never published, announced alone, too large to be
/// relayed, and evicted under readers that have stopped reading.
async fn storm(ways: Ways, seed: u64) -> Result<(), Failure> {
    let mut rng = Rng::with_seed(seed);
    let mut config = config();
    config.reorder_window = std::time::Duration::ZERO;
    config.log_entries_per_shard = 50;
    config.max_diff_bytes = 8_000;
    let arena = Arena::open(ways, config).await?;
    let publishers = arena.sessions("publisher", 4).await?;
    let mut readers = arena.sessions("reader", 2).await?;
    let mut stalled = arena.sessions("stalled", 2).await?;
    for session in readers.iter_mut().chain(&mut stalled) {
        session
            .subscribe(&[(shard(0), Some(0)), (shard(1), None)])
            .await?;
        session.answered().await?;
    }
    stalled.iter().for_each(|session| session.read(false));
    for shard in [shard(0), shard(1)] {
        let mut published = Vec::new();
        for seqno in jumbled(1..=DIFFS, 3, None, &mut rng) {
            match rng.u8(0..20) {
                0 => arena.truth.lock().commit_unpublished(shard, seqno),
                1 => {
                    arena.truth.lock().commit_unpublished(shard, seqno);
                    published.push(seqno);
                }
                2 => {
                    arena.commit(shard, [seqno], 9_000);
                    published.push(seqno);
                }
                _ => {
                    arena.commit(shard, [seqno], 4_000);
                    published.push(seqno);
                }
            }
        }
        // The last is published, or nobody could know of it.
        arena.commit(shard, [DIFFS + 1], 4_000);
        published.push(DIFFS + 1);
        deal(&publishers, shard, &published, &mut rng).await?;
    }
    settle(&readers).await?;
    stalled.iter().for_each(|session| session.read(true));
    settle(&stalled).await?;
    let missed = "mz_persist_pubsub_server_broadcasted_diff_dropped_channel_full";
    let missed = arena.metric(missed).await?;
    assert!(
        missed > 0.0,
        "the stalled missed nothing: the test proves nothing"
    );
    Ok(())
}
