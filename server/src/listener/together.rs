//! One task for a connection and all that runs over it.
//!
//! A delivery wakes a stream, which hands its bytes to the connection, which
//! writes them to the socket; a diff that is published takes the same way
//! backwards. As tasks of their own these would be scheduled one after
//! another, on whichever thread is free. Here they are futures of one task,
//! polled in turn until none of them has anything to do.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::Stream as _;
use futures_util::stream::FuturesUnordered;
use futures_util::task::AtomicWaker;

use crate::mailbox;

/// Turns in one poll of the task; with more, other tasks come first.
const TURNS: usize = 16;

type Part = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Takes futures that are to run in the connection's task.
#[derive(Clone, Default)]
pub(crate) struct Parts(Arc<Mutex<Vec<Part>>>);

impl Parts {
    /// Runs a future, from within the connection's task: nothing wakes it for
    /// this.
    pub(crate) fn run(&self, part: impl Future<Output = ()> + Send + 'static) {
        self.lock().push(Box::pin(part));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Part>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

/// hyper hands over each response's body.
impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Parts {
    fn execute(&self, part: F) {
        self.run(part);
    }
}

/// A connection, and the parts that were handed to `parts` meanwhile. Complete
/// when the connection is, and all of them are: what had come when it was
/// closed is still taken.
pub(super) struct Together<C: Future> {
    /// None: complete.
    connection: Option<Pin<Box<C>>>,
    output: Option<C::Output>,
    parts: Parts,
    running: FuturesUnordered<Part>,
    bell: Arc<Bell>,
}

impl<C: Future> Together<C> {
    pub(super) fn new(connection: C, parts: Parts) -> Self {
        Self {
            connection: Some(Box::pin(connection)),
            output: None,
            parts,
            running: FuturesUnordered::new(),
            bell: Arc::default(),
        }
    }

    /// The connection, unless it is complete.
    pub(super) fn connection(&mut self) -> Option<Pin<&mut C>> {
        self.connection.as_mut().map(Pin::as_mut)
    }

    /// Polls until nothing has been woken. Some: all is complete.
    fn turns(&mut self) -> Option<C::Output> {
        let waker = Waker::from(Arc::clone(&self.bell));
        let mut within = Context::from_waker(&waker);
        for _ in 0..TURNS {
            self.bell.rung.store(false, Ordering::SeqCst);
            if self.turn(&mut within) {
                return self.output.take();
            }
            if !self.bell.rung.load(Ordering::SeqCst) {
                break;
            }
        }
        None
    }

    /// Polls everything that has been woken. True: all is complete.
    fn turn(&mut self, cx: &mut Context<'_>) -> bool {
        self.run_parts(cx);
        if let Some(connection) = &mut self.connection
            && let Poll::Ready(output) = connection.as_mut().poll(cx)
        {
            self.output = Some(output);
            self.connection = None;
        }
        // Those that the connection has just begun have not been polled, and
        // so cannot ring.
        self.run_parts(cx);
        self.connection.is_none() && self.running.is_empty()
    }

    fn run_parts(&mut self, cx: &mut Context<'_>) {
        loop {
            self.running.extend(self.parts.lock().drain(..));
            match Pin::new(&mut self.running).poll_next(cx) {
                Poll::Ready(Some(())) => {}
                Poll::Ready(None) | Poll::Pending if self.parts.lock().is_empty() => break,
                Poll::Ready(None) | Poll::Pending => {}
            }
        }
    }
}

impl<C: Future> Future for Together<C>
where
    C::Output: Unpin,
{
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let this = &mut *self;
        let bell = Arc::clone(&this.bell);
        bell.task.register(cx.waker());
        bell.attended.store(true, Ordering::SeqCst);
        // What comes of these turns is told at their end.
        if let Some(output) = mailbox::wake_later(|| this.turns()) {
            return Poll::Ready(output);
        }
        bell.attended.store(false, Ordering::SeqCst);
        if bell.rung.load(Ordering::SeqCst) {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

/// What wakes the task. While the task is being polled it need not be: whoever
/// rings then is heard at the turn's end.
///
/// `rung` is set before `attended` is read, and `attended` taken back before
/// `rung` is read: whichever of the two comes second sees the other.
#[derive(Debug, Default)]
struct Bell {
    task: AtomicWaker,
    attended: AtomicBool,
    rung: AtomicBool,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::SeqCst);
        if !self.attended.load(Ordering::SeqCst) {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::{mpsc, oneshot};

    use super::*;

    /// A connection that begins a part, which speaks with it: it ends only when
    /// wakings of either kind reach the other.
    #[tokio::test]
    async fn parts_and_the_connection_wake_each_other() {
        let parts = Parts::default();
        let begins = parts.clone();
        let connection = async move {
            let (to_part, mut asked) = mpsc::channel::<u32>(1);
            let (to_connection, mut answers) = mpsc::channel(1);
            begins.run(async move {
                while let Some(n) = asked.recv().await {
                    tokio::task::yield_now().await;
                    to_connection.send(n + 1).await.unwrap();
                }
            });
            let mut n = 0;
            while n < 1000 {
                to_part.send(n).await.unwrap();
                n = answers.recv().await.unwrap();
            }
            n
        };
        assert_eq!(Together::new(connection, parts).await, 1000);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn another_thread_wakes_a_part() {
        for _ in 0..200 {
            let parts = Parts::default();
            let (tell, told) = oneshot::channel();
            let (last, heard) = oneshot::channel();
            parts.run(async move {
                told.await.unwrap();
                last.send(()).unwrap();
            });
            let whole = tokio::spawn(Together::new(async {}, parts));
            tell.send(()).unwrap();
            whole.await.unwrap();
            heard.await.unwrap();
        }
    }

    /// Polled once, though it is never idle.
    #[test]
    fn a_part_that_is_always_ready_keeps_nobody_waiting() {
        let parts = Parts::default();
        let busy = std::future::poll_fn(|cx| {
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        });
        parts.run(busy);
        let mut whole = Together::new(std::future::pending::<()>(), parts);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut whole).poll(&mut cx).is_pending());
    }
}
