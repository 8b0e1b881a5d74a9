//! What peers send: a client's messages as the server reads them, a server's
//! as the client crate does, and the gRPC framing around both.
//!
//! The first byte says which; the rest is the peer's.

use bytes::Bytes;
use persist_pubsub_client::probe as client;
use persist_pubsub_proto::{MAX_SEQNO, ShardId, v0, v1};
use persist_pubsub_server::probe::{self as server, Published, Said};
use prost::Message;

use super::byte;

/// The prefix of a gRPC message: a flag and the length.
const PREFIX: usize = 5;
/// The largest message taken in these runs, so that a short input can have
/// one that is larger.
const MAX_MESSAGE: usize = 1000;
/// The longest text of a server that the client keeps.
const MAX_TEXT: usize = 1024;

/// Runs the target.
///
/// # Panics
/// When something does not hold.
pub fn run(mut data: &[u8]) {
    match byte(&mut data) % 5 {
        0 => framing(data),
        1 => v0_client(&Bytes::copy_from_slice(data)),
        2 => v1_client(data),
        3 => v0_server(data),
        _ => v1_server(data),
    }
}

/// However a body is cut into chunks, the same messages come of it, and no
/// more than one of them is held. The first bytes are the chunks' lengths.
fn framing(mut data: &[u8]) {
    let lengths: Vec<usize> = (0..8).map(|_| usize::from(byte(&mut data)) + 1).collect();
    let whole = server::cut(MAX_MESSAGE, [Bytes::copy_from_slice(data)]);
    let mut rest = data;
    let mut chunks = Vec::new();
    for length in lengths.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (chunk, tail) = rest.split_at((*length).min(rest.len()));
        chunks.push(Bytes::copy_from_slice(chunk));
        rest = tail;
    }
    let pieces = server::cut(MAX_MESSAGE, chunks);
    assert_eq!(pieces.messages, whole.messages);
    assert_eq!(pieces.broken.is_some(), whole.broken.is_some());
    assert!(pieces.held <= PREFIX + MAX_MESSAGE, "{} held", pieces.held);
    let taken: usize = whole
        .messages
        .iter()
        .flatten()
        .map(|m| PREFIX + m.len())
        .sum();
    assert!(
        taken <= data.len(),
        "messages of {taken} bytes out of fewer"
    );
    for message in whole.messages.into_iter().flatten() {
        assert!(message.len() <= MAX_MESSAGE);
        v0_client(&message);
        v1_client(&message);
    }
}

/// What a v0 client said is what a plain decoder reads of it, and what its
/// subscribers are sent says the same.
fn v0_client(message: &Bytes) {
    use v0::proto_pub_sub_message::Message as Kind;
    let said = server::read_v0(message);
    let Ok(plain) = v0::ProtoPubSubMessage::decode(message.clone()) else {
        assert!(said.is_err(), "{said:?} of what does not decode");
        return;
    };
    match (plain.message, said) {
        (None, Ok(Said::Empty)) => {}
        (Some(Kind::Subscribe(plain)), Ok(Said::Subscribe(shard))) => {
            assert_eq!(plain.shard_id.parse(), Ok(shard));
        }
        (Some(Kind::Unsubscribe(plain)), Ok(Said::Unsubscribe(shard))) => {
            assert_eq!(plain.shard_id.parse(), Ok(shard));
        }
        (Some(Kind::PushDiff(plain)), Ok(Said::Publish(published))) => {
            assert_eq!(plain.shard_id.parse(), Ok(published.shard));
            assert!(published.frames.is_some(), "a push without its diff");
            relayed(&published, plain.seqno, Some(&plain.diff));
        }
        (Some(plain), Err(_)) => {
            let (Kind::Subscribe(v0::ProtoSubscribe { shard_id })
            | Kind::Unsubscribe(v0::ProtoUnsubscribe { shard_id })
            | Kind::PushDiff(v0::ProtoPushDiff { shard_id, .. })) = plain;
            assert!(shard_id.parse::<ShardId>().is_err(), "{shard_id} refused");
        }
        (plain, said) => panic!("{said:?} of {plain:?}"),
    }
}

/// What is recognised without decoding is what the decoder reads.
fn v1_client(message: &[u8]) {
    use v1::session_request::Message as Kind;
    let plain = v1::SessionRequest::decode(message);
    let spelled = server::spelled_v1(message);
    let Ok(Some(Kind::Publish(plain))) = plain.map(|plain| plain.message) else {
        assert!(spelled.is_none(), "{spelled:?} of no publish");
        return;
    };
    let read = server::read_publish(&plain);
    if let Some(spelled) = &spelled {
        assert_eq!(read.as_ref(), Ok(spelled));
    }
    match read {
        Ok(published) => relayed(&published, plain.seqno, plain.diff.as_ref()),
        Err(_) => assert_ne!(plain.shard_id.len(), 16, "a shard refused"),
    }
}

/// Both wire versions' subscribers hear the shard, the seqno and the diff as
/// they were published.
fn relayed(published: &Published, seqno: u64, diff: Option<&Bytes>) {
    assert_eq!(published.seqno, seqno);
    assert_eq!(published.frames.is_some(), diff.is_some());
    let (Some((v0, v1, stamp)), Some(payload)) = (&published.frames, diff) else {
        return;
    };
    for frame in [v0, v1] {
        let length = u32::try_from(frame.len() - PREFIX).unwrap_or(u32::MAX);
        assert_eq!(frame[0], 0);
        assert_eq!(frame[1..PREFIX], length.to_be_bytes());
    }
    let v0 = v0::ProtoPubSubMessage::decode(&v0[PREFIX..]);
    let v1 = v1::SessionResponse::decode(&v1[PREFIX..]);
    let (Ok(v0), Ok(v1)) = (v0, v1) else {
        panic!("{published:?} is sent as what does not decode");
    };
    for (heard, exact) in [(client::v0(v0), false), (client::v1(v1), true)] {
        if seqno > MAX_SEQNO {
            // Refused behind the reading, by the registry.
            assert_eq!(heard, client::Heard::Malformed);
            continue;
        }
        let client::Heard::Diff {
            shard,
            seqno: heard_seqno,
            committed,
            diff,
        } = heard
        else {
            panic!("{published:?} is heard as {heard:?}");
        };
        assert_eq!((shard, heard_seqno), (published.shard, seqno));
        assert_eq!(&diff, payload);
        // v0 has no "unknown": a stamp is made up where there is none.
        if exact || stamp.is_some() {
            assert_eq!(committed, stamp.unwrap_or(0));
        }
    }
}

fn v0_server(data: &[u8]) {
    if let Ok(message) = v0::ProtoPubSubMessage::decode(data) {
        sensible(&client::v0(message));
    }
}

fn v1_server(data: &[u8]) {
    if let Ok(message) = v1::SessionResponse::decode(data) {
        sensible(&client::v1(message));
    }
    if let Ok(welcome) = v1::Welcome::decode(data) {
        let taken = client::welcome(&welcome);
        assert_eq!(
            taken,
            (v1::MIN_REVISION..=v1::MAX_REVISION).contains(&welcome.revision)
        );
    }
}

/// What the client goes on with is within the protocol's bounds.
fn sensible(heard: &client::Heard) {
    match heard {
        client::Heard::Diff { seqno, .. } => assert!(*seqno <= MAX_SEQNO),
        client::Heard::Gap { from, to } => assert!(from <= to && *to <= MAX_SEQNO),
        client::Heard::Other(kept) => assert!(*kept <= MAX_TEXT),
        client::Heard::Malformed => {}
    }
}
