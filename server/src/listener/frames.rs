//! The HTTP/2 frames that pass over a connection, counted by their heads: what
//! hyper does not tell of, and does not bound.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::ahead::Ahead;
use super::together::Parts;
use crate::metrics::ListenerMetrics;

/// What every client says before its first frame.
const PREFACE: usize = 24;
/// Length (3), kind, flags, stream (4).
const HEAD: usize = 9;
/// The most of a payload that is looked at: of GOAWAY, the last stream and the
/// error.
const LOOKED_AT: usize = 8;
const DATA: u8 = 0;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
/// Data frames below this bring nothing worth their head: the shortest message
/// with a shard id in it is longer.
const LEAST_DATA: usize = 20;

/// A connection's bytes. Reads no faster than its peer's frames without a
/// message are allowed, and counts the errors that this end sends.
#[derive(Debug)]
pub(super) struct Watched<Io> {
    io: Io,
    ahead: Ahead,
    parts: Parts,
    incoming: Frames,
    outgoing: Frames,
    budget: Budget,
    /// Until when nothing is read.
    pause: Option<Pin<Box<Sleep>>>,
    metrics: ListenerMetrics,
}

impl<Io> Watched<Io> {
    /// `per_second` of the peer's frames may bring no message. `parts` learn of
    /// what comes.
    pub(super) fn new(io: Io, per_second: u32, parts: Parts, metrics: ListenerMetrics) -> Self {
        Self {
            io,
            ahead: Ahead::default(),
            parts,
            incoming: Frames::after(PREFACE),
            outgoing: Frames::after(0),
            budget: Budget::new(per_second),
            pause: None,
            metrics,
        }
    }

    fn came(&mut self, bytes: &[u8]) {
        let mut empty = 0;
        self.incoming.pass(bytes, |frame| {
            empty += u32::from(frame.kind != DATA || frame.length < LEAST_DATA);
        });
        if let Some(until) = self.budget.spend(empty) {
            self.metrics.slowed.inc();
            self.pause = Some(Box::pin(sleep_until(until)));
        }
    }

    fn went(&mut self, bytes: &[u8]) {
        let errors = &self.metrics.http2_errors;
        self.outgoing.pass(bytes, |frame| {
            let (kind, code) = match (frame.kind, frame.payload) {
                (RST_STREAM, &[a, b, c, d, ..]) => ("rst_stream", [a, b, c, d]),
                (GOAWAY, &[_, _, _, _, a, b, c, d]) => ("goaway", [a, b, c, d]),
                _ => return,
            };
            if let Some(code) = error_name(u32::from_be_bytes(code)) {
                errors.with_label_values(&[kind, code]).inc();
            }
        });
    }
}

/// The name of an error; None: it is none.
fn error_name(code: u32) -> Option<&'static str> {
    Some(match code {
        0 => return None,
        1 => "protocol_error",
        3 => "flow_control_error",
        5 => "stream_closed",
        6 => "frame_size_error",
        7 => "refused_stream",
        8 => "cancel",
        9 => "compression_error",
        11 => "enhance_your_calm",
        _ => "other",
    })
}

impl<Io: AsyncRead + Unpin> AsyncRead for Watched<Io> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(pause) = &mut this.pause {
            ready!(pause.as_mut().poll(cx));
            this.pause = None;
        }
        let before = buf.filled().len();
        ready!(this.ahead.poll_read(&mut this.io, cx, buf))?;
        if let Some(bytes) = buf.filled().get(before..) {
            this.came(bytes);
            this.parts.came();
        }
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Watched<Io> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.io).poll_write(cx, bytes))?;
        this.went(bytes.get(..written).unwrap_or(bytes));
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.io).poll_write_vectored(cx, slices))?;
        let mut left = written;
        for slice in slices {
            let part = slice.get(..left).unwrap_or(slice);
            this.went(part);
            left -= part.len();
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

/// The head of a frame, and the beginning of its payload where that is looked
/// at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame<'a> {
    length: usize,
    kind: u8,
    payload: &'a [u8],
}

/// Finds the frames in a sequence of bytes, however it is cut. Bytes that are
/// not HTTP/2 give frames that are none; hyper hangs up on those.
#[derive(Debug)]
struct Frames {
    /// Bytes to pass over: of the preface, or of a payload.
    skip: usize,
    start: [u8; HEAD + LOOKED_AT],
    have: usize,
}

impl Frames {
    fn after(skip: usize) -> Self {
        Self {
            skip,
            start: [0; HEAD + LOOKED_AT],
            have: 0,
        }
    }

    fn pass(&mut self, mut bytes: &[u8], mut frame: impl FnMut(Frame<'_>)) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            // One byte at a time: there are few of them.
            let (Some((byte, rest)), Some(place)) =
                (bytes.split_first(), self.start.get_mut(self.have))
            else {
                return;
            };
            *place = *byte;
            bytes = rest;
            self.have += 1;
            let [a, b, c, kind, ..] = self.start;
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            let looked_at = match kind {
                RST_STREAM | GOAWAY => length.min(LOOKED_AT),
                _ => 0,
            };
            if self.have >= HEAD && self.have == HEAD + looked_at {
                frame(Frame {
                    length,
                    kind,
                    payload: self.start.get(HEAD..self.have).unwrap_or_default(),
                });
                self.skip = length - looked_at;
                self.have = 0;
            }
        }
    }
}

/// So many a second, and as many at once.
#[derive(Debug)]
struct Budget {
    per_second: u32,
    /// When all of it is there again.
    whole_at: Option<Instant>,
}

impl Budget {
    fn new(per_second: u32) -> Self {
        Self {
            per_second: per_second.max(1),
            whole_at: None,
        }
    }

    /// Spends. Until when to wait, if more is spent than is there.
    fn spend(&mut self, count: u32) -> Option<Instant> {
        if count == 0 {
            return None;
        }
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let from = self.whole_at.map_or(now, |at| at.max(now));
        // One read brings some thousands at most: far from overflowing.
        let whole_at = from + second * count / self.per_second;
        self.whole_at = Some(whole_at);
        whole_at.checked_sub(second).filter(|&until| until > now)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut out = length[1..].to_vec();
        out.extend_from_slice(&[kind, 0, 0, 0, 0, 1]);
        out.extend_from_slice(payload);
        out
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let sent = [
            frame(DATA, &[7; 300]),
            frame(6, &[1; 8]),
            frame(RST_STREAM, &[0, 0, 0, 8]),
            frame(4, &[]),
            frame(GOAWAY, b"\0\0\0\x01\0\0\0\x0bcalm down"),
            // Shorter than it may be.
            frame(RST_STREAM, &[1]),
            frame(DATA, &[]),
        ]
        .concat();
        for size in [1, 2, 9, 10, 100, sent.len()] {
            let mut frames = Frames::after(0);
            let mut found = Vec::new();
            for chunk in sent.chunks(size) {
                frames.pass(chunk, |f| {
                    found.push((f.kind, f.length, f.payload.to_vec()))
                });
            }
            let expected = [
                (DATA, 300, vec![]),
                (6, 8, vec![]),
                (RST_STREAM, 4, vec![0, 0, 0, 8]),
                (4, 0, vec![]),
                (GOAWAY, 17, vec![0, 0, 0, 1, 0, 0, 0, 11]),
                (RST_STREAM, 1, vec![1]),
                (DATA, 0, vec![]),
            ];
            assert_eq!(found, expected, "cut every {size}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn frames_without_a_message_are_read_at_their_rate() {
        let metrics = ListenerMetrics::new(&prometheus::Registry::new()).unwrap();
        let (mut peer, io) = tokio::io::duplex(1 << 20);
        let mut watched = Watched::new(io, 100, Parts::default(), metrics.clone());
        peer.write_all(&[0; PREFACE]).await.unwrap();
        let mut total = PREFACE;
        for _ in 0..1_000 {
            let ping = frame(6, &[1; 8]);
            total += ping.len();
            peer.write_all(&ping).await.unwrap();
        }
        // These do not count.
        for _ in 0..1_000 {
            let data = frame(DATA, &[1; 60]);
            total += data.len();
            peer.write_all(&data).await.unwrap();
        }
        let began = Instant::now();
        // As much at a time as ten pings have.
        let mut buffer = [0; 170];
        while total > 0 {
            total -= watched.read(&mut buffer).await.unwrap();
        }
        // A second's worth is free.
        assert_eq!(began.elapsed().as_secs(), 9, "{:?}", began.elapsed());
        assert!(metrics.slowed.get() > 50);
    }

    #[tokio::test]
    async fn the_errors_that_are_sent_are_counted() {
        let metrics = ListenerMetrics::new(&prometheus::Registry::new()).unwrap();
        let (_peer, io) = tokio::io::duplex(1 << 20);
        let mut watched = Watched::new(io, 100, Parts::default(), metrics.clone());
        let goaway = frame(GOAWAY, b"\0\0\0\x01\0\0\0\x0bcalm down");
        let reset = frame(RST_STREAM, &[0, 0, 0, 7]);
        let fine = frame(RST_STREAM, &[0, 0, 0, 0]);
        watched.write_all(&goaway).await.unwrap();
        let slices = [
            IoSlice::new(&reset[..4]),
            IoSlice::new(&reset[4..]),
            IoSlice::new(&fine),
        ];
        let written = watched.write_vectored(&slices).await.unwrap();
        assert_eq!(written, reset.len() + fine.len());
        let count = |labels| metrics.http2_errors.with_label_values(labels).get();
        assert_eq!(count(&["goaway", "enhance_your_calm"]), 1);
        assert_eq!(count(&["rst_stream", "refused_stream"]), 1);
        let all = prometheus::core::Collector::collect(&metrics.http2_errors);
        assert_eq!(all[0].get_metric().len(), 2, "nothing else");
    }
}
