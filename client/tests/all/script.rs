//! What a v1 peer says and expects, in few words.

use bytes::Bytes;
use persist_pubsub_client::ShardId;
use persist_pubsub_proto::v1;
use persist_pubsub_proto::v1::session_request::Message as Said;
use persist_pubsub_proto::v1::session_response::Message as Heard;
use tokio::sync::mpsc;
use tonic::Status;

use crate::peer::{Peer, Session, V1, limits, payload, soon};

impl Peer<V1> {
    /// The next session, welcomed.
    pub(crate) async fn welcome(&mut self) -> Session<V1> {
        self.welcome_with(limits(), 0).await
    }

    /// As the run of a server that this names.
    pub(crate) async fn welcome_as(&mut self, instance: &str) -> Session<V1> {
        let mut session = self.accept().await;
        let Said::Hello(_) = session.said().await else {
            panic!("the first message has to be a hello");
        };
        let Heard::Welcome(mut welcome) = welcome(limits(), 0) else {
            unreachable!()
        };
        welcome.server_instance_id = instance.into();
        session.say(Heard::Welcome(welcome)).await;
        session
    }

    pub(crate) async fn welcome_with(&mut self, limits: v1::Limits, heartbeat: u32) -> Session<V1> {
        let mut session = self.accept().await;
        let Said::Hello(_) = session.said().await else {
            panic!("the first message has to be a hello");
        };
        session.say(welcome(limits, heartbeat)).await;
        session
    }
}

pub(crate) fn welcome(limits: v1::Limits, heartbeat: u32) -> Heard {
    Heard::Welcome(v1::Welcome {
        revision: 1,
        server_instance_id: "instance".into(),
        server_version: "1.2.3".into(),
        session_id: 7,
        limits: Some(limits),
        heartbeat_interval_millis: heartbeat,
        ..v1::Welcome::default()
    })
}

/// The sending half of a session alone.
pub(crate) struct Mouth(mpsc::Sender<Result<v1::SessionResponse, Status>>);

impl Mouth {
    pub(crate) async fn say(&self, message: Heard) {
        let message = Some(message);
        let response = Ok(v1::SessionResponse { message });
        soon("room to send", self.0.send(response)).await.unwrap();
    }
}

impl Session<V1> {
    pub(crate) fn mouth(&self) -> Mouth {
        Mouth(self.outgoing.clone())
    }

    pub(crate) async fn said(&mut self) -> Said {
        self.hear().await.message.expect("a kind that exists")
    }

    /// What it says next beside heartbeats.
    pub(crate) async fn said_more(&mut self) -> Said {
        loop {
            match self.said().await {
                Said::Heartbeat(_) => {}
                said => return said,
            }
        }
    }

    pub(crate) async fn say(&self, message: Heard) {
        let message = Some(message);
        self.send(v1::SessionResponse { message }).await;
    }

    /// Its next message, a subscribe: the request id and the positions.
    pub(crate) async fn subscribe(&mut self) -> (u64, Vec<(ShardId, Option<u64>)>) {
        let Said::Subscribe(subscribe) = self.said_more().await else {
            panic!("expected a subscribe");
        };
        let shards = subscribe
            .shards
            .iter()
            .map(|at| (ShardId::from_slice(&at.shard_id).unwrap(), at.seqno))
            .collect();
        (subscribe.request_id, shards)
    }

    pub(crate) async fn unsubscribe(&mut self) -> (u64, Vec<ShardId>) {
        let Said::Unsubscribe(unsubscribe) = self.said_more().await else {
            panic!("expected an unsubscribe");
        };
        let shards = unsubscribe
            .shard_ids
            .iter()
            .map(|id| ShardId::from_slice(id).unwrap())
            .collect();
        (unsubscribe.request_id, shards)
    }

    /// Its next message, a publish: shard, seqno, diff.
    pub(crate) async fn publish(&mut self) -> (ShardId, u64, Option<Bytes>) {
        match self.said_more().await {
            Said::Publish(publish) => (
                ShardId::from_slice(&publish.shard_id).unwrap(),
                publish.seqno,
                publish.diff,
            ),
            other => panic!("expected a publish, got {other:?}"),
        }
    }

    pub(crate) async fn subscribed(&self, request: u64, heads: &[(ShardId, Option<u64>)]) {
        let shards = heads
            .iter()
            .map(|(shard, highest)| v1::ShardHead {
                shard_id: shard.to_bytes(),
                highest_seqno: *highest,
            })
            .collect();
        self.say(Heard::Subscribed(v1::Subscribed {
            request_id: request,
            shards,
        }))
        .await;
    }

    /// Hears one subscribe and answers that every shard is at `highest`.
    pub(crate) async fn grant(&mut self, highest: Option<u64>) -> Vec<(ShardId, Option<u64>)> {
        let (request, shards) = self.subscribe().await;
        let heads: Vec<_> = shards.iter().map(|(shard, _)| (*shard, highest)).collect();
        self.subscribed(request, &heads).await;
        shards
    }

    pub(crate) async fn diff(&self, shard: ShardId, seqno: u64) {
        self.say(diff(shard, seqno, payload(seqno))).await;
    }

    pub(crate) async fn gap(&self, shard: ShardId, from: u64, to: u64, highest: u64) {
        self.say(Heard::Gap(v1::Gap {
            shard_id: shard.to_bytes(),
            from_seqno: from,
            to_seqno: to,
            highest_seqno: highest,
        }))
        .await;
    }
}

pub(crate) fn diff(shard: ShardId, seqno: u64, diff: Bytes) -> Heard {
    Heard::Diff(v1::Diff {
        shard_id: shard.to_bytes(),
        seqno,
        committed_unix_nanos: 0,
        diff,
    })
}
