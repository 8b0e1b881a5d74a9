//! A diff, encoded once per wire version and shared by all its subscribers.
//!
//! A frame is one whole gRPC message: the five-byte prefix and the protobuf
//! message, ready for the socket. The bytes that a publisher sent are taken
//! over as the frame of its own wire version when they are what an encoder of
//! ours would have written; any other spelling of the same message (fields in
//! another order, unknown fields) is decoded and encoded anew.
//!
//! What a session in this process publishes or is sent has no frame: the
//! diff's bytes are kept and handed on as they are, and a frame is made when
//! the first socket needs it.

mod spelling;

use std::ops::Range;
use std::sync::OnceLock;

use bytes::{BufMut, Bytes, BytesMut};
use persist_pubsub_proto::{InvalidShardId, MAX_SEQNO, ShardId, v0, v1};
use prost::Message;

use spelling::v0 as spelled_v0;
pub(crate) use spelling::v1 as spelled_v1;

/// The prefix of a gRPC message: a compression flag and the length.
pub(crate) const PREFIX: usize = 5;

/// A wire version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Wire {
    /// The unversioned protocol of deployed processes.
    V0,
    /// `persist.pubsub.v1`.
    V1,
}

impl Wire {
    /// "v0" or "v1".
    #[must_use]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::V0 => "v0",
            Self::V1 => "v1",
        }
    }
}

/// What a v1 session is told.
pub(crate) type Response = v1::session_response::Message;

/// What a publisher said of a shard.
#[derive(Debug)]
pub(crate) struct Publication {
    pub(crate) shard: ShardId,
    pub(crate) seqno: u64,
    /// None: the shard has reached the seqno, but the diff is not to be had.
    pub(crate) diff: Option<Diff>,
}

/// A diff and its frames. Knows neither its shard nor its seqno: the log does.
#[derive(Debug)]
pub(crate) struct Diff {
    /// The publisher's stamp; 0: none.
    committed_unix_nanos: u64,
    payload: Payload,
    v0: OnceLock<Bytes>,
    v1: OnceLock<Bytes>,
}

/// The opaque diff.
#[derive(Debug)]
enum Payload {
    /// It stands there in the frame that it came in. (A slice of its own would
    /// cost each diff an allocation more.)
    Within(Wire, Range<u32>),
    /// It came in none: the publisher's own bytes.
    Apart(Bytes),
}

impl Diff {
    /// A diff that came as the message `message` of wire version `wire`, of
    /// which `payload` is the diff.
    ///
    /// Copies: a slice of the connection's read buffer would keep the whole
    /// buffer alive for as long as the log keeps the diff.
    fn from_message(wire: Wire, nanos: u64, message: &[u8], payload: &Range<usize>) -> Self {
        let mut frame = BytesMut::with_capacity(PREFIX + message.len());
        put_prefix(&mut frame, message.len());
        frame.put_slice(message);
        let diff = Self {
            committed_unix_nanos: nanos,
            payload: Payload::Within(wire, place(payload.start)..place(payload.end)),
            v0: OnceLock::new(),
            v1: OnceLock::new(),
        };
        // A fresh cell: the first set succeeds.
        let _ = diff.cell(wire).set(frame.freeze());
        diff
    }

    /// A diff of a publisher in this process. Not copied: where it is a slice
    /// of a larger buffer of the publisher's, it keeps that.
    fn from_process(nanos: u64, payload: Bytes) -> Self {
        Self {
            committed_unix_nanos: nanos,
            payload: Payload::Apart(payload),
            v0: OnceLock::new(),
            v1: OnceLock::new(),
        }
    }

    fn payload(&self) -> Bytes {
        match &self.payload {
            // Set when the diff was made, and never taken.
            Payload::Within(wire, range) => self.cell(*wire).get().map_or_else(Bytes::new, |f| {
                f.slice(range.start as usize..range.end as usize)
            }),
            Payload::Apart(bytes) => bytes.clone(),
        }
    }

    fn cell(&self, wire: Wire) -> &OnceLock<Bytes> {
        match wire {
            Wire::V0 => &self.v0,
            Wire::V1 => &self.v1,
        }
    }

    /// The frame for one wire version, encoded if this is its first use.
    /// `now_nanos` stands in for a stamp that is missing, in v0: a deployed
    /// client may count on there being one.
    pub(crate) fn frame(&self, wire: Wire, shard: ShardId, seqno: u64, now_nanos: u64) -> &Bytes {
        self.cell(wire).get_or_init(|| match wire {
            Wire::V0 => encode_frame(&v0::ProtoPubSubMessage {
                timestamp: Some(duration(match self.committed_unix_nanos {
                    0 => now_nanos,
                    stamp => stamp,
                })),
                message: Some(v0::proto_pub_sub_message::Message::PushDiff(
                    v0::ProtoPushDiff {
                        shard_id: shard.to_string(),
                        seqno,
                        diff: self.payload(),
                    },
                )),
            }),
            Wire::V1 => encode(self.message(shard, seqno)),
        })
    }

    /// The v1 message for a subscriber in this process.
    pub(crate) fn message(&self, shard: ShardId, seqno: u64) -> Response {
        Response::Diff(v1::Diff {
            shard_id: shard.to_bytes(),
            seqno,
            committed_unix_nanos: self.committed_unix_nanos,
            diff: self.payload(),
        })
    }

    /// The publisher's stamp, in nanoseconds since the Unix epoch.
    pub(crate) fn committed_unix_nanos(&self) -> Option<u64> {
        (self.committed_unix_nanos != 0).then_some(self.committed_unix_nanos)
    }

    /// Bytes of the opaque diff.
    pub(crate) fn len(&self) -> usize {
        match &self.payload {
            Payload::Within(_, range) => range.len(),
            Payload::Apart(bytes) => bytes.len(),
        }
    }

    /// Bytes of memory that it holds: its frames, and what is in none of them.
    pub(crate) fn held_bytes(&self) -> usize {
        let apart = match &self.payload {
            Payload::Within(..) => 0,
            Payload::Apart(bytes) => bytes.len(),
        };
        apart + self.v0.get().map_or(0, Bytes::len) + self.v1.get().map_or(0, Bytes::len)
    }
}

fn duration(nanos: u64) -> v0::ProtoDuration {
    v0::ProtoDuration {
        secs: nanos / NANOS,
        // Below 10^9 by the remainder.
        nanos: (nanos % NANOS) as u32,
    }
}

/// A place in a frame. Messages are bounded far below 4 GiB
/// (`--max-message-bytes`, itself at most 1 GiB).
fn place(of_message: usize) -> u32 {
    u32::try_from(PREFIX + of_message).unwrap_or(u32::MAX)
}

const NANOS: u64 = 1_000_000_000;

fn put_prefix(buf: &mut BytesMut, len: usize) {
    buf.put_u8(0);
    // Every message that is sent is far below 4 GiB: the largest is a diff,
    // bounded by `--max-message-bytes`, itself at most 1 GiB.
    buf.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
}

/// One gRPC message of `message`.
pub(crate) fn encode_frame(message: &impl Message) -> Bytes {
    let len = message.encoded_len();
    let mut buf = BytesMut::with_capacity(PREFIX + len);
    put_prefix(&mut buf, len);
    // A BytesMut grows: encoding into it cannot fail.
    let _ = message.encode(&mut buf);
    buf.freeze()
}

/// The message by which a v1 client publishes, without the prefix: what one
/// replica forwards to another. A diff that has its v1 frame is not copied;
/// none is made for this, since nobody counts what it would hold.
pub(crate) fn publishing(shard: ShardId, seqno: u64, diff: Option<&Diff>) -> Bytes {
    let framed = diff.and_then(|diff| diff.v1.get().filter(|_| diff.len() > 0));
    if let Some(frame) = framed {
        return frame.slice(PREFIX..);
    }
    let publish = v1::Publish {
        shard_id: shard.to_bytes(),
        seqno,
        committed_unix_nanos: diff.map_or(0, |diff| diff.committed_unix_nanos),
        diff: diff.map(Diff::payload),
    };
    let message = Some(v1::session_request::Message::Publish(publish));
    v1::SessionRequest { message }.encode_to_vec().into()
}

/// What a message says by which a v1 client publishes. None: it is another, or
/// says what cannot be.
pub(crate) fn read_publishing(message: Bytes) -> Option<Publication> {
    let publication = spelled_v1(&message).or_else(|| {
        let request = v1::SessionRequest::decode(message).ok()?;
        match request.message? {
            v1::session_request::Message::Publish(publish) => read_publish(publish).ok(),
            _ => None,
        }
    });
    publication.filter(|publication| publication.seqno <= MAX_SEQNO)
}

/// The v1 frame of a message.
pub(crate) fn encode(message: Response) -> Bytes {
    encode_frame(&v1::SessionResponse {
        message: Some(message),
    })
}

/// The v1 message of a gap.
pub(crate) fn gap(shard: ShardId, from: u64, to: u64, highest: u64) -> Response {
    Response::Gap(v1::Gap {
        shard_id: shard.to_bytes(),
        from_seqno: from,
        to_seqno: to,
        highest_seqno: highest,
    })
}

/// A message of a v0 client.
#[derive(Debug)]
pub(crate) enum FromV0 {
    Push(Publication),
    Subscribe(ShardId),
    Unsubscribe(ShardId),
    /// None of the known kinds.
    Empty,
}

/// Why a message cannot be taken. Sending it again cannot help.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MessageError {
    #[error("malformed message: {0}")]
    Malformed(#[from] prost::DecodeError),
    #[error(transparent)]
    Shard(#[from] InvalidShardId),
}

/// Reads a message of a v0 client. `now_nanos` stands in for a stamp that is
/// missing: a deployed client may count on there being one.
pub(crate) fn read_v0(
    message: &Bytes,
    now_nanos: impl FnOnce() -> u64,
) -> Result<FromV0, MessageError> {
    if let Some(publication) = spelled_v0(message) {
        return Ok(FromV0::Push(publication));
    }
    use v0::proto_pub_sub_message::Message as M;
    let decoded = v0::ProtoPubSubMessage::decode(message.clone())?;
    Ok(match decoded.message {
        None => FromV0::Empty,
        Some(M::Subscribe(m)) => FromV0::Subscribe(m.shard_id.parse()?),
        Some(M::Unsubscribe(m)) => FromV0::Unsubscribe(m.shard_id.parse()?),
        Some(M::PushDiff(m)) => {
            let nanos = decoded
                .timestamp
                .and_then(|t| t.secs.checked_mul(NANOS)?.checked_add(t.nanos.into()))
                .unwrap_or_else(now_nanos);
            let shard = m.shard_id.parse()?;
            FromV0::Push(Publication {
                shard,
                seqno: m.seqno,
                diff: Some(encoded_v1(nanos, &m.diff, shard, m.seqno)),
            })
        }
    })
}

/// What a v1 `Publish` says that came over a network; without its diff if that
/// is absent.
pub(crate) fn read_publish(publish: v1::Publish) -> Result<Publication, InvalidShardId> {
    publication(publish, encoded_v1)
}

/// What a v1 `Publish` of a session in this process says.
pub(crate) fn take_publish(publish: v1::Publish) -> Result<Publication, InvalidShardId> {
    publication(publish, |nanos, payload, _, _| {
        Diff::from_process(nanos, payload.clone())
    })
}

fn publication(
    publish: v1::Publish,
    diff: fn(u64, &Bytes, ShardId, u64) -> Diff,
) -> Result<Publication, InvalidShardId> {
    let shard = ShardId::from_slice(&publish.shard_id)?;
    let (seqno, nanos) = (publish.seqno, publish.committed_unix_nanos);
    Ok(Publication {
        shard,
        seqno,
        diff: publish
            .diff
            .map(|payload| diff(nanos, &payload, shard, seqno)),
    })
}

/// A diff whose message is not passed through: its v1 frame is made here.
fn encoded_v1(nanos: u64, payload: &Bytes, shard: ShardId, seqno: u64) -> Diff {
    let message = v1::SessionResponse {
        message: Some(v1::session_response::Message::Diff(v1::Diff {
            shard_id: shard.to_bytes(),
            seqno,
            committed_unix_nanos: nanos,
            diff: payload.clone(),
        })),
    }
    .encode_to_vec();
    // The diff is the last field; an empty one is not written at all.
    let range = message.len() - payload.len()..message.len();
    Diff::from_message(Wire::V1, nanos, &message, &range)
}
