//! v1: every kind of message, and the pass-through.

use bytes::Bytes;
use persist_pubsub_proto::v1;
use persist_pubsub_proto::v1::session_request::Message as Request;
use persist_pubsub_proto::v1::session_response::Message as Response;
use prost::Message;

use super::{SHARD, bytes, pin, tolerate};

/// The shard as field 1: tag, length 16, bytes.
const SHARD_FIELD: &str = "0a 10 42 34 4d 73 94 f1 48 b1 a3 3b 08 92 cb 4e bb b7";
/// The same as field 2.
const SHARD_FIELD_2: &str = "12 10 42 34 4d 73 94 f1 48 b1 a3 3b 08 92 cb 4e bb b7";
/// The same as field 4.
const SHARD_FIELD_4: &str = "22 10 42 34 4d 73 94 f1 48 b1 a3 3b 08 92 cb 4e bb b7";

#[track_caller]
fn pin_request(message: Request, notation: &str) {
    pin(
        &v1::SessionRequest {
            message: Some(message),
        },
        notation,
    );
}

#[track_caller]
fn pin_response(message: Response, notation: &str) {
    pin(
        &v1::SessionResponse {
            message: Some(message),
        },
        notation,
    );
}

#[test]
fn hello() {
    pin_request(
        Request::Hello(v1::Hello {
            client_name: "envd".to_owned(),
            client_version: "1.2".to_owned(),
            client_build: "abc".to_owned(),
            environment_id: "e1".to_owned(),
            deploy_generation: 7,
            role: "r".to_owned(),
            mode: v1::SessionMode::ReadWrite.into(),
            min_revision: 1,
            max_revision: 3,
            capabilities: vec!["x".to_owned(), "yz".to_owned()],
        }),
        "0a 26                   # hello, 38 bytes
           0a 04 65 6e 76 64     # client_name
           12 03 31 2e 32        # client_version
           1a 03 61 62 63        # client_build
           22 02 65 31           # environment_id
           28 07                 # deploy_generation
           32 01 72              # role
           38 02                 # mode: read-write
           40 01                 # min_revision
           48 03                 # max_revision
           52 01 78              # capabilities
           52 02 79 7a",
    );
}

#[test]
fn publish() {
    pin_request(
        Request::Publish(v1::Publish {
            shard_id: SHARD.to_bytes(),
            seqno: 300,
            committed_unix_nanos: 1_700_000_000_123_456_789,
            diff: Some(Bytes::from_static(&[0x00, 0xff, 0x0a])),
        }),
        &format!(
            "12 23                            # publish, 35 bytes
               {SHARD_FIELD}
               10 ac 02                       # seqno 300
               19 15 cd 85 3d fe 9c 97 17     # committed_unix_nanos
               22 03 00 ff 0a                 # diff"
        ),
    );
}

#[test]
fn publish_without_a_diff_differs_from_an_empty_diff() {
    let publish = v1::Publish {
        shard_id: SHARD.to_bytes(),
        seqno: 300,
        committed_unix_nanos: 0,
        diff: None,
    };
    pin_request(
        Request::Publish(publish.clone()),
        &format!("12 15 {SHARD_FIELD} 10 ac 02"),
    );
    pin_request(
        Request::Publish(v1::Publish {
            diff: Some(Bytes::new()),
            ..publish
        }),
        &format!("12 17 {SHARD_FIELD} 10 ac 02 22 00"),
    );
}

#[test]
fn diff() {
    pin_response(
        Response::Diff(v1::Diff {
            shard_id: SHARD.to_bytes(),
            seqno: 300,
            committed_unix_nanos: 1_700_000_000_123_456_789,
            diff: Bytes::from_static(&[0x00, 0xff, 0x0a]),
        }),
        &format!(
            "12 23                            # diff, 35 bytes
               {SHARD_FIELD}
               10 ac 02                       # seqno 300
               19 15 cd 85 3d fe 9c 97 17     # committed_unix_nanos
               22 03 00 ff 0a                 # diff"
        ),
    );
}

/// The pass-through: what a publisher sent is what a subscriber receives.
#[test]
fn published_bytes_are_delivered_bytes() {
    for (seqno, nanos, diff) in [
        (1, 0, Bytes::from_static(b"d")),
        (300, u64::MAX, Bytes::from(vec![0xa5; 5_000])),
        (i64::MAX as u64, 1, Bytes::from_static(&[0; 200])),
    ] {
        let published = v1::SessionRequest {
            message: Some(Request::Publish(v1::Publish {
                shard_id: SHARD.to_bytes(),
                seqno,
                committed_unix_nanos: nanos,
                diff: Some(diff.clone()),
            })),
        };
        let delivered = v1::SessionResponse {
            message: Some(Response::Diff(v1::Diff {
                shard_id: SHARD.to_bytes(),
                seqno,
                committed_unix_nanos: nanos,
                diff,
            })),
        };
        let wire = published.encode_to_vec();
        assert_eq!(wire, delivered.encode_to_vec());
        assert_eq!(
            v1::SessionResponse::decode(&*wire).expect("decodes as the other"),
            delivered
        );
    }
}

#[test]
fn subscribe() {
    pin_request(
        Request::Subscribe(v1::Subscribe {
            request_id: 5,
            shards: vec![
                v1::ShardPosition {
                    shard_id: SHARD.to_bytes(),
                    seqno: Some(300),
                },
                v1::ShardPosition {
                    shard_id: SHARD.to_bytes(),
                    // The state at seqno 0 is not the same as none.
                    seqno: Some(0),
                },
                v1::ShardPosition {
                    shard_id: SHARD.to_bytes(),
                    seqno: None,
                },
            ],
        }),
        &format!(
            "1a 43                               # subscribe, 67 bytes
               08 05                             # request_id
               12 15 {SHARD_FIELD} 10 ac 02      # has 300
               12 14 {SHARD_FIELD} 10 00         # has 0
               12 12 {SHARD_FIELD}               # has nothing"
        ),
    );
}

#[test]
fn unsubscribe() {
    pin_request(
        Request::Unsubscribe(v1::Unsubscribe {
            request_id: 6,
            shard_ids: vec![SHARD.to_bytes(), SHARD.to_bytes()],
        }),
        &format!("22 26 08 06 {SHARD_FIELD_2} {SHARD_FIELD_2}"),
    );
}

#[test]
fn heartbeat_is_the_same_both_ways() {
    pin_request(Request::Heartbeat(v1::Heartbeat {}), "2a 00");
    pin_response(Response::Heartbeat(v1::Heartbeat {}), "2a 00");
}

#[test]
fn welcome() {
    pin_response(
        Response::Welcome(v1::Welcome {
            revision: 1,
            capabilities: vec!["x".to_owned()],
            server_instance_id: "i9".to_owned(),
            server_version: "0.1".to_owned(),
            session_id: 128,
            limits: Some(v1::Limits {
                max_message_bytes: 4_194_304,
                max_diff_bytes: 4_000_000,
                max_shards_per_request: 10_000,
                max_subscriptions: 100_000,
            }),
            heartbeat_interval_millis: 5_000,
        }),
        "0a 27                   # welcome, 39 bytes
           08 01                 # revision
           12 01 78              # capabilities
           1a 02 69 39           # server_instance_id
           22 03 30 2e 31        # server_version
           28 80 01              # session_id
           32 11                 # limits, 17 bytes
             08 80 80 80 02      # max_message_bytes
             10 80 92 f4 01      # max_diff_bytes
             18 90 4e            # max_shards_per_request
             20 a0 8d 06         # max_subscriptions
           38 88 27              # heartbeat_interval_millis",
    );
}

#[test]
fn subscribed() {
    pin_response(
        Response::Subscribed(v1::Subscribed {
            request_id: 5,
            shards: vec![
                v1::ShardHead {
                    shard_id: SHARD.to_bytes(),
                    highest_seqno: Some(300),
                },
                v1::ShardHead {
                    shard_id: SHARD.to_bytes(),
                    highest_seqno: None,
                },
            ],
        }),
        &format!("1a 2d 08 05 12 15 {SHARD_FIELD} 10 ac 02 12 12 {SHARD_FIELD}"),
    );
}

#[test]
fn unsubscribed() {
    pin_response(
        Response::Unsubscribed(v1::Unsubscribed { request_id: 6 }),
        "22 02 08 06",
    );
}

#[test]
fn gap() {
    pin_response(
        Response::Gap(v1::Gap {
            shard_id: SHARD.to_bytes(),
            from_seqno: 5,
            to_seqno: 7,
            highest_seqno: 300,
        }),
        &format!("32 19 {SHARD_FIELD} 10 05 18 07 20 ac 02"),
    );
}

#[test]
fn rejected() {
    pin_response(
        Response::Rejected(v1::Rejected {
            code: v1::RejectionCode::ReadOnly.into(),
            reason: "no".to_owned(),
            request_id: 5,
            shard_id: SHARD.to_bytes(),
            seqno: Some(0),
            retry_after_millis: 0,
        }),
        &format!(
            "3a 1c                # rejected, 28 bytes
               08 09              # code: read-only
               12 02 6e 6f        # reason
               18 05              # request_id
               {SHARD_FIELD_4}
               28 00              # seqno 0, which is not the same as none"
        ),
    );
}

#[test]
fn rejected_until_later() {
    pin_response(
        Response::Rejected(v1::Rejected {
            code: v1::RejectionCode::ResourceExhausted.into(),
            retry_after_millis: 300,
            ..v1::Rejected::default()
        }),
        "3a 05                # rejected, 5 bytes
           08 0e              # code: resource-exhausted
           30 ac 02           # retry_after_millis",
    );
}

#[test]
fn draining() {
    pin_response(
        Response::Draining(v1::Draining {
            reason: "up".to_owned(),
            window_millis: 10_000,
        }),
        "42 07 0a 02 75 70 10 90 4e",
    );
}

#[test]
fn fenced() {
    pin_response(
        Response::Fenced(v1::Fenced {
            generation: 8,
            epoch: 300,
            reason: "by 8".to_owned(),
        }),
        "4a 0b 08 08 10 ac 02 1a 04 62 79 20 38",
    );
}

#[test]
fn set_mode() {
    pin_request(
        Request::SetMode(v1::SetMode {
            request_id: 300,
            mode: v1::SessionMode::ReadWrite.into(),
        }),
        "32 05 08 ac 02 10 02",
    );
}

#[test]
fn mode_set() {
    pin_response(
        Response::ModeSet(v1::ModeSet {
            request_id: 300,
            mode: v1::SessionMode::ReadWrite.into(),
        }),
        "52 05 08 ac 02 10 02",
    );
}

#[test]
fn numbers_of_enums() {
    use v1::RejectionCode as Code;
    use v1::SessionMode as Mode;
    for (number, mode) in [
        (0, Mode::Unspecified),
        (1, Mode::ReadOnly),
        (2, Mode::ReadWrite),
    ] {
        assert_eq!(i32::from(mode), number, "{mode:?}");
    }
    for (number, code) in [
        (0, Code::Unspecified),
        (1, Code::Malformed),
        (2, Code::TooLarge),
        (3, Code::HelloRequired),
        (4, Code::HelloRepeated),
        (5, Code::NoCommonRevision),
        (6, Code::InvalidField),
        (7, Code::InvalidShardId),
        (8, Code::InvalidSeqno),
        (9, Code::ReadOnly),
        (10, Code::TooManyShards),
        (11, Code::TooManySubscriptions),
        (12, Code::TooManyTopics),
    ] {
        assert_eq!(i32::from(code), number, "{code:?}");
    }
}

#[test]
fn what_is_unknown_is_ignored() {
    // Kinds of message that do not exist yet.
    for unknown in ["f2 01 04 08 01 10 02", "a2 06 00"] {
        tolerate(&v1::SessionRequest::default(), unknown);
        tolerate(&v1::SessionResponse::default(), unknown);
    }
    // Fields that do not exist yet, within kinds that do.
    tolerate(
        &v1::SessionRequest {
            message: Some(Request::Unsubscribe(v1::Unsubscribe {
                request_id: 6,
                shard_ids: Vec::new(),
            })),
        },
        "22 05 08 06 f2 01 00",
    );
    tolerate(
        &v1::SessionResponse {
            message: Some(Response::Gap(v1::Gap {
                from_seqno: 5,
                to_seqno: 7,
                ..v1::Gap::default()
            })),
        },
        "32 0d 10 05 18 07 29 01 02 03 04 05 06 07 08",
    );
    // An enum's value that does not exist yet is kept as its number.
    let hello = v1::Hello {
        mode: 99,
        ..v1::Hello::default()
    };
    assert_eq!(hello.mode(), v1::SessionMode::Unspecified);
    pin_request(Request::Hello(hello), "0a 02 38 63");
}

#[test]
fn what_is_cut_off_is_an_error() {
    let whole = bytes(&format!("32 19 {SHARD_FIELD} 10 05 18 07 20 ac 02"));
    for length in 1..whole.len() {
        assert!(
            v1::SessionResponse::decode(whole.slice(..length)).is_err(),
            "{length} of {} bytes",
            whole.len()
        );
    }
}

#[test]
fn where_it_is_served() {
    assert_eq!(v1::PATH, "/persist.pubsub.v1.PubSubService/Session");
    assert_eq!((v1::MIN_REVISION, v1::MAX_REVISION), (1, 1));
}
