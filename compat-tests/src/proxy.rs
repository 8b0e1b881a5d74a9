//! A TCP proxy between clients and a server: a network that can be bad.
//!
//! It knows nothing of what it carries. What [`Proxy::pass`] says holds for
//! all connections until it is told otherwise, each way for itself; what
//! [`Proxy::cut`] does it does to the connections of that moment, and those
//! that come later are whole. [`Proxy::switch`] makes it what a Service of
//! Kubernetes is: new connections go to the new server, old ones stay where
//! they are.
//!
//! Bounded: a connection holds at most [`CHUNKS`] + 2 chunks of [`CHUNK`]
//! each way. Beyond that the sender feels that nobody reads.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// Bytes that are read at a time.
pub const CHUNK: usize = 16 * 1024;
/// Chunks of one direction of a connection that may wait.
pub const CHUNKS: usize = 16;
/// How long the two ends are given to close after a FIN, before what they
/// still send is answered by a reset.
const FIN_GRACE: Duration = Duration::from_secs(1);

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// What clients send.
    ToServer,
    /// What the server sends.
    ToClient,
}

/// How bytes pass, one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passing {
    /// At once.
    Freely,
    /// So much later, in order.
    Late(Duration),
    /// One byte at a time, with a pause between.
    Trickling(Duration),
    /// Not at all: after what the proxy can hold, it does not read either.
    /// Nothing is lost.
    Held,
}

/// How connections end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Both ends see an orderly end, in the middle of whatever was said.
    Fin,
    /// Both ends see a reset.
    Reset,
    /// Nothing passes this way any more, not even the end. The other way
    /// passes.
    Silent(Way),
    /// Nothing passes either way any more, not even the end.
    SilentBoth,
}

/// A running proxy. Dropping it closes what it carries.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    orders: watch::Sender<Orders>,
    accepted: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

/// What connections obey. A cut is a number: connections below it are cut.
#[derive(Clone, Copy, Debug)]
struct Orders {
    upstream: SocketAddr,
    passing: [Passing; 2],
    silent: [u64; 2],
    fin: u64,
    reset: u64,
}

impl Orders {
    fn passing(&self, way: Way) -> Passing {
        self.passing[way as usize]
    }

    fn is_silent(&self, way: Way, number: u64) -> bool {
        number < self.silent[way as usize]
    }
}

impl Proxy {
    /// Listens on a free port of the loopback, for a server at `upstream`.
    ///
    /// # Errors
    /// There is no port.
    pub async fn start(upstream: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let orders = watch::Sender::new(Orders {
            upstream,
            passing: [Passing::Freely; 2],
            silent: [0; 2],
            fin: 0,
            reset: 0,
        });
        let accepted = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(serve(listener, orders.subscribe(), Arc::clone(&accepted)));
        Ok(Self {
            address,
            orders,
            accepted,
            task,
        })
    }

    /// Where clients connect to.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The same, as an address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that came so far.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Connections from now on go to another server.
    pub fn switch(&self, upstream: SocketAddr) {
        self.orders.send_modify(|orders| orders.upstream = upstream);
    }

    /// How bytes pass one way from now on, on every connection.
    pub fn pass(&self, way: Way, passing: Passing) {
        self.orders
            .send_modify(|orders| orders.passing[way as usize] = passing);
    }

    /// Bytes pass freely both ways again.
    pub fn pass_freely(&self) {
        self.orders
            .send_modify(|orders| orders.passing = [Passing::Freely; 2]);
    }

    /// Cuts the connections that there are.
    pub fn cut(&self, how: Cut) {
        let below = self.accepted();
        self.orders.send_modify(|orders| match how {
            Cut::Fin => orders.fin = below,
            Cut::Reset => orders.reset = below,
            Cut::Silent(way) => orders.silent[way as usize] = below,
            Cut::SilentBoth => orders.silent = [below; 2],
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, orders: watch::Receiver<Orders>, accepted: Arc<AtomicU64>) {
    let mut connections = JoinSet::new();
    loop {
        let client = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        // What refuses one connection may take the next.
        let Ok((client, _)) = client else { continue };
        let number = accepted.fetch_add(1, Ordering::SeqCst);
        connections.spawn(connect(client, number, orders.clone()));
    }
}

async fn connect(client: TcpStream, number: u64, orders: watch::Receiver<Orders>) {
    let upstream = orders.borrow().upstream;
    // No server: the client sees its connection close, as behind a Service
    // without endpoints.
    if let Ok(server) = TcpStream::connect(upstream).await {
        carry(&client, &server, number, orders).await;
    }
}

async fn carry(
    client: &TcpStream,
    server: &TcpStream,
    number: u64,
    mut orders: watch::Receiver<Orders>,
) {
    for end in [client, server] {
        // A byte that trickles is a segment of its own.
        let _ = end.set_nodelay(true);
    }
    let both = async {
        tokio::try_join!(
            pump(client, server, Way::ToServer, number, orders.clone()),
            pump(server, client, Way::ToClient, number, orders.clone()),
        )
    };
    let mut cuts = orders.clone();
    let fin = tokio::select! {
        cut = cuts.wait_for(|orders| number < orders.fin.max(orders.reset)) => {
            cut.is_ok_and(|orders| number < orders.fin)
        }
        // An end that broke breaks the other.
        ended = both => ended.is_ok(),
    };
    if !fin {
        for end in [client, server] {
            // Without lingering the close is a reset.
            let _ = end.set_zero_linger();
        }
        return;
    }
    for end in [client, server] {
        // It is closed already, or it is now.
        let _ = SockRef::from(end).shutdown(Shutdown::Write);
    }
    let closing = async { tokio::join!(pass_over(client), pass_over(server)) };
    tokio::select! {
        _ = tokio::time::timeout(FIN_GRACE, closing) => {}
        _ = orders.wait_for(|orders| number < orders.reset) => {}
    }
}

/// Reads until the end: a socket that is closed with bytes unread sends a
/// reset instead of a FIN.
async fn pass_over(end: &TcpStream) {
    while read(end).await.is_ok_and(|bytes| !bytes.is_empty()) {}
}

/// Carries one way, until its end has passed.
async fn pump(
    from: &TcpStream,
    to: &TcpStream,
    way: Way,
    number: u64,
    orders: watch::Receiver<Orders>,
) -> io::Result<()> {
    let (chunks, waiting) = mpsc::channel(CHUNKS);
    tokio::try_join!(
        take(from, chunks, way, orders.clone()),
        give(to, waiting, way, number, orders),
    )?;
    Ok(())
}

/// Bytes, and when they are due. None at all: the end.
type Chunk = (Instant, Bytes);

async fn take(
    from: &TcpStream,
    chunks: mpsc::Sender<Chunk>,
    way: Way,
    orders: watch::Receiver<Orders>,
) -> io::Result<()> {
    loop {
        let bytes = read(from).await?;
        let late = match orders.borrow().passing(way) {
            Passing::Late(late) => late,
            _ => Duration::ZERO,
        };
        let ended = bytes.is_empty();
        if chunks.send((Instant::now() + late, bytes)).await.is_err() || ended {
            return Ok(());
        }
    }
}

async fn give(
    to: &TcpStream,
    mut waiting: mpsc::Receiver<Chunk>,
    way: Way,
    number: u64,
    mut orders: watch::Receiver<Orders>,
) -> io::Result<()> {
    while let Some((due, mut bytes)) = waiting.recv().await {
        // The delay that the network was told to have.
        tokio::time::sleep_until(due).await;
        loop {
            let may_go = orders.wait_for(|orders| {
                orders.is_silent(way, number) || orders.passing(way) != Passing::Held
            });
            // The proxy is gone, then.
            let Ok(now) = may_go.await.map(|orders| *orders) else {
                return Ok(());
            };
            if now.is_silent(way, number) {
                break;
            }
            if bytes.is_empty() {
                return SockRef::from(to).shutdown(Shutdown::Write);
            }
            let most = match now.passing(way) {
                Passing::Trickling(_) => 1,
                _ => bytes.len(),
            };
            let silenced = orders.wait_for(|orders| orders.is_silent(way, number));
            let written = tokio::select! {
                written = write(to, &bytes[..most]) => written?,
                _ = silenced => break,
            };
            let _ = bytes.split_to(written);
            if bytes.is_empty() {
                break;
            }
            match now.passing(way) {
                Passing::Trickling(pause) if pause.is_zero() => tokio::task::yield_now().await,
                Passing::Trickling(pause) => tokio::time::sleep(pause).await,
                _ => {}
            }
        }
    }
    Ok(())
}

async fn read(from: &TcpStream) -> io::Result<Bytes> {
    loop {
        from.readable().await?;
        // Room once there is something to put into it.
        let mut buffer = Vec::with_capacity(CHUNK);
        match from.try_read_buf(&mut buffer) {
            Ok(_) => return Ok(buffer.into()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
}

async fn write(to: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    loop {
        to.writable().await?;
        match to.try_write(bytes) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            written => return written,
        }
    }
}
