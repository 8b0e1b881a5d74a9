//! Both generations write the same shards, as recorded: some pushes overtake
//! their predecessor, which comes on another connection. Deployed readers
//! cannot be told; they need every diff, in order, from wherever they start.

use std::collections::BTreeMap;

use persist_pubsub_compat_tests::broadcaster::Broadcaster;
use persist_pubsub_compat_tests::child::Child;
use persist_pubsub_compat_tests::recording;
use persist_pubsub_compat_tests::recording::Recording;
use persist_pubsub_compat_tests::replay::{Inversions, Speed, replay};
use persist_pubsub_compat_tests::store::Store;
use persist_pubsub_compat_tests::v0_peer::{Peer, PeerError};
use persist_pubsub_compat_tests::v0_reader::{Model, Reader};
use persist_pubsub_proto::ShardId;

use super::{Failure, Verdict};

/// Readers that subscribe before anything is written.
const FROM_THE_START: usize = 3;

/// Readers of every shard of a recording, on one server.
struct Audience {
    from_the_start: Vec<Reader>,
    /// Joins each shard in the middle.
    late: Reader,
    /// By shard, the state that `late` began with.
    joined_at: BTreeMap<ShardId, u64>,
}

impl Audience {
    /// Subscribes readers at `url`, plays the recording to the same server at
    /// `writers`, and returns when the server has taken all of it.
    async fn attend(url: &str, writers: &str, recording: &Recording) -> Result<Self, Failure> {
        let store = Store::default();
        let heads = recording.last_seqnos();
        let probe = Peer::connect(url, "probe").await?;
        let mut from_the_start = Vec::new();
        for number in 1..=FROM_THE_START {
            let reader = Reader::connect(url, &format!("model-reader-{number}")).await?;
            for &shard in heads.keys() {
                reader.follow(shard, store.head(shard)).await?;
            }
            reader.mark().await?.passed_by(probe.sender()).await?;
            from_the_start.push(reader);
        }
        let late = Reader::connect(url, "model-reader-late").await?;
        // The recorded pace: what races did then they may do again. But those
        // that were recorded happen for certain.
        let (joined_at, played) = tokio::join!(
            join_in_the_middle(&late, &heads, &store),
            replay(
                recording,
                writers,
                Speed::Times(1.0),
                Inversions::Kept,
                &store
            ),
        );
        played?;
        Ok(Self {
            from_the_start,
            late,
            joined_at: joined_at?,
        })
    }

    fn readers(&self) -> impl Iterator<Item = &Reader> {
        self.from_the_start.iter().chain([&self.late])
    }
}

/// Joins each shard when half of it is written, as deployed readers do: the
/// state is read in the store, and when the subscription is made the next
/// diff is committed already.
async fn join_in_the_middle(
    reader: &Reader,
    heads: &BTreeMap<ShardId, u64>,
    store: &Store,
) -> Result<BTreeMap<ShardId, u64>, PeerError> {
    let mut joined_at = BTreeMap::new();
    for (&shard, &head) in heads {
        let state = store.reached(shard, head / 2).await?;
        store.reached(shard, state + 1).await?;
        reader.follow(shard, state).await?;
        joined_at.insert(shard, state);
    }
    Ok(joined_at)
}

/// A reader applied every recorded diff above the states it began with, as
/// recorded, and none was early.
#[track_caller]
fn assert_unbroken(model: &Model, recording: &Recording, began: impl Fn(ShardId) -> u64) {
    assert_eq!(model.early, 0, "early diffs, discarded");
    assert_eq!(model.unwanted, 0, "diffs of shards that it did not ask for");
    for (shard, recorded) in recording.diffs() {
        let applied = model
            .shard(shard)
            .map(|followed| followed.applied.as_slice())
            .unwrap_or_default();
        let expected: Vec<_> = recorded
            .into_iter()
            .filter(|(n, _)| *n > began(shard))
            .collect();
        assert!(
            applied == expected,
            "{shard}: the diffs applied are not those recorded"
        );
    }
}

/// What a server owes v0 readers. For any server, by its URL, and by the one
/// at which the writers find it.
pub(crate) async fn every_reader_gets_an_unbroken_run(
    url: &str,
    writers: &str,
    recording: &Recording,
) -> Verdict {
    let audience = Audience::attend(url, writers, recording).await?;
    let heads = recording.last_seqnos();
    for reader in audience.readers() {
        reader.reach(&heads).await?;
    }
    for reader in &audience.from_the_start {
        assert_unbroken(&reader.model(), recording, |_| {
            persist_pubsub_compat_tests::store::CREATED
        });
    }
    assert_unbroken(&audience.late.model(), recording, |shard| {
        audience.joined_at[&shard]
    });
    Ok(())
}

/// What a server without a log makes of the same: proof that the test above
/// can fail. Its queues are so long that nothing is dropped: the order alone
/// does it.
async fn a_broadcaster_breaks_the_run(recording: &Recording) -> Verdict {
    let server = Broadcaster::start(10_000).await?;
    let audience = Audience::attend(&server.url(), &server.url(), recording).await?;
    let last = Peer::connect(&server.url(), "last").await?;
    let overtaken = recording.inversions().len();
    for reader in &audience.from_the_start {
        // All that was sent to it before the mark has arrived, then.
        reader.mark().await?.passed_by(last.sender()).await?;
        let model = reader.model();
        assert!(
            model.early > 0,
            "{overtaken} were overtaken, none discarded"
        );
        assert!(!model.reached(&recording.last_seqnos()));
    }
    assert_eq!(server.dropped(), 0);
    Ok(())
}

#[tokio::test]
async fn v0_readers_of_contended_shards_discard_nothing_early() -> Verdict {
    let recording = recording::named("v0-contended")?;
    let server = Child::start(&[
        // The recorded overtakings take at most 5 ms, but a busy machine may
        // stall one connection for longer than the default of 50 ms, and the
        // test is about order, not about speed.
        "--reorder-window=1s",
        // For the same reason: a joining reader may be stalled between its
        // read and its subscribe.
        "--v0-replay-window=60s",
    ])
    .await?;
    let url = server.url();
    let (service, broadcaster) = tokio::join!(
        every_reader_gets_an_unbroken_run(&url, &url, &recording),
        a_broadcaster_breaks_the_run(&recording),
    );
    service?;
    broadcaster
}
