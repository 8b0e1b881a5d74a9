//! `persist.pubsub.v1`.

use std::rc::Rc;

use bytes::{Buf, Bytes, BytesMut};
use persist_pubsub_proto::v1::session_request::Message as Request;
use persist_pubsub_proto::v1::session_response::Message as Response;
use persist_pubsub_proto::{ShardId, v1};
use prost::Message;

use super::Failure;
use super::grpc::{Dialect, Fields, Listener, put};
use super::load::Load;
use super::peer::{Heard, Push};
use super::v0::index;

/// Shards in one request: below what every server takes.
const SHARDS: usize = 1000;
/// The tag of `SessionResponse.diff`.
const DIFF: u8 = 0x12;
/// A diff's shard, seqno and stamp stand within so many bytes.
const LOOKED_AT: usize = 64;

/// What one connection says.
pub(super) struct V1 {
    load: Rc<Load>,
    /// None: it publishes.
    shards: Option<Vec<u64>>,
}

impl V1 {
    pub(super) fn new(load: Rc<Load>, shards: Option<Vec<u64>>) -> Self {
        Self { load, shards }
    }
}

fn say(out: &mut BytesMut, message: Request) {
    put(
        out,
        &v1::SessionRequest {
            message: Some(message),
        },
    );
}

impl Dialect for V1 {
    const PATH: &'static str = v1::PATH;

    fn greet(&mut self, out: &mut BytesMut) {
        let mode = match self.shards {
            None => v1::SessionMode::ReadWrite,
            Some(_) => v1::SessionMode::ReadOnly,
        };
        say(
            out,
            Request::Hello(v1::Hello {
                client_name: "persist-pubsub bench".to_owned(),
                client_version: env!("CARGO_PKG_VERSION").to_owned(),
                environment_id: self.load.plan.environment.clone(),
                role: "operator".to_owned(),
                mode: mode.into(),
                min_revision: v1::MIN_REVISION,
                max_revision: v1::MAX_REVISION,
                ..v1::Hello::default()
            }),
        );
    }

    fn subscribe(&mut self, out: &mut BytesMut) {
        let shards = self.shards.as_deref().unwrap_or_default();
        for (request_id, shards) in (1..).zip(shards.chunks(SHARDS)) {
            let position = |shard: &u64| v1::ShardPosition {
                shard_id: self.load.plan.shard(*shard).to_bytes(),
                seqno: None,
            };
            say(
                out,
                Request::Subscribe(v1::Subscribe {
                    request_id,
                    shards: shards.iter().map(position).collect(),
                }),
            );
        }
    }

    fn push(&mut self, push: &Push<'_>, out: &mut BytesMut) {
        say(
            out,
            Request::Publish(v1::Publish {
                shard_id: self.load.plan.shard(push.shard).to_bytes(),
                seqno: push.seqno,
                committed_unix_nanos: push.stamp,
                diff: Some(push.diff.clone()),
            }),
        );
    }

    fn heartbeat(&mut self, out: &mut BytesMut) {
        say(out, Request::Heartbeat(v1::Heartbeat {}));
    }
}

impl Listener for V1 {
    fn looks_at(first: u8, len: usize) -> usize {
        if first == DIFF {
            len.min(LOOKED_AT)
        } else {
            len
        }
    }

    fn message(&mut self, bytes: &[u8]) -> Result<Option<Heard>, Failure> {
        if bytes.first() == Some(&DIFF) {
            let (shard, seqno, stamp) =
                diff(bytes).ok_or("the server sent a diff that cannot be read")?;
            return Ok(Some(Heard::Diff {
                shard,
                seqno,
                stamp,
            }));
        }
        let response = v1::SessionResponse::decode(Bytes::copy_from_slice(bytes))?;
        Ok(match response.message {
            Some(Response::Welcome(_)) => Some(Heard::Ready),
            Some(Response::Subscribed(s)) => Some(Heard::Subscribed(s.shards.len())),
            Some(Response::Gap(_)) => Some(Heard::Gap),
            Some(Response::Rejected(r)) => {
                return Err(format!("the server refused a message: {}", r.reason).into());
            }
            Some(Response::Draining(_)) => return Err("the server is about to go".into()),
            Some(Response::Fenced(_)) => return Err("the server has fenced this client".into()),
            _ => None,
        })
    }
}

/// Shard, seqno and stamp, from the head of a diff.
fn diff(bytes: &[u8]) -> Option<(u64, u64, u64)> {
    let mut fields = Fields(bytes);
    fields.tag(DIFF)?;
    fields.varint()?;
    fields.tag(0x0a)?;
    let len = fields.varint()?;
    let shard = ShardId::from_slice(fields.slice(usize::try_from(len).ok()?)?).ok()?;
    fields.tag(0x10)?;
    let seqno = fields.varint()?;
    fields.tag(0x19)?;
    let stamp = fields.slice(8)?.get_u64_le();
    Some((index(&shard), seqno, stamp))
}
