//! Make before break.

use persist_pubsub_client::connect;
use persist_pubsub_proto::v1;
use persist_pubsub_proto::v1::session_response::Message as Heard;

use crate::peer::{Peer, Session, V1, event, expect_connected, expect_diff, payload, shard, until};

async fn drain(session: &Session<V1>, window_millis: u32) {
    session
        .say(Heard::Draining(v1::Draining {
            reason: "upgrade".into(),
            window_millis,
        }))
        .await;
}

#[tokio::test]
async fn the_next_session_is_ready_before_the_old_one_ends() {
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(peer.config());
    let _token = client.subscribe_from(&shard(1), 0);
    let mut old = peer.welcome().await;
    expect_connected(&mut events).await;
    old.grant(Some(0)).await;
    client.push_diff(&shard(9), 1, payload(1));
    old.publish().await;
    drain(&old, 20).await;

    let mut new = peer.welcome().await;
    expect_connected(&mut events).await;
    let (request, asked) = new.subscribe().await;
    assert_eq!(asked, [(shard(1), Some(0))]);
    // The old one lives, and is read.
    old.diff(shard(1), 1).await;
    expect_diff(&mut events, shard(1), 1).await;
    // The new one publishes.
    client.push_diff(&shard(9), 2, payload(2));
    assert_eq!(new.publish().await, (shard(9), 2, Some(payload(2))));

    // Answered: now the old one is half-closed, and read to its end.
    new.subscribed(request, &[(shard(1), Some(0))]).await;
    old.hear_end().await;
    new.diff(shard(1), 1).await;
    old.diff(shard(1), 2).await;
    expect_diff(&mut events, shard(1), 2).await;
    drop(old);
    new.diff(shard(1), 2).await;
    new.diff(shard(1), 3).await;
    expect_diff(&mut events, shard(1), 3).await;
    let now = client.stats();
    assert_eq!(
        (now.duplicates, now.lost, now.gaps, now.resyncs),
        (2, 0, 0, 0)
    );
    // Nothing was lost, so nothing is announced again.
    client.push_diff(&shard(9), 3, payload(3));
    assert_eq!(new.publish().await, (shard(9), 3, Some(payload(3))));
}

#[tokio::test]
async fn a_draining_server_that_dies_early_is_a_lost_one() {
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(peer.config());
    let _token = client.subscribe_from(&shard(1), 0);
    let mut old = peer.welcome().await;
    expect_connected(&mut events).await;
    old.grant(Some(0)).await;
    drain(&old, 3_600_000).await;
    drop(old);
    crate::peer::expect_disconnected(&mut events).await;
    let mut new = peer.welcome().await;
    expect_connected(&mut events).await;
    new.grant(Some(0)).await;
    assert_eq!(client.stats().lost, 1);
}

#[tokio::test]
async fn the_old_session_goes_on_when_its_successor_dies() {
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(peer.config());
    let _token = client.subscribe_from(&shard(1), 0);
    let mut old = peer.welcome().await;
    expect_connected(&mut events).await;
    old.grant(Some(0)).await;
    drain(&old, 0).await;
    let new = peer.welcome().await;
    expect_connected(&mut events).await;
    new.fail(tonic::Status::unavailable("not here")).await;
    // Back on the old one, without a loss.
    expect_connected(&mut events).await;
    old.diff(shard(1), 1).await;
    expect_diff(&mut events, shard(1), 1).await;
    client.push_diff(&shard(9), 1, payload(1));
    assert_eq!(old.publish().await.1, 1);

    let mut third = peer.welcome().await;
    expect_connected(&mut events).await;
    assert_eq!(third.grant(Some(1)).await, [(shard(1), Some(1))]);
    old.hear_end().await;
}

#[tokio::test]
async fn a_subscription_made_while_two_sessions_live_is_on_both() {
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(peer.config());
    let _first = client.subscribe_from(&shard(1), 0);
    let mut old = peer.welcome().await;
    expect_connected(&mut events).await;
    old.grant(Some(0)).await;
    drain(&old, 0).await;
    let mut new = peer.welcome().await;
    expect_connected(&mut events).await;
    let (request, _) = new.subscribe().await;
    let second = client.subscribe_from(&shard(2), 0);
    assert_eq!(old.grant(Some(0)).await, [(shard(2), Some(0))]);
    assert_eq!(new.grant(Some(0)).await, [(shard(2), Some(0))]);
    old.diff(shard(2), 1).await;
    expect_diff(&mut events, shard(2), 1).await;
    new.diff(shard(2), 1).await;
    new.diff(shard(2), 2).await;
    expect_diff(&mut events, shard(2), 2).await;
    drop(second);
    assert_eq!(old.unsubscribe().await.1, [shard(2)]);
    assert_eq!(new.unsubscribe().await.1, [shard(2)]);
    new.subscribed(request, &[(shard(1), Some(0))]).await;
    old.hear_end().await;
    drop(old);
    new.gap(shard(1), 1, 4, 4).await;
    let told = event(&mut events).await;
    assert!(
        matches!(told, persist_pubsub_client::Event::Gap { .. }),
        "{told:?}"
    );
    until(&client, "one session", |stats| stats.connected).await;
}
