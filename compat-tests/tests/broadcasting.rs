//! The yardstick does what it is said to do, and what it is said not to do.

use bytes::Bytes;
use persist_pubsub_compat_tests::broadcaster::{Broadcaster, QUEUE_OF_TODAY};
use persist_pubsub_compat_tests::recording;
use persist_pubsub_compat_tests::recording::Push;
use persist_pubsub_compat_tests::v0_peer::{Peer, PeerError};
use persist_pubsub_compat_tests::v0_reader::Reader;
use persist_pubsub_compat_tests::wait::within;
use persist_pubsub_proto::ShardId;
use tonic::metadata::MetadataMap;

use super::Verdict;

const A: ShardId = ShardId::new([0xa; 16]);
const B: ShardId = ShardId::new([0xb; 16]);

fn push(shard: ShardId, seqno: u64) -> Push {
    Push {
        shard,
        seqno,
        diff: Bytes::from(format!("{seqno}")),
    }
}

#[tokio::test]
async fn diffs_go_to_the_other_subscribers_of_their_shard() -> Verdict {
    let server = Broadcaster::start(100).await?;
    let writer = Reader::connect(&server.url(), "writer").await?;
    let reader = Reader::connect(&server.url(), "reader").await?;
    let pusher = Peer::connect(&server.url(), "pusher").await?;
    for follower in [&writer, &reader] {
        follower.follow(A, 1).await?;
        follower.mark().await?.passed_by(pusher.sender()).await?;
    }

    // The writer follows A and pushes to it, and to B, which nobody follows.
    let sender = writer.sender();
    sender.push(push(B, 2)).await?;
    sender.push(push(A, 2)).await?;
    reader.mark().await?.passed_by(sender).await?;
    let model = reader.model();
    let applied = &model.shard(A).expect("followed").applied;
    assert_eq!(applied, &[(2, Bytes::from_static(b"2"))]);
    assert_eq!((model.stale, model.early, model.unwanted), (0, 0, 0));

    // The writer hears the others, but never itself.
    pusher.sender().push(push(A, 3)).await?;
    writer.mark().await?.passed_by(pusher.sender()).await?;
    assert_eq!(writer.model().shard(A).expect("followed").applied, []);
    assert_eq!(writer.model().early, 1, "it was not sent its own diff 2");
    Ok(())
}

#[tokio::test]
async fn nothing_comes_after_an_unsubscribe_or_from_before_a_subscribe() -> Verdict {
    let server = Broadcaster::start(100).await?;
    let pusher = Peer::connect(&server.url(), "pusher").await?;
    let reader = Reader::connect(&server.url(), "reader").await?;
    pusher.sender().push(push(A, 2)).await?;
    let mut mark = reader.mark().await?;
    mark.passed_by(pusher.sender()).await?;
    reader.follow(A, 2).await?;
    reader.mark().await?.passed_by(pusher.sender()).await?;
    pusher.sender().push(push(A, 3)).await?;
    mark.passed_by(pusher.sender()).await?;
    reader.sender().unsubscribe(A).await?;
    reader.mark().await?.passed_by(pusher.sender()).await?;
    pusher.sender().push(push(A, 4)).await?;
    mark.passed_by(pusher.sender()).await?;
    let model = reader.model();
    assert_eq!(model.shard(A).expect("followed").state, 3);
    assert_eq!((model.stale, model.early), (0, 0));
    Ok(())
}

#[tokio::test]
async fn what_does_not_fit_a_queue_is_dropped() -> Verdict {
    let server = Broadcaster::start(QUEUE_OF_TODAY).await?;
    let pusher = Peer::connect(&server.url(), "pusher").await?;
    let reader = Reader::connect(&server.url(), "reader").await?;
    // A subscriber that does not read: its flow-control windows fill, then
    // its queue, and then it loses diffs.
    let stalled = Peer::connect(&server.url(), "stalled").await?;
    stalled.sender().subscribe(A).await?;
    let large = Bytes::from(vec![0x5a; 1024 * 1024]);
    let flood = async {
        let mut seqno = 1;
        while server.dropped() == 0 {
            seqno += 1;
            let push = Push {
                diff: large.clone(),
                ..push(A, seqno)
            };
            pusher.sender().push(push).await?;
            // One by one, so that memory is bounded and drops are seen.
            reader.mark().await?.passed_by(pusher.sender()).await?;
        }
        Ok::<_, PeerError>(())
    };
    within("a stalled subscriber to lose a diff", flood).await??;
    Ok(())
}

#[tokio::test]
async fn recorded_bytes_pass_a_peer_unchanged() -> Verdict {
    let recording = recording::named("v0-contended")?;
    let (index, recorded) = recording.pushes().next().ok_or("no push")?;
    let raw = recording.records[index].raw.clone();

    let server = Broadcaster::start(100).await?;
    // A connection without a caller id is served as well.
    let sender = Peer::connect_with(&server.url(), MetadataMap::new()).await?;
    let mut receiver = Peer::connect(&server.url(), "receiver").await?;
    let witness = Reader::connect(&server.url(), "witness").await?;
    receiver.sender().subscribe(recorded.shard).await?;
    witness.mark().await?.passed_by(receiver.sender()).await?;
    sender.sender().send(raw.clone()).await?;
    let received = within("the recorded push", receiver.receiver().receive())
        .await??
        .ok_or(PeerError::Ended)?;
    assert_eq!(received.raw, raw);
    assert_eq!(received.push()?, recorded);
    Ok(())
}

#[tokio::test]
async fn streams_end_when_either_side_is_done() -> Verdict {
    let server = Broadcaster::start(100).await?;
    let (sender, mut receiver) = Peer::connect(&server.url(), "leaving").await?.split();
    drop(sender);
    let end = within("the end after a half-close", receiver.receive()).await??;
    assert!(end.is_none(), "{end:?}");

    let mut staying = Peer::connect(&server.url(), "staying").await?;
    drop(server);
    let end = within("the end with the server", staying.receiver().receive()).await?;
    assert!(matches!(end, Ok(None)), "{end:?}");
    Ok(())
}
