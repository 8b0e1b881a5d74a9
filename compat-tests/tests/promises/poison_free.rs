//! **poison_free**: no message of one client can silence or mislead the other
//! subscribers of a shard: not an absurd seqno, not a flood.
//!
//! A seqno too far from the shard's others is doubted: it is told, and moves
//! nothing until its run has been followed up while the true one stood still.
//! Doubted runs are few; when there are more, a run of the client that began the
//! most goes, so that a liar displaces its own lies and not the truth. More
//! cases are in `crate::poison`.
//!
//! Mutations: `doubts-let-go-are-not-told`, `everything-is-believed`,
//! `nothing-is-ever-adopted`, `the-truth-makes-room-for-lies`.

use fastrand::Rng;
use persist_pubsub_compat_tests::v0_peer;
use persist_pubsub_compat_tests::v0_reader::Reader;
use persist_pubsub_compat_tests::watched::Watched;
use persist_pubsub_proto::{MAX_SEQNO, ShardId};

use super::super::{Failure, Verdict};
use super::storm::{Arena, Ways, config, replicas_for, settle, shard};

const DIFFS: u64 = 500;
/// Sessions that join where lies came first: one at each of three replicas.
const JOINS: usize = 3;

#[tokio::test]
async fn poison_free() -> Verdict {
    on(Ways::Network).await
}

#[tokio::test]
async fn poison_free_across_replicas() -> Verdict {
    match replicas_for("poison_free") {
        true => on(Ways::Replicas).await,
        false => Ok(()),
    }
}

#[tokio::test]
async fn poison_free_in_process() -> Verdict {
    on(Ways::InProcess).await?;
    on(Ways::Mixed).await
}

async fn on(ways: Ways) -> Verdict {
    for seed in 0..2 {
        lies_among_the_truth(ways, seed).await?;
    }
    lies_before_the_truth(ways).await?;
    more_lies_than_are_kept(ways).await
}

/// While the shard moves, two clients lie without end: nobody misses a diff.
async fn lies_among_the_truth(ways: Ways, seed: u64) -> Result<(), Failure> {
    let mut rng = Rng::with_seed(seed);
    let mut config = config();
    config.reorder_window = std::time::Duration::ZERO;
    // The truth is never still for so long.
    config.jump_confirm = std::time::Duration::from_secs(60);
    let arena = Arena::open(ways, config).await?;
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

/// The first that a server hears of a shard is a lie, and new lies come between
/// any two diffs of the truth from then on; a reader hears of the truth all the
/// same, and in the end the shard is where it should be.
async fn lies_before_the_truth(ways: Ways) -> Verdict {
    let mut config = config();
    config.jump_confirm = std::time::Duration::ZERO;
    let arena = Arena::open(ways, config).await?;
    let shard = shard(0);
    let mut publisher = arena.session("publisher").await?;
    let mut liars = arena.sessions("liar", 2).await?;
    let mut reader = arena.session("reader").await?;
    reader.subscribe(&[(shard, Some(0))]).await?;
    reader.answered().await?;
    arena.commit(shard, 1..=40, 100);
    for seqno in 1..=40 {
        for (liar, at) in liars.iter_mut().zip([1 << 40, 1 << 50]) {
            lie(liar, &reader, shard, at + seqno * 5_000).await?;
        }
        publisher.publish(shard, seqno).await?;
        taken(&mut publisher).await?;
    }
    reader.settle().await?;
    // The truth goes on, and the lies do not: wherever somebody joins, the shard
    // is where it should be. A single server knows at once; of replicas each
    // has its own view, and may have heard nothing but lies before.
    for seqno in 41..=90 {
        arena.commit(shard, [seqno], 100);
        publisher.publish(shard, seqno).await?;
        taken(&mut publisher).await?;
        let mut right = 0;
        for late in &mut arena.sessions("late", JOINS).await? {
            late.subscribe(&[(shard, Some(seqno - 1))]).await?;
            late.settle().await?;
            right += usize::from(late.witness().heard() == (1, 0));
        }
        if right == JOINS {
            return Ok(());
        }
        assert_eq!(ways, Ways::Replicas, "the shard is not where it should be");
    }
    Err("the shard does not come to where it should be".into())
}

/// While the truth is still doubted, so many clients lie that it is displaced,
/// before a slow reader has come to it: it hears of it all the same.
async fn more_lies_than_are_kept(ways: Ways) -> Verdict {
    let mut config = config();
    config.jump_confirm = std::time::Duration::from_secs(60);
    let arena = Arena::open(ways, config).await?;
    let (shard, other) = (shard(0), shard(1));
    let mut publisher = arena.session("publisher").await?;
    let mut liars = arena.sessions("liar", 8).await?;
    let mut slow = arena.session("slow").await?;
    // The first that is known of the shard: no hole reaches down to the truth.
    lie(&mut liars[0], &slow, shard, 1 << 40).await?;
    slow.subscribe(&[(shard, None), (other, None)]).await?;
    slow.answered().await?;
    slow.read(false);
    // More than its socket holds.
    arena.commit(other, 1..=1_000, 10_000);
    for seqno in 1..=1_000 {
        publisher.publish(other, seqno).await?;
    }
    taken(&mut publisher).await?;
    arena.commit(shard, [1], 100);
    publisher.publish(shard, 1).await?;
    taken(&mut publisher).await?;
    for (n, liar) in (1..).zip(&mut liars) {
        lie(liar, &slow, shard, (1 << 41) + n * 5_000).await?;
    }
    slow.read(true);
    let told = |w: &persist_pubsub_compat_tests::witness::Witness| w.knows(shard, 1);
    slow.until("the truth", told).await?;
    Ok(())
}

/// Lies, and waits until the server has taken it.
async fn lie(liar: &mut Watched, reader: &Watched, shard: ShardId, seqno: u64) -> Verdict {
    reader.witness().lie(shard, seqno);
    liar.lie(shard, seqno).await?;
    taken(liar).await
}

async fn taken(session: &mut Watched) -> Verdict {
    session.unsubscribe(&[]).await?;
    Ok(session.answered().await?)
}
