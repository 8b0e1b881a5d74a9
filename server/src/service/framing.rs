//! Cuts a request body into gRPC messages.

use bytes::{Buf, Bytes, BytesMut};

use crate::frame::PREFIX;

/// What came next in a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// A whole message. A slice of the connection's buffer where it came in
    /// one piece: not to be kept.
    Message(Bytes),
    /// A message larger than is taken; its bytes are passed over as they come.
    TooLarge(usize),
}

/// The body is not a sequence of gRPC messages that this server can read.
/// Nothing after it can be read either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BrokenFraming {
    /// The compression flag is set, or is not a flag.
    #[error("compressed messages are not supported (flag {0})")]
    Compressed(u8),
    /// The stream ended within a message.
    #[error("the stream ended within a message ({0} bytes of it came)")]
    Truncated(usize),
}

/// Holds at most one message, and no more bytes of it than have come.
#[derive(Debug)]
pub(crate) struct Framing {
    max: usize,
    /// What the last chunk still holds.
    chunk: Bytes,
    /// The beginning of a message that came in an earlier chunk.
    partial: BytesMut,
    /// Bytes to pass over.
    skip: usize,
}

impl Framing {
    /// Takes messages of at most `max` bytes.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            chunk: Bytes::new(),
            partial: BytesMut::new(),
            skip: 0,
        }
    }

    /// Adds what came next. Call `next` until it gives nothing, before the
    /// next chunk.
    pub(crate) fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty(), "the chunk before has been read");
        self.chunk = chunk;
    }

    /// What comes next, if it has come whole.
    pub(crate) fn next(&mut self) -> Result<Option<Piece>, BrokenFraming> {
        let skipped = self.skip.min(self.chunk.len());
        self.chunk.advance(skipped);
        self.skip -= skipped;
        if self.chunk.is_empty() {
            return Ok(None);
        }
        let have = self.partial.len() + self.chunk.len();
        if have < PREFIX {
            self.stash();
            return Ok(None);
        }
        let len = self.length()?;
        if len > self.max {
            // What is in `partial` belongs to this message's prefix.
            self.chunk.advance(PREFIX - self.partial.len().min(PREFIX));
            self.partial.clear();
            self.skip = len;
            return Ok(Some(Piece::TooLarge(len)));
        }
        if have < PREFIX + len {
            self.stash();
            return Ok(None);
        }
        if self.partial.is_empty() {
            self.chunk.advance(PREFIX);
            return Ok(Some(Piece::Message(self.chunk.split_to(len))));
        }
        let missing = PREFIX + len - self.partial.len();
        self.partial
            .extend_from_slice(&self.chunk.split_to(missing));
        let mut message = std::mem::take(&mut self.partial).freeze();
        message.advance(PREFIX);
        Ok(Some(Piece::Message(message)))
    }

    /// Tells whether the stream may end here.
    pub(crate) fn end(&self) -> Result<(), BrokenFraming> {
        if self.partial.is_empty() && self.skip == 0 {
            Ok(())
        } else {
            Err(BrokenFraming::Truncated(self.partial.len()))
        }
    }

    /// Bytes held until more have come.
    pub(crate) fn held(&self) -> usize {
        self.partial.len()
    }

    /// Keeps an incomplete message until the next chunk.
    fn stash(&mut self) {
        self.partial.extend_from_slice(&self.chunk);
        self.chunk = Bytes::new();
    }

    /// The length that the prefix names; the prefix has come whole.
    fn length(&self) -> Result<usize, BrokenFraming> {
        let mut prefix = [0; PREFIX];
        let bytes = self.partial.iter().chain(self.chunk.iter());
        for (to, from) in prefix.iter_mut().zip(bytes) {
            *to = *from;
        }
        let [flag, len @ ..] = prefix;
        if flag != 0 {
            return Err(BrokenFraming::Compressed(flag));
        }
        Ok(u32::from_be_bytes(len) as usize)
    }
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;
    use proptest::prelude::*;

    use super::*;

    fn framed(message: &[u8]) -> Vec<u8> {
        let mut out = vec![0];
        out.put_u32(u32::try_from(message.len()).unwrap());
        out.extend_from_slice(message);
        out
    }

    proptest! {
        /// However the bytes are cut, the same messages come of them, and no
        /// more than one message's bytes are ever held.
        #[test]
        fn cuts_do_not_matter(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..10),
            cuts in prop::collection::vec(1_usize..30, 1..80),
        ) {
            let max = 30;
            let body: Vec<u8> = messages.iter().flat_map(|m| framed(m)).collect();
            let mut framing = Framing::new(max);
            let mut got = Vec::new();
            let mut rest = &body[..];
            let mut cuts = cuts.iter().cycle();
            while !rest.is_empty() {
                let (chunk, tail) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                rest = tail;
                framing.push(Bytes::copy_from_slice(chunk));
                while let Some(piece) = framing.next().unwrap() {
                    got.push(piece);
                }
                prop_assert!(framing.held() <= PREFIX + max);
            }
            let expected: Vec<Piece> = messages
                .into_iter()
                .map(|m| if m.len() > max { Piece::TooLarge(m.len()) } else { Piece::Message(m.into()) })
                .collect();
            prop_assert_eq!(got, expected);
            prop_assert_eq!(framing.end(), Ok(()));
        }

        #[test]
        fn any_bytes_are_cut_without_panicking(chunks: Vec<Vec<u8>>) {
            let mut framing = Framing::new(64);
            'body: for chunk in chunks {
                framing.push(chunk.into());
                loop {
                    match framing.next() {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => break 'body,
                    }
                }
            }
        }
    }

    #[test]
    fn an_end_within_a_message_is_an_error() {
        let mut framing = Framing::new(64);
        framing.push(Bytes::from_static(&[0, 0, 0, 0, 9, 1, 2]));
        assert_eq!(framing.next(), Ok(None));
        assert_eq!(framing.end(), Err(BrokenFraming::Truncated(7)));
        let mut framing = Framing::new(64);
        framing.push(Bytes::from_static(&[0, 0, 0, 1, 0, 1, 2]));
        assert_eq!(framing.next(), Ok(Some(Piece::TooLarge(256))));
        assert_eq!(framing.next(), Ok(None));
        assert!(framing.end().is_err());
    }

    #[test]
    fn a_compressed_message_is_an_error() {
        let mut framing = Framing::new(64);
        framing.push(Bytes::from_static(&[1, 0, 0, 0, 0]));
        assert_eq!(framing.next(), Err(BrokenFraming::Compressed(1)));
    }
}
