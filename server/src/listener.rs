//! A port: accepts, and keeps each connection within its bounds.

mod accept;
mod ahead;
mod frames;
mod handshakes;
mod streams;
mod together;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use prometheus::IntCounter;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::server::TlsStream;
use tonic::service::Routes;

use crate::drain::{Drain, DrainState};
use crate::logging::LogGate;
use crate::metrics::ListenerMetrics;
use crate::service::{Connection, Port};
use crate::tls::{self, Tls};
pub use accept::Accept;
use accept::Backoff;
use frames::Watched;
use handshakes::Handshakes;
use streams::{Activity, ConnectionService};
pub(crate) use together::Parts;
use together::Together;

/// How often a connection looks at its clocks, at most.
const TICK: Duration = Duration::from_secs(1);
/// Looks in the time for which a connection may be without streams, which it
/// is held to as precisely as that.
const LOOKS: u32 = 8;
/// A peer may open so many bytes of streams ahead of what is read of them.
/// h2 also budgets small frames by the connection's window.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Bytes that a stream's peer has not taken yet; behind it, the outbox is not
/// polled.
const SEND_BUFFER: usize = 256 * 1024;
/// Streams that a peer reset before they were accepted; more close its
/// connection.
const MAX_PENDING_RESETS: usize = 32;
/// Streams that this end reset because of the peer's errors; likewise.
const MAX_ERROR_RESETS: usize = 256;
/// Bytes of an HTTP/1 request's head, at most; hyper takes no less.
const HTTP1_BUFFER: usize = 8192;
/// Log lines a minute about connections that failed in TLS.
const TLS_LINES: u32 = 10;

/// A way in.
#[derive(Debug)]
pub(crate) struct Door<A> {
    pub(crate) listener: A,
    pub(crate) port: Port,
    pub(crate) tls: Option<DoorTls>,
}

/// The TLS of a door.
#[derive(Clone, Debug)]
pub(crate) struct DoorTls {
    pub(crate) tls: Arc<Tls>,
    /// Connections that failed in it.
    pub(crate) errors: IntCounter,
}

/// Bounds of connections.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionLimits {
    /// HTTP/1 is spoken too, by those who open with it.
    pub(crate) http1: bool,
    pub(crate) max_connections: usize,
    /// Connections that have not brought a request yet.
    pub(crate) max_handshakes: usize,
    /// HTTP/2 frames that bring no message, which one connection is read of.
    pub(crate) max_empty_frames_per_second: u32,
    pub(crate) max_streams_per_connection: u32,
    pub(crate) max_header_bytes: u32,
    /// A connection has to bring its first request within this.
    pub(crate) handshake_timeout: Duration,
    /// A connection without streams is closed after this.
    pub(crate) idle_timeout: Duration,
    /// HTTP/2 pings: how often, and how long an answer may take.
    pub(crate) keepalive: Duration,
    pub(crate) keepalive_timeout: Duration,
}

/// Accepts until the drain is over, then lets the connections go. Drop it to
/// cut them. All doors share the bounds.
pub(crate) async fn serve<A: Accept>(
    mut door: Door<A>,
    mut beside: Option<Door<A>>,
    routes: Routes,
    limits: ConnectionLimits,
    metrics: ListenerMetrics,
    drain: Drain,
) {
    let common = Arc::new(Common {
        routes: routes.prepare(),
        limits,
        metrics,
        drain,
        failures: LogGate::new(TLS_LINES, Duration::from_secs(60)),
    });
    let (limits, metrics) = (&common.limits, &common.metrics);
    let mut connections = JoinSet::new();
    let mut backoff = Backoff::new();
    let gate = LogGate::new(5, Duration::from_secs(60));
    let handshakes = Handshakes::new(limits.max_handshakes, metrics.clone());
    let mut number = 0;
    loop {
        // In this order, a flood of connections keeps nothing else waiting.
        let (accepted, port, tls) = tokio::select! {
            biased;
            () = common.drain.reached(DrainState::Closed) => break,
            // Reaps those that ended.
            Some(_) = connections.join_next() => continue,
            accepted = either(&mut door, beside.as_mut()) => accepted,
        };
        match accepted {
            Ok((io, peer)) => {
                backoff = Backoff::new();
                metrics.accepted.inc();
                let full = connections.len() >= limits.max_connections;
                if handshakes.room().await || full && handshakes.evict_slow() {
                    // The one that was evicted ends at once; until then it
                    // counts.
                    connections.join_next().await;
                }
                if connections.len() >= limits.max_connections {
                    metrics.refused.inc();
                    if let Some(unlogged) = gate.admit(Instant::now()) {
                        tracing::warn!(%peer, unlogged, max = limits.max_connections, "connection refused: too many (--max-connections)");
                    }
                    continue;
                }
                number += 1;
                let activity = Arc::new(Activity::new(handshakes.begin(number)));
                let begun = Begun {
                    peer,
                    port,
                    activity,
                    opened_at: Instant::now(),
                };
                connections.spawn(connection(io, tls, begun, Arc::clone(&common)));
            }
            Err(error) => {
                // Out of file descriptors, or a peer that went before it was
                // accepted: either way the next attempt may succeed.
                metrics.accept_errors.inc();
                if let Some(unlogged) = gate.admit(Instant::now()) {
                    tracing::warn!(%error, unlogged, "cannot accept a connection");
                }
                backoff.wait().await;
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

type Accepted<Io> = (io::Result<(Io, SocketAddr)>, Port, Option<DoorTls>);

/// A connection through one door or the other, in no order. Cancel safe, as
/// `accept` is.
async fn either<A: Accept>(a: &mut Door<A>, b: Option<&mut Door<A>>) -> Accepted<A::Io> {
    let Some(b) = b else {
        return (a.listener.accept().await, a.port, a.tls.clone());
    };
    tokio::select! {
        accepted = a.listener.accept() => (accepted, a.port, a.tls.clone()),
        accepted = b.listener.accept() => (accepted, b.port, b.tls.clone()),
    }
}

/// What the connections of a port share.
struct Common {
    routes: Routes,
    limits: ConnectionLimits,
    metrics: ListenerMetrics,
    drain: Drain,
    /// Bounds the log lines about TLS that peers can cause.
    failures: LogGate,
}

/// A connection that was accepted.
struct Begun {
    peer: SocketAddr,
    port: Port,
    activity: Arc<Activity>,
    opened_at: Instant,
}

async fn connection<Io: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    io: Io,
    tls: Option<DoorTls>,
    begun: Begun,
    common: Arc<Common>,
) {
    common.metrics.connections.inc();
    // The two kinds of stream are two functions, so that plaintext pays
    // nothing for TLS.
    match tls {
        None => requests(io, Arc::new([]), begun, &common).await,
        Some(tls) => {
            if let Some(io) = Box::pin(handshake(io, &tls, &begun, &common)).await {
                let names = io.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let names = names.map_or_else(Vec::new, |client| tls::names(client));
                requests(io, names.into(), begun, &common).await;
            }
        }
    }
    common.metrics.connections.dec();
}

/// TLS, within the time for a first request. None: the connection is over.
async fn handshake<Io: AsyncRead + AsyncWrite + Unpin>(
    io: Io,
    tls: &DoorTls,
    begun: &Begun,
    common: &Common,
) -> Option<TlsStream<Io>> {
    let peer = begun.peer;
    let until = begun.opened_at + common.limits.handshake_timeout;
    let failed = tokio::select! {
        biased;
        () = begun.activity.handshake.evicted() => {
            tracing::debug!(%peer, "connection closed within TLS: others waited for its place (--max-handshakes)");
            return None;
        }
        () = common.drain.reached(DrainState::Closed) => return None,
        accepted = timeout_at(until, tls.tls.accept(io)) => match accepted {
            Ok(Ok(io)) => return io,
            Ok(Err(error)) => error,
            Err(_) => {
                common.metrics.handshake_timeouts.inc();
                tracing::debug!(%peer, "connection closed: no TLS within --handshake-timeout");
                return None;
            }
        },
    };
    tls.errors.inc();
    if let Some(unlogged) = common.failures.admit(Instant::now()) {
        let port = begun.port.as_str();
        tracing::warn!(%peer, port, error = %failed, unlogged, "connection failed in TLS");
    }
    None
}

/// HTTP, until the connection ends.
async fn requests<Io: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    io: Io,
    names: Arc<[String]>,
    begun: Begun,
    common: &Common,
) {
    let Begun {
        peer,
        port,
        activity,
        opened_at,
    } = begun;
    let Common {
        limits, metrics, ..
    } = common;
    let handle = Connection {
        peer,
        port,
        names,
        cut: Arc::new(Notify::new()),
        parts: Parts::default(),
    };
    let service = ConnectionService {
        routes: common.routes.clone(),
        handle: handle.clone(),
        activity: Arc::clone(&activity),
    };
    let mut builder = auto::Builder::new(handle.parts.clone());
    if !limits.http1 {
        builder = builder.http2_only();
    }
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.handshake_timeout)
        .max_buf_size(HTTP1_BUFFER.max(limits.max_header_bytes as usize));
    builder
        .http2()
        .timer(TokioTimer::new())
        // gRPC has no use for it.
        .auto_date_header(false)
        .max_concurrent_streams(limits.max_streams_per_connection)
        .max_header_list_size(limits.max_header_bytes)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_ERROR_RESETS)
        .keep_alive_interval(limits.keepalive)
        .keep_alive_timeout(limits.keepalive_timeout);
    let per_second = limits.max_empty_frames_per_second;
    let io = Watched::new(io, per_second, handle.parts.clone(), metrics.clone());
    let serving = builder.serve_connection(TokioIo::new(io), service);
    let mut serving = Together::new(serving, handle.parts.clone());
    // Polled when it has something to say, and not whenever something passes
    // over the connection.
    let watch = |busy_at, leaving| end_of(&activity, &handle, common, opened_at, busy_at, leaving);
    let mut watching = FuturesUnordered::from_iter([watch(opened_at, false)]);
    loop {
        // In this order, a busy peer keeps the clocks from nothing.
        tokio::select! {
            biased;
            Some(end) = watching.next() => match end {
                End::Close(why) => {
                    tracing::debug!(%peer, "connection closed: {why}");
                    break;
                }
                End::Leave { busy_at } => {
                    if let Some(serving) = serving.connection() {
                        serving.graceful_shutdown();
                    }
                    watching.push(watch(busy_at, true));
                }
            },
            served = &mut serving => {
                if let Err(error) = served {
                    tracing::debug!(%peer, %error, "connection failed");
                }
                break;
            }
        }
    }
}

/// How a connection ends that does not end by itself.
enum End {
    /// It is asked to go; it was last busy then.
    Leave { busy_at: Instant },
    /// At once, for this reason.
    Close(&'static str),
}

/// Waits until a connection is to end, whether it is leaving already or not.
async fn end_of(
    activity: &Activity,
    handle: &Connection,
    common: &Common,
    opened_at: Instant,
    mut busy_at: Instant,
    leaving: bool,
) -> End {
    let Common {
        limits,
        metrics,
        drain,
        ..
    } = common;
    loop {
        // One that serves a stream has nothing to be looked at for but whether
        // it still does: with thousands of them, each look counts.
        let pause = if activity.has_started() {
            TICK.max(limits.idle_timeout / LOOKS)
        } else {
            TICK.min(limits.handshake_timeout / 2)
        };
        tokio::select! {
            biased;
            () = activity.handshake.evicted() => {
                return End::Close("others waited for its place (--max-handshakes)");
            }
            () = handle.cut.notified() => {
                return End::Close("it did not take the end of a stream");
            }
            () = drain.reached(DrainState::Closed), if !leaving => {
                return End::Leave { busy_at };
            }
            () = sleep(pause) => {}
        }
        let now = Instant::now();
        if !activity.has_started() {
            if now.duration_since(opened_at) >= limits.handshake_timeout {
                metrics.handshake_timeouts.inc();
                return End::Close("no request within --handshake-timeout");
            }
        } else if activity.is_busy() {
            busy_at = now;
        } else if !leaving && now.duration_since(busy_at) >= limits.idle_timeout {
            metrics.idle_timeouts.inc();
            return End::Leave { busy_at };
        } else if leaving && now.duration_since(busy_at) >= limits.idle_timeout + limits.keepalive {
            return End::Close("it was asked to go, and did not");
        }
    }
}
