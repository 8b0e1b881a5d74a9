//! Makes connections: HTTP/2 over what the system gives.

use std::future::{Future, Ready, ready};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint, Uri};

use super::wire::text;
use crate::config::Config;
use crate::event::Reason;
use crate::home;
use crate::shared::lock;
use crate::system::{Io, System};

/// How much the server may send ahead of our reading, in bytes, on the stream
/// and on the connection: what is held beside the event buffer at most. The
/// second also bounds how many small frames may be under way.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// The largest header list that is read, in bytes.
const MAX_HEADER_LIST: u32 = 16 * 1024;
/// Of a name's addresses, how many one attempt tries.
const ADDRESSES: usize = 3;

/// A connection. Dropping it closes it, whatever state its streams are in: a
/// stream whose server does not read would otherwise never end, and its
/// connection with it.
pub(super) struct Line {
    pub(super) channel: Channel,
    tasks: Tasks,
}

impl Drop for Line {
    fn drop(&mut self) {
        lock(&self.tasks.0).abort_all();
    }
}

/// Spawns what hyper and tonic run for one connection: a handful of tasks.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl hyper::rt::Executor<Pin<Box<dyn Future<Output = ()> + Send>>> for Tasks {
    fn execute(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        lock(&self.0).spawn(task);
    }
}

/// A fresh connection: looks the name up, and tries its addresses in random
/// order, so that clients of a name with many spread over them, and none is
/// stuck with a dead one. A channel is never used again: one that was sent
/// away may not connect anew by itself.
pub(super) async fn dial(
    config: &Config,
    endpoint: &home::Endpoint,
    system: &dyn System,
) -> Result<Line, Reason> {
    let all = config.connect_timeout;
    timeout(all, try_addresses(config, endpoint, system))
        .await
        .unwrap_or_else(|_| Err(Reason::Unreachable(format!("no answer within {all:?}"))))
}

async fn try_addresses(
    config: &Config,
    endpoint: &home::Endpoint,
    system: &dyn System,
) -> Result<Line, Reason> {
    let unreachable = |why: String| Reason::Unreachable(text(&why));
    let mut addresses = system
        .look_up(&endpoint.host, endpoint.port)
        .await
        .map_err(|error| unreachable(format!("look-up of {}: {error}", endpoint.host)))?;
    fastrand::shuffle(&mut addresses);
    addresses.truncate(ADDRESSES);
    let parts = u32::try_from(addresses.len()).unwrap_or(1).max(1);
    let mut last = unreachable(format!("{} has no address", endpoint.host));
    for address in addresses {
        let within = config.connect_timeout / parts;
        let attempt = timeout(within, connect(config, endpoint, system, address));
        let why = match attempt.await {
            Ok(Ok(line)) => return Ok(line),
            Ok(Err(why)) => why,
            Err(_) => format!("no answer within {within:?}"),
        };
        last = unreachable(format!("{address}: {why}"));
    }
    Err(last)
}

async fn connect(
    config: &Config,
    server: &home::Endpoint,
    system: &dyn System,
    address: SocketAddr,
) -> Result<Line, String> {
    let io = system
        .connect(address)
        .await
        .map_err(|error| error.to_string())?;
    let tasks = Tasks::default();
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| error.to_string())?
        // The server is called by its name, not by the address found for it.
        .origin(server.origin.clone())
        .executor(tasks.clone())
        .http2_keep_alive_interval(config.keepalive_interval)
        .keep_alive_timeout(config.keepalive_timeout)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(MAX_HEADER_LIST);
    // Whatever was spawned for an attempt that fails ends by itself: nothing
    // uses it.
    let channel = endpoint
        .connect_with_connector(Connected(Some(io)))
        .await
        .map_err(|error| told(&error))?;
    Ok(Line { channel, tasks })
}

/// Gives the connection that was made to tonic, once.
struct Connected(Option<Box<dyn Io>>);

impl tower_service::Service<Uri> for Connected {
    type Response = TokioIo<Box<dyn Io>>;
    type Error = io::Error;
    type Future = Ready<Result<Self::Response, io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let io = self.0.take().map(TokioIo::new);
        // Another attempt is another channel's.
        ready(io.ok_or_else(|| io::ErrorKind::NotConnected.into()))
    }
}

/// The error with its causes: tonic's own text says only that there was one.
fn told(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        told = format!("{told}: {error}");
        cause = error.source();
    }
    told
}
