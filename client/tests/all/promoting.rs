//! Read-only clients that are promoted, and back: on the stream where the server
//! knows of it, else in a session that takes its place.

use std::time::Duration;

use persist_pubsub_client::{Client, Events, Mode, connect};
use persist_pubsub_proto::v1;
use persist_pubsub_proto::v1::SessionMode;
use persist_pubsub_proto::v1::session_request::Message as Said;
use persist_pubsub_proto::v1::session_response::Message as Heard;

use crate::peer::{Peer, Session, V1, event, expect_connected, limits, payload, shard, soon};
use crate::script::welcome;

/// A welcome that names the capability.
fn knowing() -> Heard {
    match welcome(limits(), 0) {
        Heard::Welcome(welcome) => Heard::Welcome(v1::Welcome {
            capabilities: vec!["from the future".into(), "set_mode".into()],
            ..welcome
        }),
        other => other,
    }
}

/// Takes the next session, which has to be greeted in this mode.
async fn greeted(peer: &mut Peer<V1>, mode: SessionMode) -> Session<V1> {
    let mut session = peer.accept().await;
    let Said::Hello(hello) = session.said().await else {
        panic!("the first message has to be a hello");
    };
    assert_eq!(hello.mode(), mode);
    session
}

/// A read-only client, connected to a server that can promote it.
async fn read_only(peer: &mut Peer<V1>) -> (Client, Events, Session<V1>) {
    let (client, mut events) = connect(peer.config().mode(Mode::ReadOnly));
    let session = greeted(peer, SessionMode::ReadOnly).await;
    session.say(knowing()).await;
    expect_connected(&mut events).await;
    (client, events, session)
}

/// Its next message, which has to ask for this mode: the request's id.
async fn asked(session: &mut Session<V1>, mode: SessionMode) -> u64 {
    match session.said().await {
        Said::SetMode(set) if set.mode() == mode => set.request_id,
        other => panic!("expected to be asked for {mode:?}, got {other:?}"),
    }
}

async fn answer(session: &Session<V1>, request_id: u64, mode: SessionMode) {
    let mode = mode.into();
    session
        .say(Heard::ModeSet(v1::ModeSet { request_id, mode }))
        .await;
}

#[tokio::test]
async fn pushes_wait_for_the_promotion_and_none_is_lost() {
    let mut peer = Peer::<V1>::start().await;
    let (client, _events, mut session) = read_only(&mut peer).await;
    client.push_diff(&shard(1), 1, payload(1));
    assert_eq!(client.stats().pushes_dropped, 1);
    client.set_mode(Mode::ReadWrite);
    client.push_diff(&shard(1), 2, payload(2));
    let request = asked(&mut session, SessionMode::ReadWrite).await;
    client.push_diff(&shard(1), 3, payload(3));
    // Other things are said meanwhile, and no push.
    let _token = client.subscribe(&shard(2));
    assert_eq!(session.subscribe().await.1, [(shard(2), None)]);
    client.push_diff(&shard(1), 4, payload(4));
    answer(&session, request, SessionMode::ReadWrite).await;
    for seqno in 2..=4 {
        let (of, at, diff) = session.publish().await;
        assert_eq!((of, at, diff), (shard(1), seqno, Some(payload(seqno))));
    }
    assert!(peer.is_left_alone());
    assert_eq!(client.stats().established, 1);
}

#[tokio::test]
async fn what_was_pushed_before_a_demotion_goes_out_before_it() {
    let mut peer = Peer::<V1>::start().await;
    let (client, _events, mut session) = read_only(&mut peer).await;
    client.set_mode(Mode::ReadWrite);
    let request = asked(&mut session, SessionMode::ReadWrite).await;
    client.push_diff(&shard(1), 1, payload(1));
    // Before it is promoted at all.
    client.set_mode(Mode::ReadOnly);
    client.push_diff(&shard(1), 2, payload(2));
    answer(&session, request, SessionMode::ReadWrite).await;
    assert_eq!(session.publish().await.1, 1);
    let request = asked(&mut session, SessionMode::ReadOnly).await;
    // And promoted again before that is answered.
    client.set_mode(Mode::ReadWrite);
    client.push_diff(&shard(1), 3, payload(3));
    answer(&session, request, SessionMode::ReadOnly).await;
    let request = asked(&mut session, SessionMode::ReadWrite).await;
    answer(&session, request, SessionMode::ReadWrite).await;
    assert_eq!(session.publish().await.1, 3);
    assert_eq!(client.stats().pushes_dropped, 1);
    assert!(peer.is_left_alone());
}

/// The host lets go at once: what it pushed goes out still.
#[tokio::test]
async fn who_leaves_while_it_is_promoted_leaves_nothing_behind() {
    let mut peer = Peer::<V1>::start().await;
    let (client, _events, mut session) = read_only(&mut peer).await;
    client.set_mode(Mode::ReadWrite);
    client.push_diff(&shard(1), 1, payload(1));
    drop(client);
    let request = asked(&mut session, SessionMode::ReadWrite).await;
    answer(&session, request, SessionMode::ReadWrite).await;
    assert_eq!(session.publish().await.1, 1);
    session.hear_gone().await;
}

/// A server of before, one that refuses, and one that never answers: the next
/// session says the mode in its greeting.
#[tokio::test]
async fn where_it_cannot_be_changed_a_new_session_takes_its_place() {
    for server in [
        "of before",
        "that refuses",
        "that answers something else",
        "silent",
    ] {
        let mut peer = Peer::<V1>::start().await;
        let config = peer.config().mode(Mode::ReadOnly);
        let (client, mut events) = connect(config.subscribe_timeout(Duration::from_millis(100)));
        let mut old = greeted(&mut peer, SessionMode::ReadOnly).await;
        old.say(match server {
            "of before" => welcome(limits(), 0),
            _ => knowing(),
        })
        .await;
        expect_connected(&mut events).await;
        client.set_mode(Mode::ReadWrite);
        client.push_diff(&shard(1), 1, payload(1));
        if server != "of before" {
            let request_id = asked(&mut old, SessionMode::ReadWrite).await;
            match server {
                "that refuses" => {
                    let rejected = v1::Rejected {
                        request_id,
                        ..v1::Rejected::default()
                    };
                    old.say(Heard::Rejected(rejected)).await;
                }
                "that answers something else" => {
                    answer(&old, request_id, SessionMode::ReadOnly).await;
                }
                _ => {}
            }
        }
        let mut new = greeted(&mut peer, SessionMode::ReadWrite).await;
        new.say(knowing()).await;
        assert_eq!(new.publish().await.1, 1, "{server}");
        old.hear_gone().await;
        // The host hears of the new one, and of no loss.
        expect_connected(&mut events).await;
        assert_eq!(client.stats().pushes_dropped, 0, "{server}");
    }
}

/// A promotion that is under way when the session is lost is not forgotten.
#[tokio::test]
async fn a_session_that_is_lost_meanwhile_is_no_loss() {
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events, mut session) = read_only(&mut peer).await;
    client.set_mode(Mode::ReadWrite);
    client.push_diff(&shard(1), 1, payload(1));
    asked(&mut session, SessionMode::ReadWrite).await;
    session.fail(tonic::Status::unavailable("bye")).await;
    let mut session = greeted(&mut peer, SessionMode::ReadWrite).await;
    session.say(knowing()).await;
    assert_eq!(session.publish().await.1, 1);
    soon("both events", async {
        event(&mut events).await;
        expect_connected(&mut events).await;
    })
    .await;
}
