//! However a session ends, and whenever: it leaves nothing behind.

use persist_pubsub_compat_tests::child::Child;
use persist_pubsub_compat_tests::operator::Operator;
use persist_pubsub_compat_tests::raw_call::RawCall;
use persist_pubsub_compat_tests::raw_connection::{self as raw, PREFACE, RawConnection};
use persist_pubsub_compat_tests::wait::until;
use persist_pubsub_compat_tests::{v0_peer, v1_peer};
use persist_pubsub_proto::v1::session_request::Message as Request;
use persist_pubsub_proto::{ShardId, v0, v1};
use prost::Message as _;

use super::{Failure, Verdict, server};

/// A race: often enough that it is lost now and then.
const TIMES: u64 = 30;

fn shard(time: u64, number: u64) -> ShardId {
    ShardId::new((u128::from(time) << 64 | u128::from(number) << 8 | 0x77).to_be_bytes())
}

/// A request as a gRPC message.
fn encoded(request: Request) -> Vec<u8> {
    let request = v1::SessionRequest {
        message: Some(request),
    };
    raw::message(&request.encode_to_vec())
}

/// Nobody is connected, and no shard is held on anybody's behalf.
async fn nothing_is_left(server: &Child) -> Verdict {
    let operator = Operator::connect(server).await?;
    for gauge in [
        "persist_pubsub_connections",
        "mz_persist_pubsub_server_active_connections",
        "persist_pubsub_subscriptions",
        "persist_pubsub_shards",
    ] {
        let mut last = 0.0;
        let what = format!("{gauge} to be 0");
        let gone = until(&what, async || {
            last = operator.metric(gauge).await.ok()?;
            (last == 0.0).then_some(())
        });
        let gone = gone.await;
        gone.map_err(|e| e.but(&format!("it is {last}")))?;
    }
    assert_eq!(operator.sessions().await?.len(), 0);
    Ok(())
}

#[tokio::test]
async fn a_v1_session_that_leaves_while_it_subscribes_leaves_nothing() -> Verdict {
    let server = server(&[]).await?;
    for time in 0..TIMES {
        let (sender, mut receiver) = v1_peer::Peer::connect(&server.url(), "hasty")
            .await?
            .split();
        let shards: Vec<_> = (0..10_000).map(|n| (shard(time, n), None)).collect();
        sender.subscribe(1, &shards).await?;
        // It is being worked off.
        receiver
            .expect_subscribed("the first of the answers")
            .await?;
    }
    nothing_is_left(&server).await
}

#[tokio::test]
async fn a_v0_session_that_leaves_while_it_subscribes_leaves_nothing() -> Verdict {
    let server = server(&[]).await?;
    for time in 0..TIMES {
        let peer = v0_peer::Peer::connect(&server.url(), "hasty").await?;
        for number in 0..2_000 {
            peer.sender().subscribe(shard(time, number)).await?;
        }
    }
    nothing_is_left(&server).await
}

/// The client does not read its answers, so that the server stops within a
/// request; and there it goes.
#[tokio::test]
async fn a_v1_session_that_leaves_within_a_request_leaves_nothing() -> Verdict {
    let server = server(&["--max-control-frames=1"]).await?;
    let operator = Operator::connect(&server).await?;
    let mut bytes = encoded(Request::Hello(v1_peer::hello("hasty")));
    for request_id in 1..=5 {
        let shards = (0..10_000).map(|n| v1::ShardPosition {
            shard_id: shard(request_id, n).to_bytes(),
            seqno: None,
        });
        bytes.extend(encoded(Request::Subscribe(v1::Subscribe {
            request_id,
            shards: shards.collect(),
        })));
    }
    let mut call = RawCall::open(server.addresses().listen, v1::PATH, &[]).await?;
    call.send(bytes)?;
    // It is not read any more when it has not got further in two looks.
    let mut before = 0.0;
    until("the server to stop within a request", async || {
        let now = operator.metric("persist_pubsub_subscriptions").await.ok()?;
        let stands = now > 0.0 && now == before;
        before = now;
        stands.then_some(())
    })
    .await?;
    assert!(before < 50_000.0, "it took everything");
    drop(call);
    nothing_is_left(&server).await
}

/// The server may learn of the end before it has looked at the beginning.
async fn a_stream_that_is_reset_at_once(path: &str, first: &[u8]) -> Result<(), Failure> {
    let server = server(&[]).await?;
    let operator = Operator::connect(&server).await?;
    let mut time = 0;
    until("some of these to have been sessions", async || {
        for _ in 0..TIMES * 10 {
            time += 1;
            let address = server.addresses().listen;
            let mut connection = RawConnection::connect(address).await.ok()?;
            connection.write(PREFACE).await.ok()?;
            connection.heard("the server's settings").await.ok()?;
            let begin = [raw::headers(path), raw::data(first)].concat();
            if time % 2 == 0 {
                connection.write(&begin).await.ok()?;
                connection.write(&raw::reset()).await.ok()?;
            } else {
                let all = [begin, raw::reset()].concat();
                connection.write(&all).await.ok()?;
            }
        }
        let ended = r#"persist_pubsub_sessions_ended_total{reason="client_gone"}"#;
        (operator.metric(ended).await.ok()? > 0.0).then_some(())
    })
    .await?;
    nothing_is_left(&server).await
}

#[tokio::test]
async fn a_v0_stream_that_is_reset_at_once_leaves_nothing() -> Verdict {
    a_stream_that_is_reset_at_once(v0::PATH, &[]).await
}

#[tokio::test]
async fn a_v1_stream_that_is_reset_at_once_leaves_nothing() -> Verdict {
    let hello = encoded(Request::Hello(v1_peer::hello("hasty")));
    a_stream_that_is_reset_at_once(v1::PATH, &hello).await
}
