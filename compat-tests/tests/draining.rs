//! SIGTERM: everybody is told, and the server goes in time.

use std::time::Duration;

use bytes::Bytes;
use persist_pubsub_compat_tests::child::Child;
use persist_pubsub_compat_tests::operator::Operator;
use persist_pubsub_compat_tests::raw_call::RawCall;
use persist_pubsub_compat_tests::raw_connection::{PREFACE, RawConnection};
use persist_pubsub_compat_tests::recording::Push;
use persist_pubsub_compat_tests::wait::{until, within};
use persist_pubsub_compat_tests::{v0_peer, v1_peer};
use persist_pubsub_proto::{ShardId, v0, v1};
use tonic::Code;

use super::{Failure, Verdict, server};

const SHARD: ShardId = ShardId::new([0xd7; 16]);
const HEALTH: &str = "/grpc.health.v1.Health/Check";
/// Longer than any test waits: what waits for it fails.
const NEVER: [&str; 2] = ["--drain-window=1h", "--drain-timeout=1h"];

/// The answer of the health service: 1 serving, 2 not.
async fn health(server: &Child, service: &str) -> Result<u8, Failure> {
    let mut call = RawCall::open(server.addresses().listen, HEALTH, &[]).await?;
    let length = u8::try_from(service.len())?;
    let request = [&[0, 0, 0, 0, length + 2, 0x0a, length], service.as_bytes()].concat();
    call.send(request)?;
    call.half_close()?;
    let answer = call.answer("the health").await?;
    // A message of one field, an enum.
    match answer.body[..] {
        [0, 0, 0, 0, 2, 8, status] => Ok(status),
        _ => Err(format!("{answer:?}").into()),
    }
}

/// It went by itself, with nobody left: exit code 0.
async fn goes_complete(mut server: Child) -> Verdict {
    let status = server.wait().await?;
    assert_eq!(status.code(), Some(0), "{}", server.log());
    let log = server.log();
    assert!(log.contains("every stream had ended"), "{log}");
    Ok(())
}

#[tokio::test]
async fn sessions_are_told_and_their_streams_end_with_ok() -> Verdict {
    for signal in ["TERM", "INT"] {
        let server = server(&["--drain-window=300ms", "--drain-timeout=40s"]).await?;
        let mut v0 = v0_peer::Peer::connect(&server.url(), "v0").await?;
        let mut v1 = v1_peer::Peer::connect(&server.url(), "v1").await?;
        v0.sender().subscribe(SHARD).await?;
        v1.follow(SHARD, None).await?;
        server.signal(signal).await?;
        let draining = v1.receiver().expect_draining("to be told").await?;
        assert_eq!(draining.window_millis, 300);
        assert!(!draining.reason.is_empty());
        let end = v1.receiver().expect_end("the end").await?;
        assert_eq!(end.code(), Code::Ok, "{end:?}");
        let end = within("the end of v0", v0.receiver().receive()).await??;
        assert!(end.is_none(), "{end:?}");
        goes_complete(server).await?;
    }
    Ok(())
}

#[tokio::test]
async fn readiness_goes_at_once_and_sessions_live_on_for_the_window() -> Verdict {
    let mut server = server(&NEVER).await?;
    let operator = Operator::connect(&server).await?;
    let services = [
        "",
        "persist.pubsub.v1.PubSubService",
        "mz_persist_client.internal.service.ProtoPersistPubSub",
    ];
    for service in services {
        assert_eq!(health(&server, service).await?, 1, "{service:?}");
    }
    assert_eq!(operator.get("/readyz").await?.0, 200);
    let mut v1 = v1_peer::Peer::connect(&server.url(), "v1").await?;
    let writer = v1_peer::Peer::connect(&server.url(), "writer").await?;
    v1.follow(SHARD, None).await?;

    server.terminate().await?;
    v1.receiver().expect_draining("to be told").await?;
    assert_eq!(
        operator.get("/readyz").await?,
        (503, "draining\n".to_owned())
    );
    assert_eq!(operator.get("/livez").await?.0, 200);
    for service in services {
        until(&format!("{service:?} not to be serving"), async || {
            (health(&server, service).await.ok()? == 2).then_some(())
        })
        .await?;
    }
    let info = operator.info().await?;
    assert_eq!(info.state, "draining");
    // New streams are sent elsewhere; old ones are served.
    for path in [v0::PATH, v1::PATH] {
        let call = RawCall::open(server.addresses().listen, path, &[]).await?;
        let answer = call.answer("a refusal").await?;
        assert_eq!(answer.status, Some(Code::Unavailable as i32), "{answer:?}");
    }
    writer.sender().publish(SHARD, 1, 1, "still").await?;
    assert_eq!(v1.receiver().expect_diff("a diff").await?.diff, "still");

    // A second signal ends it at once, an hour early.
    server.terminate().await?;
    assert_eq!(server.wait().await?.code(), Some(1), "{}", server.log());
    Ok(())
}

#[tokio::test]
async fn a_server_whose_clients_have_gone_goes_at_once() -> Verdict {
    let server = server(&NEVER).await?;
    let (sender, mut receiver) = v1_peer::Peer::connect(&server.url(), "v1").await?.split();
    server.terminate().await?;
    receiver.expect_draining("to be told").await?;
    drop(sender);
    let end = receiver.expect_end("the end").await?;
    assert_eq!(end.code(), Code::Ok, "{end:?}");
    goes_complete(server).await
}

#[tokio::test]
async fn a_server_without_clients_goes_at_once() -> Verdict {
    let server = server(&NEVER).await?;
    server.terminate().await?;
    goes_complete(server).await
}

#[tokio::test]
async fn what_was_published_before_the_end_arrives() -> Verdict {
    let server = server(&["--drain-window=300ms", "--drain-timeout=40s"]).await?;
    let mut writer = v1_peer::Peer::connect(&server.url(), "writer").await?;
    let mut v0 = v0_peer::Peer::connect(&server.url(), "v0").await?;
    let mut v1 = v1_peer::Peer::connect(&server.url(), "v1").await?;
    v0.sender().subscribe(SHARD).await?;
    v1.follow(SHARD, Some(0)).await?;
    for seqno in 1..=300 {
        writer
            .sender()
            .publish(SHARD, seqno, 1, vec![1; 10_000])
            .await?;
    }
    // The last one is taken: what comes now is the rest and the end.
    writer.sender().unsubscribe(1, &[]).await?;
    writer.receiver().expect_unsubscribed("an answer").await?;
    server.terminate().await?;
    for seqno in 1..=300 {
        let got = v0.receiver().expect_push("v0's diffs").await?;
        assert_eq!(got.seqno, seqno);
    }
    let mut next = 1;
    loop {
        use persist_pubsub_proto::v1::session_response::Message as Response;
        match v1.receiver().expect("v1's diffs, and the news").await {
            Ok(Response::Diff(diff)) => {
                assert_eq!(diff.seqno, next);
                next += 1;
            }
            Ok(Response::Draining(_)) => {}
            Ok(other) => return Err(format!("{other:?}").into()),
            Err(_) => break,
        }
    }
    assert_eq!(next, 301);
    drop(writer);
    goes_complete(server).await
}

#[tokio::test]
async fn peers_that_do_not_read_cannot_hold_it() -> Verdict {
    let mut server = server(&["--drain-window=100ms", "--drain-timeout=1s"]).await?;
    let stalled_v0 = v0_peer::Peer::connect(&server.url(), "stalled").await?;
    let mut stalled_v1 = v1_peer::Peer::connect(&server.url(), "stalled").await?;
    let writer = v0_peer::Peer::connect(&server.url(), "writer").await?;
    stalled_v0.sender().subscribe(SHARD).await?;
    stalled_v1.follow(SHARD, Some(0)).await?;
    let operator = Operator::connect(&server).await?;
    let mut seqno = 0;
    // More than the windows and buffers on the way hold.
    let full = async || {
        for _ in 0..20 {
            seqno += 1;
            let diff = Bytes::from(vec![1; 100_000]);
            let push = Push {
                shard: SHARD,
                seqno,
                diff,
            };
            writer.sender().push(push).await.ok()?;
        }
        let sessions = operator.sessions().await.ok()?;
        let stuck = |s: &&persist_pubsub_proto::admin_v1::Session| {
            let waited = s.behind_for.map(|d| d.seconds >= 1);
            waited == Some(true)
        };
        (sessions.iter().filter(stuck).count() == 2).then_some(())
    };
    until("both to be stuck", full).await?;
    server.terminate().await?;
    assert_eq!(server.wait().await?.code(), Some(0), "{}", server.log());
    Ok(())
}

/// Streams and connections that have not said who they are, with a handshake
/// that would last for longer than the test.
#[tokio::test]
async fn peers_that_say_nothing_cannot_hold_it() -> Verdict {
    let flags = [
        "--drain-window=100ms",
        "--drain-timeout=40s",
        "--handshake-timeout=1h",
    ];
    let server = server(&flags).await?;
    let (_sender, mut receiver) = v1_peer::open(&server.url()).await?;
    let silent = RawConnection::connect(server.addresses().listen).await?;
    let mut polite = RawConnection::connect(server.addresses().listen).await?;
    polite.write(PREFACE).await?;
    let operator = Operator::connect(&server).await?;
    let mut watch = operator.watch("", "").await?;
    server.terminate().await?;
    let end = receiver
        .expect_end("the end of a stream without a Hello")
        .await?;
    assert_eq!(end.code(), Code::Ok, "{end:?}");
    goes_complete(server).await?;
    silent.closed("the end of a silent connection").await?;
    polite.closed("the end of a polite connection").await?;
    // However a watch ends, it does.
    let _ = within("the end of a watch", watch.message()).await?;
    Ok(())
}

/// A stream whose Hello comes when the drain has begun is told as well.
#[tokio::test]
async fn a_hello_during_the_drain_is_told() -> Verdict {
    let flags = [
        "--drain-window=100ms",
        "--drain-timeout=40s",
        "--handshake-timeout=1h",
    ];
    let server = server(&flags).await?;
    let mut told = v1_peer::Peer::connect(&server.url(), "told").await?;
    let (sender, mut receiver) = v1_peer::open(&server.url()).await?;
    server.terminate().await?;
    told.receiver()
        .expect_draining("the drain to begin")
        .await?;
    let hello = persist_pubsub_proto::v1::session_request::Message::Hello(v1_peer::hello("late"));
    // It may be gone already.
    let _ = sender.say(hello).await;
    let end = loop {
        match within("the end", receiver.receive()).await? {
            Ok(Some(_)) => {}
            Ok(None) => break Code::Ok,
            Err(v0_peer::PeerError::Status(status)) => break status.code(),
            Err(error) => return Err(error.into()),
        }
    };
    assert_eq!(end, Code::Ok);
    drop(told);
    goes_complete(server).await
}

#[tokio::test]
async fn the_window_is_bounded_by_the_deadline() -> Verdict {
    let mut server = server(&["--drain-window=2s", "--drain-timeout=2s"]).await?;
    let mut v1 = v1_peer::Peer::connect(&server.url(), "v1").await?;
    server.terminate().await?;
    let draining = v1.receiver().expect_draining("to be told").await?;
    let window = Duration::from_millis(draining.window_millis.into());
    assert!(
        window < Duration::from_secs(2),
        "it could not be kept: {window:?}"
    );
    assert_eq!(v1.receiver().expect_end("the end").await?.code(), Code::Ok);
    assert_eq!(server.wait().await?.code(), Some(0));
    Ok(())
}
