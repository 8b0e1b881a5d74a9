//! gRPC messages over one HTTP/2 stream.

use bytes::{BufMut, BytesMut};
use prost::Message;

use super::Failure;
use super::http2::Http2;
use super::peer::{Heard, Push, Speaker};
use crate::frame::PREFIX;

/// The longest message that is taken whole.
const MAX_WHOLE: usize = 4 * 1024 * 1024;

/// What a server's messages mean.
pub(super) trait Listener {
    /// How many bytes of a message of this length, which begins with `first`,
    /// have to be seen.
    fn looks_at(first: u8, len: usize) -> usize;
    /// Takes a message, or as much of it as was to be seen.
    fn message(&mut self, bytes: &[u8]) -> Result<Option<Heard>, Failure>;
}

/// The messages of one wire version.
pub(super) trait Dialect: Listener {
    const PATH: &'static str;
    fn greet(&mut self, out: &mut BytesMut);
    fn subscribe(&mut self, out: &mut BytesMut);
    fn push(&mut self, push: &Push<'_>, out: &mut BytesMut);
    fn heartbeat(&mut self, _: &mut BytesMut) {}
    fn mark(&mut self, _: &mut BytesMut) {}
}

/// Puts a gRPC message together.
pub(super) fn put(out: &mut BytesMut, message: &impl Message) {
    let len = message.encoded_len();
    out.put_u8(0);
    // A diff is at most 1 GiB.
    out.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
    out.reserve(len);
    // A BytesMut grows: encoding into it cannot fail.
    let _ = message.encode(out);
}

/// See the module.
#[derive(Debug)]
pub(super) struct Grpc<D> {
    http2: Http2,
    cut: Cut,
    /// Messages that the server has not allowed yet.
    body: BytesMut,
    dialect: D,
    authority: String,
    caller: String,
}

impl<D: Dialect> Grpc<D> {
    pub(super) fn new(dialect: D, authority: &str, caller: String) -> Self {
        Self {
            http2: Http2::new(),
            cut: Cut::default(),
            body: BytesMut::new(),
            dialect,
            authority: authority.to_owned(),
            caller,
        }
    }
}

impl<D: Dialect> Speaker for Grpc<D> {
    fn greet(&mut self, out: &mut BytesMut) {
        self.http2.open(&self.authority, D::PATH, &self.caller, out);
        self.dialect.greet(&mut self.body);
    }

    fn subscribe(&mut self, _: &mut BytesMut) {
        self.dialect.subscribe(&mut self.body);
    }

    fn push(&mut self, push: &Push<'_>, _: &mut BytesMut) {
        self.dialect.push(push, &mut self.body);
    }

    fn heartbeat(&mut self, _: &mut BytesMut) {
        self.dialect.heartbeat(&mut self.body);
    }

    fn mark(&mut self, _: &mut BytesMut) {
        self.dialect.mark(&mut self.body);
    }

    fn waiting(&self) -> usize {
        self.body.len()
    }

    fn flush(&mut self, out: &mut BytesMut) {
        self.http2.send(&mut self.body, out);
    }

    fn take(
        &mut self,
        bytes: &[u8],
        out: &mut BytesMut,
        heard: &mut dyn FnMut(Heard),
    ) -> Result<(), Failure> {
        let (cut, dialect) = (&mut self.cut, &mut self.dialect);
        self.http2
            .take(bytes, out, |data| cut.take(data, dialect, heard))
    }
}

/// Cuts the stream into messages, of which it keeps as little as it can.
#[derive(Debug, Default)]
pub(super) struct Cut {
    /// The beginning of a message that has not come as far as is looked at.
    begun: Vec<u8>,
    /// Bytes that nobody looks at.
    skip: usize,
}

impl Cut {
    pub(super) fn take<L: Listener>(
        &mut self,
        mut bytes: &[u8],
        listener: &mut L,
        heard: &mut dyn FnMut(Heard),
    ) -> Result<(), Failure> {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            if self.begun.is_empty()
                && let Some((whole, seen)) = look::<L>(bytes)?
                && let Some(message) = bytes.get(PREFIX..PREFIX + seen)
            {
                if let Some(what) = listener.message(message)? {
                    heard(what);
                }
                self.skip = PREFIX + whole;
                continue;
            }
            // A few bytes at a time, for the few messages that are cut.
            let wanted = match look::<L>(&self.begun)? {
                // No further: the message may be empty, and what follows
                // another's.
                None if self.begun.len() < PREFIX => PREFIX,
                None => PREFIX + 1,
                Some((_, seen)) => PREFIX + seen,
            };
            let more = wanted.saturating_sub(self.begun.len()).min(bytes.len());
            let (now, rest) = bytes.split_at(more);
            self.begun.extend_from_slice(now);
            bytes = rest;
            if let Some((whole, seen)) = look::<L>(&self.begun)?
                && let Some(message) = self.begun.get(PREFIX..PREFIX + seen)
            {
                if let Some(what) = listener.message(message)? {
                    heard(what);
                }
                self.skip = whole - seen;
                self.begun.clear();
            }
        }
        Ok(())
    }
}

/// The length of the message that these bytes begin with, and how much of it
/// has to be seen; None: too few have come to tell.
fn look<L: Listener>(bytes: &[u8]) -> Result<Option<(usize, usize)>, Failure> {
    let Some(&[flag, a, b, c, d]) = bytes.first_chunk::<PREFIX>() else {
        return Ok(None);
    };
    let len = u32::from_be_bytes([a, b, c, d]) as usize;
    if flag != 0 {
        return Err("the server sent a compressed message".into());
    }
    if len == 0 {
        return Ok(Some((0, 0)));
    }
    let Some(first) = bytes.get(PREFIX) else {
        return Ok(None);
    };
    let seen = L::looks_at(*first, len);
    if seen > MAX_WHOLE {
        return Err(format!("the server sent a message of {len} bytes that is no diff").into());
    }
    Ok(Some((len, seen)))
}

/// Reads the head of a diff's message.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    /// The tag has to come next.
    pub(super) fn tag(&mut self, tag: u8) -> Option<()> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        (*first == tag).then_some(())
    }

    /// The tag, if it comes next.
    pub(super) fn optional(&mut self, tag: u8) -> Option<()> {
        (self.0.first() == Some(&tag)).then(|| self.tag(tag))?
    }

    pub(super) fn varint(&mut self) -> Option<u64> {
        prost::encoding::decode_varint(&mut self.0).ok()
    }

    pub(super) fn slice(&mut self, len: usize) -> Option<&'a [u8]> {
        let (slice, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(slice)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    /// Looks at the first three bytes, and tells their sum as a seqno.
    #[derive(Debug)]
    struct Sums;

    impl Listener for Sums {
        fn looks_at(_: u8, len: usize) -> usize {
            len.min(3)
        }
        fn message(&mut self, bytes: &[u8]) -> Result<Option<Heard>, Failure> {
            Ok(Some(Heard::Diff {
                shard: 0,
                seqno: bytes.iter().map(|b| u64::from(*b)).sum(),
                stamp: bytes.len() as u64,
            }))
        }
    }

    proptest! {
        /// However the bytes are cut, the same is heard.
        #[test]
        fn cuts_do_not_matter(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..20),
            cuts in prop::collection::vec(1_usize..30, 1..40),
        ) {
            let mut body = BytesMut::new();
            for message in &messages {
                body.put_u8(0);
                body.put_u32(u32::try_from(message.len()).unwrap());
                body.put_slice(message);
            }
            let mut body: Bytes = body.freeze();
            let (mut cut, mut heard) = (Cut::default(), Vec::new());
            let mut cuts = cuts.iter().cycle();
            while !body.is_empty() {
                let chunk = body.split_to((*cuts.next().unwrap()).min(body.len()));
                cut.take(&chunk, &mut Sums, &mut |what| {
                    if let Heard::Diff { seqno, stamp, .. } = what {
                        heard.push((seqno, stamp));
                    }
                })
                .unwrap();
            }
            let expected: Vec<_> = messages
                .iter()
                .map(|m| m.get(..m.len().min(3)).unwrap())
                .map(|m| (m.iter().map(|b| u64::from(*b)).sum(), m.len() as u64))
                .collect();
            prop_assert_eq!(heard, expected);
        }
    }
}
