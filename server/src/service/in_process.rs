//! Sessions of clients in this process: v1 without a network and without an
//! encoding. Messages go from stream to stream as they are; all the rest, the
//! bounds and refusals too, is what every v1 session has.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use persist_pubsub_client::{Reason, Requests, Responses};
use persist_pubsub_proto::v1;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_stream::Stream;
use tonic::{Code, Status};

use super::v1::Conversation;
use super::{EndWithReader, LINGER, MESSAGES_PER_TURN, ServiceContext, ticks};
use crate::error::EndReason;
use crate::frame::{self, Response, Wire};
use crate::outbox::{Output, When};
use crate::session::{Address, Session, SessionGuard};

/// The way into a server for clients in its own process, from
/// [`Server::in_process`](crate::app::Server::in_process): give it to the
/// client crate as a home. Cheap to clone. It does not keep the server alive:
/// once that is gone, every session is refused.
#[derive(Clone)]
pub struct InProcess {
    door: Arc<Door>,
}

impl fmt::Debug for InProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcess")
            .field("instance_id", &self.door.instance_id)
            .finish_non_exhaustive()
    }
}

struct Door {
    instance_id: String,
    /// Where sessions are read.
    runtime: Handle,
    /// None: the server is gone. Never set again.
    context: Mutex<Option<Arc<ServiceContext>>>,
    gone: Notify,
}

/// The server's end: closes the door when it goes.
#[derive(Debug)]
pub(crate) struct Doorkeeper(InProcess);

impl Doorkeeper {
    /// A door whose sessions are read in `runtime`.
    pub(crate) fn new(context: Arc<ServiceContext>, runtime: Handle) -> Self {
        let door = Door {
            instance_id: context.instance_id.clone(),
            runtime,
            context: Mutex::new(Some(context)),
            gone: Notify::new(),
        };
        let door = Arc::new(door);
        Self(InProcess { door })
    }

    pub(crate) fn door(&self) -> &InProcess {
        &self.0
    }
}

impl Drop for Doorkeeper {
    fn drop(&mut self) {
        let door = &self.0.door;
        // Not dropped under the lock.
        let context = lock(&door.context).take();
        drop(context);
        door.gone.notify_waiters();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing in these can be left half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Door {
    /// Completes when the server is gone.
    async fn closed(&self) {
        let mut gone = pin!(self.gone.notified());
        // Before the look: a server that goes in between is not missed.
        gone.as_mut().enable();
        if lock(&self.context).is_some() {
            gone.await;
        }
    }
}

impl persist_pubsub_client::InProcess for InProcess {
    fn instance_id(&self) -> &str {
        &self.door.instance_id
    }

    fn open(&self, requests: Requests) -> Result<Responses, Reason> {
        let context = lock(&self.door.context).clone();
        let context = context.ok_or_else(|| reason(&EndReason::ServerGone.status()))?;
        let session = context
            .admit(Wire::V1, Address::InProcess)
            .map_err(|status| reason(&status))?;
        let hold = Arc::new(Hold(Mutex::new(Some(SessionGuard(Arc::clone(&session))))));
        // Made here, so that it ends the session even if the runtime that is to
        // poll the task is gone.
        let end = EndWithReader(Arc::clone(&session), EndReason::ServerGone);
        let task = serve(
            end,
            requests,
            context,
            Arc::clone(&self.door),
            Arc::clone(&hold),
        );
        self.door.runtime.spawn(task);
        Ok(Box::pin(Speech {
            session,
            hold,
            ready: VecDeque::new(),
            ended: false,
        }))
    }
}

/// Reads a client until its session ends, and sees to it that the session is
/// gone a moment later.
async fn serve(
    end: EndWithReader,
    mut requests: Requests,
    context: Arc<ServiceContext>,
    door: Arc<Door>,
    hold: Arc<Hold>,
) {
    let session = Arc::clone(&end.0);
    let conversation = Conversation::new(Arc::clone(&session), &context, frame::take_publish);
    tokio::select! {
        biased;
        () = door.closed() => {
            session.end(EndReason::ServerGone, When::Answered);
            hold.cut();
            return;
        }
        () = read(&session, &mut requests, conversation, &context) => {}
    }
    // The client learns from this that nobody listens any more, even while its
    // host keeps it from reading.
    drop(requests);
    tokio::select! {
        biased;
        () = door.closed() => {}
        () = session.closed() => {}
        () = tokio::time::sleep(LINGER) => {}
    }
    hold.cut();
}

async fn read(
    session: &Session,
    requests: &mut Requests,
    mut conversation: Conversation,
    context: &ServiceContext,
) {
    let mut ticks = ticks(&context.limits);
    let mut turn = 0;
    loop {
        let request = tokio::select! {
            biased;
            () = session.ending() => return,
            now = ticks.tick() => {
                conversation.tick(now);
                continue;
            }
            request = poll_fn(|cx| requests.as_mut().poll_next(cx)) => request,
        };
        let Some(request) = request else {
            session.end(EndReason::ClientDone, When::Flushed);
            return;
        };
        if let Some(v1::session_request::Message::Publish(publish)) = &request.message {
            let bytes = publish.diff.as_ref().map_or(0, bytes::Bytes::len);
            session.traffic.count_in(bytes as u64);
        }
        conversation.take(request).await;
        turn += 1;
        if turn >= MESSAGES_PER_TURN {
            turn = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// Keeps a session open, until either end lets go of it.
struct Hold(Mutex<Option<SessionGuard>>);

impl Hold {
    fn cut(&self) {
        let guard = lock(&self.0).take();
        drop(guard);
    }
}

/// What the server says in one session. Dropping it ends the session.
struct Speech {
    session: Arc<Session>,
    hold: Arc<Hold>,
    /// Of one batch, what was not taken yet.
    ready: VecDeque<Response>,
    ended: bool,
}

impl Drop for Speech {
    fn drop(&mut self) {
        self.hold.cut();
    }
}

impl Stream for Speech {
    type Item = Result<v1::SessionResponse, Reason>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<v1::SessionResponse, Reason>>> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                let message = Some(message);
                return Poll::Ready(Some(Ok(v1::SessionResponse { message })));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            match ready!(self.session.poll_messages(cx)) {
                Output::Batch(batch) => self.ready = batch.told,
                Output::End(end) => {
                    self.ended = true;
                    let status = end.status();
                    if status.code() != Code::Ok {
                        return Poll::Ready(Some(Err(reason(&status))));
                    }
                }
            }
        }
    }
}

fn reason(status: &Status) -> Reason {
    Reason::Status {
        code: i32::from(status.code()),
        message: status.message().to_owned(),
    }
}
