//! What goes out: order, bounds, and what is announced instead.

use bytes::Bytes;
use persist_pubsub_client::connect;
use persist_pubsub_proto::v1;

use crate::peer::{Peer, V1, expect_connected, expect_disconnected, limits, payload, shard, until};

#[tokio::test]
async fn pushes_keep_their_order() {
    const PUSHES: u64 = 2_000;
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(peer.config());
    for seqno in 0..PUSHES / 2 {
        client.push_diff(&shard(1), seqno, payload(seqno));
    }
    let mut session = peer.welcome().await;
    expect_connected(&mut events).await;
    for seqno in PUSHES / 2..PUSHES {
        client.push_diff(&shard(1), seqno, payload(seqno));
    }
    for seqno in 0..PUSHES {
        assert_eq!(
            session.publish().await,
            (shard(1), seqno, Some(payload(seqno)))
        );
    }
    let now = client.stats();
    assert_eq!((now.pushes, now.sent), (PUSHES, PUSHES));
    assert_eq!((now.pushes_dropped, now.buffered_bytes), (0, 0));
}

#[tokio::test]
async fn every_push_goes_out_at_once() {
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(peer.config());
    let mut session = peer.welcome().await;
    expect_connected(&mut events).await;
    // One after the other: each has to wake the network by itself.
    for seqno in 1..=100 {
        client.push_diff(&shard(1), seqno, payload(seqno));
        assert_eq!(session.publish().await.1, seqno);
    }
}

#[tokio::test]
async fn offline_pushes_are_bounded_and_the_rest_announced() {
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(peer.config().push_buffer(20_000, 1_000));
    let payload = Bytes::from(vec![1; 936]);
    for seqno in 1..=100 {
        client.push_diff(&shard(1), seqno, payload.clone());
        client.push_diff(&shard(2), seqno, payload.clone());
    }
    let now = client.stats();
    assert_eq!(now.buffered_bytes, 20_000);
    assert_eq!(now.pushes_dropped, 180);

    let mut session = peer.welcome().await;
    expect_connected(&mut events).await;
    assert_eq!(session.publish().await, (shard(1), 90, None));
    assert_eq!(session.publish().await, (shard(2), 90, None));
    for seqno in 91..=100 {
        for n in 1..=2 {
            assert_eq!(
                session.publish().await,
                (shard(n), seqno, Some(payload.clone()))
            );
        }
    }
}

#[tokio::test]
async fn what_may_be_lost_with_a_connection_is_announced() {
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(peer.config());
    let mut session = peer.welcome().await;
    expect_connected(&mut events).await;
    for seqno in 1..=3 {
        client.push_diff(&shard(1), seqno, payload(seqno));
        session.publish().await;
    }
    client.push_diff(&shard(2), 8, payload(8));
    session.publish().await;
    session.fail(tonic::Status::unavailable("bye")).await;
    expect_disconnected(&mut events).await;

    client.push_diff(&shard(1), 4, payload(4));
    let mut session = peer.welcome().await;
    assert_eq!(session.publish().await, (shard(1), 3, None));
    assert_eq!(session.publish().await, (shard(2), 8, None));
    assert_eq!(session.publish().await, (shard(1), 4, Some(payload(4))));
}

#[tokio::test]
async fn a_diff_above_the_servers_limit_goes_as_its_seqno() {
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(peer.config());
    let limits = v1::Limits {
        max_diff_bytes: 100,
        ..limits()
    };
    let mut session = peer.welcome_with(limits, 0).await;
    expect_connected(&mut events).await;
    let (large, fits) = (Bytes::from(vec![1; 101]), Bytes::from(vec![1; 100]));
    client.push_diff(&shard(1), 1, large);
    client.push_diff(&shard(1), 2, fits.clone());
    assert_eq!(session.publish().await, (shard(1), 1, None));
    assert_eq!(session.publish().await, (shard(1), 2, Some(fits)));
}

#[tokio::test]
async fn a_seqno_that_there_cannot_be_is_not_sent() {
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(peer.config());
    let mut session = peer.welcome().await;
    expect_connected(&mut events).await;
    client.push_diff(&shard(1), u64::MAX, payload(1));
    client.push_diff(&shard(1), 1, payload(1));
    assert_eq!(session.publish().await.1, 1);
    let _token = client.subscribe_from(&shard(2), u64::MAX);
    assert_eq!(session.subscribe().await.1, [(shard(2), None)]);
    assert_eq!(client.stats().pushes_dropped, 1);
}

/// A server that does not read costs the host its buffer, and no time.
#[tokio::test]
async fn a_server_that_does_not_read_blocks_nobody() {
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(peer.config().push_buffer(1 << 20, 1_000_000));
    let mut session = peer.welcome().await;
    expect_connected(&mut events).await;
    let payload = Bytes::from(vec![1; 10_000]);
    for seqno in 1..=2_000 {
        client.push_diff(&shard(1), seqno, payload.clone());
        tokio::task::yield_now().await;
    }
    until(&client, "overflow", |stats| stats.pushes_dropped > 0).await;
    assert!(client.stats().buffered_bytes <= 1 << 20);
    // When it reads again, it hears everything, or that there was something.
    let mut next = 1;
    loop {
        let (_, seqno, diff) = session.publish().await;
        match diff {
            Some(_) => assert_eq!(seqno, next),
            None => assert!(seqno >= next, "{seqno} < {next}"),
        }
        next = seqno + 1;
        if seqno == 2_000 {
            break;
        }
    }
}
