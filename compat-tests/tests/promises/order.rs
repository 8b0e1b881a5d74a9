//! **order**: within a session, a shard's diffs come in strictly increasing
//! seqno.
//!
//! A diff that comes late is put into its place in the log, and a v1 cursor never
//! goes back: it tells of what surfaced below it by a gap.
//!
//! Mutations: `log-appends`, `v1-goes-back-like-v0`, `v1-rereads-late`.

use fastrand::Rng;

use super::super::{Failure, Verdict};
use super::storm::{Arena, Ways, config, deal, jumbled, replicas_for, settle, shard};

const DIFFS: u64 = 400;

#[tokio::test]
async fn order() -> Verdict {
    on(Ways::Network).await
}

#[tokio::test]
async fn order_across_replicas() -> Verdict {
    match replicas_for("order") {
        true => on(Ways::Replicas).await,
        false => Ok(()),
    }
}

#[tokio::test]
async fn order_in_process() -> Verdict {
    on(Ways::InProcess).await?;
    on(Ways::Mixed).await
}

async fn on(ways: Ways) -> Verdict {
    let mut gaps = 0;
    for seed in 0..3 {
        gaps += storm(ways, seed).await?;
    }
    assert!(gaps > 0, "nothing surfaced late: the test proves nothing");
    a_lower_run_takes_the_shard_over(ways).await
}

/// What was taken for the shard's run is given up for one far below it: whoever
/// was sent diffs of the higher one hears of the lower one by gaps alone.
async fn a_lower_run_takes_the_shard_over(ways: Ways) -> Verdict {
    let mut config = config();
    config.jump_confirm = std::time::Duration::ZERO;
    let arena = Arena::open(ways, config).await?;
    let publisher = arena.session("publisher").await?;
    let mut reader = arena.session("reader").await?;
    let shard = shard(0);
    reader.subscribe(&[(shard, None)]).await?;
    reader.answered().await?;
    for run in [5_000..=5_010, 1..=10] {
        arena.commit(shard, run.clone(), 100);
        for seqno in run.clone() {
            publisher.publish(shard, seqno).await?;
        }
        let last = *run.end();
        let told = |w: &persist_pubsub_compat_tests::witness::Witness| w.knows(shard, last);
        reader.until("the run's last", told).await?;
    }
    // The lower run is the shard's now.
    let mut late = arena.session("late").await?;
    late.subscribe(&[(shard, Some(0))]).await?;
    late.until("the lower run", |w| w.heard().0 == 10).await?;
    Ok(())
}

/// Six publishers overtake each other on four shards; one diff in ten comes
/// when all others are through. Returns the gaps that readers were told.
async fn storm(ways: Ways, seed: u64) -> Result<u64, Failure> {
    let mut rng = Rng::with_seed(seed);
    let mut config = config();
    config.reorder_window = std::time::Duration::from_millis(5);
    let arena = Arena::open(ways, config).await?;
    let publishers = arena.sessions("publisher", 6).await?;
    let mut readers = arena.sessions("reader", 3).await?;
    let shards: Vec<_> = (0..4).map(shard).collect();
    for reader in &mut readers {
        let from_the_start: Vec<_> = shards.iter().map(|&s| (s, Some(0))).collect();
        reader.subscribe(&from_the_start).await?;
        reader.answered().await?;
    }
    for &shard in &shards {
        arena.commit(shard, 1..=DIFFS, 200);
        let seqnos = jumbled(1..=DIFFS, 6, Some(10), &mut rng);
        deal(&publishers, shard, &seqnos, &mut rng).await?;
    }
    settle(&readers).await?;
    // One shard is read again from the middle: its late ones in their places.
    let mut late = arena.session("late").await?;
    late.subscribe(&[(shards[0], Some(DIFFS / 2))]).await?;
    late.settle().await?;
    Ok(readers
        .iter()
        .map(|reader| reader.witness().heard().1)
        .sum())
}
