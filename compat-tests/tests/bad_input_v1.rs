//! What a v1 client can say wrongly. A bad message costs that message: it is
//! answered, and the stream lives on.

use bytes::Bytes;
use persist_pubsub_compat_tests::bystanders::Bystanders;
use persist_pubsub_compat_tests::operator::Operator;
use persist_pubsub_compat_tests::v1_peer::{self, Peer, Receiver, Sender, hello};
use persist_pubsub_proto::ShardId;
use persist_pubsub_proto::v1::session_request::Message as Request;
use persist_pubsub_proto::v1::{
    Heartbeat, Hello, Publish, Rejected, RejectionCode as Code, SessionMode, SessionRequest,
    ShardPosition, Subscribe, Unsubscribe,
};
use prost::Message as _;
use tonic::Code as Status;

use super::{Failure, Verdict, server};

const SHARD: ShardId = ShardId::new([0xe; 16]);
/// So small that a message which is too large is cheap.
const SMALL: [&str; 2] = ["--max-message-bytes=64KiB", "--max-diff-bytes=32KiB"];
const REQUEST: u64 = 77;

fn encoded(request: Request) -> Bytes {
    let request = SessionRequest {
        message: Some(request),
    };
    request.encode_to_vec().into()
}

/// A message about a shard, of each kind, with the request id that its
/// rejection has to name.
fn about(shard_id: &[u8]) -> [(Request, u64); 3] {
    let shard_id = Bytes::copy_from_slice(shard_id);
    let publish = Publish {
        shard_id: shard_id.clone(),
        seqno: 1,
        diff: Some(Bytes::from_static(b"x")),
        ..Publish::default()
    };
    let good = ShardPosition {
        shard_id: SHARD.to_bytes(),
        seqno: None,
    };
    let bad = ShardPosition {
        shard_id: shard_id.clone(),
        seqno: None,
    };
    let subscribe = Subscribe {
        request_id: REQUEST,
        shards: vec![good, bad],
    };
    let unsubscribe = Unsubscribe {
        request_id: REQUEST,
        shard_ids: vec![SHARD.to_bytes(), shard_id],
    };
    [
        (Request::Publish(publish), 0),
        (Request::Subscribe(subscribe), REQUEST),
        (Request::Unsubscribe(unsubscribe), REQUEST),
    ]
}

/// Bad messages of a session that was welcomed, the code that answers each,
/// and the request id.
fn bad_messages() -> Vec<(Code, u64, Bytes)> {
    let mut bad = vec![
        (Code::Malformed, 0, Bytes::from_static(&[0xff; 40])),
        (Code::Malformed, 0, Bytes::from_static(&[0x12, 0x7f, 1, 2])),
        (Code::TooLarge, 0, vec![0; 64 * 1024 + 1].into()),
        (Code::TooLarge, 0, vec![0; 3 * 1024 * 1024].into()),
        (
            Code::HelloRepeated,
            0,
            encoded(Request::Hello(hello("again"))),
        ),
    ];
    for shard_id in [&b""[..], &[1; 15], &[1; 17], &[1; 30_000]] {
        bad.extend(about(shard_id).map(|(m, id)| (Code::InvalidShardId, id, encoded(m))));
    }
    for seqno in [1 << 63, u64::MAX] {
        let publish = |diff: Option<&'static str>| {
            encoded(Request::Publish(Publish {
                shard_id: SHARD.to_bytes(),
                seqno,
                diff: diff.map(Bytes::from),
                ..Publish::default()
            }))
        };
        let subscribe = encoded(Request::Subscribe(Subscribe {
            request_id: REQUEST,
            shards: vec![ShardPosition {
                shard_id: SHARD.to_bytes(),
                seqno: Some(seqno),
            }],
        }));
        bad.push((Code::InvalidSeqno, 0, publish(Some("x"))));
        bad.push((Code::InvalidSeqno, 0, publish(None)));
        bad.push((Code::InvalidSeqno, REQUEST, subscribe));
    }
    let nameless = [
        Request::Subscribe(Subscribe::default()),
        Request::Unsubscribe(Unsubscribe::default()),
    ];
    bad.extend(nameless.map(|m| (Code::InvalidField, 0, encoded(m))));
    bad
}

async fn rejected(receiver: &mut Receiver, code: Code) -> Result<Rejected, Failure> {
    let what = format!("a rejection: {}", code.as_str_name());
    let rejected = receiver.expect_rejected(&what).await?;
    assert_eq!(rejected.code(), code, "{rejected:?}");
    assert!(!rejected.reason.is_empty(), "{rejected:?}");
    Ok(rejected)
}

#[tokio::test]
async fn a_bad_message_is_answered_and_the_stream_lives_on() -> Verdict {
    let server = server(&SMALL).await?;
    let operator = Operator::connect(&server).await?;
    let mut bystanders = Bystanders::meet(&server.url()).await?;
    let writer = Peer::connect(&server.url(), "writer").await?;
    let mut peer = Peer::connect(&server.url(), "bad").await?;
    let other = ShardId::new([0xf; 16]);
    peer.follow(other, Some(0)).await?;
    let bad = bad_messages();
    let count = bad.len();
    for (seqno, (code, request_id, message)) in (1..).zip(bad) {
        peer.sender().send(message).await?;
        let got = rejected(peer.receiver(), code).await?;
        assert_eq!(got.request_id, request_id, "{got:?}");
        writer.sender().publish(other, seqno, 1, "good").await?;
        let diff = peer.receiver().expect_diff("a diff afterwards").await?;
        assert_eq!(diff.seqno, seqno);
        bystanders.are_served().await?;
    }
    let metric = "persist_pubsub_messages_rejected_total{reason=";
    let (_, metrics) = operator.get("/metrics").await?;
    let counted: f64 = metrics
        .lines()
        .filter(|line| line.starts_with(metric) && line.contains("wire=\"v1\""))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    assert!((counted - count as f64).abs() < 0.1, "{counted} of {count}");
    // Of a request that is wrong in part nothing is taken.
    let shards = operator.shards().await?;
    let refused = shards.iter().find(|s| s.shard_id == SHARD.to_string());
    assert_eq!(refused.map_or(0, |s| s.subscribers), 0);
    Ok(())
}

#[tokio::test]
async fn a_rejected_publish_names_its_shard_and_seqno() -> Verdict {
    let server = server(&[]).await?;
    let mut peer = Peer::connect(&server.url(), "peer").await?;
    peer.sender().publish(SHARD, u64::MAX, 1, "x").await?;
    let got = rejected(peer.receiver(), Code::InvalidSeqno).await?;
    assert_eq!(
        (got.shard_id, got.seqno),
        (SHARD.to_bytes(), Some(u64::MAX))
    );
    Ok(())
}

#[tokio::test]
async fn a_thousand_bad_messages_are_not_a_thousand_lines() -> Verdict {
    let server = server(&[]).await?;
    let operator = Operator::connect(&server).await?;
    let mut bystanders = Bystanders::meet(&server.url()).await?;
    let (sender, mut receiver) = Peer::connect(&server.url(), "bad").await?.split();
    let flood = tokio::spawn(async move {
        for _ in 0..1000 {
            sender.send(Bytes::from_static(&[0xff; 40])).await?;
        }
        Ok::<_, persist_pubsub_compat_tests::v0_peer::PeerError>(sender)
    });
    for _ in 0..1000 {
        rejected(&mut receiver, Code::Malformed).await?;
    }
    let _still_open = flood.await??;
    let counted = operator.rejected("v1", "malformed").await?;
    assert!((counted - 1000.0).abs() < 0.1, "{counted}");
    let log = server.log();
    let lines = log.lines().filter(|l| l.contains("message refused"));
    let lines = lines.count();
    assert!((1..=20).contains(&lines), "{lines} lines:\n{log}");
    bystanders.are_served().await?;
    Ok(())
}

#[tokio::test]
async fn what_is_not_known_is_ignored() -> Verdict {
    let server = server(&[]).await?;
    let mut peer = Peer::connect(&server.url(), "peer").await?;
    let writer = Peer::connect(&server.url(), "writer").await?;
    peer.follow(SHARD, Some(0)).await?;
    // An empty oneof; a kind of a later revision; a heartbeat.
    peer.sender().send(Bytes::new()).await?;
    let later = Bytes::from_static(&[0xa2, 6, 2, 0x0a, 0]);
    peer.sender().send(later).await?;
    peer.sender().say(Request::Heartbeat(Heartbeat {})).await?;
    // A publish with fields of a later revision, within and beside it.
    let publish = encoded(Request::Publish(Publish {
        shard_id: SHARD.to_bytes(),
        seqno: 1,
        committed_unix_nanos: 5,
        diff: Some(Bytes::from_static(b"known")),
    }));
    let mut unusual = publish.to_vec();
    // Within it: fields 15 and 14; its length stands behind its tag.
    unusual[1] += 4;
    unusual.extend_from_slice(&[0x78, 1, 0x70, 1]);
    // Beside it: field 101.
    unusual.extend_from_slice(&[0xaa, 6, 1, 9]);
    writer.sender().send(unusual.into()).await?;
    let diff = peer
        .receiver()
        .expect_diff("the diff, and no answer")
        .await?;
    assert_eq!((diff.seqno, diff.diff), (1, Bytes::from_static(b"known")));
    assert_eq!(diff.committed_unix_nanos, 5);
    Ok(())
}

async fn stream(url: &str) -> Result<(Sender, Receiver), Failure> {
    Ok(v1_peer::open(url).await?)
}

#[tokio::test]
async fn the_first_message_has_to_be_a_hello() -> Verdict {
    let server = server(&[]).await?;
    let mut bystanders = Bystanders::meet(&server.url()).await?;
    let (sender, mut receiver) = stream(&server.url()).await?;
    let mut early: Vec<Request> = about(SHARD.as_bytes()).map(|(m, _)| m).into();
    early.push(Request::Heartbeat(Heartbeat {}));
    for message in early {
        sender.say(message).await?;
        rejected(&mut receiver, Code::HelloRequired).await?;
    }
    // It may still say it, and is served then.
    sender.say(Request::Hello(hello("late"))).await?;
    receiver.expect_welcome("a welcome").await?;
    sender.subscribe(1, &[(SHARD, None)]).await?;
    let answer = receiver.expect_subscribed("a subscription").await?;
    assert_eq!(answer.shards[0].highest_seqno, None, "nothing was taken");
    bystanders.are_served().await?;
    Ok(())
}

#[tokio::test]
async fn a_hello_that_cannot_be_is_answered_and_may_be_said_again() -> Verdict {
    let server = server(&[]).await?;
    let (sender, mut receiver) = stream(&server.url()).await?;
    let long = "x".repeat(257);
    let base = hello("bad");
    for bad in [
        Hello {
            client_name: long.clone(),
            ..base.clone()
        },
        Hello {
            client_version: long.clone(),
            ..base.clone()
        },
        Hello {
            client_build: long.clone(),
            ..base.clone()
        },
        Hello {
            environment_id: long.clone(),
            ..base.clone()
        },
        Hello {
            role: long,
            ..base.clone()
        },
        Hello {
            min_revision: 0,
            ..base.clone()
        },
        Hello {
            min_revision: 3,
            max_revision: 2,
            ..base.clone()
        },
        Hello {
            capabilities: vec!["x".to_owned(); 65],
            ..base.clone()
        },
        Hello {
            capabilities: vec!["x".repeat(65)],
            ..base.clone()
        },
    ] {
        sender.say(Request::Hello(bad)).await?;
        rejected(&mut receiver, Code::InvalidField).await?;
    }
    let odd = Hello {
        client_name: "\u{1b}[31m\n\u{e9}".to_owned(),
        capabilities: vec!["of-a-later-revision".to_owned()],
        max_revision: 1000,
        mode: 99,
        ..base
    };
    sender.say(Request::Hello(odd)).await?;
    let welcome = receiver.expect_welcome("a welcome").await?;
    assert_eq!((welcome.revision, welcome.capabilities.len()), (1, 0));
    assert_ne!(welcome.session_id, 0);
    let log = server.log();
    assert!(log.is_ascii() && !log.contains('\u{1b}'), "{log}");
    Ok(())
}

#[tokio::test]
async fn no_common_revision_ends_the_stream_and_names_the_revisions() -> Verdict {
    let server = server(&[]).await?;
    let mut bystanders = Bystanders::meet(&server.url()).await?;
    let (sender, mut receiver) = stream(&server.url()).await?;
    let of_later = Hello {
        min_revision: 41,
        max_revision: 42,
        ..hello("of-later")
    };
    sender.say(Request::Hello(of_later)).await?;
    let got = rejected(&mut receiver, Code::NoCommonRevision).await?;
    let end = receiver.expect_end("the end").await?;
    assert_eq!(end.code(), Status::FailedPrecondition, "{end:?}");
    for text in [got.reason.as_str(), end.message()] {
        assert!(
            text.contains("1 to 1") && text.contains("41 to 42"),
            "{text}"
        );
    }
    bystanders.are_served().await?;
    Ok(())
}

#[tokio::test]
async fn a_read_only_session_cannot_publish() -> Verdict {
    let server = server(&[]).await?;
    let mut reader = Peer::connect(&server.url(), "reader").await?;
    reader.follow(SHARD, None).await?;
    for mode in [SessionMode::ReadOnly, SessionMode::Unspecified] {
        let hello = Hello {
            mode: mode.into(),
            ..hello("read-only")
        };
        let mut peer = Peer::connect_as(&server.url(), hello).await?;
        peer.sender().publish(SHARD, 5, 1, "x").await?;
        let got = rejected(peer.receiver(), Code::ReadOnly).await?;
        assert_eq!((got.shard_id, got.seqno), (SHARD.to_bytes(), Some(5)));
        peer.sender().announce(SHARD, 6).await?;
        rejected(peer.receiver(), Code::ReadOnly).await?;
        // It subscribes like any other; nothing of the above was taken.
        assert_eq!(peer.follow(SHARD, None).await?, None);
    }
    Ok(())
}

#[tokio::test]
async fn what_was_not_subscribed_is_unsubscribed_and_what_was_is_answered_again() -> Verdict {
    let server = server(&[]).await?;
    let mut peer = Peer::connect(&server.url(), "peer").await?;
    let writer = Peer::connect(&server.url(), "writer").await?;
    peer.sender().unsubscribe(5, &[SHARD]).await?;
    let answer = peer.receiver().expect_unsubscribed("an answer").await?;
    assert_eq!(answer.request_id, 5);
    for _ in 0..2 {
        assert_eq!(peer.follow(SHARD, Some(0)).await?, None);
    }
    writer.sender().publish(SHARD, 1, 1, "one").await?;
    assert_eq!(peer.receiver().expect_diff("1").await?.seqno, 1);
    assert_eq!(peer.follow(SHARD, Some(0)).await?, Some(1));
    writer.sender().publish(SHARD, 2, 1, "two").await?;
    // It goes on unchanged: 1 does not come again, nor 2 twice.
    assert_eq!(peer.receiver().expect_diff("2").await?.seqno, 2);
    peer.sender().unsubscribe(6, &[SHARD, SHARD]).await?;
    peer.receiver()
        .expect_unsubscribed("an answer, nothing else")
        .await?;
    // An empty request is answered.
    peer.sender().subscribe(7, &[]).await?;
    let answer = peer.receiver().expect_subscribed("an answer").await?;
    assert_eq!((answer.request_id, answer.shards.len()), (7, 0));
    Ok(())
}
