//! **join**: after a `Subscribed` that names a known seqno, every later diff comes,
//! or a gap. There is no moment at which one can be missed. And what comes of an
//! earlier subscription comes before its `Unsubscribed`.
//!
//! A subscription's cursor is set, and its head read, under the lock under which
//! the shard's publications are accepted; answers go out before diffs.
//!
//! Mutations: `cursor-begins-one-late`, `diffs-go-before-answers`,
//! `gap-of-the-past-is-not-told`, `joins-without-a-mark`.

use fastrand::Rng;

use super::super::{Failure, Verdict};
use super::storm::{Arena, Ways, config, replicas_for, settle, shard};

const DIFFS: u64 = 3_000;

#[tokio::test]
async fn join() -> Verdict {
    on(Ways::Network).await
}

#[tokio::test]
async fn join_across_replicas() -> Verdict {
    match replicas_for("join") {
        true => on(Ways::Replicas).await,
        false => Ok(()),
    }
}

#[tokio::test]
async fn join_in_process() -> Verdict {
    on(Ways::InProcess).await?;
    on(Ways::Mixed).await
}

async fn on(ways: Ways) -> Verdict {
    for seed in 0..2 {
        storm(ways, seed).await?;
    }
    Ok(())
}

/// While a publisher publishes, sessions subscribe at any moment, behind any
/// seqno, and give back and subscribe again without waiting for an answer.
async fn storm(ways: Ways, seed: u64) -> Result<(), Failure> {
    let mut rng = Rng::with_seed(seed);
    let mut config = config();
    config.log_entries_per_shard = 300;
    let arena = Arena::open(ways, config).await?;
    let publisher = arena.session("publisher").await?;
    let mut sessions = arena.sessions("fickle", 8).await?;
    let shards = [shard(0), shard(1)];
    for seqno in 1..=DIFFS {
        for shard in shards {
            arena.commit(shard, [seqno], 100);
            publisher.publish(shard, seqno).await?;
        }
        if rng.u8(0..4) > 0 {
            continue;
        }
        let at = rng.usize(0..sessions.len());
        let session = &mut sessions[at];
        let shard = shards[rng.usize(0..2)];
        let standing = session.witness().is_subscribed(shard);
        if session.witness().unanswered() > 0 {
            continue;
        }
        if standing {
            session.unsubscribe(&[shard]).await?;
        }
        let have = match rng.u8(0..4) {
            0 => None,
            1 => Some(seqno),
            2 => Some(seqno.saturating_sub(rng.u64(0..50))),
            _ => Some(rng.u64(0..=seqno)),
        };
        // In the same breath, when it has just been given back.
        session.subscribe(&[(shard, have)]).await?;
    }
    for session in &sessions {
        session.answered().await?;
    }
    settle(&sessions).await
}
