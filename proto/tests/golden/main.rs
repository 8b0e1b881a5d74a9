//! Golden bytes: what each message looks like on the wire, written by hand.
//!
//! Every message is checked both ways: its encoding is these bytes, and these
//! bytes decode to it. A change here is a change of the protocol: v0 may not
//! have one, v1 only by a new package (`../../README.md`, "How the schema may change").
//!
//! The bytes are in the notation of the protobuf wire format: a tag is the
//! field number shifted by three, with type 0 (varint), 1 (8 bytes), 2 (length
//! and bytes). White space and `#` comments are skipped.

#![allow(clippy::expect_used, reason = "helpers of tests, as in a test")]

use std::fmt::Debug;

use bytes::Bytes;
use persist_pubsub_proto::ShardId;
use prost::Message;

mod v0_bytes;
mod v1_bytes;

/// The text form of [`SHARD`].
const SHARD_TEXT: &str = "s42344d73-94f1-48b1-a33b-0892cb4ebbb7";
const SHARD: ShardId = ShardId::new([
    0x42, 0x34, 0x4d, 0x73, 0x94, 0xf1, 0x48, 0xb1, 0xa3, 0x3b, 0x08, 0x92, 0xcb, 0x4e, 0xbb, 0xb7,
]);

/// Reads the notation of this file.
fn bytes(notation: &str) -> Bytes {
    let digits: Vec<u8> = notation
        .lines()
        .flat_map(|line| line.split('#').next())
        .flat_map(str::bytes)
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    digits
        .chunks(2)
        .map(|pair| {
            let pair = std::str::from_utf8(pair).expect("ASCII");
            u8::from_str_radix(pair, 16).expect("two hexadecimal digits")
        })
        .collect()
}

/// Pins one message both ways.
#[track_caller]
fn pin<M: Message + Default + PartialEq + Debug>(message: &M, notation: &str) {
    let wire = bytes(notation);
    assert_eq!(
        Bytes::from(message.encode_to_vec()),
        wire,
        "the encoding of {message:?}"
    );
    assert_eq!(
        &M::decode(wire).expect("golden bytes decode"),
        message,
        "the decoding"
    );
}

/// Checks that bytes with something new in them decode to what is known of
/// them.
#[track_caller]
fn tolerate<M: Message + Default + PartialEq + Debug>(known: &M, notation: &str) {
    assert_eq!(
        &M::decode(bytes(notation)).expect("what is unknown is ignored"),
        known
    );
}
