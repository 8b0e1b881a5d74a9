//! A TCP connection that speaks HTTP/2 by hand, and only as far as it is
//! told: it can stop in the middle of a frame, or never answer again.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::wait::{TimedOut, within};

/// What every client says first, and its empty SETTINGS.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Carries a stream's bytes.
pub const DATA: u8 = 0x0;
/// Begins a stream.
pub const HEADERS: u8 = 0x1;
/// Ends a stream at once.
pub const RST_STREAM: u8 = 0x3;
/// To be acknowledged.
pub const SETTINGS: u8 = 0x4;
/// To be answered.
pub const PING: u8 = 0x6;
/// Goes on with the headers before it.
pub const CONTINUATION: u8 = 0x9;
/// The flag of headers that are whole.
pub const END_HEADERS: u8 = 0x4;
/// The error of a stream that is not wanted any more.
pub const CANCEL: [u8; 4] = [0, 0, 0, 8];
/// The largest frame that every server takes.
const MAX_FRAME: usize = 16 * 1024;
/// The one stream that these connections open.
const STREAM: u32 = 1;

/// A TCP connection.
#[derive(Debug)]
pub struct RawConnection {
    tcp: TcpStream,
}

impl RawConnection {
    /// Connects, and says nothing.
    ///
    /// # Errors
    /// No connection.
    pub async fn connect(address: SocketAddr) -> std::io::Result<Self> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        Ok(Self { tcp })
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.tcp.write_all(bytes).await
    }

    /// Waits until the server says something; it is passed over.
    ///
    /// # Errors
    /// It does not, within [`crate::wait::PATIENCE`].
    pub async fn heard(&mut self, what: &str) -> Result<(), TimedOut> {
        let mut buffer = [0; 1024];
        within(what, self.tcp.read(&mut buffer)).await.map(drop)
    }

    /// Waits until the server closes the connection; what it says is passed
    /// over.
    ///
    /// # Errors
    /// It does not, within [`crate::wait::PATIENCE`].
    pub async fn closed(mut self, what: &str) -> Result<(), TimedOut> {
        let mut buffer = vec![0; 64 * 1024];
        within(what, async {
            // The end, or an error: a reset ends it as well.
            while self.tcp.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
        })
        .await
    }
}

/// The request of a gRPC stream.
///
/// # Panics
/// If `path` has more than 126 bytes.
#[must_use]
pub fn headers(path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, STREAM, &header_block(path))
}

/// The headers of the request of a gRPC stream, as HPACK writes them.
///
/// # Panics
/// If `path` has more than 126 bytes.
#[must_use]
pub fn header_block(path: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "test"),
        (":path", path),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        // A literal that is not indexed, its name spelled out.
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "lengths of one byte");
            block.push(u8::try_from(text.len()).unwrap_or(0));
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// Bytes of the stream, in as many frames as they need.
#[must_use]
pub fn data(bytes: &[u8]) -> Vec<u8> {
    bytes
        .chunks(MAX_FRAME)
        .flat_map(|bytes| frame(DATA, 0, STREAM, bytes))
        .collect()
}

/// The sudden end of the stream: CANCEL.
#[must_use]
pub fn reset() -> Vec<u8> {
    frame(RST_STREAM, 0, STREAM, &CANCEL)
}

/// A gRPC message.
#[must_use]
pub fn message(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0];
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
    out
}

/// Any frame.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .unwrap_or(u32::MAX)
        .to_be_bytes();
    let mut out = length[1..].to_vec();
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}
