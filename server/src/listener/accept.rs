//! Where connections come from.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// Backoff after a failure to accept: doubles from the first to the longest.
const FIRST_BACKOFF: Duration = Duration::from_millis(5);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);

/// Where connections come from: TCP, or whatever carries bytes both ways (a
/// pipe within the process, a simulated network).
pub trait Accept: Send + 'static {
    /// A connection. Dropping it closes it.
    type Io: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Waits for the next connection, with the address of its peer, which
    /// logs and operators are shown. Has to be cancel safe: a connection is
    /// returned or stays to be accepted.
    ///
    /// # Errors
    /// Whatever a later attempt may not meet again: the server waits a moment
    /// (5 ms, doubling to 1 s) and tries again, for ever.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Io, SocketAddr)>> + Send;

    /// Where it listens.
    ///
    /// # Errors
    /// If that is not known: the server does not start.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// The delay before the next attempt to accept.
pub(crate) struct Backoff(Duration);

impl Backoff {
    pub(crate) fn new() -> Self {
        Self(FIRST_BACKOFF)
    }

    /// Waits, twice as long as the last time.
    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(LONGEST_BACKOFF);
    }
}

impl Accept for TcpListener {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = TcpListener::accept(self).await?;
        // Diffs are small and urgent.
        stream.set_nodelay(true)?;
        Ok((stream, peer))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Self::local_addr(self)
    }
}
