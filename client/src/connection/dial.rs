//! Where connections come from. Whoever wants another transport under the
//! client, as a simulation does, changes this file alone.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use super::wire::text;
use crate::config::Config;
use crate::event::Reason;
use crate::shared::lock;

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
pub(super) async fn dial(config: &Config) -> Result<Line, Reason> {
    let all = config.connect_timeout;
    timeout(all, try_addresses(config))
        .await
        .unwrap_or_else(|_| Err(Reason::Unreachable(format!("no answer within {all:?}"))))
}

async fn try_addresses(config: &Config) -> Result<Line, Reason> {
    let unreachable = |why: String| Reason::Unreachable(text(&why));
    let mut addresses: Vec<_> = lookup_host((config.host.as_str(), config.port))
        .await
        .map_err(|error| unreachable(format!("look-up of {}: {error}", config.host)))?
        .collect();
    fastrand::shuffle(&mut addresses);
    addresses.truncate(ADDRESSES);
    let parts = u32::try_from(addresses.len()).unwrap_or(1).max(1);
    let mut last = unreachable(format!("{} has no address", config.host));
    for address in addresses {
        match connect(config, address, config.connect_timeout / parts).await {
            Ok(line) => return Ok(line),
            Err(why) => last = unreachable(format!("{address}: {why}")),
        }
    }
    Err(last)
}

async fn connect(config: &Config, address: SocketAddr, within: Duration) -> Result<Line, String> {
    let tasks = Tasks::default();
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| error.to_string())?
        // The server is called by its name, not by the address found for it.
        .origin(config.endpoint.clone())
        .executor(tasks.clone())
        .connect_timeout(within)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(config.keepalive_interval)
        .keep_alive_timeout(config.keepalive_timeout)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(MAX_HEADER_LIST);
    // Whatever was spawned for an attempt that fails ends by itself: nothing
    // uses it.
    let channel = endpoint.connect().await.map_err(|error| told(&error))?;
    Ok(Line { channel, tasks })
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
