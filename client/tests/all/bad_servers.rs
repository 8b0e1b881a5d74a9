//! Servers that refuse, and servers that make no sense.

use bytes::Bytes;
use persist_pubsub_client::{Event, Reason, connect};
use persist_pubsub_proto::v1;
use persist_pubsub_proto::v1::session_response::Message as Heard;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::peer::{
    Peer, V1, config, event, expect_connected, expect_diff, expect_disconnected, expect_resync,
    limits, payload, shard, soon, until,
};
use crate::script::{diff, welcome};

fn rejected(code: v1::RejectionCode, request: u64) -> Heard {
    Heard::Rejected(v1::Rejected {
        code: code.into(),
        reason: "no\nnot here".into(),
        request_id: request,
        ..v1::Rejected::default()
    })
}

#[tokio::test]
async fn a_refused_subscribe_is_tried_again() {
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(peer.config());
    let _tokens: Vec<_> = (1..=4).map(|n| client.subscribe(&shard(n))).collect();
    let mut session = peer.welcome().await;
    expect_connected(&mut events).await;
    let (request, shards) = session.subscribe().await;
    assert_eq!(shards.len(), 4);
    session
        .say(rejected(v1::RejectionCode::TooManySubscriptions, request))
        .await;
    // In halves: one that fits is not kept out by one that does not.
    let (first, shards) = session.subscribe().await;
    assert_eq!(shards.len(), 2);
    session
        .subscribed(first, &[(shards[0].0, None), (shards[1].0, None)])
        .await;
    expect_resync(&mut events, shard(1), None).await;
    expect_resync(&mut events, shard(2), None).await;
    let (second, shards) = session.subscribe().await;
    assert_eq!(shards.len(), 2);
    session
        .say(rejected(v1::RejectionCode::TooManyTopics, second))
        .await;
    until(&client, "the refusal to show", |stats| {
        stats.refused_shards == 2
    })
    .await;
    session.grant(Some(4)).await;
    expect_resync(&mut events, shard(3), Some(4)).await;
    session.grant(Some(5)).await;
    expect_resync(&mut events, shard(4), Some(5)).await;
    until(&client, "nothing refused", |stats| {
        stats.refused_shards == 0
    })
    .await;
    assert_eq!(client.stats().rejected, 2);
}

#[tokio::test]
async fn a_refused_push_costs_that_push() {
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(peer.config());
    let mut session = peer.welcome().await;
    expect_connected(&mut events).await;
    for seqno in 1..=50 {
        client.push_diff(&shard(1), seqno, payload(seqno));
        assert_eq!(session.publish().await.1, seqno);
        session.say(rejected(v1::RejectionCode::ReadOnly, 0)).await;
    }
    until(&client, "the refusals", |stats| stats.rejected == 50).await;
    assert_eq!(client.stats().lost, 0);
}

#[tokio::test]
async fn a_refused_hello_is_tried_again() {
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(peer.config());
    let mut session = peer.accept().await;
    session.said().await;
    session
        .say(rejected(v1::RejectionCode::NoCommonRevision, 0))
        .await;
    session
        .fail(tonic::Status::failed_precondition("revision 9"))
        .await;
    let mut session = peer.accept().await;
    session.said().await;
    let Heard::Welcome(mut unasked) = welcome(limits(), 0) else {
        unreachable!()
    };
    unasked.revision = 9;
    session.say(Heard::Welcome(unasked)).await;
    session.hear_gone().await;
    let _session = peer.welcome().await;
    expect_connected(&mut events).await;
    assert_eq!(client.stats().attempts, 3);
}

#[tokio::test]
async fn messages_that_make_no_sense_are_passed_over() {
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(peer.config());
    let _token = client.subscribe_from(&shard(1), 0);
    let mut session = peer.welcome().await;
    expect_connected(&mut events).await;
    let (request, _) = session.subscribe().await;
    session.subscribed(999, &[(shard(1), Some(77))]).await;
    session
        .subscribed(request, &[(shard(7), None), (shard(1), Some(0))])
        .await;
    // Again: it is answered already.
    session.subscribed(request, &[(shard(1), None)]).await;
    let nonsense = [
        Heard::Diff(v1::Diff {
            shard_id: Bytes::from_static(b"short"),
            seqno: 1,
            ..v1::Diff::default()
        }),
        diff(shard(1), u64::MAX, payload(1)),
        Heard::Gap(v1::Gap {
            shard_id: shard(1).to_bytes(),
            from_seqno: 9,
            to_seqno: 3,
            highest_seqno: 9,
        }),
        Heard::Gap(v1::Gap {
            shard_id: shard(1).to_bytes(),
            from_seqno: 0,
            to_seqno: u64::MAX,
            highest_seqno: 9,
        }),
        Heard::Gap(v1::Gap::default()),
        Heard::Subscribed(v1::Subscribed {
            request_id: request,
            shards: vec![v1::ShardHead::default()],
        }),
        welcome(limits(), 1),
    ];
    let count = nonsense.len() as u64;
    for message in nonsense {
        session.say(message).await;
    }
    session.send(v1::SessionResponse { message: None }).await;
    session
        .say(Heard::Unsubscribed(v1::Unsubscribed { request_id: 5 }))
        .await;
    session
        .say(rejected(v1::RejectionCode::Malformed, 12_345))
        .await;
    session.diff(shard(9), 1).await;
    session.diff(shard(1), 1).await;
    expect_diff(&mut events, shard(1), 1).await;
    let now = client.stats();
    assert_eq!((now.malformed, now.stale, now.lost), (count, 1, 0));
    assert_eq!(now.resyncs, 0);
}

#[tokio::test]
async fn a_message_too_large_to_read_costs_the_session_alone() {
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(peer.config());
    let _token = client.subscribe_from(&shard(1), 0);
    let mut session = peer.welcome().await;
    expect_connected(&mut events).await;
    session.grant(Some(0)).await;
    let large = Bytes::from(vec![0; 65 << 20]);
    session.say(diff(shard(1), 1, large)).await;
    let told = event(&mut events).await;
    let Event::Disconnected { reason } = told else {
        panic!("{told:?}");
    };
    assert!(matches!(reason, Reason::Status { .. }), "{reason}");
    let mut session = peer.welcome().await;
    expect_connected(&mut events).await;
    session.grant(Some(0)).await;
    session.diff(shard(1), 1).await;
    expect_diff(&mut events, shard(1), 1).await;
}

/// Its connection is closed, although what was pushed can never be sent.
#[tokio::test]
async fn a_server_that_hangs_is_let_go_of() {
    let mut peer = Peer::<V1>::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = peer.address;
    let (client, mut events) = connect(config(listener.local_addr().unwrap()));
    let (from_client, _) = soon("an attempt", listener.accept()).await.unwrap();
    let closed = tokio::spawn(async move {
        let to_server = TcpStream::connect(address).await.unwrap();
        let (mut read, mut write) = from_client.into_split();
        let (mut answers, mut to_server) = to_server.into_split();
        tokio::spawn(async move { tokio::io::copy(&mut answers, &mut write).await });
        // Until the client closes.
        let _ = tokio::io::copy(&mut read, &mut to_server).await;
        to_server
    });
    let hung = peer.welcome_with(limits(), 50).await;
    expect_connected(&mut events).await;
    for seqno in 1..=100 {
        client.push_diff(&shard(1), seqno, Bytes::from(vec![0; 100_000]));
    }
    expect_disconnected(&mut events).await;
    soon("the connection to be closed", closed).await.unwrap();
    drop(hung);
}

#[tokio::test]
async fn a_listener_that_speaks_something_else_is_tried_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, mut events) = connect(config(address));
    for garbage in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        &[0xff; 64],
        &b""[..],
        // A frame of HTTP/2 that announces far more than it brings.
        &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1],
    ] {
        let (mut stream, _) = soon("an attempt", listener.accept()).await.unwrap();
        let _ = stream.write_all(garbage).await;
        let _ = stream.read(&mut [0; 64]).await;
    }
    drop(listener);
    let mut peer = Peer::<V1>::start_at(address).await;
    let session = peer.welcome().await;
    expect_connected(&mut events).await;
    drop(session);
    expect_disconnected(&mut events).await;
    assert!(client.stats().attempts >= 5);
}
