//! Reads a socket in larger pieces than HTTP/2 asks for.
//!
//! h2 asks for 8 KiB at a time: what a busy peer has sent would take several
//! calls into the kernel, and one more to learn that there is nothing left. Here
//! it takes one. A connection holds the buffer only while there is something
//! in it, so that those which wait cost nothing.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

/// Bytes read from a socket at a time, and held of a connection whose peer is
/// read slower than it sends.
const AHEAD_BYTES: usize = 64 * 1024;

thread_local! {
    /// A buffer that no connection holds: a thread polls one at a time.
    static SPARE: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// What was read of a socket and has not been asked for.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Empty: nothing is held.
    buffer: Box<[u8]>,
    from: usize,
    to: usize,
}

impl Ahead {
    /// As `io.poll_read`, but for how much is asked of it.
    pub(super) fn poll_read<Io: AsyncRead + Unpin>(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.buffer.is_empty() {
            if into.remaining() >= AHEAD_BYTES {
                return Pin::new(io).poll_read(cx, into);
            }
            let spare = SPARE.take();
            self.buffer = spare.unwrap_or_else(|| vec![0; AHEAD_BYTES].into());
            let mut read = ReadBuf::new(&mut self.buffer);
            let polled = Pin::new(io).poll_read(cx, &mut read);
            (self.from, self.to) = (0, read.filled().len());
            if self.to == 0 {
                // Nothing yet, the end, or an error.
                self.give_back();
                return polled;
            }
        }
        let left = self.buffer.get(self.from..self.to).unwrap_or_default();
        let now = left.get(..into.remaining()).unwrap_or(left);
        into.put_slice(now);
        self.from += now.len();
        if self.from == self.to {
            self.give_back();
        }
        Poll::Ready(Ok(()))
    }

    fn give_back(&mut self) {
        SPARE.set(Some(std::mem::take(&mut self.buffer)));
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Gives so many bytes at each read, and then its end.
    struct Socket {
        pieces: Vec<usize>,
        reads: usize,
        next: u8,
    }

    impl AsyncRead for Socket {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.reads += 1;
            let Some(piece) = self.pieces.pop() else {
                return Poll::Ready(Ok(()));
            };
            if piece == 0 {
                return Poll::Pending;
            }
            for _ in 0..piece {
                into.put_slice(&[self.next]);
                self.next = self.next.wrapping_add(1);
            }
            Poll::Ready(Ok(()))
        }
    }

    fn read(ahead: &mut Ahead, io: &mut Socket, most: usize) -> Poll<Vec<u8>> {
        let mut bytes = vec![0; most];
        let mut into = ReadBuf::new(&mut bytes);
        let mut cx = Context::from_waker(Waker::noop());
        ahead
            .poll_read(io, &mut cx, &mut into)
            .map(|read| read.map(|()| into.filled().to_vec()).unwrap())
    }

    #[test]
    fn what_is_read_at_once_is_handed_out_in_pieces() {
        let mut io = Socket {
            pieces: vec![0, 300, 1000],
            reads: 0,
            next: 0,
        };
        let mut ahead = Ahead::default();
        let mut got = Vec::new();
        while let Poll::Ready(piece) = read(&mut ahead, &mut io, 170) {
            assert!(!piece.is_empty() && piece.len() <= 170);
            got.extend(piece);
        }
        let sent: Vec<u8> = (0..1300_u32).map(|n| n as u8).collect();
        assert_eq!(got, sent);
        assert_eq!(io.reads, 3, "two pieces, and nothing");
        assert!(ahead.buffer.is_empty(), "nothing is held of who waits");
        assert_eq!(read(&mut ahead, &mut io, 170), Poll::Ready(Vec::new()));
        assert!(ahead.buffer.is_empty(), "nor of who has gone");
    }

    #[test]
    fn a_reader_with_room_reads_by_itself() {
        let mut io = Socket {
            pieces: vec![AHEAD_BYTES + 1],
            reads: 0,
            next: 0,
        };
        let got = read(&mut Ahead::default(), &mut io, AHEAD_BYTES + 1);
        assert_eq!(got.map(|bytes| bytes.len()), Poll::Ready(AHEAD_BYTES + 1));
    }
}
