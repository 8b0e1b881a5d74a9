//! The unversioned protocol.

use std::rc::Rc;

use bytes::BytesMut;
use persist_pubsub_proto::ShardId;
use persist_pubsub_proto::v0::proto_pub_sub_message::Message as Kind;
use persist_pubsub_proto::v0::{self, ProtoDuration, ProtoPubSubMessage, ProtoPushDiff};

use super::Failure;
use super::grpc::{Dialect, Fields, Listener, put};
use super::load::Load;
use super::peer::{Heard, Push};

const NANOS: u64 = 1_000_000_000;
/// A push's stamp, shard and seqno stand within so many bytes.
const LOOKED_AT: usize = 96;

/// What one connection says. No answer tells a v0 client that its
/// subscriptions stand: it subscribes to one more shard, behind all others, on
/// which a publisher says something until everybody has heard it.
pub(super) struct V0 {
    load: Rc<Load>,
    /// None: it publishes.
    shards: Option<Vec<u64>>,
    marked: bool,
    greeted: bool,
    marks: u64,
}

impl V0 {
    pub(super) fn new(load: Rc<Load>, shards: Option<Vec<u64>>) -> Self {
        Self {
            load,
            shards,
            marked: false,
            greeted: false,
            marks: 0,
        }
    }

    fn name(&self, shard: u64) -> String {
        self.load.plan.shard(shard).to_string()
    }
}

impl Dialect for V0 {
    const PATH: &'static str = v0::PATH;

    fn greet(&mut self, _: &mut BytesMut) {
        // Nothing is answered, and nothing need be waited for.
        if !std::mem::replace(&mut self.greeted, true) {
            self.load.is_ready();
        }
    }

    fn subscribe(&mut self, out: &mut BytesMut) {
        let shards = self.shards.iter().flatten().copied();
        for shard in shards.chain([self.load.plan.mark()]) {
            let shard_id = self.name(shard);
            put(
                out,
                &ProtoPubSubMessage {
                    timestamp: None,
                    message: Some(Kind::Subscribe(v0::ProtoSubscribe { shard_id })),
                },
            );
        }
    }

    fn push(&mut self, push: &Push<'_>, out: &mut BytesMut) {
        put(
            out,
            &ProtoPubSubMessage {
                timestamp: Some(ProtoDuration {
                    secs: push.stamp / NANOS,
                    // Below 10^9 by the remainder.
                    nanos: (push.stamp % NANOS) as u32,
                }),
                message: Some(Kind::PushDiff(ProtoPushDiff {
                    shard_id: self.name(push.shard),
                    seqno: push.seqno,
                    diff: push.diff.clone(),
                })),
            },
        );
    }

    fn mark(&mut self, out: &mut BytesMut) {
        self.marks += 1;
        let push = Push {
            shard: self.load.plan.mark(),
            seqno: self.marks,
            stamp: self.load.clock.unix_nanos(),
            diff: &self.load.plan.diff(),
        };
        self.push(&push, out);
    }
}

impl Listener for V0 {
    fn looks_at(_: u8, len: usize) -> usize {
        len.min(LOOKED_AT)
    }

    fn message(&mut self, bytes: &[u8]) -> Result<Option<Heard>, Failure> {
        let (shard, seqno, stamp) =
            push(bytes).ok_or("the server sent a v0 message that is no push")?;
        if shard == self.load.plan.mark() {
            let first = !std::mem::replace(&mut self.marked, true);
            let shards = self.shards.as_ref().map_or(0, Vec::len);
            return Ok(first.then_some(Heard::Subscribed(shards)));
        }
        Ok(Some(Heard::Diff {
            shard,
            seqno,
            stamp,
        }))
    }
}

/// Shard, seqno and stamp, from the head of a push.
fn push(bytes: &[u8]) -> Option<(u64, u64, u64)> {
    let mut fields = Fields(bytes);
    fields.tag(0x0a)?;
    let len = fields.varint()?;
    let mut timestamp = Fields(fields.slice(usize::try_from(len).ok()?)?);
    let secs = timestamp.optional(0x08).and_then(|()| timestamp.varint());
    let nanos = timestamp.optional(0x10).and_then(|()| timestamp.varint());
    let stamp = secs
        .unwrap_or(0)
        .checked_mul(NANOS)?
        .checked_add(nanos.unwrap_or(0))?;
    fields.tag(0x12)?;
    fields.varint()?;
    fields.tag(0x0a)?;
    let len = fields.varint()?;
    let shard = ShardId::from_text(fields.slice(usize::try_from(len).ok()?)?).ok()?;
    fields.tag(0x10)?;
    Some((index(&shard), fields.varint()?, stamp))
}

/// The place of a shard in the plan.
pub(super) fn index(shard: &ShardId) -> u64 {
    let [.., a, b, c, d, e, f, g, h] = *shard.as_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}
