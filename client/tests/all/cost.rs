//! What a call costs beside its time: allocations on the calling thread. The
//! times are measured by `benches/push.rs`.

use allocation_counter::measure;
use bytes::Bytes;
use persist_pubsub_client::{Client, connect};

use crate::peer::{Peer, V1, config, expect_connected, shard};

const PUSHES: u64 = 1_000;

/// As many pushes as the network is given room for in between, to shards that
/// the host wants and to others.
fn pushes(client: &Client, from: u64) -> u64 {
    let diff = Bytes::from_static(&[7; 900]);
    let counted = measure(|| {
        for n in from..from + PUSHES {
            let of = u8::try_from(n % 8).unwrap();
            client.push_diff(&shard(of), n / 8, diff.clone());
        }
    });
    counted.count_total
}

#[tokio::test]
async fn a_push_allocates_nothing() {
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(peer.config());
    let _tokens: Vec<_> = (0..4).map(|n| client.subscribe(&shard(n))).collect();
    let mut session = peer.welcome().await;
    expect_connected(&mut events).await;
    session.subscribe().await;
    // The log grows to what waits at a time, and keeps its place.
    let first = pushes(&client, 0);
    println!("{first} allocations for the first {PUSHES} pushes");
    for round in 1..4 {
        for _ in 0..PUSHES {
            session.publish().await;
        }
        assert_eq!(pushes(&client, round * PUSHES), 0);
    }
}

#[tokio::test]
async fn a_push_allocates_nothing_without_a_server() {
    let unused = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = config(unused.local_addr().unwrap());
    drop(unused);
    let (client, _events) = connect(nobody.push_buffer(1 << 20, 500));
    let _tokens: Vec<_> = (0..4).map(|n| client.subscribe(&shard(n))).collect();
    let first = pushes(&client, 0);
    println!("{first} allocations for the first {PUSHES} pushes");
    // Each drops another, and its seqno is kept to be announced.
    assert_eq!(pushes(&client, PUSHES), 0);
    assert!(client.stats().pushes_dropped >= PUSHES);
}
