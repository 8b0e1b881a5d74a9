//! What golden transcripts are made of: each scenario as messages.

use bytes::Bytes;
use persist_pubsub_proto::ShardId;
use persist_pubsub_proto::v0::proto_pub_sub_message::Message as V0;
use persist_pubsub_proto::v0::{ProtoDuration, ProtoPubSubMessage, ProtoPushDiff, ProtoSubscribe};
use persist_pubsub_proto::v1::session_request::Message as Request;
use persist_pubsub_proto::v1::{self, ShardPosition};
use prost::Message as _;

use super::client::GENERATION;
use super::transcript::Line;
use crate::v1_peer;

const SHARD: ShardId = ShardId::new([0x5c; 16]);
/// For answers that tell that what came before was taken.
const OTHER: ShardId = ShardId::new([0x07; 16]);
/// A field that there is not: number 1,999, text, "new".
const FUTURE: &[u8] = &[0xfa, 0x7c, 0x03, b'n', b'e', b'w'];

/// Every scenario, with nothing where something is to be heard.
#[must_use]
pub fn scripts() -> Vec<(&'static str, Vec<Line>)> {
    let follows = |have| [greet("b"), follow("b", 1, SHARD, have)].concat();
    let both = |have| [greet("a"), follows(have)].concat();
    let hears = |times: usize| vec![hear("b"); times];
    let taken = || follow("a", 9, OTHER, None);
    vec![
        (
            "publish",
            [
                both(Some(1)),
                vec![open("v0-c"), say("v0-c", v0_push(2))],
                hears(1),
                vec![publish("a", 3)],
                hears(1),
                // v0 is told what is recent when it subscribes.
                vec![open("v0-d"), say("v0-d", v0_subscribe())],
                vec![hear("v0-d"), hear("v0-d")],
            ]
            .concat(),
        ),
        (
            "join",
            [
                greet("a"),
                vec![publish("a", 1), publish("a", 2), publish("a", 3)],
                taken(),
                follows(Some(1)),
                hears(2),
            ]
            .concat(),
        ),
        (
            "resume",
            [
                both(Some(1)),
                vec![publish("a", 2)],
                hears(1),
                vec![Line::Close("b".to_owned()), publish("a", 3)],
                taken(),
                follows(Some(2)),
                hears(1),
            ]
            .concat(),
        ),
        (
            "gap",
            [
                both(Some(1)),
                vec![publish("a", 2)],
                hears(1),
                vec![publish("a", 5)],
                hears(2),
                vec![announce("a", 7)],
                hears(1),
            ]
            .concat(),
        ),
        (
            "drain",
            [
                follows(None),
                vec![Line::Drain, hear("b"), Line::End("b".to_owned(), 0)],
            ]
            .concat(),
        ),
        (
            "fence",
            [
                follows(None),
                vec![
                    Line::Fence(GENERATION + 1),
                    hear("b"),
                    Line::End("b".to_owned(), 0),
                    open("c"),
                    say("c", hello("c")),
                    hear("c"),
                ],
            ]
            .concat(),
        ),
        (
            "future",
            [
                follows(Some(1)),
                vec![open("a"), say("a", [hello("a"), FUTURE.to_vec()].concat())],
                vec![hear("a"), say("a", FUTURE.to_vec()), future_publish("a", 2)],
                hears(1),
            ]
            .concat(),
        ),
        (
            "mismatch",
            [
                vec![open("a"), say("a", too_new()), hear("a")],
                follows(None),
            ]
            .concat(),
        ),
        (
            "restart",
            [
                both(Some(1)),
                vec![publish("a", 2)],
                hears(1),
                vec![Line::Restart],
                follows(Some(2)),
                greet("a"),
                vec![publish("a", 3)],
                hears(1),
            ]
            .concat(),
        ),
        (
            "reconnect",
            [
                both(Some(1)),
                vec![Line::Close("a".to_owned())],
                greet("a"),
                vec![publish("a", 2)],
                hears(1),
                vec![
                    say("b", request(Request::Unsubscribe(unsubscribe()))),
                    hear("b"),
                ],
            ]
            .concat(),
        ),
    ]
}

fn open(peer: &str) -> Line {
    Line::Open(peer.to_owned())
}

fn hear(peer: &str) -> Line {
    Line::Hear(peer.to_owned(), Bytes::new())
}

fn say(peer: &str, bytes: Vec<u8>) -> Line {
    Line::Say(peer.to_owned(), bytes.into())
}

fn request(message: Request) -> Vec<u8> {
    let message = Some(message);
    v1::SessionRequest { message }.encode_to_vec()
}

fn hello(peer: &str) -> Vec<u8> {
    request(Request::Hello(v1_peer::hello(peer)))
}

fn too_new() -> Vec<u8> {
    request(Request::Hello(v1::Hello {
        min_revision: 1_000,
        max_revision: 1_001,
        ..v1_peer::hello("too-new")
    }))
}

/// Opens a stream and is welcomed.
fn greet(peer: &str) -> Vec<Line> {
    vec![open(peer), say(peer, hello(peer)), hear(peer)]
}

/// Subscribes and is answered.
fn follow(peer: &str, request_id: u64, shard: ShardId, have: Option<u64>) -> Vec<Line> {
    let subscribe = v1::Subscribe {
        request_id,
        shards: vec![ShardPosition {
            shard_id: shard.to_bytes(),
            seqno: have,
        }],
    };
    let said = say(peer, request(Request::Subscribe(subscribe)));
    vec![said, hear(peer)]
}

fn unsubscribe() -> v1::Unsubscribe {
    v1::Unsubscribe {
        request_id: 2,
        shard_ids: vec![SHARD.to_bytes()],
    }
}

fn a_publish(seqno: u64, diff: Option<Bytes>) -> v1::Publish {
    v1::Publish {
        shard_id: SHARD.to_bytes(),
        seqno,
        committed_unix_nanos: 1_790_000_000_000_000_000 + seqno,
        diff,
    }
}

fn diff(seqno: u64) -> Bytes {
    format!("diff {seqno}").into()
}

fn publish(peer: &str, seqno: u64) -> Line {
    let publish = a_publish(seqno, Some(diff(seqno)));
    say(peer, request(Request::Publish(publish)))
}

fn announce(peer: &str, seqno: u64) -> Line {
    say(peer, request(Request::Publish(a_publish(seqno, None))))
}

/// A publish with a field in it that there is not.
fn future_publish(peer: &str, seqno: u64) -> Line {
    let plain = a_publish(seqno, Some(diff(seqno))).encode_to_vec();
    let inner = [plain, FUTURE.to_vec()].concat();
    // The field of a publish; it is shorter than 128 bytes.
    let key = request(Request::Publish(v1::Publish::default()));
    let mut outer: Vec<u8> = key.first().copied().into_iter().collect();
    outer.push(u8::try_from(inner.len()).unwrap_or(u8::MAX));
    outer.extend_from_slice(&inner);
    say(peer, outer)
}

fn v0_message(message: V0) -> Vec<u8> {
    ProtoPubSubMessage {
        // Without one the server would give it its own.
        timestamp: Some(ProtoDuration {
            secs: 1_790_000_000,
            nanos: 7,
        }),
        message: Some(message),
    }
    .encode_to_vec()
}

fn v0_push(seqno: u64) -> Vec<u8> {
    v0_message(V0::PushDiff(ProtoPushDiff {
        shard_id: SHARD.to_string(),
        seqno,
        diff: diff(seqno),
    }))
}

fn v0_subscribe() -> Vec<u8> {
    v0_message(V0::Subscribe(ProtoSubscribe {
        shard_id: SHARD.to_string(),
    }))
}
