//! Coming up, greeting, and coming back.

use std::time::Duration;

use persist_pubsub_client::{Config, Event, Mode, Reason, Wire, connect};
use persist_pubsub_proto::v1;
use persist_pubsub_proto::v1::session_request::Message as Said;
use persist_pubsub_proto::v1::session_response::Message as Heard;
use tokio::net::TcpListener;

use crate::peer::{
    Peer, V1, config, event, expect_connected, expect_diff, expect_disconnected, limits, payload,
    shard, soon, until,
};
use crate::script::welcome;

#[tokio::test]
async fn connects_when_the_server_appears() {
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = unused.local_addr().unwrap();
    drop(unused);
    let (client, mut events) = connect(config(address));
    client.push_diff(&shard(1), 1, payload(1));
    let _token = client.subscribe(&shard(1));
    until(&client, "attempts", |stats| stats.attempts >= 3).await;
    assert!(!client.stats().connected);

    let mut peer = Peer::<V1>::start_at(address).await;
    let mut session = peer.welcome().await;
    expect_connected(&mut events).await;
    assert_eq!(session.subscribe().await.1, [(shard(1), None)]);
    assert_eq!(session.publish().await.1, 1);
    assert_eq!(client.stats().established, 1);
}

#[tokio::test]
async fn says_who_it_is_and_hears_who_answers() {
    let mut peer = Peer::<V1>::start().await;
    let config = peer
        .config()
        .client_name("clusterd-u1")
        .client_version("26.17")
        .client_build("abc")
        .environment_id("env")
        .deploy_generation(12)
        .role("clusterd")
        .mode(Mode::ReadOnly);
    let (client, mut events) = connect(config);
    let mut session = peer.accept().await;
    let Said::Hello(hello) = session.said().await else {
        panic!("expected hello");
    };
    assert_eq!(
        hello,
        v1::Hello {
            client_name: "clusterd-u1".into(),
            client_version: "26.17".into(),
            client_build: "abc".into(),
            environment_id: "env".into(),
            deploy_generation: 12,
            role: "clusterd".into(),
            mode: v1::SessionMode::ReadOnly.into(),
            min_revision: 1,
            max_revision: 1,
            capabilities: vec!["set_mode".into()],
        }
    );
    // Nothing else is said before the welcome.
    client.push_diff(&shard(1), 1, payload(1));
    let _token = client.subscribe(&shard(1));
    session.say(welcome(limits(), 0)).await;
    let Event::Connected { wire, server, .. } = event(&mut events).await else {
        panic!("expected connected");
    };
    assert_eq!(wire, Wire::V1);
    assert_eq!(server.instance_id, "instance");
    assert_eq!(server.version, "1.2.3");
    assert_eq!(server.session_id, 7);
    assert_eq!(session.subscribe().await.1, [(shard(1), None)]);
    // A read-only client publishes nothing.
    let now = client.stats();
    assert_eq!((now.pushes, now.pushes_dropped), (1, 1));
}

#[tokio::test]
async fn resumes_after_a_lost_session() {
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(peer.config());
    let _a = client.subscribe_from(&shard(1), 4);
    let _b = client.subscribe_from(&shard(2), 9);
    let mut session = peer.welcome().await;
    expect_connected(&mut events).await;
    session.grant(Some(9)).await;
    session.diff(shard(1), 5).await;
    session.diff(shard(1), 6).await;
    expect_diff(&mut events, shard(1), 5).await;
    expect_diff(&mut events, shard(1), 6).await;
    session.fail(tonic::Status::unavailable("bye")).await;

    assert_eq!(
        event(&mut events).await,
        Event::Disconnected {
            reason: Reason::Status {
                code: 14,
                message: "bye".into()
            }
        }
    );
    let mut session = peer.welcome().await;
    expect_connected(&mut events).await;
    let asked = session.grant(Some(9)).await;
    assert_eq!(asked, [(shard(1), Some(6)), (shard(2), Some(9))]);
    session.gap(shard(1), 7, 8, 9).await;
    session.diff(shard(1), 9).await;
    assert_eq!(
        event(&mut events).await,
        Event::Gap {
            shard: shard(1),
            from: 7,
            to: 8,
            highest: 9
        }
    );
    expect_diff(&mut events, shard(1), 9).await;
    assert_eq!(client.stats().lost, 1);
    assert_eq!(client.stats().resyncs, 0);
}

#[tokio::test]
async fn a_stream_that_ends_is_begun_again() {
    let mut peer = Peer::<V1>::start().await;
    let (_client, mut events) = connect(peer.config());
    for _ in 0..5 {
        let session = peer.welcome().await;
        expect_connected(&mut events).await;
        drop(session);
        expect_disconnected(&mut events).await;
    }
}

#[tokio::test(start_paused = true)]
async fn heartbeats_when_nothing_else_is_said() {
    let (mut peer, config) = Peer::inside();
    let (_client, mut events) = connect(config);
    let mut session = peer.welcome_with(limits(), 200).await;
    expect_connected(&mut events).await;
    for _ in 0..3 {
        assert!(matches!(session.said().await, Said::Heartbeat(_)));
        session.say(Heard::Heartbeat(v1::Heartbeat {})).await;
    }
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let mut peer = Peer::<V1>::start().await;
    let (_client, mut events) = connect(peer.config());
    let mut session = peer.welcome_with(limits(), 20).await;
    expect_connected(&mut events).await;
    assert_eq!(
        event(&mut events).await,
        Event::Disconnected {
            reason: Reason::Silent(Duration::from_millis(60))
        }
    );
    session.hear_gone().await;
    peer.welcome().await;
    expect_connected(&mut events).await;
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = config(listener.local_addr().unwrap())
        .connect_timeout(Duration::from_millis(100))
        .handshake_timeout(Duration::from_millis(100));
    let (client, _events) = connect(config);
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(soon("an attempt", listener.accept()).await.unwrap());
    }
    assert_eq!(client.stats().established, 0);
}

#[tokio::test]
async fn a_missing_welcome_is_given_up() {
    let mut peer = Peer::<V1>::start().await;
    let config = peer.config().handshake_timeout(Duration::from_secs(1));
    let (client, mut events) = connect(config);
    let mut first = peer.accept().await;
    first.hear_gone().await;
    assert_eq!(client.stats().established, 0);
    // Whatever was said in vain does not keep the next from working.
    loop {
        let mut session = peer.accept().await;
        session.said().await;
        session.say(welcome(limits(), 0)).await;
        if let Ok(event) = tokio::time::timeout(Duration::from_millis(500), events.next()).await {
            assert!(matches!(event, Some(Event::Connected { .. })));
            break;
        }
    }
}

#[tokio::test]
async fn a_name_is_looked_up_and_its_addresses_tried() {
    let mut peer = Peer::<V1>::start().await;
    let config = Config::new(&format!("localhost:{}", peer.address.port()))
        .unwrap()
        .backoff(Duration::from_millis(5), Duration::from_millis(50))
        .unwrap();
    let (_client, mut events) = connect(config);
    let _session = peer.welcome().await;
    expect_connected(&mut events).await;
}
