//! The response body that the socket is fed from.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use tonic::Status;

use crate::outbox::Output;
use crate::session::{Session, SessionGuard};

/// A session's outbox as an HTTP body: batches of gRPC messages, then the
/// status. The HTTP/2 layer polls it when the peer's window has room, which is
/// all the backpressure there is.
#[derive(Debug)]
pub(crate) struct SessionBody {
    guard: SessionGuard,
    /// Comes behind what was handed over last.
    next: Option<Bytes>,
    ended: bool,
}

impl SessionBody {
    pub(crate) fn new(session: Arc<Session>) -> Self {
        Self {
            guard: SessionGuard(session),
            next: None,
            ended: false,
        }
    }
}

impl Body for SessionBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Some(frames) = self.next.take() {
            return Poll::Ready(Some(Ok(Frame::data(frames))));
        }
        let output = std::task::ready!(self.guard.0.poll_frames(cx));
        let frame = match output {
            Output::Batch(batch) => Frame::data(match batch.told.whole {
                Some(whole) => {
                    self.next = Some(batch.told.rest).filter(|f| !f.is_empty());
                    whole
                }
                None => batch.told.rest,
            }),
            Output::End(reason) => {
                self.ended = true;
                Frame::trailers(trailers(&reason.status()))
            }
        };
        Poll::Ready(Some(Ok(frame)))
    }
}

fn trailers(status: &Status) -> http::HeaderMap {
    let mut headers = http::HeaderMap::new();
    if status.add_header(&mut headers).is_err() {
        // A message that no header can hold: the code alone, then.
        let _ = Status::new(status.code(), "").add_header(&mut headers);
    }
    headers
}
