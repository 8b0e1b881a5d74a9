//! **no_echo**: a session is not sent what it published itself, and its own
//! publications are never a gap to it.
//!
//! Each entry of the log knows its publisher; what a session publishes and has
//! not read past is kept in mind beside its cursor, for when the entry is
//! evicted, or is another's.
//!
//! Mutations: `own-in-gaps`, `own-is-bounded-by-forgetting`,
//! `own-is-not-kept-in-mind`, `own-that-another-published-is-sent`.

use fastrand::Rng;

use super::super::{Failure, Verdict};
use super::storm::{Arena, Ways, config, replicas_for, settle, shard};

const DIFFS: u64 = 1_500;

#[tokio::test]
async fn no_echo() -> Verdict {
    on(Ways::Network).await
}

#[tokio::test]
async fn no_echo_across_replicas() -> Verdict {
    match replicas_for("no_echo") {
        true => on(Ways::Replicas).await,
        false => Ok(()),
    }
}

#[tokio::test]
async fn no_echo_in_process() -> Verdict {
    on(Ways::InProcess).await?;
    on(Ways::Mixed).await
}

async fn on(ways: Ways) -> Verdict {
    for seed in 0..3 {
        storm(ways, seed).await?;
    }
    Ok(())
}

/// Everybody publishes and listens to everybody; some publish what another has
/// published, too; and some do not read while their own diffs and others' are
/// evicted in turn.
async fn storm(ways: Ways, seed: u64) -> Result<(), Failure> {
    let mut rng = Rng::with_seed(seed);
    let mut config = config();
    config.reorder_window = std::time::Duration::from_millis(5);
    config.log_entries_per_shard = 40;
    let arena = Arena::open(ways, config).await?;
    let shard = shard(0);
    let mut all = arena.sessions("peer", 4).await?;
    for session in &mut all {
        session.subscribe(&[(shard, Some(0))]).await?;
        session.answered().await?;
    }
    all[2].read(false);
    all[3].read(false);
    // Far more than the sockets hold.
    arena.commit(shard, 1..=DIFFS, 10_000);
    for seqno in 1..=DIFFS {
        let by = rng.usize(0..4);
        if rng.u8(0..10) == 0 {
            let too = (by + 1) % 4;
            all[by].publish_too(shard, seqno).await?;
            all[too].publish_too(shard, seqno).await?;
        } else {
            all[by].publish(shard, seqno).await?;
        }
        // From its answer on no gap may cover what it has published.
        if rng.u8(0..16) == 0 {
            all[rng.usize(0..4)].unsubscribe(&[]).await?;
        }
    }
    settle(&all[..2]).await?;
    all[2].read(true);
    all[3].read(true);
    settle(&all[2..]).await?;
    let gaps: u64 = all[2..]
        .iter()
        .map(|session| session.witness().heard().1)
        .sum();
    assert!(gaps > 0, "nothing was evicted: the test proves nothing");
    Ok(())
}
