//! The limit of what TCP allows: copies what a publisher sends to every
//! subscriber, as it comes, and knows nothing of what it is. For benchmarks.
//!
//! A connection begins with one byte: `P` publishes, `S` subscribes. It is
//! answered with an empty gRPC message (five zeros), by which it knows that it
//! is heard.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Bytes copied at a time: what our server puts into one write at most.
const COPIED: usize = 64 * 1024;
const ANSWER: [u8; 5] = [0; 5];

type Subscribers = Arc<Mutex<Vec<Arc<TcpStream>>>>;

/// Serves on a free port of the loopback until the runtime ends.
///
/// # Errors
/// The port cannot be bound.
pub async fn start() -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let subscribers = Subscribers::default();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, Arc::clone(&subscribers)));
        }
    });
    Ok(address)
}

/// One connection, until it ends.
async fn serve(mut stream: TcpStream, subscribers: Subscribers) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let lock = || subscribers.lock().unwrap_or_else(PoisonError::into_inner);
    let kind = stream.read_u8().await?;
    if kind == b'S' {
        let stream = Arc::new(stream);
        // Before it is answered: what is published then has to reach it.
        lock().push(Arc::clone(&stream));
        stream.writable().await?;
        // A socket that has never been written to has room for it.
        stream.try_write(&ANSWER)?;
        return Ok(());
    }
    stream.write_all(&ANSWER).await?;
    let mut buffer = vec![0; COPIED];
    loop {
        let read = stream.read(&mut buffer).await?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
            lock().clear();
            return Ok(());
        };
        let all = lock().clone();
        for subscriber in &all {
            let mut rest = bytes;
            while !rest.is_empty() {
                match subscriber.try_write(rest) {
                    Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                        subscriber.writable().await?;
                    }
                    // It has gone: nobody is to be told.
                    Err(_) => break,
                }
            }
        }
    }
}
