//! A consensus store of the drill's own: lists in memory behind a TCP port of
//! the loopback, so that a drill needs nothing installed and processes still
//! reach their store over a network.
//!
//! A request is answered before the next is read. A frame is four bytes of
//! length, little endian, and as many of a request or an answer.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use prost::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::Failure;
use super::consensus::Row;
use super::shards::Number;

/// What a URL of such a store begins with.
pub const SCHEME: &str = "tcp://";
/// The longest frame, bytes: a whole shard of a long drill.
const MAX_FRAME: usize = 256 * 1024 * 1024;
/// Connections of a process, so that one fetch does not delay another.
const CONNECTIONS: usize = 4;

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(uint32, tag = "1")]
    shard: u32,
    /// The state that is known.
    #[prost(uint64, tag = "2")]
    at: u64,
    /// What is to be appended to it.
    #[prost(bytes = "bytes", optional, tag = "3")]
    append: Option<Bytes>,
    /// The diffs above it are wanted.
    #[prost(bool, tag = "4")]
    diffs: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Answer {
    /// It was appended.
    #[prost(bool, tag = "1")]
    appended: bool,
    #[prost(uint64, tag = "2")]
    head: u64,
    /// Those above the state that was known.
    #[prost(bytes = "bytes", repeated, tag = "3")]
    diffs: Vec<Bytes>,
}

/// Each shard's diffs; the first has seqno 1.
type Shards = BTreeMap<u32, Vec<Bytes>>;

/// The store. Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    shards: Arc<Mutex<Shards>>,
    task: JoinHandle<()>,
}

impl Server {
    /// Serves on a free port of the loopback.
    ///
    /// # Errors
    /// There is none.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shards = Arc::new(Mutex::default());
        let task = tokio::spawn(serve(listener, Arc::clone(&shards)));
        Ok(Self {
            address,
            shards,
            task,
        })
    }

    /// Where it serves.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{SCHEME}{}", self.address)
    }

    /// Forgets everything.
    pub fn clear(&self) {
        lock(&self.shards).clear();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, shards: Arc<Mutex<Shards>>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // What refuses one connection may take the next.
                let Ok((stream, _)) = accepted else { continue };
                connections.spawn(answer_all(stream, Arc::clone(&shards)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Answers until the client goes.
async fn answer_all(stream: TcpStream, shards: Arc<Mutex<Shards>>) -> io::Result<()> {
    let mut stream = Stream::new(stream)?;
    loop {
        let request: Request = stream.receive().await?;
        let answer = answer(&mut lock(&shards), request);
        stream.send(&answer).await?;
    }
}

fn answer(shards: &mut Shards, request: Request) -> Answer {
    let diffs = shards.entry(request.shard).or_default();
    let head = diffs.len() as u64;
    let above = usize::try_from(request.at).unwrap_or(usize::MAX);
    if let Some(diff) = request.append {
        let appended = head == request.at;
        if appended {
            diffs.push(diff);
        }
        return Answer {
            appended,
            head: diffs.len() as u64,
            diffs: Vec::new(),
        };
    }
    Answer {
        appended: false,
        head,
        diffs: diffs
            .get(above..)
            .filter(|_| request.diffs)
            .map(<[_]>::to_vec)
            .unwrap_or_default(),
    }
}

/// A process's connections to such a store.
#[derive(Debug)]
pub struct Client {
    streams: Vec<Arc<tokio::sync::Mutex<Stream>>>,
    next: AtomicUsize,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// There is no store.
    pub async fn connect(address: &str) -> io::Result<Self> {
        let mut streams = Vec::new();
        for _ in 0..CONNECTIONS {
            let stream = Stream::new(TcpStream::connect(address).await?)?;
            streams.push(Arc::new(tokio::sync::Mutex::new(stream)));
        }
        Ok(Self {
            streams,
            next: AtomicUsize::new(0),
        })
    }

    /// As [`super::consensus::Consensus::compare_and_set`].
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn compare_and_set(
        &self,
        shard: Number,
        at: u64,
        diff: Bytes,
    ) -> Result<bool, Failure> {
        let answer = self.ask(Request {
            shard: shard.into(),
            at,
            append: Some(diff),
            diffs: false,
        });
        Ok(answer.await?.appended)
    }

    /// As [`super::consensus::Consensus::since`].
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn since(&self, shard: Number, at: u64) -> Result<Vec<Row>, Failure> {
        let answer = self.ask(Request {
            shard: shard.into(),
            at,
            append: None,
            diffs: true,
        });
        Ok((at + 1..).zip(answer.await?.diffs).collect())
    }

    /// As [`super::consensus::Consensus::head`].
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn head(&self, shard: Number) -> Result<u64, Failure> {
        let answer = self.ask(Request {
            shard: shard.into(),
            ..Request::default()
        });
        Ok(answer.await?.head)
    }

    async fn ask(&self, request: Request) -> Result<Answer, Failure> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let stream = self.streams.get(turn % CONNECTIONS);
        let stream = stream.ok_or("no connection to the store")?;
        let stream = Arc::clone(stream);
        // In a task of its own, so that a caller who gives up leaves no half
        // frame behind.
        let asked = tokio::spawn(async move {
            let mut stream = stream.lock().await;
            stream.send(&request).await?;
            stream.receive().await
        });
        let answer: io::Result<Answer> = asked.await?;
        Ok(answer?)
    }
}

/// Frames over TCP.
#[derive(Debug)]
struct Stream(BufReader<TcpStream>);

impl Stream {
    fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    async fn send(&mut self, message: &impl Message) -> io::Result<()> {
        let mut frame = vec![0; 4];
        message
            .encode(&mut frame)
            .map_err(|e| io::Error::other(e.to_string()))?;
        let length = u32::try_from(frame.len() - 4).map_err(io::Error::other)?;
        frame[..4].copy_from_slice(&length.to_le_bytes());
        self.0.write_all(&frame).await
    }

    async fn receive<M: Message + Default>(&mut self) -> io::Result<M> {
        let length = self.0.read_u32_le().await?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > MAX_FRAME {
            return Err(io::Error::other(format!(
                "a frame of {length} bytes; at most {MAX_FRAME} are allowed"
            )));
        }
        let mut frame = vec![0; length];
        self.0.read_exact(&mut frame).await?;
        M::decode(Bytes::from(frame)).map_err(io::Error::other)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
