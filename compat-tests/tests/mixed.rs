//! v0 and v1 on the same shards, in both directions.

use bytes::Bytes;
use persist_pubsub_compat_tests::recording::Push;
use persist_pubsub_compat_tests::{v0_peer, v1_peer};
use persist_pubsub_proto::ShardId;
use persist_pubsub_proto::v0::proto_pub_sub_message::Message as Kind;
use persist_pubsub_proto::v0::{ProtoDuration, ProtoPubSubMessage, ProtoPushDiff};
use persist_pubsub_proto::v1::Hello;
use prost::Message as _;

use super::{Verdict, server};

const SHARDS: [ShardId; 3] = [
    ShardId::new([0xa; 16]),
    ShardId::new([0xb; 16]),
    ShardId::new([0xc; 16]),
];
const DIFFS: u64 = 120;
/// Times that are of no clock: a server that stamps anew is found out.
const FIRST_NANOS: u64 = 1_234_567_890_000_000_001;

/// A diff's bytes, which no other diff has: of every size up to some
/// kilobytes, and some so large that a server treats them differently.
fn diff(shard: ShardId, seqno: u64) -> Bytes {
    let size = if seqno.is_multiple_of(40) {
        100_000
    } else {
        37 * seqno + 1
    };
    (0..size)
        .map(|n| (n ^ seqno ^ u64::from(shard.as_bytes()[0])).to_le_bytes()[0])
        .collect()
}

fn nanos(seqno: u64) -> u64 {
    FIRST_NANOS + seqno * 1_000_000_007
}

/// Whether the v1 writer publishes it; the v0 writer publishes the others.
fn is_of_v1(seqno: u64) -> bool {
    seqno.is_multiple_of(3)
}

fn v0_push(shard: ShardId, seqno: u64) -> Bytes {
    let message = ProtoPubSubMessage {
        timestamp: Some(ProtoDuration {
            secs: nanos(seqno) / 1_000_000_000,
            nanos: (nanos(seqno) % 1_000_000_000) as u32,
        }),
        message: Some(Kind::PushDiff(ProtoPushDiff {
            shard_id: shard.to_string(),
            seqno,
            diff: diff(shard, seqno),
        })),
    };
    message.encode_to_vec().into()
}

/// The next diffs of a v0 subscriber are those of `wanted`, of every shard,
/// as a v0 writer would have sent them.
async fn v0_receives(
    receiver: &mut v0_peer::Receiver,
    wanted: impl Fn(u64) -> bool,
) -> Result<(), super::Failure> {
    let mut due = SHARDS.map(|shard| (shard, (1..=DIFFS).filter(|n| wanted(*n)).peekable()));
    while due.iter_mut().any(|(_, seqnos)| seqnos.peek().is_some()) {
        let received =
            persist_pubsub_compat_tests::wait::within("a diff for v0", receiver.receive())
                .await??
                .ok_or("the stream ended")?;
        let raw = received.raw.clone();
        let push = received.push()?;
        let seqnos = due.iter_mut().find(|(shard, _)| *shard == push.shard);
        let next = seqnos.and_then(|(_, seqnos)| seqnos.next());
        assert_eq!(Some(push.seqno), next, "{}: out of order", push.shard);
        assert!(raw == v0_push(push.shard, push.seqno), "other bytes");
    }
    Ok(())
}

/// The same for v1.
async fn v1_receives(
    receiver: &mut v1_peer::Receiver,
    wanted: impl Fn(u64) -> bool,
) -> Result<(), super::Failure> {
    let mut due = SHARDS.map(|shard| (shard, (1..=DIFFS).filter(|n| wanted(*n)).peekable()));
    while due.iter_mut().any(|(_, seqnos)| seqnos.peek().is_some()) {
        let got = receiver.expect_diff("a diff for v1").await?;
        let shard = ShardId::from_slice(&got.shard_id)?;
        let seqnos = due.iter_mut().find(|(s, _)| *s == shard);
        let next = seqnos.and_then(|(_, seqnos)| seqnos.next());
        assert_eq!(Some(got.seqno), next, "{shard}: out of order");
        assert_eq!(got.committed_unix_nanos, nanos(got.seqno), "another time");
        assert!(got.diff == diff(shard, got.seqno), "other bytes");
    }
    Ok(())
}

#[tokio::test]
async fn diffs_cross_the_wire_versions_bit_for_bit() -> Verdict {
    // The writers race: whoever is overtaken is waited for, on a busy machine
    // too.
    let server = server(&["--reorder-window=10s", "--v0-replay-window=60s"]).await?;
    let url = server.url();
    let mut v0_writer = v0_peer::Peer::connect(&url, "writer-v0").await?;
    let mut v0_reader = v0_peer::Peer::connect(&url, "reader-v0").await?;
    let mut v1_writer = v1_peer::Peer::connect(&url, "writer-v1").await?;
    let mut v1_reader = v1_peer::Peer::connect(&url, "reader-v1").await?;
    for shard in SHARDS {
        v1_writer.follow(shard, Some(0)).await?;
        v1_reader.follow(shard, Some(0)).await?;
        v0_writer.sender().subscribe(shard).await?;
        v0_reader.sender().subscribe(shard).await?;
    }
    for seqno in 1..=DIFFS {
        for shard in SHARDS {
            if is_of_v1(seqno) {
                let sender = v1_writer.sender();
                let diff = diff(shard, seqno);
                sender.publish(shard, seqno, nanos(seqno), diff).await?;
            } else {
                v0_writer.sender().send(v0_push(shard, seqno)).await?;
            }
        }
        if seqno == 1 {
            // A server that hears of a shard for the first time cannot know
            // that something came before.
            let shards = SHARDS.len();
            for _ in 0..shards {
                let got = v1_writer.receiver().expect_diff("the first diffs").await?;
                assert_eq!((got.seqno, got.committed_unix_nanos), (1, nanos(1)));
            }
        }
    }
    v0_receives(v0_reader.receiver(), |_| true).await?;
    v1_receives(v1_reader.receiver(), |_| true).await?;
    // No echo: of its own nothing comes, neither as a diff nor as a gap.
    v0_receives(v0_writer.receiver(), is_of_v1).await?;
    v1_receives(v1_writer.receiver(), |n| n > 1 && !is_of_v1(n)).await?;
    Ok(())
}

#[tokio::test]
async fn a_diff_may_be_empty() -> Verdict {
    let server = server(&[]).await?;
    let shard = SHARDS[0];
    let mut v0 = v0_peer::Peer::connect(&server.url(), "v0").await?;
    let mut v1 = v1_peer::Peer::connect(&server.url(), "v1").await?;
    v1.follow(shard, Some(0)).await?;
    v0.sender().subscribe(shard).await?;
    let empty = |seqno| Push {
        shard,
        seqno,
        diff: Bytes::new(),
    };
    v0.sender().push(empty(1)).await?;
    let got = v1.receiver().expect_diff("v0's empty diff").await?;
    assert_eq!((got.seqno, got.diff), (1, Bytes::new()));
    v1.sender()
        .publish(shard, 2, nanos(2), Bytes::new())
        .await?;
    let got = v0.receiver().expect_push("v1's empty diff").await?;
    assert_eq!(got, empty(2));
    Ok(())
}

/// A deployed v0 client measures the age of what it receives: it is given a
/// time with every diff, even where a v1 publisher said none.
#[tokio::test]
async fn v0_is_always_told_a_time() -> Verdict {
    let server = server(&[]).await?;
    let shard = SHARDS[0];
    let mut reader = v0_peer::Peer::connect(&server.url(), "v0").await?;
    let v0_writer = v0_peer::Peer::connect(&server.url(), "v0-writer").await?;
    let v1_writer = v1_peer::Peer::connect(&server.url(), "v1").await?;
    reader.sender().subscribe(shard).await?;
    let mut timeless = ProtoPubSubMessage::decode(v0_push(shard, 1))?;
    timeless.timestamp = None;
    v0_writer
        .sender()
        .send(timeless.encode_to_vec().into())
        .await?;
    let first = reader.receiver().receive().await?.ok_or("the end")?;
    assert!(first.message.timestamp.is_some(), "{first:?}");
    v1_writer
        .sender()
        .publish(shard, 2, 0, diff(shard, 2))
        .await?;
    let second = reader.receiver().receive().await?.ok_or("the end")?;
    assert!(second.message.timestamp.is_some(), "{second:?}");
    Ok(())
}

#[tokio::test]
async fn environments_never_hear_each_other() -> Verdict {
    let server = server(&["--v0-environment=home"]).await?;
    let url = server.url();
    let shard = SHARDS[0];
    let of = |environment: &str| Hello {
        environment_id: environment.to_owned(),
        ..v1_peer::hello(environment)
    };
    let mut v0 = v0_peer::Peer::connect(&url, "home-v0").await?;
    let mut home = v1_peer::Peer::connect_as(&url, of("home")).await?;
    let mut unnamed = v1_peer::Peer::connect_as(&url, of("")).await?;
    let mut away = v1_peer::Peer::connect_as(&url, of("away")).await?;
    let away_writer = v1_peer::Peer::connect_as(&url, of("away")).await?;
    v0.sender().subscribe(shard).await?;
    for peer in [&mut home, &mut unnamed, &mut away] {
        assert_eq!(peer.follow(shard, None).await?, None);
    }

    away_writer.sender().publish(shard, 5, 1, "away 5").await?;
    let got = away.receiver().expect_diff("away's own").await?;
    assert_eq!(got.diff, "away 5");
    // The same seqno, other bytes: neither a duplicate nor a neighbour.
    home.sender().publish(shard, 5, 1, "home 5").await?;
    let got = unnamed.receiver().expect_diff("home's").await?;
    assert_eq!(got.diff, "home 5");
    assert_eq!(v0.receiver().expect_push("home's").await?.diff, "home 5");
    away_writer.sender().publish(shard, 6, 1, "away 6").await?;
    let got = away.receiver().expect_diff("away's own").await?;
    assert_eq!(got.diff, "away 6");
    home.sender().unsubscribe(9, &[shard]).await?;
    let answer = home
        .receiver()
        .expect_unsubscribed("the next message")
        .await?;
    assert_eq!(answer.request_id, 9, "nothing of away before it");
    Ok(())
}
