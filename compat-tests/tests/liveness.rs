//! Who is there, and who is not any more.

use persist_pubsub_compat_tests::bystanders::Bystanders;
use persist_pubsub_compat_tests::child::Child;
use persist_pubsub_compat_tests::operator::Operator;
use persist_pubsub_compat_tests::raw_connection::{self as raw, PREFACE, RawConnection};
use persist_pubsub_compat_tests::v1_peer::{self, Peer};
use persist_pubsub_compat_tests::wait::{until, within};
use persist_pubsub_proto::v1::Heartbeat;
use persist_pubsub_proto::v1::session_request::Message as Request;
use persist_pubsub_proto::v1::session_response::Message as Response;
use persist_pubsub_proto::{v0, v1};
use prost::Message as _;

use super::{Verdict, server};

#[tokio::test]
async fn heartbeats_keep_a_quiet_session() -> Verdict {
    let server = Child::start(&["--heartbeat-interval=1s"]).await?;
    let mut peer = Peer::connect(&server.url(), "quiet").await?;
    assert_eq!(peer.welcome().heartbeat_interval_millis, 1000);
    // Three would be silence, if they were not answered.
    for _ in 0..5 {
        let received = within("a heartbeat", peer.receiver().receive()).await??;
        let message = received.ok_or("the end")?.message;
        assert!(
            matches!(message, Some(Response::Heartbeat(_))),
            "{message:?}"
        );
        peer.sender().say(Request::Heartbeat(Heartbeat {})).await?;
    }
    peer.sender().unsubscribe(1, &[]).await?;
    peer.receiver().expect_unsubscribed("an answer").await?;
    Ok(())
}

#[tokio::test]
async fn a_v1_client_that_falls_silent_is_given_up() -> Verdict {
    let server = Child::start(&["--heartbeat-interval=100ms"]).await?;
    let mut peer = Peer::connect(&server.url(), "silent").await?;
    let mut heartbeats = 0;
    let end = within("a silent session to be ended", async {
        loop {
            match peer.receiver().receive().await {
                Ok(Some(received)) => {
                    let message = received.message;
                    assert!(
                        matches!(message, Some(Response::Heartbeat(_))),
                        "{message:?}"
                    );
                    heartbeats += 1;
                }
                Ok(None) => return "OK".to_owned(),
                Err(error) => return error.to_string(),
            }
        }
    });
    let text = end.await?;
    assert!(text.contains("heartbeat intervals"), "{text}");
    assert!(heartbeats >= 1, "it was not asked");
    let operator = Operator::connect(&server).await?;
    let silent = r#"persist_pubsub_sessions_ended_total{reason="silent"}"#;
    until("it to be counted", async || {
        (operator.metric(silent).await.ok()? == 1.0).then_some(())
    })
    .await?;
    Ok(())
}

/// A host that lost its network says nothing any more, and its connection
/// never ends by itself. To the server it is a peer that does not answer.
#[tokio::test]
async fn a_connection_that_dies_without_a_word_is_gone() -> Verdict {
    let server = server(&["--keepalive=500ms", "--keepalive-timeout=4s"]).await?;
    let operator = Operator::connect(&server).await?;
    let mut bystanders = Bystanders::meet(&server.url()).await?;
    let hello = v1::SessionRequest {
        message: Some(Request::Hello(v1_peer::hello("dead"))),
    };
    let hello = raw::data(&raw::message(&hello.encode_to_vec()));
    let mut dead = Vec::new();
    for (path, first) in [(v0::PATH, &[][..]), (v1::PATH, &hello)] {
        let mut connection = RawConnection::connect(server.addresses().listen).await?;
        let bytes = [PREFACE, &raw::headers(path), first].concat();
        connection.write(&bytes).await?;
        // Kept open: it is not its end that tells the server.
        dead.push(connection);
    }
    let ended = r#"persist_pubsub_sessions_ended_total{reason="client_gone"}"#;
    until("the dead to be given up", async || {
        (operator.metric(ended).await.ok()? >= 2.0).then_some(())
    })
    .await?;
    let sessions = operator.sessions().await?;
    let names: Vec<_> = sessions.iter().map(|s| s.caller_id.as_str()).collect();
    assert_eq!(names, ["bystander-writer", "bystander-v0", "bystander-v1"]);
    // Those who were as quiet, but answer, are still there.
    bystanders.are_served().await?;
    for connection in dead {
        connection.closed("the server to close").await?;
    }
    Ok(())
}
