//! v0. These bytes are fixed for ever.

use bytes::Bytes;
use persist_pubsub_proto::v0;
use persist_pubsub_proto::v0::proto_pub_sub_message::Message as Kind;

use super::{SHARD_TEXT, pin, tolerate};

/// `s42344d73-...` as field 1: tag, length 37, text.
const SHARD_FIELD: &str = "
    0a 25
    73 34 32 33 34 34 64 37 33 2d 39 34 66 31 2d 34 38 62 31 2d
    61 33 33 62 2d 30 38 39 32 63 62 34 65 62 62 62 37";

fn at(secs: u64, nanos: u32, message: Option<Kind>) -> v0::ProtoPubSubMessage {
    v0::ProtoPubSubMessage {
        timestamp: Some(v0::ProtoDuration { secs, nanos }),
        message,
    }
}

#[test]
fn push_diff() {
    let message = at(
        1_700_000_000,
        123_456_789,
        Some(Kind::PushDiff(v0::ProtoPushDiff {
            shard_id: SHARD_TEXT.to_owned(),
            seqno: 300,
            diff: Bytes::from_static(&[0x00, 0xff, 0x0a]),
        })),
    );
    pin(
        &message,
        &format!(
            "0a 0b                  # timestamp, 11 bytes
               08 80 e2 cf aa 06    # secs 1,700,000,000
               10 95 9a ef 3a       # nanos 123,456,789
             12 2f                  # push_diff, 47 bytes
               {SHARD_FIELD}
               10 ac 02             # seqno 300
               1a 03 00 ff 0a       # diff"
        ),
    );
}

#[test]
fn subscribe() {
    let message = at(
        1,
        2,
        Some(Kind::Subscribe(v0::ProtoSubscribe {
            shard_id: SHARD_TEXT.to_owned(),
        })),
    );
    pin(
        &message,
        &format!("0a 04 08 01 10 02   1a 27 {SHARD_FIELD}"),
    );
}

#[test]
fn unsubscribe() {
    let message = at(
        1,
        2,
        Some(Kind::Unsubscribe(v0::ProtoUnsubscribe {
            shard_id: SHARD_TEXT.to_owned(),
        })),
    );
    pin(
        &message,
        &format!("0a 04 08 01 10 02   22 27 {SHARD_FIELD}"),
    );
}

#[test]
fn what_says_nothing() {
    pin(&v0::ProtoPubSubMessage::default(), "");
    // The epoch itself: both fields have their default and are left out.
    pin(&at(0, 0, None), "0a 00");
    pin(
        &at(0, 0, Some(Kind::PushDiff(v0::ProtoPushDiff::default()))),
        "0a 00 12 00",
    );
}

#[test]
fn the_largest_numbers() {
    pin(
        &v0::ProtoDuration {
            secs: u64::MAX,
            nanos: u32::MAX,
        },
        "08 ff ff ff ff ff ff ff ff ff 01   10 ff ff ff ff 0f",
    );
}

#[test]
fn what_is_unknown_is_ignored() {
    // Field 15 at the end, of each wire type.
    let known = at(1, 2, None);
    for unknown in [
        "78 01",
        "79 01 02 03 04 05 06 07 08",
        "7a 02 01 02",
        "7d 01 02 03 04",
    ] {
        tolerate(&known, &format!("0a 04 08 01 10 02 {unknown}"));
    }
    // A kind of message that does not exist yet: a message that says
    // nothing.
    tolerate(&known, "0a 04 08 01 10 02   2a 02 08 01");
    // A field that does not exist yet, within a kind that does.
    tolerate(
        &at(1, 2, Some(Kind::Subscribe(v0::ProtoSubscribe::default()))),
        "0a 04 08 01 10 02   1a 02 20 07",
    );
}

#[test]
fn where_it_is_served() {
    assert_eq!(
        v0::PATH,
        "/mz_persist_client.internal.service.ProtoPersistPubSub/PubSub"
    );
    assert_eq!(v0::CALLER_ID, "persist-pubsub-caller-id");
}
