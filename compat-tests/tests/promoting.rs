//! Read-only sessions: what they publish is refused, and they become read-write
//! on the same stream when their process is promoted.

use bytes::Bytes;
use persist_pubsub_client::{Config, Mode, connect};
use persist_pubsub_compat_tests::operator::Operator;
use persist_pubsub_compat_tests::v1_peer::{self, Peer, hello};
use persist_pubsub_compat_tests::wait::until;
use persist_pubsub_proto::v1::session_request::Message as Request;
use persist_pubsub_proto::v1::session_response::Message as Response;
use persist_pubsub_proto::v1::{
    CAPABILITY_SET_MODE, Heartbeat, Hello, RejectionCode, SessionMode, SetMode,
};
use persist_pubsub_proto::{ShardId, v1};

use super::{Failure, Verdict, server};

const SHARD: ShardId = ShardId::new([0x9d; 16]);

fn read_only(capabilities: &[&str]) -> Hello {
    Hello {
        mode: SessionMode::ReadOnly.into(),
        capabilities: capabilities.iter().map(|&c| c.to_owned()).collect(),
        ..hello("promoted")
    }
}

fn set_mode(request_id: u64, mode: SessionMode) -> Request {
    let mode = mode.into();
    Request::SetMode(SetMode { request_id, mode })
}

async fn expect_refused(peer: &mut Peer, seqno: u64) -> Verdict {
    let rejected = peer.receiver().expect_rejected("a refusal").await?;
    assert_eq!(rejected.code(), RejectionCode::ReadOnly);
    assert_eq!(rejected.shard_id, SHARD.to_bytes());
    assert_eq!(rejected.seqno, Some(seqno));
    Ok(())
}

async fn mode_of(operator: &Operator, name: &str) -> Result<String, Failure> {
    let sessions = operator.sessions().await?;
    let session = sessions.into_iter().find(|s| s.caller_id == name);
    Ok(session.ok_or("it is not listed")?.mode)
}

/// Sent in one breath: what stands before the promotion is refused, what stands
/// behind it is published, in order; and back.
#[tokio::test]
async fn it_is_promoted_on_its_stream_and_demoted() -> Verdict {
    let server = server(&[]).await?;
    let operator = Operator::connect(&server).await?;
    let mut reader = Peer::connect(&server.url(), "reader").await?;
    reader.follow(SHARD, None).await?;
    let hello = read_only(&["from the future", CAPABILITY_SET_MODE]);
    let mut peer = Peer::connect_as(&server.url(), hello).await?;
    assert_eq!(peer.welcome().capabilities, [CAPABILITY_SET_MODE]);
    peer.follow(SHARD, None).await?;
    let said = peer.sender().clone();
    said.publish(SHARD, 1, 1, "early").await?;
    said.publish(SHARD, 2, 1, "early").await?;
    said.say(set_mode(7, SessionMode::ReadWrite)).await?;
    said.publish(SHARD, 3, 1, "c").await?;
    said.publish(SHARD, 4, 1, "d").await?;
    said.say(set_mode(8, SessionMode::ReadWrite)).await?;
    expect_refused(&mut peer, 1).await?;
    expect_refused(&mut peer, 2).await?;
    for request in [7, 8] {
        let set = peer.receiver().expect_mode_set("to be promoted").await?;
        assert_eq!(set.request_id, request);
        assert_eq!(set.mode(), SessionMode::ReadWrite);
    }
    for seqno in [3, 4] {
        let diff = reader.receiver().expect_diff("what it published").await?;
        assert_eq!(diff.seqno, seqno);
    }
    assert_eq!(mode_of(&operator, "promoted").await?, "read-write");
    said.say(set_mode(9, SessionMode::ReadOnly)).await?;
    said.publish(SHARD, 5, 1, "late").await?;
    let set = peer.receiver().expect_mode_set("to be demoted").await?;
    assert_eq!(set.mode(), SessionMode::ReadOnly);
    expect_refused(&mut peer, 5).await?;
    assert_eq!(mode_of(&operator, "promoted").await?, "read-only");
    // It is subscribed all the while.
    let writer = Peer::connect(&server.url(), "writer").await?;
    writer.sender().publish(SHARD, 5, 1, "e").await?;
    let diff = peer.receiver().expect_diff("another's").await?;
    assert_eq!(diff.seqno, 5);
    Ok(())
}

#[tokio::test]
async fn what_is_malformed_changes_nothing() -> Verdict {
    let server = server(&[]).await?;
    let hello = read_only(&[CAPABILITY_SET_MODE]);
    let mut peer = Peer::connect_as(&server.url(), hello).await?;
    for (request, mode) in [
        (0, SessionMode::ReadWrite.into()),
        (3, SessionMode::Unspecified.into()),
        (4, 99),
    ] {
        let said = SetMode {
            request_id: request,
            mode,
        };
        peer.sender().say(Request::SetMode(said)).await?;
        peer.sender().publish(SHARD, 1, 1, "x").await?;
        let rejected = peer.receiver().expect_rejected("a refusal").await?;
        assert_eq!(rejected.code(), RejectionCode::InvalidField);
        assert_eq!(rejected.request_id, request);
        expect_refused(&mut peer, 1).await?;
    }
    Ok(())
}

/// A client that did not say that it knows the answer does not get it: the
/// server takes the message for one of a kind that does not exist.
#[tokio::test]
async fn without_the_capability_it_is_ignored() -> Verdict {
    let server = server(&[]).await?;
    let mut peer = Peer::connect_as(&server.url(), read_only(&[])).await?;
    assert!(peer.welcome().capabilities.is_empty());
    peer.sender()
        .say(set_mode(1, SessionMode::ReadWrite))
        .await?;
    peer.sender().publish(SHARD, 1, 1, "x").await?;
    expect_refused(&mut peer, 1).await
}

/// The client crate, promoted and demoted by several threads under a load of
/// pushes: one session throughout, nothing refused, and what was pushed in
/// read-write mode arrives.
#[tokio::test]
async fn the_client_crate_is_promoted_in_its_session() -> Verdict {
    const TURNS: u64 = 20;
    let server = server(&["--max-seqno-jump=1000000"]).await?;
    let operator = Operator::connect(&server).await?;
    let mut reader = Peer::connect(&server.url(), "reader").await?;
    reader.follow(SHARD, None).await?;
    let config = Config::new(&server.url())?
        .client_name("crate")
        .mode(Mode::ReadOnly);
    let (client, _events) = connect(config);
    until("it to be connected", async || {
        (mode_of(&operator, "crate").await.ok()? == "read-only").then_some(())
    })
    .await?;
    for turn in 1..=TURNS {
        let turn_on = |mode, seqno, diff: &'static [u8]| {
            let client = client.clone();
            let turning = std::thread::spawn(move || {
                client.set_mode(mode);
                client.push_diff(&SHARD, seqno, Bytes::from_static(diff));
            });
            turning.join().map_err(|_| "the thread has failed")
        };
        turn_on(Mode::ReadWrite, 2 * turn, b"taken")?;
        until("it to be promoted", async || {
            (client.stats().sent == turn).then_some(())
        })
        .await?;
        turn_on(Mode::ReadOnly, 2 * turn + 1, b"dropped")?;
    }
    let mut heard = 0;
    while heard < 2 * TURNS {
        if let Response::Diff(diff) = reader.receiver().expect("the diffs").await? {
            assert_eq!(&diff.diff[..], b"taken");
            heard = diff.seqno;
        }
    }
    assert_eq!(client.stats().pushes_dropped, TURNS);
    assert_eq!(client.stats().sent, TURNS);
    assert_eq!(operator.rejected("v1", "read_only").await?, 0.0);
    until("it to be read-only in the end", async || {
        (mode_of(&operator, "crate").await.ok()? == "read-only").then_some(())
    })
    .await?;
    client.set_mode(Mode::ReadWrite);
    until("it to be read-write", async || {
        (mode_of(&operator, "crate").await.ok()? == "read-write").then_some(())
    })
    .await?;
    assert_eq!(client.stats().established, 1);
    Ok(())
}

/// Before its Hello a session is in no mode.
#[tokio::test]
async fn nobody_is_promoted_before_the_hello() -> Verdict {
    let server = server(&[]).await?;
    let (sender, mut receiver) = v1_peer::open(&server.url()).await?;
    sender.say(set_mode(1, SessionMode::ReadWrite)).await?;
    let rejected = receiver.expect_rejected("a refusal").await?;
    assert_eq!(rejected.code(), RejectionCode::HelloRequired);
    sender.say(Request::Hello(read_only(&[]))).await?;
    sender.say(Request::Heartbeat(Heartbeat {})).await?;
    receiver.expect_welcome("the welcome").await?;
    sender.publish(SHARD, 1, 1, "x").await?;
    let rejected: v1::Rejected = receiver.expect_rejected("a refusal").await?;
    assert_eq!(rejected.code(), RejectionCode::ReadOnly);
    Ok(())
}
