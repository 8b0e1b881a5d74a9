//! A client's end of HTTP/2 with one stream, as little of it as one gRPC call
//! needs. (h2 keeps for each frame what a connection of many streams needs:
//! it would cost here what it costs the server.)

use bytes::{Buf, BufMut, BytesMut};

use super::Failure;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length (3), kind, flags, stream (4).
const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const MAX_FRAME_SIZE: u16 = 5;
const INITIAL_WINDOW_SIZE: u16 = 4;
const ENABLE_PUSH: u16 = 2;
/// The only stream.
const STREAM: u32 = 1;
/// Bytes that the server may send ahead, of the stream and of the connection:
/// what hyper's client allows it.
const WINDOW: u32 = 2 * 1024 * 1024;
/// Where windows begin that nobody has spoken of.
const FIRST_WINDOW: u32 = 65_535;
const FIRST_FRAME: usize = 16_384;
/// The largest frame other than DATA that is taken: the default bound on all.
const MAX_OTHER: usize = FIRST_FRAME;

/// See the module.
#[derive(Debug)]
pub(super) struct Http2 {
    head: [u8; HEAD],
    have: usize,
    /// Bytes of the frame under way that have not come.
    left: usize,
    /// Of a frame other than DATA.
    payload: Vec<u8>,
    /// Bytes received since the server was last allowed more.
    taken: u32,
    /// What the server takes.
    stream_window: i64,
    connection_window: i64,
    first_window: i64,
    max_frame: usize,
}

impl Http2 {
    pub(super) fn new() -> Self {
        Self {
            head: [0; HEAD],
            have: 0,
            left: 0,
            payload: Vec::new(),
            taken: 0,
            stream_window: FIRST_WINDOW.into(),
            connection_window: FIRST_WINDOW.into(),
            first_window: FIRST_WINDOW.into(),
            max_frame: FIRST_FRAME,
        }
    }

    /// Opens the connection, and a gRPC call on it.
    pub(super) fn open(&self, authority: &str, path: &str, caller: &str, out: &mut BytesMut) {
        out.put_slice(PREFACE);
        head(out, 12, SETTINGS, 0, 0);
        out.put_u16(ENABLE_PUSH);
        out.put_u32(0);
        out.put_u16(INITIAL_WINDOW_SIZE);
        out.put_u32(WINDOW);
        head(out, 4, WINDOW_UPDATE, 0, 0);
        out.put_u32(WINDOW - FIRST_WINDOW);
        let mut headers = BytesMut::new();
        // Of HPACK's static table: `:method: POST`, `:scheme: http`.
        headers.put_slice(&[0x83, 0x86]);
        // Names of it, with a value each: `:path`, `:authority`, `content-type`.
        for (name, value) in [
            (&[0x04][..], path),
            (&[0x01], authority),
            (&[0x0f, 0x10], "application/grpc"),
        ] {
            headers.put_slice(name);
            text(&mut headers, value);
        }
        for (name, value) in [
            ("te", "trailers"),
            (persist_pubsub_proto::v0::CALLER_ID, caller),
        ] {
            headers.put_u8(0);
            text(&mut headers, name);
            text(&mut headers, value);
        }
        head(out, headers.len(), HEADERS, END_HEADERS, STREAM);
        out.put_slice(&headers);
    }

    /// Moves as much of `body` to `out` as the server allows.
    pub(super) fn send(&mut self, body: &mut BytesMut, out: &mut BytesMut) {
        loop {
            let window = self.stream_window.min(self.connection_window).max(0);
            let window = usize::try_from(window).unwrap_or(usize::MAX);
            let len = body.len().min(window).min(self.max_frame);
            if len == 0 {
                return;
            }
            head(out, len, DATA, 0, STREAM);
            out.put_slice(&body.split_to(len));
            // At most a frame.
            self.stream_window -= len as i64;
            self.connection_window -= len as i64;
        }
    }

    /// Takes what was read; `data` is given the stream's bytes.
    pub(super) fn take(
        &mut self,
        mut bytes: &[u8],
        out: &mut BytesMut,
        mut data: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        while !bytes.is_empty() {
            if self.have < HEAD {
                let (now, rest) = bytes.split_at(bytes.len().min(HEAD - self.have));
                bytes = rest;
                for (to, from) in self.head.iter_mut().skip(self.have).zip(now) {
                    *to = *from;
                }
                self.have += now.len();
                if self.have < HEAD {
                    break;
                }
                let [a, b, c, kind, flags, ..] = self.head;
                self.left = u32::from_be_bytes([0, a, b, c]) as usize;
                if kind == DATA && flags & PADDED != 0 || kind != DATA && self.left > MAX_OTHER {
                    return Err("the server sent an HTTP/2 frame that is not expected".into());
                }
            }
            let [_, _, _, kind, flags, ..] = self.head;
            let (now, rest) = bytes.split_at(bytes.len().min(self.left));
            bytes = rest;
            self.left -= now.len();
            if kind == DATA {
                data(now)?;
                self.came(now.len(), out);
            } else {
                self.payload.extend_from_slice(now);
            }
            if self.left == 0 {
                self.have = 0;
                if kind != DATA {
                    self.control(kind, flags, out)?;
                    self.payload.clear();
                }
                if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
                    return Err("the server has ended a stream; its log says why".into());
                }
            }
        }
        Ok(())
    }

    fn came(&mut self, bytes: usize, out: &mut BytesMut) {
        // At most what is read at a time.
        self.taken += bytes as u32;
        if self.taken >= WINDOW / 2 {
            for stream in [0, STREAM] {
                head(out, 4, WINDOW_UPDATE, 0, stream);
                out.put_u32(self.taken);
            }
            self.taken = 0;
        }
    }

    fn control(&mut self, kind: u8, flags: u8, out: &mut BytesMut) -> Result<(), Failure> {
        let mut payload = self.payload.as_slice();
        match kind {
            SETTINGS if flags & ACK == 0 => {
                while payload.len() >= 6 {
                    let (name, value) = (payload.get_u16(), payload.get_u32());
                    match name {
                        INITIAL_WINDOW_SIZE => {
                            let first = i64::from(value);
                            self.stream_window += first - self.first_window;
                            self.first_window = first;
                        }
                        MAX_FRAME_SIZE => self.max_frame = value as usize,
                        _ => {}
                    }
                }
                head(out, 0, SETTINGS, ACK, 0);
            }
            PING if flags & ACK == 0 => {
                head(out, payload.len(), PING, ACK, 0);
                out.put_slice(payload);
            }
            WINDOW_UPDATE if payload.len() >= 4 => {
                let more = i64::from(payload.get_u32());
                match self.head {
                    [.., 0, 0, 0, 0] => self.connection_window += more,
                    _ => self.stream_window += more,
                }
            }
            RST_STREAM => return Err("the server has reset a stream".into()),
            GOAWAY => return Err("the server has ended a connection (GOAWAY)".into()),
            _ => {}
        }
        Ok(())
    }
}

fn head(out: &mut BytesMut, len: usize, kind: u8, flags: u8, stream: u32) {
    // At most `max_frame`, below 2^24.
    let [_, a, b, c] = (len as u32).to_be_bytes();
    out.put_slice(&[a, b, c, kind, flags]);
    out.put_u32(stream);
}

/// HPACK: a text as it is. All of ours are shorter than 16 KiB.
fn text(out: &mut BytesMut, text: &str) {
    match text.len() {
        len @ ..127 => out.put_u8(len as u8),
        len => {
            let rest = len - 127;
            out.put_slice(&[127, (rest & 127 | 128) as u8, (rest >> 7) as u8]);
        }
    }
    out.put_slice(text.as_bytes());
}
