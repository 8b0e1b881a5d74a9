//! NATS' text protocol: CONNECT, SUB, PUB, PING, and no more of it. A client
//! library would give each message a queue and a task to wake; that is not
//! what is to be compared.

use std::rc::Rc;

use bytes::{Buf, BufMut, BytesMut};

use super::Failure;
use super::load::Load;
use super::peer::{Heard, Push, Speaker};
use super::plan::HEADER;

/// The longest line that is taken; the server's first one is the longest.
const MAX_LINE: usize = 64 * 1024;

/// What one connection says.
pub(super) struct Nats {
    load: Rc<Load>,
    /// Empty: it publishes.
    shards: Vec<u64>,
    subscribed: bool,
    /// A line that has not come whole, or the beginning of a diff.
    begun: Vec<u8>,
    /// Bytes that nobody looks at.
    skip: usize,
    /// A diff of this length comes next.
    diff: Option<usize>,
}

impl Nats {
    pub(super) fn new(load: Rc<Load>, shards: Option<Vec<u64>>) -> Self {
        Self {
            load,
            shards: shards.unwrap_or_default(),
            subscribed: false,
            begun: Vec::new(),
            skip: 0,
            diff: None,
        }
    }

    fn line(
        &mut self,
        line: &[u8],
        out: &mut BytesMut,
        heard: &mut dyn FnMut(Heard),
    ) -> Result<(), Failure> {
        let mut words = line
            .split(|b| b.is_ascii_whitespace())
            .filter(|w| !w.is_empty());
        match words.next() {
            Some(b"MSG") => {
                let len = words
                    .next_back()
                    .and_then(|w| std::str::from_utf8(w).ok()?.parse().ok());
                let len: usize = len.ok_or("the server sent a MSG without a length")?;
                self.diff = Some(len);
            }
            Some(b"PING") => out.put_slice(b"PONG\r\n"),
            Some(b"PONG") if !self.subscribed => heard(Heard::Ready),
            Some(b"PONG") => heard(Heard::Subscribed(self.shards.len())),
            Some(b"-ERR") => {
                return Err(format!("the server says {}", line.escape_ascii()).into());
            }
            _ => {}
        }
        Ok(())
    }
}

impl Speaker for Nats {
    fn greet(&mut self, out: &mut BytesMut) {
        out.put_slice(b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\nPING\r\n");
    }

    fn subscribe(&mut self, out: &mut BytesMut) {
        for shard in &self.shards {
            let line = format!("SUB {} {}\r\n", self.load.plan.shard(*shard), shard + 1);
            out.put_slice(line.as_bytes());
        }
        self.subscribed = true;
        out.put_slice(b"PING\r\n");
    }

    fn push(&mut self, push: &Push<'_>, out: &mut BytesMut) {
        out.put_slice(b"PUB ");
        out.put_slice(&self.load.plan.shard(push.shard).to_text());
        out.put_slice(format!(" {}\r\n", push.diff.len()).as_bytes());
        put_diff(push, out);
        out.put_slice(b"\r\n");
    }

    fn take(
        &mut self,
        mut bytes: &[u8],
        out: &mut BytesMut,
        heard: &mut dyn FnMut(Heard),
    ) -> Result<(), Failure> {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = bytes.get(skipped..).unwrap_or_default();
            } else if let Some(len) = self.diff {
                let seen = HEADER.min(len);
                let (now, rest) = bytes.split_at(bytes.len().min(seen - self.begun.len()));
                bytes = rest;
                self.begun.extend_from_slice(now);
                if self.begun.len() == seen {
                    if let Some(diff) = diff(&self.begun) {
                        heard(diff);
                    }
                    self.begun.clear();
                    self.diff = None;
                    self.skip = len - seen + b"\r\n".len();
                }
            } else if let Some(end) = bytes.iter().position(|b| *b == b'\n') {
                let (line, rest) = bytes.split_at(end + 1);
                bytes = rest;
                if self.begun.is_empty() {
                    self.line(line, out, heard)?;
                } else {
                    let mut whole = std::mem::take(&mut self.begun);
                    whole.extend_from_slice(line);
                    self.line(&whole, out, heard)?;
                }
            } else if self.begun.len() + bytes.len() > MAX_LINE {
                return Err("the server sent a line that does not end".into());
            } else {
                self.begun.extend_from_slice(bytes);
                break;
            }
        }
        Ok(())
    }
}

/// A diff whose beginning says what the protocol has no place for.
pub(super) fn put_diff(push: &Push<'_>, out: &mut BytesMut) {
    out.put_u64(push.stamp);
    out.put_u64(push.seqno);
    out.put_u64(push.shard);
    out.put_slice(push.diff.get(HEADER..).unwrap_or_default());
}

/// What [`put_diff`] wrote.
pub(super) fn diff(mut bytes: &[u8]) -> Option<Heard> {
    (bytes.len() >= HEADER).then(|| {
        let (stamp, seqno, shard) = (bytes.get_u64(), bytes.get_u64(), bytes.get_u64());
        Heard::Diff {
            shard,
            seqno,
            stamp,
        }
    })
}
