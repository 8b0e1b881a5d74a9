//! The protocol of compat-tests' relay, the limit of what TCP allows: diffs
//! framed as gRPC messages, without HTTP/2 and without shards. A connection
//! begins with one byte, which says whether it publishes, and is answered with
//! an empty message. What one publishes, all others get.

use bytes::{BufMut, BytesMut};

use super::Failure;
use super::grpc::{Cut, Listener};
use super::nats::{diff, put_diff};
use super::peer::{Heard, Push, Speaker};
use super::plan::HEADER;

/// What one connection says.
pub(super) struct Relay {
    cut: Cut,
    ear: Ear,
    /// None: it publishes.
    shards: Option<usize>,
}

/// Listens to the relay.
struct Ear;

impl Relay {
    pub(super) fn new(shards: Option<usize>) -> Self {
        Self {
            cut: Cut::default(),
            ear: Ear,
            shards,
        }
    }
}

impl Listener for Ear {
    fn looks_at(_: u8, len: usize) -> usize {
        len.min(HEADER)
    }

    fn message(&mut self, bytes: &[u8]) -> Result<Option<Heard>, Failure> {
        Ok(match bytes {
            [] => Some(Heard::Ready),
            _ => diff(bytes),
        })
    }
}

impl Speaker for Relay {
    fn greet(&mut self, out: &mut BytesMut) {
        out.put_u8(if self.shards.is_none() { b'P' } else { b'S' });
    }

    /// Needs none: who is answered is a subscriber.
    fn subscribe(&mut self, _: &mut BytesMut) {}

    fn push(&mut self, push: &Push<'_>, out: &mut BytesMut) {
        out.put_u8(0);
        // A diff is at most 1 GiB.
        out.put_u32(u32::try_from(push.diff.len()).unwrap_or(u32::MAX));
        put_diff(push, out);
    }

    fn take(
        &mut self,
        bytes: &[u8],
        _: &mut BytesMut,
        heard: &mut dyn FnMut(Heard),
    ) -> Result<(), Failure> {
        let shards = self.shards;
        self.cut.take(bytes, &mut self.ear, &mut |what| {
            if let (Heard::Ready, Some(shards)) = (&what, shards) {
                heard(Heard::Subscribed(shards));
            }
            heard(what);
        })
    }
}
