//! Servers without v1.

use bytes::Bytes;
use persist_pubsub_client::{Event, Reason, ShardId, Wire, WirePreference, connect};
use persist_pubsub_proto::v0;
use persist_pubsub_proto::v0::proto_pub_sub_message::Message;

use crate::peer::{
    Peer, Session, V0, V1, event, expect_disconnected, expect_resync, limits, payload, shard, until,
};

impl Session<V0> {
    async fn said(&mut self) -> Message {
        let message = self.hear().await;
        let stamp = message.timestamp.expect("a stamp");
        assert!(stamp.secs > 1_600_000_000);
        message.message.expect("a kind")
    }

    pub(crate) async fn diff(&self, shard: ShardId, seqno: u64) {
        self.send(v0::ProtoPubSubMessage {
            timestamp: None,
            message: Some(Message::PushDiff(v0::ProtoPushDiff {
                shard_id: shard.to_string(),
                seqno,
                diff: payload(seqno),
            })),
        })
        .await;
    }
}

fn subscribe(shard: ShardId) -> Message {
    Message::Subscribe(v0::ProtoSubscribe {
        shard_id: shard.to_string(),
    })
}

fn unsubscribe(shard: ShardId) -> Message {
    Message::Unsubscribe(v0::ProtoUnsubscribe {
        shard_id: shard.to_string(),
    })
}

fn push(shard: ShardId, seqno: u64) -> Message {
    Message::PushDiff(v0::ProtoPushDiff {
        shard_id: shard.to_string(),
        seqno,
        diff: payload(seqno),
    })
}

async fn expect_v0(events: &mut persist_pubsub_client::Events) {
    let told = event(events).await;
    assert!(
        matches!(told, Event::Connected { wire: Wire::V0, .. }),
        "{told:?}"
    );
}

#[tokio::test]
async fn a_server_without_v1_is_spoken_v0_to() {
    let mut peer = Peer::<V0>::start().await;
    let (client, mut events) = connect(peer.config().client_name("clusterd ü"));
    client.push_diff(&shard(2), 5, payload(5));
    let token = client.subscribe(&shard(1));
    let mut session = peer.accept().await;
    assert_eq!(session.metadata.get(v0::CALLER_ID).unwrap(), "clusterd ?");
    expect_v0(&mut events).await;
    assert_eq!(session.said().await, subscribe(shard(1)));
    assert_eq!(session.said().await, push(shard(2), 5));
    expect_resync(&mut events, shard(1), None).await;

    // Of what came before the first diff neither end knows.
    session.diff(shard(1), 7).await;
    let first = event(&mut events).await;
    assert!(
        matches!(
            first,
            Event::Gap {
                from: 0,
                to: 6,
                highest: 7,
                ..
            }
        ),
        "{first:?}"
    );
    crate::peer::expect_diff(&mut events, shard(1), 7).await;
    // 8 is our own, which a v0 server does not echo; 9 is a hole.
    client.push_diff(&shard(1), 8, payload(8));
    assert_eq!(session.said().await, push(shard(1), 8));
    session.diff(shard(1), 9).await;
    crate::peer::expect_diff(&mut events, shard(1), 9).await;
    session.diff(shard(1), 11).await;
    let hole = event(&mut events).await;
    assert!(
        matches!(
            hole,
            Event::Gap {
                from: 10,
                to: 10,
                ..
            }
        ),
        "{hole:?}"
    );
    crate::peer::expect_diff(&mut events, shard(1), 11).await;
    session.diff(shard(1), 9).await;

    drop(token);
    let _token = client.subscribe_from(&shard(1), 11);
    assert_eq!(session.said().await, unsubscribe(shard(1)));
    assert_eq!(session.said().await, subscribe(shard(1)));
    expect_resync(&mut events, shard(1), None).await;
    session.diff(shard(1), 12).await;
    crate::peer::expect_diff(&mut events, shard(1), 12).await;
    assert_eq!(client.stats().duplicates, 1);
}

#[tokio::test]
async fn v0_cannot_announce_and_resyncs_after_a_loss() {
    let mut peer = Peer::<V0>::start().await;
    let (client, mut events) = connect(peer.config().wire(WirePreference::V0));
    let _token = client.subscribe_from(&shard(1), 3);
    let mut session = peer.accept().await;
    expect_v0(&mut events).await;
    session.said().await;
    expect_resync(&mut events, shard(1), None).await;
    client.push_diff(&shard(2), 1, payload(1));
    session.said().await;
    session.fail(tonic::Status::unavailable("bye")).await;
    expect_disconnected(&mut events).await;

    let mut session = peer.accept().await;
    expect_v0(&mut events).await;
    assert_eq!(session.said().await, subscribe(shard(1)));
    expect_resync(&mut events, shard(1), None).await;
    // Larger than a deployed server takes: it would end the stream.
    client.push_diff(&shard(2), 2, Bytes::from(vec![0; 5 << 20]));
    client.push_diff(&shard(2), 3, payload(3));
    assert_eq!(session.said().await, push(shard(2), 3));
    assert_eq!(client.stats().announced, 0);
}

#[tokio::test]
async fn v1_alone_does_not_fall_back() {
    let mut peer = Peer::<V0>::start().await;
    let (client, _events) = connect(peer.config().wire(WirePreference::V1));
    until(&client, "attempts", |stats| stats.attempts >= 3).await;
    assert!(peer.is_left_alone());
    assert_eq!(client.stats().established, 0);
}

#[tokio::test]
async fn each_attempt_decides_anew() {
    let mut old = Peer::<V0>::start().await;
    let address = old.address;
    let (_client, mut events) = connect(old.config());
    let session = old.accept().await;
    expect_v0(&mut events).await;
    // The server is upgraded in place.
    drop(old);
    session.fail(tonic::Status::unavailable("bye")).await;
    let told = event(&mut events).await;
    assert!(
        matches!(
            told,
            Event::Disconnected {
                reason: Reason::Status { code: 14, .. }
            }
        ),
        "{told:?}"
    );
    let mut new = Peer::<V1>::start_at(address).await;
    let _session = new.welcome_with(limits(), 0).await;
    let told = event(&mut events).await;
    assert!(
        matches!(told, Event::Connected { wire: Wire::V1, .. }),
        "{told:?}"
    );
}
