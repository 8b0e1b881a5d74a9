//! A server that does exactly what the test says.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use persist_pubsub_client::{
    Client, Config, Event, Events, Home, InProcess, Reason, Requests, Responses, ShardId, Stats,
};
use persist_pubsub_proto::{v0, v1};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::metadata::MetadataMap;
use tonic::server::{NamedService, StreamingService};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tonic_prost::prost::Message;

/// Longer than anything here takes on a machine that others use too.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than any test takes: what comes by itself only then does not come.
pub(crate) const NEVER: Duration = Duration::from_secs(3_600);

/// What has to happen, or the test fails saying what did not.
pub(crate) async fn soon<T>(what: &str, happens: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, happens).await {
        Ok(done) => done,
        Err(_) => panic!("waited for {what}"),
    }
}

/// Waits until the counters show it.
pub(crate) async fn until(client: &Client, what: &str, shows: impl Fn(&Stats) -> bool) {
    soon(what, async {
        while !shows(&client.stats()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

pub(crate) trait Wire: Clone + Send + Sync + 'static {
    const NAME: &'static str;
    type In: Message + Default + PartialEq + std::fmt::Debug + 'static;
    type Out: Message + Default + 'static;
}

#[derive(Clone)]
pub(crate) struct V0;
#[derive(Clone)]
pub(crate) struct V1;

impl Wire for V0 {
    const NAME: &'static str = "mz_persist_client.internal.service.ProtoPersistPubSub";
    type In = v0::ProtoPubSubMessage;
    type Out = v0::ProtoPubSubMessage;
}

impl Wire for V1 {
    const NAME: &'static str = "persist.pubsub.v1.PubSubService";
    type In = v1::SessionRequest;
    type Out = v1::SessionResponse;
}

/// Listens, and hands every session to the test.
pub(crate) struct Peer<W: Wire> {
    pub(crate) address: SocketAddr,
    sessions: mpsc::Receiver<Session<W>>,
    server: tokio::task::JoinHandle<()>,
}

/// What a client says.
type Incoming<W> = Pin<Box<dyn Stream<Item = Result<<W as Wire>::In, Status>> + Send + Sync>>;

/// One client's stream. Dropping it ends the stream with OK.
pub(crate) struct Session<W: Wire> {
    pub(crate) metadata: MetadataMap,
    incoming: Incoming<W>,
    pub(crate) outgoing: mpsc::Sender<Result<W::Out, Status>>,
}

impl<W: Wire> Peer<W> {
    pub(crate) async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap()).await
    }

    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, sessions) = mpsc::channel(16);
        let server = tokio::spawn(async move {
            tonic::transport::Server::builder()
                .add_service(Handler::<W>(sender))
                .serve_with_incoming(TcpIncoming::from(listener))
                .await
                .unwrap();
        });
        Self {
            address,
            sessions,
            server,
        }
    }

    pub(crate) fn config(&self) -> Config {
        config(self.address)
    }

    /// The next session, whatever it says.
    pub(crate) async fn accept(&mut self) -> Session<W> {
        soon("a session", self.sessions.recv()).await.unwrap()
    }

    /// Listens no more; its sessions live.
    pub(crate) async fn stop_listening(mut self) {
        self.server.abort();
        let _ = (&mut self.server).await;
    }

    /// No session waits to be accepted.
    pub(crate) fn is_left_alone(&mut self) -> bool {
        self.sessions.try_recv().is_err()
    }
}

impl Peer<V1> {
    /// One in this process: nothing but the clock moves its tests on, which is
    /// paused where they are about time.
    pub(crate) fn inside() -> (Self, Config) {
        let (sender, sessions) = mpsc::channel(16);
        let peer = Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            sessions,
            server: tokio::spawn(std::future::pending()),
        };
        (peer, Config::with_homes([Home::in_process(Inside(sender))]))
    }
}

struct Inside(mpsc::Sender<Session<V1>>);

impl InProcess for Inside {
    fn instance_id(&self) -> &'static str {
        "inside"
    }

    fn open(&self, mut requests: Requests) -> Result<Responses, Reason> {
        let (outgoing, responses) = mpsc::channel(4);
        let (said, incoming) = mpsc::channel(1);
        // The session ends when the client lets go of what it hears.
        let mut reading = JoinSet::new();
        reading.spawn(async move {
            while let Some(request) = requests.next().await {
                if said.send(Ok(request)).await.is_err() {
                    return;
                }
            }
        });
        let session = Session {
            metadata: MetadataMap::new(),
            incoming: Box::pin(ReceiverStream::new(incoming)),
            outgoing,
        };
        self.0.try_send(session).map_err(|_| Reason::Ended)?;
        let responses = ReceiverStream::new(responses);
        Ok(Box::pin(responses.map(move |said| {
            let _held = &reading;
            said.map_err(|status: Status| Reason::Status {
                code: status.code().into(),
                message: status.message().to_owned(),
            })
        })))
    }
}

impl<W: Wire> Drop for Peer<W> {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Fast attempts, for a peer that is there.
pub(crate) fn config(address: SocketAddr) -> Config {
    Config::new(&format!("http://{address}"))
        .unwrap()
        .client_name("tester")
        .backoff(Duration::from_millis(5), Duration::from_millis(50))
        .unwrap()
}

impl<W: Wire> Session<W> {
    pub(crate) async fn hear(&mut self) -> W::In {
        soon("a message of the client", self.try_hear())
            .await
            .unwrap()
            .expect("the client ended the stream")
    }

    /// The next message, or the end, in good order.
    pub(crate) async fn hear_or_end(&mut self) -> Option<W::In> {
        soon("a message of the client or its end", self.try_hear())
            .await
            .unwrap()
    }

    pub(crate) async fn try_hear(&mut self) -> Result<Option<W::In>, Status> {
        self.incoming.next().await.transpose()
    }

    /// The client is gone, in whatever way.
    pub(crate) async fn hear_gone(&mut self) {
        soon("the client to go", async {
            while let Ok(Some(_)) = self.try_hear().await {}
        })
        .await;
    }

    pub(crate) async fn send(&self, message: W::Out) {
        soon("room to send", self.outgoing.send(Ok(message)))
            .await
            .unwrap();
    }

    pub(crate) async fn fail(self, status: Status) {
        self.outgoing.send(Err(status)).await.unwrap();
    }
}

pub(crate) fn limits() -> v1::Limits {
    v1::Limits {
        max_message_bytes: 1 << 20,
        max_diff_bytes: 1 << 19,
        max_shards_per_request: 1000,
        max_subscriptions: 100_000,
    }
}

pub(crate) fn shard(n: u8) -> ShardId {
    ShardId::new([n; 16])
}

/// The bytes that the diff of this seqno has in these tests.
pub(crate) fn payload(seqno: u64) -> Bytes {
    Bytes::from(format!("diff {seqno}\0\u{fffd}"))
}

/// The next event.
pub(crate) async fn event(events: &mut Events) -> Event {
    soon("an event", events.next()).await.expect("the end")
}

pub(crate) async fn expect_connected(events: &mut Events) {
    let event = event(events).await;
    assert!(matches!(event, Event::Connected { .. }), "{event:?}");
}

pub(crate) async fn expect_disconnected(events: &mut Events) {
    let event = event(events).await;
    assert!(matches!(event, Event::Disconnected { .. }), "{event:?}");
}

pub(crate) async fn expect_diff(events: &mut Events, shard: ShardId, seqno: u64) {
    assert_eq!(
        event(events).await,
        Event::Diff {
            shard,
            seqno,
            diff: payload(seqno),
            committed: None,
        }
    );
}

pub(crate) async fn expect_resync(events: &mut Events, shard: ShardId, highest: Option<u64>) {
    assert_eq!(event(events).await, Event::Resync { shard, highest });
}

struct Handler<W: Wire>(mpsc::Sender<Session<W>>);

impl<W: Wire> Clone for Handler<W> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<W: Wire> NamedService for Handler<W> {
    const NAME: &'static str = W::NAME;
}

impl<W: Wire> Service<http::Request<Body>> for Handler<W> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let handler = self.clone();
        Box::pin(async move {
            let codec = ProstCodec::<W::Out, W::In>::default();
            let mut grpc = tonic::server::Grpc::new(codec);
            Ok(grpc.streaming(handler, request).await)
        })
    }
}

impl<W: Wire> StreamingService<W::In> for Handler<W> {
    type Response = W::Out;
    type ResponseStream = ReceiverStream<Result<W::Out, Status>>;
    type Future =
        Pin<Box<dyn Future<Output = Result<Response<Self::ResponseStream>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<W::In>>) -> Self::Future {
        let sessions = self.0.clone();
        Box::pin(async move {
            let (outgoing, responses) = mpsc::channel(4);
            let session = Session {
                metadata: request.metadata().clone(),
                incoming: Box::pin(request.into_inner()),
                outgoing,
            };
            sessions
                .send(session)
                .await
                .map_err(|_| Status::unavailable("the test is over"))?;
            Ok(Response::new(ReceiverStream::new(responses)))
        })
    }
}
