//! An honest writer and its readers, of both wire versions, on a connection
//! of their own: they are to notice nothing.

use bytes::Bytes;
use persist_pubsub_proto::v1::session_request::Message as Request;
use persist_pubsub_proto::v1::session_response::Message as Response;
use persist_pubsub_proto::{ShardId, v0, v1};
use prost::Message;

use super::peer::{Connection, Heard, Stream, request};
use super::server::InMemory;
use super::settle;
use crate::v1_peer::hello;

/// Their shard, on which nobody else publishes.
pub(super) const SHARD: ShardId = ShardId::new(*b"bystanders'shard");

pub(super) struct Bystanders {
    writer: Stream,
    _v0: Stream,
    _v1: Stream,
    v0_heard: Heard,
    v1_heard: Heard,
    seqno: u64,
    _connection: Connection,
}

impl Bystanders {
    pub(super) async fn meet(server: &InMemory) -> Self {
        let (mut connection, mut streams) = (None, Vec::new());
        if let Some(pipe) = server.connect() {
            connection = Connection::new(pipe).await;
        }
        let Some(mut connection) = connection else {
            panic!("the bystanders are not let in");
        };
        for v1 in [false, false, true] {
            settle().await;
            streams.extend(connection.open(v1));
        }
        let Ok([mut writer, mut v0, mut v1]) = <[Stream; 3]>::try_from(streams) else {
            panic!("a bystander is not let in");
        };
        writer.read();
        let (v0_heard, v1_heard) = (v0.read(), v1.read());
        v0.say(&v0_message(v0::proto_pub_sub_message::Message::Subscribe(
            v0::ProtoSubscribe {
                shard_id: SHARD.to_string(),
            },
        )));
        v1.say(&request(Request::Hello(hello("bystander"))));
        v1.say(&request(Request::Subscribe(v1::Subscribe {
            request_id: 1,
            shards: vec![v1::ShardPosition {
                shard_id: SHARD.to_bytes(),
                seqno: None,
            }],
        })));
        settle().await;
        // The welcome and the answer.
        assert_eq!(v1_heard.take().len(), 2);
        Self {
            writer,
            _v0: v0,
            _v1: v1,
            v0_heard,
            v1_heard,
            seqno: 0,
            _connection: connection,
        }
    }

    /// The next diff reaches both readers, and nothing else has.
    pub(super) async fn are_served(&mut self) {
        self.seqno += 1;
        let diff = Bytes::from(format!("bystander {}", self.seqno));
        let push = v0_message(v0::proto_pub_sub_message::Message::PushDiff(
            v0::ProtoPushDiff {
                shard_id: SHARD.to_string(),
                seqno: self.seqno,
                diff: diff.clone(),
            },
        ));
        self.writer.say(&push);
        settle().await;
        // As it was published, bit for bit.
        assert_eq!(self.v0_heard.take(), [push], "the v0 bystander");
        let heard = self.v1_heard.take();
        let [message] = heard.as_slice() else {
            panic!("{} messages for the v1 bystander", heard.len());
        };
        match v1::SessionResponse::decode(message.clone()).map(|m| m.message) {
            Ok(Some(Response::Diff(heard))) => {
                assert_eq!((heard.seqno, heard.diff), (self.seqno, diff));
                assert_eq!(heard.shard_id, SHARD.to_bytes());
            }
            other => panic!("{other:?} for the v1 bystander"),
        }
    }
}

/// A v0 message with a stamp, as every deployed client sends.
pub(super) fn v0_message(kind: v0::proto_pub_sub_message::Message) -> Vec<u8> {
    v0::ProtoPubSubMessage {
        timestamp: Some(v0::ProtoDuration {
            secs: 1_700_000_000,
            nanos: 1,
        }),
        message: Some(kind),
    }
    .encode_to_vec()
}
