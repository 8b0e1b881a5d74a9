//! The yardstick: a v0 server as simple as they come, in the manner of the
//! one that database processes host today. It hands each diff on to the other
//! subscribers of its shard at once, through a bounded queue per connection,
//! and drops what does not fit. It keeps no log: whoever subscribes late, or
//! is handed diffs out of order, has a hole.
//!
//! Tests show that it fails where the real server must not; benchmarks
//! measure against it.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::future::ready;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use persist_pubsub_proto::v0::{self, ProtoPubSubMessage, proto_pub_sub_message::Message as Kind};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

/// The queue of a connection in today's embedded server, in messages.
pub const QUEUE_OF_TODAY: usize = 25;

/// A running broadcaster. Dropping it ends its streams and closes its port.
#[derive(Debug)]
pub struct Broadcaster {
    address: SocketAddr,
    hub: Arc<Hub>,
    /// Dropped with the broadcaster, which is the signal to shut down.
    _running: oneshot::Sender<Infallible>,
}

impl Broadcaster {
    /// Serves on a free port of the loopback, with room for `queue` messages
    /// per connection (at least 1).
    ///
    /// # Errors
    /// The port cannot be bound.
    pub async fn start(queue: usize) -> std::io::Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let hub = Arc::new(Hub {
            queue: queue.max(1),
            state: Mutex::default(),
            delivered: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        });
        let (running, stopped) = oneshot::channel();
        // tonic's own setting is for sockets that it accepts itself. Without,
        // a diff waits up to 40 ms for the acknowledgement of the one before.
        let accepted = TcpListenerStream::new(listener).map(|accepted| {
            let stream = accepted?;
            stream.set_nodelay(true)?;
            Ok::<_, std::io::Error>(stream)
        });
        let server = tonic::transport::Server::builder().serve_with_incoming_shutdown(
            PubSub {
                hub: Arc::clone(&hub),
            },
            accepted,
            async {
                let _: Result<Infallible, _> = stopped.await;
            },
        );
        tokio::spawn(server);
        Ok(Self {
            address,
            hub,
            _running: running,
        })
    }

    /// Where it serves.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Diffs put into a subscriber's queue.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.hub.delivered.load(Ordering::Relaxed)
    }

    /// Diffs dropped because a subscriber's queue was full.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.hub.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Broadcaster {
    fn drop(&mut self) {
        // A graceful shutdown waits for open streams: end them.
        *self.hub.state() = State {
            closed: true,
            ..State::default()
        };
    }
}

type Item = Result<ProtoPubSubMessage, Status>;

/// Everything that the connections share.
#[derive(Debug)]
struct Hub {
    queue: usize,
    /// One lock over subscriptions and hand-over: diffs are handed over in
    /// the order in which they arrive, whichever connection they come on.
    /// Never held over an await.
    state: Mutex<State>,
    delivered: AtomicU64,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    last_id: u64,
    queues: HashMap<u64, mpsc::Sender<Item>>,
    /// By shard id, as it was written.
    subscribers: HashMap<String, BTreeSet<u64>>,
}

impl Hub {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, from: u64, message: &ProtoPubSubMessage) {
        let mut state = self.state();
        match &message.message {
            None => {}
            Some(Kind::Subscribe(subscribe)) => {
                state
                    .subscribers
                    .entry(subscribe.shard_id.clone())
                    .or_default()
                    .insert(from);
            }
            Some(Kind::Unsubscribe(unsubscribe)) => {
                if let Some(ids) = state.subscribers.get_mut(&unsubscribe.shard_id) {
                    ids.remove(&from);
                }
            }
            Some(Kind::PushDiff(push)) => {
                let subscribers = state.subscribers.get(&push.shard_id).into_iter().flatten();
                for id in subscribers.filter(|id| **id != from) {
                    let Some(queue) = state.queues.get(id) else {
                        continue;
                    };
                    let counter = match queue.try_send(Ok(message.clone())) {
                        Ok(()) => &self.delivered,
                        Err(_) => &self.dropped,
                    };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

/// A connection's place in the hub; leaves it when dropped.
struct Connection {
    id: u64,
    hub: Arc<Hub>,
}

impl Connection {
    fn open(hub: Arc<Hub>) -> Result<(Self, mpsc::Receiver<Item>), Status> {
        let (queue, outgoing) = mpsc::channel(hub.queue);
        let mut state = hub.state();
        if state.closed {
            return Err(Status::unavailable("closed"));
        }
        state.last_id += 1;
        let id = state.last_id;
        state.queues.insert(id, queue);
        drop(state);
        Ok((Self { id, hub }, outgoing))
    }

    /// Works off what the client sends, until it ends or the client leaves.
    async fn read(self, mut incoming: Streaming<ProtoPubSubMessage>) {
        while let Ok(Some(message)) = incoming.message().await {
            self.hub.take(self.id, &message);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut state = self.hub.state();
        state.queues.remove(&self.id);
        for ids in state.subscribers.values_mut() {
            ids.remove(&self.id);
        }
    }
}

/// The gRPC service, by hand: the generated types have no server side.
#[derive(Clone)]
struct PubSub {
    hub: Arc<Hub>,
}

impl Service<http::Request<Body>> for PubSub {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != v0::PATH {
            return Box::pin(ready(Ok(Status::unimplemented("v0 alone").into_http())));
        }
        let pub_sub = self.clone();
        Box::pin(async move {
            let codec = ProstCodec::<ProtoPubSubMessage, ProtoPubSubMessage>::default();
            Ok(Grpc::new(codec).streaming(pub_sub, request).await)
        })
    }
}

impl StreamingService<ProtoPubSubMessage> for PubSub {
    type Response = ProtoPubSubMessage;
    type ResponseStream = ReceiverStream<Item>;
    type Future = std::future::Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<ProtoPubSubMessage>>) -> Self::Future {
        ready(
            Connection::open(Arc::clone(&self.hub)).map(|(connection, outgoing)| {
                tokio::spawn(connection.read(request.into_inner()));
                Response::new(ReceiverStream::new(outgoing))
            }),
        )
    }
}
