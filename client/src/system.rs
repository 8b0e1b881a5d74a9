//! What the client takes from the system that it runs on.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::SystemTime;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};

/// Something of the system that takes its time.
type Waiting<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;

/// What carries a connection's bytes both ways.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Names, connections and the time of day. Give another one than
/// [`OperatingSystem`] to [`connect_by`](crate::connect_by) to reach a server
/// by other means.
///
/// What is returned is waited for within
/// [`Config::connect_timeout`](crate::Config::connect_timeout) and dropped
/// when that is over.
pub trait System: Send + Sync + 'static {
    /// The addresses of a host, in any order. Asked again and again.
    fn look_up<'a>(&'a self, host: &'a str, port: u16) -> Waiting<'a, Vec<SocketAddr>>;

    /// A connection to one of them. Dropping it closes it.
    fn connect(&self, address: SocketAddr) -> Waiting<'static, Box<dyn Io>>;

    /// The time of day. Diffs are stamped with it, and nothing waits by it:
    /// it may jump.
    fn now(&self) -> SystemTime;
}

/// The real one: DNS, TCP, the system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct OperatingSystem;

impl System for OperatingSystem {
    fn look_up<'a>(&'a self, host: &'a str, port: u16) -> Waiting<'a, Vec<SocketAddr>> {
        Box::pin(async move { Ok(lookup_host((host, port)).await?.collect()) })
    }

    fn connect(&self, address: SocketAddr) -> Waiting<'static, Box<dyn Io>> {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            // Diffs are small and urgent.
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Io>)
        })
    }

    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}
