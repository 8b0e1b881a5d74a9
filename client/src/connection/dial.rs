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
use tonic::metadata::{Ascii, MetadataValue};
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

/// A connection. Dropping it closes it, whatever state its streams are in: a
/// stream whose server does not read would otherwise never end, and its
/// connection with it.
pub(super) struct Line {
    pub(super) channel: Channel,
    /// What requests say of who we are.
    pub(super) authorization: Option<MetadataValue<Ascii>>,
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

/// A fresh connection to one of the server's addresses. A channel is never used
/// again: one that was sent away may not connect anew by itself.
pub(super) async fn dial(
    config: &Config,
    server: &home::Endpoint,
    address: SocketAddr,
    system: &dyn System,
) -> Result<Line, Reason> {
    let within = config.connect_timeout;
    let attempt = connect(config, server, system, address);
    let why = match timeout(within, attempt).await {
        Ok(Ok(line)) => return Ok(line),
        Ok(Err(why)) => why,
        Err(_) => format!("no answer within {within:?}"),
    };
    Err(Reason::Unreachable(text(&format!("{address}: {why}"))))
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
    let authorization = match &config.token {
        Some(token) => Some(token.authorization().await?),
        None => None,
    };
    let tasks = Tasks::default();
    let endpoint = over(config, server, address)
        .await?
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
    Ok(Line {
        channel,
        authorization,
        tasks,
    })
}

/// Where the connection leads to, and whether over TLS.
async fn over(
    config: &Config,
    server: &home::Endpoint,
    address: SocketAddr,
) -> Result<Endpoint, String> {
    let scheme = if server.is_https() { "https" } else { "http" };
    let endpoint = Endpoint::from_shared(format!("{scheme}://{address}"));
    let endpoint = endpoint.map_err(|error| error.to_string())?;
    #[cfg(feature = "tls")]
    if server.is_https() {
        let tls = config.tls.as_ref();
        let tls = tls.ok_or("an https endpoint needs Config::tls")?;
        return endpoint
            .tls_config(tls.read(&server.host).await?)
            .map_err(|error| told(&error));
    }
    #[cfg(not(feature = "tls"))]
    let _ = config;
    Ok(endpoint)
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

/// The error with its causes: tonic's own text says only that there was one,
/// that of others ends with their cause.
fn told(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !told.ends_with(&text) {
            told = format!("{told}: {text}");
        }
        cause = error.source();
    }
    told
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    #[derive(Debug)]
    struct Says(&'static str, Option<Box<Says>>);

    impl fmt::Display for Says {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl std::error::Error for Says {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            self.1.as_deref().map(|cause| cause as _)
        }
    }

    #[test]
    fn a_cause_is_told_once() {
        let expired = Says("expired", None);
        let invalid = Says("invalid: expired", Some(Box::new(expired)));
        let refused = Says("refused", Some(Box::new(invalid)));
        assert_eq!(told(&refused), "refused: invalid: expired");
    }
}
