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
pub(crate) struct Parts(Arc<Begun>);

#[derive(Default)]
struct Begun {
    parts: Mutex<Vec<Part>>,
    /// There are some.
    any: AtomicBool,
    /// Bytes have come over the connection.
    came: AtomicBool,
}

impl Parts {
    /// Runs a future, from within the connection's task: nothing wakes it for
    /// this.
    pub(crate) fn run(&self, part: impl Future<Output = ()> + Send + 'static) {
        self.lock().push(Box::pin(part));
        self.0.any.store(true, Ordering::Release);
    }

    /// Bytes have come over the connection: while the parts deal with them,
    /// more may come, and be dealt with in the same go.
    pub(super) fn came(&self) {
        self.0.came.store(true, Ordering::Relaxed);
    }

    /// Whether bytes have come since this was last asked.
    fn have_come(&self) -> bool {
        self.0.came.load(Ordering::Relaxed) && self.0.came.swap(false, Ordering::Relaxed)
    }

    /// Takes out what has begun, if anything has.
    fn take(&self) -> Vec<Part> {
        if self.0.any.swap(false, Ordering::Acquire) {
            std::mem::take(&mut self.lock())
        } else {
            Vec::new()
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Part>> {
        self.0.parts.lock().unwrap_or_else(PoisonError::into_inner)
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
    task: Arc<Task>,
    /// Of the connection, and of the parts: each is polled when it has been
    /// woken, as it would be as a task of its own.
    of_connection: Arc<Bell>,
    of_parts: Arc<Bell>,
}

impl<C: Future> Together<C> {
    pub(super) fn new(connection: C, parts: Parts) -> Self {
        let task = Arc::<Task>::default();
        Self {
            connection: Some(Box::pin(connection)),
            output: None,
            parts,
            running: FuturesUnordered::new(),
            of_connection: Bell::rung(&task),
            of_parts: Bell::rung(&task),
            task,
        }
    }

    /// The connection, unless it is complete. Polled anew, for who asks for it
    /// changes it.
    pub(super) fn connection(&mut self) -> Option<Pin<&mut C>> {
        self.of_connection.rung.store(true, Ordering::SeqCst);
        self.connection.as_mut().map(Pin::as_mut)
    }

    /// Polls until nothing has been woken. Some: all is complete.
    fn turns(&mut self) -> Option<C::Output> {
        for _ in 0..TURNS {
            let parts = self.of_parts.was_rung();
            if parts {
                self.run_parts();
            }
            let connection = self.of_connection.was_rung() || self.parts.have_come();
            if connection {
                self.run_connection();
            }
            if self.connection.is_none() && self.running.is_empty() {
                return self.output.take();
            }
            if !parts && !connection {
                break;
            }
        }
        None
    }

    fn run_connection(&mut self) {
        let waker = Waker::from(Arc::clone(&self.of_connection));
        if let Some(connection) = &mut self.connection
            && let Poll::Ready(output) = connection.as_mut().poll(&mut Context::from_waker(&waker))
        {
            self.output = Some(output);
            self.connection = None;
        }
        // Those that it has just begun have not been polled, and so cannot
        // ring.
        let begun = self.parts.take();
        if !begun.is_empty() {
            self.running.extend(begun);
            self.run_parts();
        }
    }

    fn run_parts(&mut self) {
        let waker = Waker::from(Arc::clone(&self.of_parts));
        loop {
            let polled = Pin::new(&mut self.running).poll_next(&mut Context::from_waker(&waker));
            let begun = self.parts.take();
            if !begun.is_empty() {
                self.running.extend(begun);
            } else if !matches!(polled, Poll::Ready(Some(()))) {
                break;
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
        this.task.waker.register(cx.waker());
        this.task.attended.store(true, Ordering::SeqCst);
        // What comes of these turns is told at their end.
        if let Some(output) = mailbox::wake_later(|| this.turns()) {
            return Poll::Ready(output);
        }
        this.task.attended.store(false, Ordering::SeqCst);
        if this.of_connection.rings() || this.of_parts.rings() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

/// The task. While it is being polled it need not be woken: whoever rings then
/// is heard at the turn's end.
#[derive(Debug, Default)]
struct Task {
    waker: AtomicWaker,
    attended: AtomicBool,
}

/// What wakes the task.
///
/// `rung` is set before `attended` is read, and `attended` taken back before
/// `rung` is read: whichever of the two comes second sees the other.
#[derive(Debug)]
struct Bell {
    rung: AtomicBool,
    task: Arc<Task>,
}

impl Bell {
    /// One that rings.
    fn rung(task: &Arc<Task>) -> Arc<Self> {
        Arc::new(Self {
            rung: AtomicBool::new(true),
            task: Arc::clone(task),
        })
    }

    fn rings(&self) -> bool {
        self.rung.load(Ordering::SeqCst)
    }

    /// Whether it rings; not from here on.
    fn was_rung(&self) -> bool {
        self.rings() && self.rung.swap(false, Ordering::SeqCst)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::SeqCst);
        if !self.task.attended.load(Ordering::SeqCst) {
            self.task.waker.wake();
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

    /// How often a connection is polled at first that wakes a part each time,
    /// whether bytes come with the first or not.
    fn polls(came: bool) -> usize {
        let parts = Parts::default();
        let polled = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let (count, told, begins) = (Arc::clone(&polled), parts.clone(), parts.clone());
        let part = Arc::new(AtomicWaker::new());
        let waits = Arc::clone(&part);
        parts.run(std::future::poll_fn(move |cx| {
            waits.register(cx.waker());
            Poll::<()>::Pending
        }));
        let connection = std::future::poll_fn(move |_| {
            if count.fetch_add(1, Ordering::SeqCst) == 0 && came {
                told.came();
            }
            part.wake();
            Poll::<()>::Pending
        });
        let mut whole = Together::new(connection, begins);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut whole).poll(&mut cx).is_pending());
        let first = polled.load(Ordering::SeqCst);
        // Nothing has woken it since.
        assert!(Pin::new(&mut whole).poll(&mut cx).is_pending());
        assert_eq!(polled.load(Ordering::SeqCst), first);
        // Who takes hold of it changes it.
        assert!(whole.connection().is_some());
        assert!(Pin::new(&mut whole).poll(&mut cx).is_pending());
        assert_eq!(polled.load(Ordering::SeqCst), first + 1);
        first
    }

    #[test]
    fn a_connection_is_polled_when_it_is_woken_or_bytes_have_come() {
        assert_eq!(polls(false), 1);
        assert_eq!(polls(true), 2);
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
