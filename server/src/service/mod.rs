//! The data port's streams: from the wire to session commands. `v0` and `v1`
//! are the only rooms that know a wire version's messages.

mod body;
pub(crate) mod framing;
pub(crate) mod in_process;
mod v0;
pub(crate) mod v1;

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use persist_pubsub_proto::ShardId;
use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;

use crate::access::{Access, Caller, exhausted};
use crate::backplane::{Backplane, Held};
use crate::drain::Drain;
use crate::error::EndReason;
use crate::frame::Wire;
use crate::generation::V0Generation;
use crate::listener::Parts;
use crate::logging::LogGate;
use crate::outbox::When;
use crate::session::{Address, Session, Shared};
use crate::topic::Start;
use body::SessionBody;
use framing::{Framing, Piece};

/// Messages taken from one session before the others get their turn; a large
/// one counts as many, since it costs as much.
const MESSAGES_PER_TURN: usize = 128;
const BYTES_OF_A_MESSAGE: usize = 1024;
/// How long an ended stream may take to hand its last bytes over, before its
/// connection is cut.
const LINGER: Duration = Duration::from_secs(5);
/// When a peer may try again that came when the server was full.
const SESSION_RETRY: Duration = Duration::from_secs(5);
/// The longest that a session goes without a look at its clocks.
const TICK: Duration = Duration::from_secs(1);

/// Where a connection came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    Data,
    /// The data port's service without TLS, beside one with it.
    Plaintext,
    Admin,
}

impl Port {
    /// The metrics' label, and the log's.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Plaintext => "plaintext",
            Self::Admin => "admin",
        }
    }
}

/// What is known of the connection that a request came over, and what a stream
/// may do with it.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) peer: SocketAddr,
    pub(crate) port: Port,
    /// Those in the client's certificate, which was verified. Empty without
    /// one.
    pub(crate) names: Arc<[String]>,
    /// Cuts the connection when notified.
    pub(crate) cut: Arc<Notify>,
    /// Runs what reads a stream in the connection's task.
    pub(crate) parts: Parts,
}

/// What the streams need, beside what all sessions share.
#[derive(Debug)]
pub(crate) struct ServiceContext {
    pub(crate) shared: Arc<Shared>,
    pub(crate) access: Arc<Access>,
    pub(crate) drain: Drain,
    pub(crate) limits: ServiceLimits,
    /// Bounds the log lines that bad messages can cause.
    pub(crate) bad_messages: LogGate,
    /// Names this run of the server.
    pub(crate) instance_id: String,
    /// None: there are no other replicas.
    pub(crate) backplane: Option<Arc<Backplane>>,
}

/// Bounds of every stream.
#[derive(Clone, Debug)]
pub(crate) struct ServiceLimits {
    /// The largest message taken, in bytes.
    pub(crate) max_message_bytes: usize,
    /// The largest diff relayed, in bytes.
    pub(crate) max_diff_bytes: usize,
    /// Shards in one v1 request.
    pub(crate) max_shards_per_request: usize,
    /// How long a v1 client may take to say `Hello`.
    pub(crate) handshake_timeout: Duration,
    /// Either end of a v1 session says something this often.
    pub(crate) heartbeat_interval: Duration,
    /// The environment of v0 sessions, and of v1 sessions that name none.
    pub(crate) v0_environment: String,
    /// Of which generation a v0 session is.
    pub(crate) v0_generations: Vec<V0Generation>,
}

/// Speaks one wire version with one client.
trait Dialect: Send {
    /// Takes a message. May wait for room to answer, and before it subscribes
    /// for the other replicas; for nothing else.
    fn take(&mut self, message: Bytes) -> impl Future<Output = ()> + Send;
    /// There is no other message yet: does what was put off to be done with
    /// more of its kind. As `take`.
    fn rest(&mut self) -> impl Future<Output = ()> + Send;
    /// A message was larger than is taken. May wait for room to answer.
    fn too_large(&mut self, len: usize) -> impl Future<Output = ()> + Send;
    /// Looks at its clocks.
    fn tick(&mut self, now: Instant);
}

/// A wire version as a tonic service.
#[derive(Clone)]
pub(crate) struct StreamService<const V1: bool> {
    context: Arc<ServiceContext>,
}

/// The service of deployed processes.
pub(crate) type V0Service = StreamService<false>;
/// `persist.pubsub.v1.PubSubService`.
pub(crate) type V1Service = StreamService<true>;

impl<const V1: bool> StreamService<V1> {
    pub(crate) fn new(context: Arc<ServiceContext>) -> Self {
        Self { context }
    }

    fn open(&self, request: Request<Body>) -> Response<Body> {
        let path = if V1 {
            persist_pubsub_proto::v1::PATH
        } else {
            persist_pubsub_proto::v0::PATH
        };
        match self.start(request, path) {
            Ok(session) => stream(Body::new(SessionBody::new(session))),
            Err(status) => status.into_http(),
        }
    }

    fn start(&self, request: Request<Body>, path: &str) -> Result<Arc<Session>, Status> {
        if request.uri().path() != path {
            return Err(Status::unimplemented("no such method"));
        }
        let content_type = request.headers().get(header::CONTENT_TYPE);
        if request.method() != Method::POST || !content_type.is_some_and(|v| is_grpc(v.as_bytes()))
        {
            return Err(Status::invalid_argument("not a gRPC request"));
        }
        if let Some(encoding) = request.headers().get("grpc-encoding")
            && encoding != "identity"
        {
            let mut status = Status::unimplemented("compressed messages are not supported");
            status.metadata_mut().insert(
                "grpc-accept-encoding",
                tonic::metadata::MetadataValue::from_static("identity"),
            );
            return Err(status);
        }
        let Some(connection) = request.extensions().get::<Connection>().cloned() else {
            return Err(Status::internal("the stream has no connection"));
        };
        let context = &self.context;
        let caller = context.access.identify(request.headers(), &connection)?;
        let caller = context.access.admit(caller, connection.peer.ip())?;
        let wire = if V1 { Wire::V1 } else { Wire::V0 };
        let session = context.admit(caller, wire, Address::Network(connection.peer))?;
        let (parts, body) = request.into_parts();
        let (reading, context) = (Arc::clone(&session), Arc::clone(context));
        let whole = connection.parts.clone();
        // Ends by itself when the stream does: `read` watches for that.
        whole.run(async move {
            let why = EndReason::ClientGone("its reader has failed".to_owned());
            let _end = EndWithReader(Arc::clone(&reading), why);
            if V1 {
                let dialect = v1::Speaker::new(Arc::clone(&reading), &context);
                read(&reading, body, dialect, &context).await;
            } else {
                let dialect = v0::Speaker::new(Arc::clone(&reading), &context, &parts.headers);
                read(&reading, body, dialect, &context).await;
            }
            // The stream has been ended. A client that does not read keeps
            // its last bytes from going, and the session from closing.
            if tokio::time::timeout(LINGER, reading.closed())
                .await
                .is_err()
            {
                connection.cut.notify_one();
            }
        });
        Ok(session)
    }
}

impl ServiceContext {
    /// Before a session subscribes: hears of the shards from the other
    /// replicas, if there are any. What it returns is kept until the
    /// subscriptions are made.
    async fn join(&self, session: &Session, shards: &[(ShardId, Start)]) -> Option<Held> {
        let backplane = self.backplane.as_ref()?;
        let environment = &session.profile()?.environment;
        if shards.is_empty() {
            return None;
        }
        Some(backplane.join(environment, shards).await)
    }

    /// A new session, if the server takes one now.
    fn admit(&self, caller: Caller, wire: Wire, address: Address) -> Result<Arc<Session>, Status> {
        if self.drain.state().is_leaving() {
            return Err(Status::unavailable("the server is draining"));
        }
        let shared = &self.shared;
        let Some(id) = shared.census.admit() else {
            shared.metrics.refused.inc();
            return Err(exhausted(
                "the server has as many sessions as it takes (--max-sessions)".to_owned(),
                SESSION_RETRY,
            ));
        };
        Ok(Session::of(caller, id, wire, address, Arc::clone(shared)))
    }
}

/// Ends a session whose reader has come to an end without doing so, by a panic
/// or with its runtime: nobody would read the client any more.
struct EndWithReader(Arc<Session>, EndReason);

impl Drop for EndWithReader {
    fn drop(&mut self) {
        self.0.end(self.1.clone(), When::Answered);
    }
}

/// How often a session looks at its clocks.
fn ticks(limits: &ServiceLimits) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(TICK.min(limits.heartbeat_interval / 4));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}

/// Reads a client until its stream ends, or is ended.
async fn read(
    session: &Session,
    mut body: Body,
    mut dialect: impl Dialect,
    context: &ServiceContext,
) {
    let mut framing = Framing::new(context.limits.max_message_bytes);
    let mut ticks = ticks(&context.limits);
    let mut turn = 0;
    loop {
        // In this order, a client that sends without a pause keeps the rest
        // from nothing.
        let frame = tokio::select! {
            biased;
            () = session.ending() => return,
            now = ticks.tick() => {
                dialect.tick(now);
                continue;
            }
            frame = body.frame() => frame,
        };
        let chunk = match frame {
            Some(Ok(frame)) => frame.into_data(),
            Some(Err(status)) => {
                let why = status.message().to_owned();
                session.end(EndReason::ClientGone(why), When::Answered);
                return;
            }
            None => {
                let (reason, when) = end_of(&body, &framing);
                session.end(reason, when);
                return;
            }
        };
        // Trailers of a request mean nothing here.
        let Ok(chunk) = chunk else { continue };
        framing.push(chunk);
        loop {
            match framing.next() {
                Ok(None) => {
                    dialect.rest().await;
                    break;
                }
                Ok(Some(Piece::Message(message))) => {
                    session.traffic.count_in(message.len() as u64);
                    turn += message.len() / BYTES_OF_A_MESSAGE;
                    dialect.take(message).await;
                }
                Ok(Some(Piece::TooLarge(len))) => dialect.too_large(len).await,
                Err(e) => {
                    session.end(EndReason::BrokenStream(e.to_string()), When::Answered);
                    return;
                }
            }
            turn += 1;
            if turn >= MESSAGES_PER_TURN {
                turn = 0;
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Why a body that has come to its end did.
fn end_of(body: &Body, framing: &Framing) -> (EndReason, When) {
    // hyper ends a body without an error also when its connection was closed
    // without one, as on a keepalive that nobody answered.
    if !body.is_end_stream() {
        let why = "its connection was closed".to_owned();
        return (EndReason::ClientGone(why), When::Answered);
    }
    match framing.end() {
        Ok(()) => (EndReason::ClientDone, When::Flushed),
        Err(e) => (EndReason::BrokenStream(e.to_string()), When::Answered),
    }
}

/// gRPC with protobuf messages, and not grpc-web, say, whose clients would
/// wait for an answer in a framing of their own.
fn is_grpc(content_type: &[u8]) -> bool {
    let kind = content_type.split(|&b| b == b';').next();
    matches!(kind, Some(b"application/grpc" | b"application/grpc+proto"))
}

fn stream(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    response
}

impl<const V1: bool> tower::Service<Request<Body>> for StreamService<V1> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let response = self.open(request);
        Box::pin(std::future::ready(Ok(response)))
    }
}

impl NamedService for StreamService<false> {
    const NAME: &'static str = "mz_persist_client.internal.service.ProtoPersistPubSub";
}

impl NamedService for StreamService<true> {
    const NAME: &'static str = "persist.pubsub.v1.PubSubService";
}

/// Ends a session whose identity has gone while it was not in the census yet,
/// where a reload looks for such. To be called once it is: one of the two sees
/// the other.
fn still_known(session: &Session, context: &ServiceContext) {
    if !context.access.holds(&session.caller) {
        session.end(EndReason::IdentityGone, When::Answered);
    }
}

/// Counts a refused message, and logs it within the rate.
fn refused(session: &Session, context: &ServiceContext, refusal: &crate::error::Refusal) {
    let wire = session.wire.as_str();
    context
        .shared
        .metrics
        .rejected
        .with_label_values(&[wire, refusal.code.label()])
        .inc();
    if let Some(unlogged) = context.bad_messages.admit(Instant::now()) {
        tracing::warn!(
            session = session.id,
            wire,
            address = %session.address,
            caller = session.profile().map(|p| p.caller_id.as_str()),
            code = refusal.code.label(),
            reason = refusal.reason,
            unlogged,
            "message refused"
        );
    }
}

fn too_large(len: usize, limits: &ServiceLimits) -> crate::error::Refusal {
    crate::error::Refusal::new(
        crate::error::RefusalCode::TooLarge,
        format!(
            "a message of {len} bytes, at most {} are taken (--max-message-bytes)",
            limits.max_message_bytes
        ),
    )
}

/// A peer's text as people and terminals can bear it: printable ASCII, the
/// rest escaped, cut at `max` bytes of the peer's.
fn printable(text: &[u8], max: usize) -> String {
    let kept = text.get(..max).unwrap_or(text);
    let mut out = kept.escape_ascii().to_string();
    if kept.len() < text.len() {
        out.push_str("...");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body that is over, as hyper shows it.
    struct Over {
        half_closed: bool,
    }

    impl http_body::Body for Over {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
            Poll::Ready(None)
        }

        fn is_end_stream(&self) -> bool {
            self.half_closed
        }
    }

    #[test]
    fn only_a_client_that_half_closes_is_done() {
        for (half_closed, label) in [(true, "client_done"), (false, "client_gone")] {
            let body = Body::new(Over { half_closed });
            let (reason, _) = end_of(&body, &Framing::new(64));
            assert_eq!(reason.label(), label);
        }
    }
}
