//! The unversioned protocol of deployed servers, said and heard.

use persist_pubsub_proto::v0::proto_persist_pub_sub_client::ProtoPersistPubSubClient;
use persist_pubsub_proto::v0::{self, proto_pub_sub_message};
use persist_pubsub_proto::{MAX_SEQNO, ShardId};
use tonic::metadata::{Ascii, AsciiMetadataValue, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Streaming};

use super::gate::Terms;
use super::outgoing::Outgoing;
use super::wire::{Diff, Frame, Inbound, Refusal};
use crate::interest::Bounds;
use crate::outbox::Takes;
use crate::shared::Shared;
use crate::tls::AUTHORIZATION;

/// The largest message that is read, in bytes: what a v0 server accepts bounds
/// what it relays, with room to spare.
const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;
/// What a message may be larger than its diff, in bytes: names and lengths.
const ENVELOPE_BYTES: usize = 128;

/// v0 has no greeting, no limits but the size of a message, one shard in a
/// message, and no heartbeats.
pub(super) const TERMS: Terms = Terms {
    takes: Takes {
        diff_bytes: v0::MAX_MESSAGE_BYTES - ENVELOPE_BYTES,
        announcements: false,
    },
    heartbeat: None,
    sets_mode: false,
};
pub(super) const BOUNDS: Bounds = Bounds {
    batch: 1,
    subscriptions: usize::MAX,
};

/// Opens the stream. Not bounded in time.
pub(super) async fn open(
    channel: Channel,
    authorization: Option<MetadataValue<Ascii>>,
    caller: &str,
    outgoing: Outgoing<v0::ProtoPubSubMessage>,
) -> Result<Streaming<v0::ProtoPubSubMessage>, Refusal> {
    let mut request = Request::new(outgoing);
    request
        .metadata_mut()
        .insert(v0::CALLER_ID, caller_id(caller));
    if let Some(authorization) = authorization {
        request.metadata_mut().insert(AUTHORIZATION, authorization);
    }
    let incoming = ProtoPersistPubSubClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .pub_sub(request)
        .await?;
    Ok(incoming.into_inner())
}

/// The name as metadata can carry it: what is not printable ASCII becomes `?`.
fn caller_id(name: &str) -> AsciiMetadataValue {
    let ascii: String = name
        .chars()
        .map(|c| match c {
            ' '..='~' => c,
            _ => '?',
        })
        .collect();
    ascii
        .parse()
        .unwrap_or_else(|_| AsciiMetadataValue::from_static("unknown"))
}

pub(super) fn encode(frame: Frame, shared: &Shared) -> Option<v0::ProtoPubSubMessage> {
    let message = match frame {
        Frame::Subscribe { shards, .. } => {
            let (shard, _) = shards.first()?;
            proto_pub_sub_message::Message::Subscribe(v0::ProtoSubscribe {
                shard_id: shard.to_string(),
            })
        }
        Frame::Unsubscribe { shards, .. } => {
            proto_pub_sub_message::Message::Unsubscribe(v0::ProtoUnsubscribe {
                shard_id: shards.first()?.to_string(),
            })
        }
        Frame::Publish(push) => proto_pub_sub_message::Message::PushDiff(v0::ProtoPushDiff {
            shard_id: push.shard.to_string(),
            seqno: push.seqno,
            diff: push.diff?,
        }),
        Frame::Heartbeat | Frame::SetMode(_) => return None,
    };
    let now = shared.unix_time();
    Some(v0::ProtoPubSubMessage {
        timestamp: Some(v0::ProtoDuration {
            secs: now.as_secs(),
            nanos: now.subsec_nanos(),
        }),
        message: Some(message),
    })
}

pub(crate) fn decode(message: v0::ProtoPubSubMessage) -> Inbound {
    let Some(proto_pub_sub_message::Message::PushDiff(push)) = message.message else {
        return Inbound::Nothing;
    };
    let Ok(shard) = ShardId::from_text(push.shard_id.as_bytes()) else {
        return Inbound::Malformed("a diff of no shard");
    };
    if push.seqno > MAX_SEQNO {
        return Inbound::Malformed("a diff above the highest seqno");
    }
    // When the publisher made the message, which is as near to the commit as
    // v0 comes.
    let committed = message.timestamp.map_or(0, |time| {
        time.secs
            .saturating_mul(1_000_000_000)
            .saturating_add(u64::from(time.nanos))
    });
    Inbound::Diff(Diff {
        shard,
        seqno: push.seqno,
        committed,
        diff: push.diff,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_id_is_ascii_whatever_the_name() {
        for (name, id) in [
            ("environmentd", "environmentd"),
            ("clusterd é\n\0 2", "clusterd ??? 2"),
            ("", ""),
        ] {
            assert_eq!(caller_id(name).to_str().unwrap(), id);
        }
    }
}
