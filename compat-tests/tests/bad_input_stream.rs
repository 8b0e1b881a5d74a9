//! Streams and connections that are not what they should be, below the
//! messages of either wire version.

use persist_pubsub_compat_tests::bystanders::Bystanders;
use persist_pubsub_compat_tests::operator::Operator;
use persist_pubsub_compat_tests::raw_call::{Answer, RawCall};
use persist_pubsub_compat_tests::raw_connection::{self as raw, PREFACE, RawConnection};
use persist_pubsub_compat_tests::recording::Push;
use persist_pubsub_compat_tests::wait::until;
use persist_pubsub_compat_tests::{v0_peer, v1_peer};
use persist_pubsub_proto::v1::session_request::Message as Request;
use persist_pubsub_proto::{ShardId, v0, v1};
use prost::Message as _;
use tonic::Code;

use super::{Failure, Verdict, server};

const SHARD: ShardId = ShardId::new([0xa5; 16]);
const PATHS: [&str; 2] = [v0::PATH, v1::PATH];

#[track_caller]
fn assert_status(answer: &Answer, code: Code, says: &str) {
    assert_eq!(answer.status, Some(code as i32), "{answer:?}");
    assert!(answer.message.contains(says), "{answer:?}");
}

/// A Hello as a gRPC message.
fn hello() -> Vec<u8> {
    let hello = v1::SessionRequest {
        message: Some(Request::Hello(v1_peer::hello("raw"))),
    };
    raw::message(&hello.encode_to_vec())
}

#[tokio::test]
async fn a_stream_that_ends_within_a_message_is_told_so() -> Verdict {
    let server = server(&[]).await?;
    let mut bystanders = Bystanders::meet(&server.url()).await?;
    for path in PATHS {
        // Within the prefix; within the message; within one that is too
        // large and was being passed over.
        for bytes in [&[0, 0][..], &[0, 0, 0, 0, 9, 1, 2], &[0, 0x7f, 0, 0, 0, 1]] {
            let mut call = RawCall::open(server.addresses().listen, path, &[]).await?;
            call.send(bytes.to_vec())?;
            call.half_close()?;
            let answer = call.answer("the end of a truncated stream").await?;
            assert_status(&answer, Code::InvalidArgument, "within a message");
            bystanders.are_served().await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_connection_that_is_cut_within_a_frame_leaves_nothing() -> Verdict {
    let server = server(&[]).await?;
    let operator = Operator::connect(&server).await?;
    let mut bystanders = Bystanders::meet(&server.url()).await?;
    let before = operator.sessions().await?.len();
    for path in PATHS {
        let mut connection = RawConnection::connect(server.addresses().listen).await?;
        let message = raw::data(&hello());
        let half = &message[..message.len() / 2];
        connection
            .write(&[PREFACE, &raw::headers(path), &raw::data(&hello()), half].concat())
            .await?;
        until("the session to be there", async || {
            (operator.sessions().await.ok()?.len() == before + 1).then_some(())
        })
        .await?;
        drop(connection);
        until("the session to be gone", async || {
            (operator.sessions().await.ok()?.len() == before).then_some(())
        })
        .await?;
        bystanders.are_served().await?;
    }
    Ok(())
}

#[tokio::test]
async fn compression_is_refused() -> Verdict {
    let server = server(&[]).await?;
    let mut bystanders = Bystanders::meet(&server.url()).await?;
    for path in PATHS {
        // The flag of a message; 2 is no flag at all.
        for flag in [1, 2] {
            let mut call = RawCall::open(server.addresses().listen, path, &[]).await?;
            call.send(vec![flag, 0, 0, 0, 1, 0])?;
            let answer = call.answer("the end of a compressed stream").await?;
            assert_status(&answer, Code::InvalidArgument, "compressed");
        }
        let gzip = [("grpc-encoding", &b"gzip"[..])];
        let call = RawCall::open(server.addresses().listen, path, &gzip).await?;
        let answer = call.answer("the refusal of gzip").await?;
        assert_status(&answer, Code::Unimplemented, "compressed");
        bystanders.are_served().await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_is_no_call_of_ours_is_refused() -> Verdict {
    let server = server(&[]).await?;
    let address = server.addresses().listen;
    let mut bystanders = Bystanders::meet(&server.url()).await?;
    for path in [
        "/",
        "/nonsense",
        "/persist.pubsub.v1.PubSubService/Nonsense",
        "/persist.pubsub.v2.PubSubService/Session",
    ] {
        let answer = RawCall::open(address, path, &[]).await?;
        let answer = answer.answer("the refusal of a path").await?;
        assert_status(&answer, Code::Unimplemented, "");
    }
    for path in PATHS {
        for content_type in [&b"application/json"[..], b"application/grpc-web+proto", b""] {
            let headers = [("content-type", content_type)];
            let call = RawCall::open(address, path, &headers).await?;
            let answer = call.answer("the refusal of a content type").await?;
            assert_ne!(answer.status, Some(0), "{answer:?}");
            assert!(answer.http == 415 || answer.status.is_some(), "{answer:?}");
        }
    }
    bystanders.are_served().await?;
    Ok(())
}

#[tokio::test]
async fn what_is_not_http2_is_hung_up_on() -> Verdict {
    let server = server(&[]).await?;
    let mut bystanders = Bystanders::meet(&server.url()).await?;
    let garbage = [0xff; 1000];
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"[..],
        &garbage,
        // A frame of 16 MB, on stream 0, of a kind that may not be there.
        &[PREFACE, &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0]].concat(),
    ] {
        let mut connection = RawConnection::connect(server.addresses().listen).await?;
        connection.write(bytes).await?;
        connection
            .closed("the server to hang up on nonsense")
            .await?;
        bystanders.are_served().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() -> Verdict {
    let server = server(&["--handshake-timeout=200ms"]).await?;
    let operator = Operator::connect(&server).await?;
    let mut bystanders = Bystanders::meet(&server.url()).await?;
    // Nothing at all; and the preface, but no request.
    for bytes in [&b""[..], b"PRI * HTTP", PREFACE] {
        let mut connection = RawConnection::connect(server.addresses().listen).await?;
        connection.write(bytes).await?;
        connection
            .closed("the server to hang up on silence")
            .await?;
    }
    let timeouts = operator
        .metric("persist_pubsub_handshake_timeouts_total")
        .await?;
    assert!(timeouts >= 3.0, "{timeouts}");
    bystanders.are_served().await?;
    Ok(())
}

#[tokio::test]
async fn a_v1_stream_without_a_hello_is_ended() -> Verdict {
    let server = server(&["--handshake-timeout=200ms"]).await?;
    let mut bystanders = Bystanders::meet(&server.url()).await?;
    let (_sender, mut receiver) = v1_peer::open(&server.url()).await?;
    let end = receiver.expect_end("the end of a silent stream").await?;
    assert_eq!(end.code(), Code::DeadlineExceeded, "{end:?}");
    assert!(end.message().contains("Hello"), "{end:?}");
    bystanders.are_served().await?;
    Ok(())
}

#[tokio::test]
async fn a_half_closed_stream_gets_what_is_due_and_then_ok() -> Verdict {
    let server = server(&[]).await?;
    let url = server.url();
    let mut bystanders = Bystanders::meet(&url).await?;
    let mut writer = v1_peer::Peer::connect(&url, "writer").await?;
    for seqno in 1..=500 {
        writer
            .sender()
            .publish(SHARD, seqno, 1, vec![1; 900])
            .await?;
    }
    // Taken, all of it: what is answered comes after it.
    writer.sender().unsubscribe(1, &[]).await?;
    writer.receiver().expect_unsubscribed("an answer").await?;
    let mut witness = v1_peer::Peer::connect(&url, "witness").await?;
    assert_eq!(witness.follow(SHARD, None).await?, Some(500));

    let (sender, mut receiver) = v1_peer::Peer::connect(&url, "leaving").await?.split();
    sender.subscribe(1, &[(SHARD, Some(0))]).await?;
    drop(sender);
    receiver.expect_subscribed("the answer").await?;
    for seqno in 1..=500 {
        assert_eq!(receiver.expect_diff("what is due").await?.seqno, seqno);
    }
    let end = receiver.expect_end("the end").await?;
    assert_eq!(end.code(), Code::Ok, "{end:?}");

    let (sender, mut receiver) = v0_peer::Peer::connect(&url, "leaving").await?.split();
    sender.subscribe(SHARD).await?;
    drop(sender);
    for seqno in 1..=500 {
        assert_eq!(receiver.expect_push("what is due").await?.seqno, seqno);
    }
    assert!(receiver.receive().await?.is_none(), "nothing but the end");

    // One that only writes, and closes at once: what it wrote is taken.
    let (sender, mut receiver) = v0_peer::Peer::connect(&url, "in-a-hurry").await?.split();
    let push = Push {
        shard: SHARD,
        seqno: 501,
        diff: "last".into(),
    };
    sender.push(push).await?;
    drop(sender);
    assert!(receiver.receive().await?.is_none(), "nothing but the end");
    assert_eq!(witness.receiver().expect_diff("501").await?.diff, "last");
    bystanders.are_served().await?;
    Ok(())
}

#[tokio::test]
async fn more_sessions_than_are_taken_are_refused() -> Verdict {
    let server = server(&["--max-sessions=5"]).await?;
    let mut bystanders = Bystanders::meet(&server.url()).await?;
    let first = v1_peer::Peer::connect(&server.url(), "first").await?;
    let second = v0_peer::Peer::connect(&server.url(), "second").await?;
    for path in PATHS {
        let call = RawCall::open(server.addresses().listen, path, &[]).await?;
        let answer = call.answer("the refusal of a session").await?;
        assert_status(&answer, Code::ResourceExhausted, "--max-sessions");
    }
    drop(second);
    let third = async || v1_peer::Peer::connect(&server.url(), "third").await.ok();
    let _third = until("room for a session", third).await?;
    bystanders.are_served().await?;
    drop(first);
    Ok(())
}

#[tokio::test]
async fn more_connections_than_are_taken_are_refused() -> Verdict {
    let server = server(&["--max-connections=4"]).await?;
    let mut bystanders = Bystanders::meet(&server.url()).await?;
    let fourth = RawConnection::connect(server.addresses().listen).await?;
    let fifth = RawConnection::connect(server.addresses().listen).await?;
    fifth.closed("the server to refuse a connection").await?;
    drop(fourth);
    let next = async || v1_peer::Peer::connect(&server.url(), "next").await.ok();
    let _next = until("room for a connection", next).await?;
    bystanders.are_served().await?;
    Ok::<_, Failure>(())
}
