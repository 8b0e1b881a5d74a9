//! **poison_free**: no message of one client can silence or mislead the other
//! subscribers of a shard: not an absurd seqno, not a flood.
//!
//! A seqno too far from the shard's others is doubted: it is told, and moves
//! nothing until its run has been followed up while the true one stood still.
//! Doubted runs are few; when there are more, a run of the client that began the
//! most goes, so that a liar displaces its own lies and not the truth. More
//! cases are in `crate::poison`.

use fastrand::Rng;
use persist_pubsub_compat_tests::v0_peer;
use persist_pubsub_compat_tests::v0_reader::Reader;
use persist_pubsub_proto::MAX_SEQNO;

use super::super::{Failure, Verdict};
use super::storm::{Arena, config, settle, shard};

const DIFFS: u64 = 500;

#[tokio::test]
async fn poison_free() -> Verdict {
    for seed in 0..2 {
        lies_among_the_truth(seed).await?;
    }
    lies_before_the_truth().await
}

/// While the shard moves, two clients lie without end: nobody misses a diff.
async fn lies_among_the_truth(seed: u64) -> Result<(), Failure> {
    let mut rng = Rng::with_seed(seed);
    let mut config = config();
    config.reorder_window = std::time::Duration::ZERO;
    // The truth is never still for so long.
    config.jump_confirm = std::time::Duration::from_secs(60);
    let arena = Arena::open(config).await?;
    let shard = shard(0);
    let publisher = arena.session("publisher").await?;
    let liars = arena.sessions("liar", 2).await?;
    let mut readers = arena.sessions("reader", 2).await?;
    let v0_reader = Reader::connect(&arena.url(), "v0-reader").await?;
    let v0 = v0_peer::Peer::connect(&arena.url(), "v0-marker").await?;
    v0_reader.follow(shard, 0).await?;
    v0_reader.mark().await?.passed_by(v0.sender()).await?;
    for reader in &mut readers {
        reader.subscribe(&[(shard, Some(0))]).await?;
        reader.answered().await?;
    }
    arena.commit(shard, 1..=DIFFS, 100);
    for seqno in 1..=DIFFS {
        publisher.publish(shard, seqno).await?;
        if seqno == 1 {
            // The shard is known before anybody lies about it.
            for reader in &readers {
                reader.until("the first diff", |w| w.heard().0 > 0).await?;
            }
        }
        for _ in 0..rng.u8(0..4) {
            let seqno = match rng.u8(0..3) {
                0 => 100_000 + rng.u64(0..5),
                1 => MAX_SEQNO - rng.u64(0..5),
                _ => rng.u64(1 << 32..MAX_SEQNO),
            };
            for reader in &readers {
                reader.witness().lie(shard, seqno);
            }
            liars[rng.usize(0..2)].lie(shard, seqno).await?;
        }
    }
    settle(&readers).await?;
    for reader in &readers {
        let told = |w: &persist_pubsub_compat_tests::witness::Witness| w.heard().0 == DIFFS;
        reader.until("every true diff as a diff", told).await?;
    }
    v0_reader.reach(&[(shard, DIFFS)].into()).await?;
    assert_eq!(
        v0_reader
            .model()
            .shard(shard)
            .map(|s| s.applied.len() as u64),
        Some(DIFFS)
    );
    Ok(())
}

/// The first that a server hears of a shard is a lie, and lies alternate with the
/// truth from then on; a slow reader hears of the truth all the same, and in the
/// end the shard is where it should be.
async fn lies_before_the_truth() -> Verdict {
    let mut config = config();
    config.jump_confirm = std::time::Duration::ZERO;
    let arena = Arena::open(config).await?;
    let shard = shard(0);
    let publisher = arena.session("publisher").await?;
    let liars = arena.sessions("liar", 2).await?;
    let mut slow = arena.session("slow").await?;
    slow.subscribe(&[(shard, Some(0))]).await?;
    slow.answered().await?;
    slow.read(false);
    arena.commit(shard, 1..=40, 100);
    for seqno in 1..=40 {
        for (liar, at) in [(0, 1 << 40), (1, 1 << 50)] {
            let lie = at + seqno * 5_000;
            slow.witness().lie(shard, lie);
            liars[liar].lie(shard, lie).await?;
        }
        publisher.publish(shard, seqno).await?;
    }
    slow.read(true);
    slow.settle().await?;
    let mut late = arena.session("late").await?;
    late.subscribe(&[(shard, Some(39))]).await?;
    late.settle().await?;
    assert_eq!(
        late.witness().heard(),
        (1, 0),
        "the shard is not where it should be"
    );
    Ok(())
}
