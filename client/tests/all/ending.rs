//! How it ends: fenced, or let go of.

use persist_pubsub_client::{Config, Event, connect};
use persist_pubsub_proto::v1;
use persist_pubsub_proto::v1::session_request::Message as Said;
use persist_pubsub_proto::v1::session_response::Message as Heard;

use crate::peer::{Peer, V1, event, expect_connected, expect_diff, payload, shard, soon, until};

fn fenced() -> Heard {
    Heard::Fenced(v1::Fenced {
        generation: 18,
        epoch: 3,
        reason: "generation 18 took over".into(),
    })
}

fn told() -> Event {
    Event::Fenced {
        generation: 18,
        epoch: 3,
        reason: "generation 18 took over".into(),
    }
}

#[tokio::test]
async fn fenced_is_told_once_and_nobody_comes_back() {
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(peer.config());
    let _token = client.subscribe_from(&shard(1), 0);
    let mut session = peer.welcome().await;
    expect_connected(&mut events).await;
    session.grant(Some(0)).await;
    session.diff(shard(1), 1).await;
    session.say(fenced()).await;
    session
        .fail(tonic::Status::permission_denied("fenced"))
        .await;
    expect_diff(&mut events, shard(1), 1).await;
    assert_eq!(event(&mut events).await, told());
    assert_eq!(soon("the end", events.next()).await, None);

    client.push_diff(&shard(1), 2, payload(2));
    let now = client.stats();
    assert_eq!((now.pushes_dropped, now.attempts), (1, 1));
    assert!(!now.connected);
    assert!(peer.is_left_alone());
}

#[tokio::test]
async fn fenced_instead_of_welcomed() {
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(peer.config());
    client.push_diff(&shard(1), 2, payload(2));
    let mut session = peer.accept().await;
    session.said().await;
    session.say(fenced()).await;
    session
        .fail(tonic::Status::permission_denied("fenced"))
        .await;
    assert_eq!(event(&mut events).await, told());
    assert_eq!(soon("the end", events.next()).await, None);
    assert_eq!(client.stats().buffered_bytes, 0);
}

#[tokio::test]
async fn dropped_handles_send_what_waits_and_end() {
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(peer.config());
    let token = client.subscribe_from(&shard(1), 0);
    let mut session = peer.welcome().await;
    expect_connected(&mut events).await;
    session.grant(Some(0)).await;
    for seqno in 1..=1_000 {
        client.push_diff(&shard(2), seqno, payload(seqno));
    }
    drop(client.clone());
    drop(client);
    session.diff(shard(1), 1).await;
    expect_diff(&mut events, shard(1), 1).await;
    // The token still held it.
    drop(token);
    loop {
        match session.said().await {
            Said::Publish(publish) if publish.seqno == 1_000 => break,
            Said::Publish(_) | Said::Unsubscribe(_) => {}
            other => panic!("{other:?}"),
        }
    }
    // The unsubscribe may come after, or the end alone.
    session.hear_gone().await;
    drop(session);
    assert_eq!(soon("the end", events.next()).await, None);
    assert!(peer.is_left_alone());
}

#[tokio::test]
async fn dropped_handles_without_a_session_end_at_once() {
    let (client, mut events) = {
        let unused = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        connect(crate::peer::config(unused.local_addr().unwrap()))
    };
    client.push_diff(&shard(2), 1, payload(1));
    drop(client);
    assert_eq!(soon("the end", events.next()).await, None);
}

#[tokio::test]
async fn dropped_events_end_the_session() {
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(peer.config());
    let mut session = peer.welcome().await;
    expect_connected(&mut events).await;
    drop(events);
    session.hear_gone().await;
    until(&client, "the end", |stats| !stats.connected).await;
    client.push_diff(&shard(2), 1, payload(1));
    let _token = client.subscribe(&shard(2));
    assert_eq!(client.stats().buffered_bytes, 0);
    assert!(peer.is_left_alone());
}

/// A runtime may end before it has begun to connect.
#[test]
fn handles_outlive_a_runtime_that_did_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (client, _events) = runtime.block_on(async { connect(Config::new("h").unwrap()) });
    drop(runtime);
    client.push_diff(&shard(1), 1, payload(1));
    assert_eq!(client.stats().buffered_bytes, 0);
}

/// The client's tasks end at different moments of a shutdown: none of them opens
/// anew, without end, what the runtime has cancelled.
#[test]
fn a_runtime_shuts_down_at_any_moment() {
    for _ in 0..200 {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let _client = runtime.block_on(async {
            let peer = Peer::<V1>::start().await;
            connect(peer.config())
        });
        drop(runtime);
    }
}

#[test]
fn handles_outlive_their_runtime() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (client, _events) = runtime.block_on(async {
        let peer = Peer::<V1>::start().await;
        connect(peer.config())
    });
    let token = client.subscribe(&shard(1));
    drop(runtime);
    client.push_diff(&shard(1), 1, payload(1));
    drop(token);
    let _token = client.subscribe(&shard(1));
    let now = client.stats();
    assert_eq!((now.buffered_bytes, now.connected), (0, false));
}
