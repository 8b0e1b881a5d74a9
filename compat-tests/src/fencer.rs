//! A v1 server that does nothing but fence its clients out, by the script of
//! `pubsub.proto`: `Fenced`, then the end of the stream.

use std::convert::Infallible;
use std::future::ready;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use persist_pubsub_proto::v1::{self, session_request, session_response::Message as Say};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

/// The generation that took over, as it is told.
pub const GENERATION: u64 = 18;

/// When a client is fenced out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Instead of a welcome.
    AtHello,
    /// At its first subscribe.
    AtSubscribe,
}

/// A running one. Dropping it closes what it carries.
#[derive(Debug)]
pub struct Fencer {
    address: SocketAddr,
    sessions: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Fencer {
    /// Serves on a free port of the loopback.
    ///
    /// # Errors
    /// There is no port.
    pub async fn start(when: When) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let sessions = Arc::default();
        let fence = Fence {
            when,
            sessions: Arc::clone(&sessions),
        };
        let task = tokio::spawn(async move {
            // Ends with an error when its listener does: the client's test
            // then waits in vain, and says so.
            let _ = tonic::transport::Server::builder()
                .serve_with_incoming(fence, TcpListenerStream::new(listener))
                .await;
        });
        Ok(Self {
            address,
            sessions,
            task,
        })
    }

    /// Where it serves.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sessions that were opened so far.
    #[must_use]
    pub fn sessions(&self) -> u64 {
        self.sessions.load(Ordering::SeqCst)
    }
}

impl Drop for Fencer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Item = Result<v1::SessionResponse, Status>;

#[derive(Clone)]
struct Fence {
    when: When,
    sessions: Arc<AtomicU64>,
}

impl Service<http::Request<Body>> for Fence {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let fence = self.clone();
        Box::pin(async move {
            let codec = ProstCodec::<v1::SessionResponse, v1::SessionRequest>::default();
            Ok(Grpc::new(codec).streaming(fence, request).await)
        })
    }
}

impl StreamingService<v1::SessionRequest> for Fence {
    type Response = v1::SessionResponse;
    type ResponseStream = ReceiverStream<Item>;
    type Future = std::future::Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<v1::SessionRequest>>) -> Self::Future {
        self.sessions.fetch_add(1, Ordering::SeqCst);
        // All that it ever says.
        let (answers, outgoing) = mpsc::channel(3);
        tokio::spawn(converse(self.when, request.into_inner(), answers));
        ready(Ok(Response::new(ReceiverStream::new(outgoing))))
    }
}

async fn converse(
    when: When,
    mut incoming: Streaming<v1::SessionRequest>,
    answers: mpsc::Sender<Item>,
) {
    while let Ok(Some(request)) = incoming.message().await {
        let answer = match request.message {
            Some(session_request::Message::Hello(_)) if when == When::AtSubscribe => {
                Say::Welcome(v1::Welcome {
                    revision: v1::MAX_REVISION,
                    session_id: 1,
                    ..v1::Welcome::default()
                })
            }
            Some(session_request::Message::Hello(_) | session_request::Message::Subscribe(_)) => {
                Say::Fenced(v1::Fenced {
                    generation: GENERATION,
                    epoch: 3,
                    reason: format!("generation {GENERATION} took over"),
                })
            }
            _ => continue,
        };
        let fenced = matches!(answer, Say::Fenced(_));
        let message = Some(answer);
        let gone = answers.send(Ok(v1::SessionResponse { message })).await;
        if fenced || gone.is_err() {
            let _ = answers.send(Err(Status::permission_denied("fenced"))).await;
            return;
        }
    }
}
