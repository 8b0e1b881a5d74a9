//! A replay sends everything, in each client's order, and keeps the order
//! that it is told to keep.

use std::collections::BTreeMap;

use persist_pubsub_compat_tests::broadcaster::Broadcaster;
use persist_pubsub_compat_tests::recording;
use persist_pubsub_compat_tests::recording::{Inversion, Recording};
use persist_pubsub_compat_tests::replay::{Inversions, Speed, replay};
use persist_pubsub_compat_tests::store::{CREATED, Store};
use persist_pubsub_compat_tests::v0_peer::Peer;
use persist_pubsub_compat_tests::v0_reader::{Model, Reader};

use super::Verdict;

/// Replays through a broadcaster that drops nothing; what a reader made of it.
async fn hear(
    recording: &Recording,
    speed: Speed,
    inversions: Inversions,
) -> Result<Model, super::Failure> {
    let server = Broadcaster::start(10_000).await?;
    let reader = Reader::connect(&server.url(), "listener").await?;
    let last = Peer::connect(&server.url(), "last").await?;
    for shard in recording.diffs().into_keys() {
        reader.follow(shard, CREATED).await?;
    }
    let mut mark = reader.mark().await?;
    mark.passed_by(last.sender()).await?;
    let store = Store::default();
    let played = replay(recording, &server.url(), speed, inversions, &store).await?;
    mark.passed_by(last.sender()).await?;

    assert_eq!(played.messages, recording.records.len());
    assert_eq!(server.dropped(), 0);
    let committed: BTreeMap<_, _> = recording
        .diffs()
        .into_keys()
        .map(|shard| (shard, store.head(shard)))
        .collect();
    assert_eq!(committed, recording.last_seqnos());
    Ok(reader.model())
}

#[tokio::test]
async fn at_full_speed_every_push_arrives() -> Verdict {
    let recording = recording::named("v0-steady")?;
    let model = hear(&recording, Speed::Full, Inversions::Raced).await?;
    let applied: usize = model.shards().map(|(_, shard)| shard.applied.len()).sum();
    let discarded = usize::try_from(model.stale + model.early + model.unwanted)?;
    assert_eq!(applied + discarded, recording.pushes().count());
    Ok(())
}

/// Without racing connections nothing else can be out of order: of a script
/// with one inversion exactly the early push is discarded, at any speed.
#[tokio::test]
async fn an_inversion_can_be_kept_at_full_speed() -> Verdict {
    let whole = recording::named("v0-contended")?;
    let Inversion { early, late } = *whole.inversions().first().ok_or("no inversion")?;
    let mut records = vec![whole.records[early].clone(), whole.records[late].clone()];
    // The late one's file is the first to be played.
    records[0].caller = 1;
    records[1].caller = 0;
    let recording = Recording {
        callers: vec!["late".to_owned(), "early".to_owned()],
        records,
    };
    let lowest = recording.pushes().map(|(_, push)| push.seqno).min();
    assert_eq!(recording.inversions(), [Inversion { early: 0, late: 1 }]);
    for _ in 0..20 {
        let server = Broadcaster::start(100).await?;
        let reader = Reader::connect(&server.url(), "listener").await?;
        let last = Peer::connect(&server.url(), "last").await?;
        let (shard, _) = recording.diffs().pop_first().ok_or("no shard")?;
        let state = lowest.ok_or("no push")? - 1;
        reader.follow(shard, state).await?;
        let mut mark = reader.mark().await?;
        mark.passed_by(last.sender()).await?;
        let store = Store::default();
        replay(
            &recording,
            &server.url(),
            Speed::Full,
            Inversions::Kept,
            &store,
        )
        .await?;
        mark.passed_by(last.sender()).await?;
        let model = reader.model();
        assert_eq!((model.early, model.stale), (1, 0));
        assert_eq!(model.shard(shard).map(|shard| shard.state), Some(state + 1));
    }
    Ok(())
}
