//! A connection's streams: handed to the routes, and counted.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower::Service;

use super::handshakes::Handshake;
use crate::service::Connection;

/// What a connection's streams tell it.
#[derive(Debug)]
pub(super) struct Activity {
    pub(super) handshake: Handshake,
    started: AtomicBool,
    streams: AtomicUsize,
}

impl Activity {
    pub(super) fn new(handshake: Handshake) -> Self {
        Self {
            handshake,
            started: AtomicBool::new(false),
            streams: AtomicUsize::new(0),
        }
    }

    /// Whether there was a request.
    pub(super) fn has_started(&self) -> bool {
        self.started.load(Ordering::Relaxed)
    }

    /// Whether there is one now.
    pub(super) fn is_busy(&self) -> bool {
        self.streams.load(Ordering::Relaxed) > 0
    }

    fn start(&self) {
        if !self.started.swap(true, Ordering::Relaxed) {
            self.handshake.done();
        }
    }
}

/// Hands a connection's requests to the routes, with its handle.
#[derive(Clone)]
pub(super) struct ConnectionService {
    pub(super) routes: Routes,
    pub(super) handle: Connection,
    pub(super) activity: Arc<Activity>,
}

impl hyper::service::Service<Request<Incoming>> for ConnectionService {
    type Response = Response<Counted>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Counted>, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.activity.start();
        let counted = StreamCount::new(&self.activity);
        request.extensions_mut().insert(self.handle.clone());
        let mut routes = self.routes.clone();
        let response = routes.call(request.map(Body::new));
        Box::pin(async move {
            let response = response.await?;
            Ok(response.map(|body| Counted {
                body,
                _count: counted,
            }))
        })
    }
}

/// Counts a stream for as long as it lives.
struct StreamCount(Arc<Activity>);

impl StreamCount {
    fn new(activity: &Arc<Activity>) -> Self {
        activity.streams.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for StreamCount {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A response body that counts as a stream of its connection.
pub(super) struct Counted {
    body: Body,
    _count: StreamCount,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
