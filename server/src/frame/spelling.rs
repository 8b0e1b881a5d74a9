//! Recognises the messages that are passed through: those spelled exactly as
//! an encoder writes them. What is spelled otherwise is left to the decoder.

use std::ops::Range;

use persist_pubsub_proto::ShardId;

use super::{Diff, NANOS, Publication, Wire};

/// A v0 push exactly as an encoder writes it, or None.
pub(super) fn v0(message: &[u8]) -> Option<Publication> {
    let mut at = Reader {
        bytes: message,
        at: 0,
    };
    // timestamp { secs, nanos }: a zero of either is not written.
    at.tag(0x0a)?;
    let end = at.length()?.checked_add(at.at)?;
    let secs = if at.at < end { at.optional(0x08)? } else { 0 };
    let nanos = if at.at < end { at.optional(0x10)? } else { 0 };
    if at.at != end || nanos >= NANOS {
        return None;
    }
    let nanos = secs.checked_mul(NANOS)?.checked_add(nanos)?;
    // push_diff { shard_id, seqno, diff }, to the end.
    at.tag(0x12)?;
    at.length_to_end()?;
    at.tag(0x0a)?;
    let len = at.length()?;
    let shard = at.slice(len)?;
    let id = ShardId::from_text(shard).ok()?;
    // Subscribers receive the text as it was published: one spelling alone.
    if id.to_text() != *shard {
        return None;
    }
    at.tag(0x10)?;
    let seqno = at.nonzero()?;
    at.tag(0x1a)?;
    let payload = at.length_to_end()?;
    if payload.is_empty() || nanos == 0 {
        return None;
    }
    Some(Publication {
        shard: id,
        seqno,
        diff: Some(Diff::from_message(Wire::V0, nanos, message, &payload)),
    })
}

/// A v1 publish with a diff exactly as an encoder writes it, or None.
pub(crate) fn v1(message: &[u8]) -> Option<Publication> {
    let mut at = Reader {
        bytes: message,
        at: 0,
    };
    at.tag(0x12)?;
    at.length_to_end()?;
    at.tag(0x0a)?;
    let len = at.length()?;
    let shard = ShardId::from_slice(at.slice(len)?).ok()?;
    at.tag(0x10)?;
    let seqno = at.nonzero()?;
    let nanos = if at.peek()? == 0x19 {
        at.tag(0x19)?;
        let nanos = u64::from_le_bytes(at.slice(8)?.try_into().ok()?);
        (nanos != 0).then_some(nanos)?
    } else {
        0
    };
    at.tag(0x22)?;
    let payload = at.length_to_end()?;
    if payload.is_empty() {
        // `Diff.diff` has no presence: an empty one is not written there.
        return None;
    }
    Some(Publication {
        shard,
        seqno,
        diff: Some(Diff::from_message(Wire::V1, nanos, message, &payload)),
    })
}

/// Reads fields of which the spelling is known. None: another spelling.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn tag(&mut self, tag: u8) -> Option<()> {
        (self.peek()? == tag).then(|| self.at += 1)
    }

    /// A varint in its shortest form.
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.peek()?;
            self.at += 1;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return (byte != 0 || shift == 0).then_some(value);
            }
        }
        None
    }

    fn nonzero(&mut self) -> Option<u64> {
        self.varint().filter(|&v| v != 0)
    }

    fn optional(&mut self, tag: u8) -> Option<u64> {
        if self.peek()? == tag {
            self.at += 1;
            self.nonzero()
        } else {
            Some(0)
        }
    }

    fn length(&mut self) -> Option<usize> {
        let len = usize::try_from(self.varint()?).ok()?;
        (len <= self.bytes.len() - self.at).then_some(len)
    }

    /// A length that reaches to the end of the message, as the range it spans.
    fn length_to_end(&mut self) -> Option<Range<usize>> {
        let len = self.length()?;
        (self.at + len == self.bytes.len()).then_some(self.at..self.bytes.len())
    }

    fn slice(&mut self, len: usize) -> Option<&'a [u8]> {
        let slice = self.bytes.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        Some(slice)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use bytes::Bytes;
    use persist_pubsub_proto::{v0, v1};
    use prost::Message;

    use super::super::{PREFIX, read_v0};
    use super::{v0 as v0_spelled, v1 as v1_spelled, *};

    fn v0_push(shard: ShardId, seqno: u64, secs: u64, nanos: u32, diff: Vec<u8>) -> Vec<u8> {
        v0::ProtoPubSubMessage {
            timestamp: Some(v0::ProtoDuration { secs, nanos }),
            message: Some(v0::proto_pub_sub_message::Message::PushDiff(
                v0::ProtoPushDiff {
                    shard_id: shard.to_string(),
                    seqno,
                    diff: diff.into(),
                },
            )),
        }
        .encode_to_vec()
    }

    fn v1_publish(shard: ShardId, seqno: u64, nanos: u64, diff: Vec<u8>) -> Vec<u8> {
        v1::SessionRequest {
            message: Some(v1::session_request::Message::Publish(v1::Publish {
                shard_id: shard.to_bytes(),
                seqno,
                committed_unix_nanos: nanos,
                diff: Some(diff.into()),
            })),
        }
        .encode_to_vec()
    }

    proptest! {
        #[test]
        fn what_an_encoder_writes_is_passed_through(
            shard: [u8; 16],
            seqno in 1_u64..,
            secs in 1_u64..10_000_000_000,
            nanos in 0_u32..1_000_000_000,
            diff in prop::collection::vec(any::<u8>(), 1..300),
        ) {
            let shard = ShardId::new(shard);
            let message = v0_push(shard, seqno, secs, nanos, diff.clone());
            let got = v0_spelled(&message).expect("canonical");
            prop_assert_eq!((got.shard, got.seqno), (shard, seqno));
            let d = got.diff.expect("has a diff");
            prop_assert_eq!(&d.frame(Wire::V0, shard, seqno, 1)[PREFIX..], &message[..]);
            let v1 = v1::SessionResponse::decode(&d.frame(Wire::V1, shard, seqno, 1)[PREFIX..]).expect("decodes");
            let Some(v1::session_response::Message::Diff(v1)) = v1.message else { panic!("a diff") };
            prop_assert_eq!(&v1.diff[..], &diff[..]);
            prop_assert_eq!(v1.committed_unix_nanos, secs * NANOS + u64::from(nanos));

            let message = v1_publish(shard, seqno, v1.committed_unix_nanos, diff.clone());
            let d = v1_spelled(&message).expect("canonical").diff.expect("has a diff");
            prop_assert_eq!(&d.frame(Wire::V1, shard, seqno, 1)[PREFIX..], &message[..]);
            prop_assert_eq!(&d.frame(Wire::V0, shard, seqno, 1)[PREFIX..], &v0_push(shard, seqno, secs, nanos, diff)[..]);
        }

        /// Whatever the shortcut accepts, the decoder reads alike.
        #[test]
        fn the_shortcut_agrees_with_the_decoder(
            at in 0_usize..80,
            byte: u8,
            diff in prop::collection::vec(any::<u8>(), 1..40),
        ) {
            let shard = ShardId::new([0xab; 16]);
            let mut message = v0_push(shard, 300, 5, 7, diff.clone());
            let at = at % message.len();
            message[at] = byte;
            if let Some(got) = v0_spelled(&message) {
                let decoded = v0::ProtoPubSubMessage::decode(&message[..]).expect("decodes");
                prop_assert_eq!(decoded.encode_to_vec(), message);
                let Some(v0::proto_pub_sub_message::Message::PushDiff(push)) = decoded.message else { panic!("a push") };
                prop_assert_eq!(push.shard_id, got.shard.to_string());
                prop_assert_eq!(push.seqno, got.seqno);
                prop_assert_eq!(push.diff, got.diff.expect("has a diff").payload());
            }
            let mut message = v1_publish(shard, 300, 5, diff);
            let at = at % message.len();
            message[at] = byte;
            if let Some(got) = v1_spelled(&message) {
                let decoded = v1::SessionRequest::decode(&message[..]).expect("decodes");
                prop_assert_eq!(decoded.encode_to_vec(), message);
                let Some(v1::session_request::Message::Publish(p)) = decoded.message else { panic!("a publish") };
                prop_assert_eq!(&p.shard_id[..], &got.shard.as_bytes()[..]);
                prop_assert_eq!(p.seqno, got.seqno);
                prop_assert_eq!(p.diff, got.diff.map(|d| d.payload()));
            }
        }

        #[test]
        fn any_bytes_are_read_without_panicking(message: Vec<u8>) {
            let message = Bytes::from(message);
            let _ = read_v0(&message, || 1);
            let _ = v1_spelled(&message);
        }
    }
}
