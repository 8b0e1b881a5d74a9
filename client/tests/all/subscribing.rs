//! Tokens, incarnations, duplicates, and a host that does not read.

use bytes::Bytes;
use futures_core::Stream;
use persist_pubsub_client::{Client, Event, Subscription, connect};
use persist_pubsub_proto::v1;
use persist_pubsub_proto::v1::session_request::Message as Said;
use persist_pubsub_proto::v1::session_response::Message as Heard;

use crate::peer::{
    Peer, V1, event, expect_connected, expect_diff, expect_disconnected, expect_resync, limits,
    payload, shard, soon, until,
};
use crate::script::diff;

#[tokio::test]
async fn two_tokens_share_one_subscription() {
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(peer.config());
    let mut session = peer.welcome().await;
    expect_connected(&mut events).await;
    let first = client.subscribe(&shard(1));
    assert_eq!(session.grant(Some(3)).await, [(shard(1), None)]);
    expect_resync(&mut events, shard(1), Some(3)).await;
    let second = client.subscribe(&shard(1));
    drop(first);
    session.diff(shard(1), 4).await;
    expect_diff(&mut events, shard(1), 4).await;
    drop(second);
    assert_eq!(session.unsubscribe().await.1, [shard(1)]);
}

#[tokio::test]
async fn dropped_and_subscribed_at_once_is_a_new_subscription() {
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(peer.config());
    let token = client.subscribe(&shard(1));
    let mut session = peer.welcome().await;
    expect_connected(&mut events).await;
    session.grant(Some(1)).await;
    expect_resync(&mut events, shard(1), Some(1)).await;

    // Still in the queue when its subscription ends.
    session.diff(shard(1), 2).await;
    until(&client, "the diff", |stats| stats.diffs == 1).await;
    drop(token);
    let _token = client.subscribe(&shard(1));
    let (left, shards) = session.unsubscribe().await;
    assert_eq!(shards, [shard(1)]);
    let (request, shards) = session.subscribe().await;
    assert_ne!(request, left);
    assert_eq!(shards, [(shard(1), None)]);

    // Under way when the server heard of it.
    session.diff(shard(1), 3).await;
    session.gap(shard(1), 4, 5, 5).await;
    session
        .say(Heard::Unsubscribed(v1::Unsubscribed { request_id: left }))
        .await;
    session.subscribed(request, &[(shard(1), Some(5))]).await;
    session.diff(shard(1), 6).await;
    expect_resync(&mut events, shard(1), Some(5)).await;
    expect_diff(&mut events, shard(1), 6).await;
    assert_eq!(client.stats().stale, 3);
}

#[tokio::test]
async fn a_subscription_that_is_gone_hears_nothing() {
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(peer.config());
    let token = client.subscribe_from(&shard(1), 0);
    let _other = client.subscribe_from(&shard(2), 0);
    let mut session = peer.welcome().await;
    expect_connected(&mut events).await;
    session.grant(Some(0)).await;
    session.diff(shard(1), 1).await;
    until(&client, "the diff", |stats| stats.diffs == 1).await;
    drop(token);
    session.diff(shard(1), 2).await;
    session.diff(shard(2), 1).await;
    expect_diff(&mut events, shard(2), 1).await;
}

#[tokio::test]
async fn duplicates_are_dropped_and_late_gaps_passed_on() {
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(peer.config());
    let _token = client.subscribe_from(&shard(1), 5);
    let mut session = peer.welcome().await;
    expect_connected(&mut events).await;
    session.grant(Some(5)).await;
    for seqno in [5, 6, 6, 7, 3] {
        session.diff(shard(1), seqno).await;
    }
    session.gap(shard(1), 2, 3, 7).await;
    session.diff(shard(1), 7).await;
    session.diff(shard(1), 8).await;
    expect_diff(&mut events, shard(1), 6).await;
    expect_diff(&mut events, shard(1), 7).await;
    let gap = event(&mut events).await;
    assert!(matches!(gap, Event::Gap { from: 2, to: 3, .. }), "{gap:?}");
    expect_diff(&mut events, shard(1), 8).await;
    assert_eq!(client.stats().duplicates, 4);
}

#[tokio::test]
async fn large_interests_go_in_the_servers_batches() {
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(peer.config());
    let tokens: Vec<_> = (0..10)
        .map(|n| client.subscribe_from(&shard(n), 0))
        .collect();
    let limits = v1::Limits {
        max_shards_per_request: 4,
        ..limits()
    };
    let mut session = peer.welcome_with(limits, 0).await;
    expect_connected(&mut events).await;
    for size in [4, 4, 2] {
        assert_eq!(session.grant(Some(0)).await.len(), size);
    }
    drop(tokens);
    let mut left = 0;
    while left < 10 {
        let (_, shards) = session.unsubscribe().await;
        assert!((1..=4).contains(&shards.len()));
        left += shards.len();
    }
}

/// A host that does not read holds the bound and no more, and loses nothing.
#[tokio::test]
async fn a_host_that_does_not_read_makes_the_server_wait() {
    const DIFFS: u64 = 400;
    let payload = Bytes::from(vec![5; 64 * 1024]);
    let mut peer = Peer::<V1>::start().await;
    let config = peer.config().event_buffer(1 << 20, 1000);
    let (client, mut events) = connect(config);
    let _token = client.subscribe_from(&shard(1), 0);
    // Short heartbeats: a server is not dead because the host is slow.
    let mut session = peer.welcome_with(limits(), 500).await;
    session.grant(Some(0)).await;
    let sending = {
        let (payload, mouth) = (payload.clone(), session.mouth());
        tokio::spawn(async move {
            for seqno in 1..=DIFFS {
                mouth.say(diff(shard(1), seqno, payload.clone())).await;
            }
        })
    };
    until(&client, "a full queue", |stats| stats.diffs >= 15).await;
    // Five heartbeats take several silence times, of which the host would hear.
    for _ in 0..5 {
        assert!(matches!(session.said().await, Said::Heartbeat(_)));
    }
    let now = client.stats();
    assert!(now.diffs <= 17, "{now:?}");
    assert!(!sending.is_finished(), "25 MiB fit nowhere on the way");

    expect_connected(&mut events).await;
    for expected in 1..=DIFFS {
        let Event::Diff { seqno, diff, .. } = event(&mut events).await else {
            panic!("expected a diff");
        };
        assert_eq!((seqno, diff), (expected, payload.clone()));
    }
    assert_eq!(client.stats().lost, 0);
    soon("the server", sending).await.unwrap();
}

/// Pushes go out and a lost connection is replaced while the host does not
/// read, and it hears of the last state alone.
#[tokio::test]
async fn a_host_that_does_not_read_is_still_connected() {
    for room in 1..=2 {
        let mut peer = Peer::<V1>::start().await;
        let (client, mut events) = connect(peer.config().event_buffer(1 << 10, room));
        let _token = client.subscribe_from(&shard(1), 0);
        for round in 0..3 {
            let mut session = peer.welcome().await;
            session.subscribe().await;
            client.push_diff(&shard(2), round, payload(round));
            // After what is announced because of the session before.
            while session.publish().await != (shard(2), round, Some(payload(round))) {}
            session.fail(tonic::Status::unavailable("bye")).await;
        }
        let _session = peer.welcome().await;
        until(&client, "the last session", |stats| stats.established == 4).await;
        expect_connected(&mut events).await;
        expect_disconnected(&mut events).await;
        expect_connected(&mut events).await;
    }
}

/// When it reads again, the server is given the time to say something.
#[tokio::test(start_paused = true)]
async fn the_hosts_silence_is_not_the_servers() {
    let (mut peer, config) = Peer::inside();
    let (client, mut events) = connect(config.event_buffer(1, 1));
    let _token = client.subscribe_from(&shard(1), 0);
    let mut session = peer.welcome_with(limits(), 200).await;
    session.grant(Some(0)).await;
    session.diff(shard(1), 1).await;
    until(&client, "the diff", |stats| stats.diffs == 1).await;
    // Five heartbeats take longer than the server may be silent.
    for _ in 0..5 {
        assert!(matches!(session.said().await, Said::Heartbeat(_)));
    }
    expect_connected(&mut events).await;
    expect_diff(&mut events, shard(1), 1).await;
    assert!(matches!(session.said().await, Said::Heartbeat(_)));
    session.diff(shard(1), 2).await;
    expect_diff(&mut events, shard(1), 2).await;
    assert_eq!(client.stats().lost, 0);
}

#[tokio::test]
async fn events_are_a_stream() {
    let mut peer = Peer::<V1>::start().await;
    let (_client, mut events) = connect(peer.config());
    let _session = peer.welcome().await;
    let mut events = std::pin::pin!(&mut events);
    let first = std::future::poll_fn(|cx| events.as_mut().poll_next(cx));
    let first = soon("an event", first).await;
    assert!(matches!(first, Some(Event::Connected { .. })), "{first:?}");
}

#[test]
fn handles_go_anywhere() {
    fn anywhere<T: Send + Sync + 'static>() {}
    anywhere::<Client>();
    anywhere::<Subscription>();
    anywhere::<Event>();
    fn movable<T: Send + 'static>() {}
    movable::<persist_pubsub_client::Events>();
}
