//! For the fuzz targets of `compat-tests`: what peers' bytes are read with, as
//! it is, without a connection around it. Not for anybody else, and no part of
//! this crate's promises.

use bytes::Bytes;
use persist_pubsub_proto::ShardId;

use crate::frame::{self, FromV0, Publication, Wire};
use crate::service::framing::{Framing, Piece};

/// What a body was cut into.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Whole messages; of one that was too large, its length.
    pub messages: Vec<Result<Bytes, usize>>,
    /// Why nothing could be read from there on.
    pub broken: Option<String>,
    /// The most bytes that were held at a time.
    pub held: usize,
}

/// Cuts the chunks of a body into messages of at most `max` bytes.
#[must_use]
pub fn cut(max: usize, chunks: impl IntoIterator<Item = Bytes>) -> Cut {
    let mut framing = Framing::new(max);
    let mut cut = Cut::default();
    for chunk in chunks {
        framing.push(chunk);
        loop {
            match framing.next() {
                Ok(Some(Piece::Message(message))) => cut.messages.push(Ok(message)),
                Ok(Some(Piece::TooLarge(len))) => cut.messages.push(Err(len)),
                Ok(None) => break,
                Err(error) => {
                    cut.broken = Some(error.to_string());
                    return cut;
                }
            }
        }
        cut.held = cut.held.max(framing.held());
    }
    cut.broken = framing.end().err().map(|error| error.to_string());
    cut
}

/// What a client's message says.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// It publishes.
    Publish(Published),
    /// v0: it subscribes.
    Subscribe(ShardId),
    /// v0: it unsubscribes.
    Unsubscribe(ShardId),
    /// v0: none of the known kinds.
    Empty,
}

/// What a client published, and what its subscribers would be sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Published {
    /// Of which shard.
    pub shard: ShardId,
    /// Its place in the shard's state; not checked yet.
    pub seqno: u64,
    /// The gRPC messages for v0 and v1 subscribers, and the publisher's stamp.
    /// None: it was announced without its diff.
    pub frames: Option<(Bytes, Bytes, Option<u64>)>,
}

impl From<Publication> for Published {
    fn from(publication: Publication) -> Self {
        let Publication { shard, seqno, diff } = publication;
        let frames = diff.map(|diff| {
            let frame = |wire| diff.frame(wire, shard, seqno, 1).clone();
            let (v0, v1) = (frame(Wire::V0), frame(Wire::V1));
            (v0, v1, diff.committed_unix_nanos())
        });
        Self {
            shard,
            seqno,
            frames,
        }
    }
}

/// Reads a v0 client's message.
///
/// # Errors
/// It cannot be taken, and why.
pub fn read_v0(message: &Bytes) -> Result<Said, String> {
    Ok(
        match frame::read_v0(message, 1).map_err(|error| error.to_string())? {
            FromV0::Push(publication) => Said::Publish(publication.into()),
            FromV0::Subscribe(shard) => Said::Subscribe(shard),
            FromV0::Unsubscribe(shard) => Said::Unsubscribe(shard),
            FromV0::Empty => Said::Empty,
        },
    )
}

/// Reads a v1 client's message as a publication without decoding it, if it is
/// spelled as an encoder writes it.
#[must_use]
pub fn spelled_v1(message: &[u8]) -> Option<Published> {
    frame::spelled_v1(message).map(Published::from)
}

/// Reads a v1 publication that was decoded.
///
/// # Errors
/// It names no shard.
pub fn read_publish(publish: &persist_pubsub_proto::v1::Publish) -> Result<Published, String> {
    let publication = frame::read_publish(publish.clone()).map_err(|error| error.to_string())?;
    Ok(publication.into())
}
