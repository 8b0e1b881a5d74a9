//! What a v0 client can say wrongly. It cannot be told: a bad message is
//! counted, logged within a rate, and skipped.

use bytes::Bytes;
use persist_pubsub_compat_tests::bystanders::Bystanders;
use persist_pubsub_compat_tests::operator::Operator;
use persist_pubsub_compat_tests::raw_call::RawCall;
use persist_pubsub_compat_tests::recording::Push;
use persist_pubsub_compat_tests::v0_peer::Peer;
use persist_pubsub_compat_tests::v1_peer;
use persist_pubsub_compat_tests::wait::until;
use persist_pubsub_proto::ShardId;
use persist_pubsub_proto::v0::proto_pub_sub_message::Message as Kind;
use persist_pubsub_proto::v0::{
    self, CALLER_ID, ProtoDuration, ProtoPubSubMessage, ProtoPushDiff, ProtoSubscribe,
    ProtoUnsubscribe,
};
use prost::Message as _;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};

use super::{Verdict, server};

const SHARD: ShardId = ShardId::new([0xd; 16]);
/// So small that a message which is too large is cheap.
const SMALL: [&str; 2] = ["--max-message-bytes=64KiB", "--max-diff-bytes=32KiB"];

fn push(seqno: u64, diff: impl Into<Bytes>) -> Push {
    Push {
        shard: SHARD,
        seqno,
        diff: diff.into(),
    }
}

fn message(kind: Option<Kind>) -> Bytes {
    let message = ProtoPubSubMessage {
        timestamp: Some(ProtoDuration { secs: 1, nanos: 2 }),
        message: kind,
    };
    message.encode_to_vec().into()
}

fn about(shard_id: &str) -> [Bytes; 3] {
    let shard_id = shard_id.to_owned();
    [
        Kind::PushDiff(ProtoPushDiff {
            shard_id: shard_id.clone(),
            seqno: 1,
            diff: Bytes::from_static(b"x"),
        }),
        Kind::Subscribe(ProtoSubscribe {
            shard_id: shard_id.clone(),
        }),
        Kind::Unsubscribe(ProtoUnsubscribe { shard_id }),
    ]
    .map(|kind| message(Some(kind)))
}

/// Bad messages, by the reason under which they are counted.
fn bad_messages() -> Vec<(&'static str, Bytes)> {
    let absurd = |seqno| {
        message(Some(Kind::PushDiff(ProtoPushDiff {
            shard_id: SHARD.to_string(),
            seqno,
            diff: Bytes::from_static(b"x"),
        })))
    };
    let mut bad = vec![
        ("malformed", Bytes::from_static(&[0xff; 40])),
        // A field that is longer than the message.
        ("malformed", Bytes::from_static(&[0x12, 0x7f, 1, 2, 3])),
        // A shard id that is not UTF-8.
        (
            "malformed",
            Bytes::from_static(&[0x1a, 4, 0x0a, 2, 0xc3, 0x28]),
        ),
        ("empty", Bytes::new()),
        ("empty", message(None)),
        // A kind of a later version: field 9.
        ("empty", Bytes::from_static(&[0x4a, 2, 0x0a, 0])),
        ("invalid_seqno", absurd(u64::MAX)),
        ("invalid_seqno", absurd(1 << 63)),
        ("too_large", Bytes::from(vec![0; 64 * 1024 + 1])),
        ("too_large", Bytes::from(vec![0; 3 * 1024 * 1024])),
    ];
    let text = SHARD.to_string();
    for shard_id in [
        String::new(),
        "s".to_owned(),
        "nonsense".to_owned(),
        text.replacen('s', "", 1),
        text.replacen('s', "t", 1),
        text.replacen('-', "_", 1),
        text.clone() + "0",
        text.clone() + "\n",
        text[..36].to_owned() + "\u{e9}",
        "s".repeat(30_000),
    ] {
        bad.extend(about(&shard_id).map(|message| ("invalid_shard_id", message)));
    }
    bad
}

#[tokio::test]
async fn a_bad_message_is_counted_and_skipped() -> Verdict {
    let server = server(&SMALL).await?;
    let operator = Operator::connect(&server).await?;
    let mut bystanders = Bystanders::meet(&server.url()).await?;
    let mut peer = Peer::connect(&server.url(), "bad").await?;
    let writer = Peer::connect(&server.url(), "writer").await?;
    peer.sender().subscribe(SHARD).await?;
    let mut seqno = 0;
    for (reason, bad) in bad_messages() {
        let before = operator.rejected("v0", reason).await?;
        peer.sender().send(bad.clone()).await?;
        let shown = &bad[..bad.len().min(60)];
        until(
            &format!("{shown:?} to be counted as {reason}"),
            async || (operator.rejected("v0", reason).await.ok()? == before + 1.0).then_some(()),
        )
        .await?;
        // It may still listen, and speak.
        seqno += 1;
        writer.sender().push(push(seqno, "good")).await?;
        let got = peer
            .receiver()
            .expect_push("a diff after a bad message")
            .await?;
        assert_eq!(got, push(seqno, "good"));
        bystanders.are_served().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_thousand_bad_messages_are_not_a_thousand_lines() -> Verdict {
    let server = server(&[]).await?;
    let operator = Operator::connect(&server).await?;
    let mut bystanders = Bystanders::meet(&server.url()).await?;
    let peer = Peer::connect(&server.url(), "bad").await?;
    for _ in 0..1000 {
        peer.sender().send(Bytes::from_static(&[0xff; 40])).await?;
    }
    until("all to be counted", async || {
        (operator.rejected("v0", "malformed").await.ok()? == 1000.0).then_some(())
    })
    .await?;
    let log = server.log();
    let lines = log.lines().filter(|l| l.contains("message refused"));
    let lines = lines.count();
    assert!((1..=20).contains(&lines), "{lines} lines:\n{log}");
    bystanders.are_served().await?;
    Ok(())
}

#[tokio::test]
async fn unknown_fields_are_ignored() -> Verdict {
    let server = server(&[]).await?;
    let mut v0 = Peer::connect(&server.url(), "v0").await?;
    let mut v1 = v1_peer::Peer::connect(&server.url(), "v1").await?;
    v1.follow(SHARD, Some(0)).await?;
    v0.sender().subscribe(SHARD).await?;
    let writer = Peer::connect(&server.url(), "writer").await?;
    let mut unusual = message(Some(Kind::PushDiff(ProtoPushDiff {
        shard_id: SHARD.to_string(),
        seqno: 1,
        diff: Bytes::from_static(b"known"),
    })))
    .to_vec();
    // Field 100, a varint; field 101, bytes.
    unusual.extend_from_slice(&[0xa0, 6, 1, 0xaa, 6, 3, 1, 2, 3]);
    writer.sender().send(unusual.into()).await?;
    let got = v0.receiver().expect_push("the diff").await?;
    assert_eq!(got, push(1, "known"));
    let got = v1.receiver().expect_diff("the diff").await?;
    assert_eq!(got.diff, "known");
    assert_eq!(got.committed_unix_nanos, 1_000_000_002);
    Ok(())
}

#[tokio::test]
async fn a_diff_above_the_bound_is_a_gap_to_v1_and_nothing_to_v0() -> Verdict {
    let server = server(&SMALL).await?;
    let operator = Operator::connect(&server).await?;
    let writer = Peer::connect(&server.url(), "writer").await?;
    let mut v0 = Peer::connect(&server.url(), "v0").await?;
    let mut v1 = v1_peer::Peer::connect(&server.url(), "v1").await?;
    v1.follow(SHARD, Some(0)).await?;
    v0.sender().subscribe(SHARD).await?;
    writer.sender().push(push(1, "small")).await?;
    writer
        .sender()
        .push(push(2, vec![7; 32 * 1024 + 1]))
        .await?;
    writer.sender().push(push(3, vec![7; 32 * 1024])).await?;
    assert_eq!(v1.receiver().expect_diff("1").await?.seqno, 1);
    let gap = v1.receiver().expect_gap("what was too large").await?;
    assert_eq!((gap.from_seqno, gap.to_seqno), (2, 2));
    assert!(gap.highest_seqno >= 2, "{gap:?}");
    assert_eq!(v1.receiver().expect_diff("3").await?.seqno, 3);
    for seqno in [1, 3] {
        assert_eq!(v0.receiver().expect_push("1 and 3").await?.seqno, seqno);
    }
    let count = operator
        .metric("persist_pubsub_diffs_too_large_total")
        .await?;
    assert!((count - 1.0).abs() < 0.1, "{count}");
    Ok(())
}

#[tokio::test]
async fn a_diff_that_v0_cannot_take_goes_to_v1_alone() -> Verdict {
    let server = server(&["--max-diff-bytes=8MiB"]).await?;
    let operator = Operator::connect(&server).await?;
    let mut v0 = Peer::connect(&server.url(), "v0").await?;
    let mut v1 = v1_peer::Peer::connect(&server.url(), "v1").await?;
    let writer = v1_peer::Peer::connect(&server.url(), "writer").await?;
    v1.follow(SHARD, Some(0)).await?;
    v0.sender().subscribe(SHARD).await?;
    let large = Bytes::from(vec![7; 5 * 1024 * 1024]);
    writer.sender().publish(SHARD, 1, 1, large.clone()).await?;
    writer.sender().publish(SHARD, 2, 1, "small").await?;
    assert!(v1.receiver().expect_diff("the large one").await?.diff == large);
    assert_eq!(
        v1.receiver().expect_diff("the small one").await?.diff,
        "small"
    );
    assert_eq!(
        v0.receiver().expect_push("the small one").await?,
        push(2, "small")
    );
    let series = "persist_pubsub_diffs_too_large_for_v0_total";
    assert!(operator.metric(series).await? > 0.0);
    Ok(())
}

#[tokio::test]
async fn caller_ids_are_shown_escaped_and_cut() -> Verdict {
    let server = server(&[]).await?;
    let operator = Operator::connect(&server).await?;
    let mut bystanders = Bystanders::meet(&server.url()).await?;
    let long = vec![b'a'; 5000];
    for (caller_id, shown) in [
        (
            &b"caf\xc3\xa9 \xff\x80"[..],
            r"caf\xc3\xa9 \xff\x80".to_owned(),
        ),
        (&long, "a".repeat(256) + "..."),
        (b"", String::new()),
    ] {
        let mut metadata = MetadataMap::new();
        metadata.insert(CALLER_ID, AsciiMetadataValue::try_from(caller_id)?);
        let peer = Peer::connect_with(&server.url(), metadata).await?;
        until(&format!("a session called {shown:?}"), async || {
            let sessions = operator.sessions().await.ok()?;
            sessions.iter().find(|s| s.caller_id == shown).map(drop)
        })
        .await?;
        drop(peer);
    }
    let nameless = Peer::connect_with(&server.url(), MetadataMap::new()).await?;
    until("a session called unknown", async || {
        let sessions = operator.sessions().await.ok()?;
        sessions.iter().find(|s| s.caller_id == "unknown").map(drop)
    })
    .await?;
    drop(nameless);
    bystanders.are_served().await?;
    // Log lines are for terminals and for machines: one a session, no bytes
    // of a peer's that could be taken for something else.
    assert!(server.log().is_ascii());
    Ok(())
}

#[tokio::test]
async fn a_huge_caller_id_is_refused() -> Verdict {
    let server = server(&["--max-header-bytes=16KiB"]).await?;
    let mut bystanders = Bystanders::meet(&server.url()).await?;
    for size in [17 * 1024, 1024 * 1024] {
        let caller_id = vec![b'a'; size];
        let headers = [(CALLER_ID, &caller_id[..])];
        let call = RawCall::open(server.addresses().listen, v0::PATH, &headers).await?;
        // 431: Request Header Fields Too Large; or the end of a connection on
        // which that much came.
        let answer = call.answer("the refusal of a huge caller id").await;
        assert!(answer.as_ref().map_or(431, |a| a.http) == 431, "{answer:?}");
        bystanders.are_served().await?;
    }
    Ok(())
}

#[tokio::test]
async fn subscribing_twice_replays_and_unsubscribing_twice_is_harmless() -> Verdict {
    let server = server(&["--v0-replay-window=60s"]).await?;
    let operator = Operator::connect(&server).await?;
    let writer = Peer::connect(&server.url(), "writer").await?;
    let mut peer = Peer::connect(&server.url(), "peer").await?;
    // Nothing to give back: nothing happens.
    peer.sender().unsubscribe(SHARD).await?;
    peer.sender().subscribe(SHARD).await?;
    writer.sender().push(push(1, "one")).await?;
    assert_eq!(peer.receiver().expect_push("1").await?, push(1, "one"));
    peer.sender().subscribe(SHARD).await?;
    assert_eq!(
        peer.receiver().expect_push("1 again").await?,
        push(1, "one")
    );
    writer.sender().push(push(2, "two")).await?;
    assert_eq!(
        peer.receiver().expect_push("2, once").await?,
        push(2, "two")
    );
    let subscriptions = "persist_pubsub_subscriptions";
    assert!((operator.metric(subscriptions).await? - 1.0).abs() < 0.1);
    peer.sender().unsubscribe(SHARD).await?;
    peer.sender().unsubscribe(SHARD).await?;
    until("the subscription to be gone", async || {
        (operator.metric(subscriptions).await.ok()? == 0.0).then_some(())
    })
    .await?;
    writer.sender().push(push(3, "three")).await?;
    peer.sender().subscribe(SHARD).await?;
    for (seqno, diff) in [(1, "one"), (2, "two"), (3, "three")] {
        let got = peer.receiver().expect_push("the replay").await?;
        assert_eq!(got, push(seqno, diff));
    }
    Ok(())
}
