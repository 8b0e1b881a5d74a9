//! Which of a session's shards have something for it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Waker};

use tokio::time::Instant;

/// Names of slots in the order in which they came, each once: a peer that gives
/// slots back and takes them again without ever reading cannot make it grow
/// past the slots it has at a time.
#[derive(Debug, Default)]
pub(crate) struct Names {
    queue: VecDeque<u32>,
    /// A bit for each name: it stands in the queue.
    queued: Vec<u64>,
}

impl Names {
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Adds a name at the end, unless it stands there already.
    pub(crate) fn push(&mut self, name: u32) {
        let (word, bit) = Self::place(name);
        if self.queued.len() <= word {
            self.queued.resize(word + 1, 0);
        }
        if let Some(bits) = self.queued.get_mut(word)
            && *bits & bit == 0
        {
            *bits |= bit;
            self.queue.push_back(name);
        }
    }

    pub(crate) fn pop(&mut self) -> Option<u32> {
        let name = self.queue.pop_front()?;
        let (word, bit) = Self::place(name);
        if let Some(bits) = self.queued.get_mut(word) {
            *bits &= !bit;
        }
        Some(name)
    }

    fn place(name: u32) -> (usize, u64) {
        ((name / 64) as usize, 1 << (name % 64))
    }
}

thread_local! {
    /// Whom to wake, while this thread is within [`wake_later`].
    static LATER: RefCell<Option<Vec<Waker>>> = const { RefCell::new(None) };
}

/// Does some work, and only then wakes the sessions for which it has left
/// marks. Of a publisher that sends many diffs at a time they find all when they look,
/// not the first alone; and nobody is woken under a shard's lock. The work is
/// one poll of a connection: it is short, and waits for nothing.
pub(crate) fn wake_later<T>(work: impl FnOnce() -> T) -> T {
    /// Also when the work panics.
    struct WakeAll;
    impl Drop for WakeAll {
        fn drop(&mut self) {
            // Taken out first: who is woken may mark.
            for waker in LATER.take().into_iter().flatten() {
                waker.wake();
            }
        }
    }
    if LATER.with_borrow(Option::is_some) {
        return work();
    }
    LATER.set(Some(Vec::new()));
    let _wake_all = WakeAll;
    work()
}

fn wake(waker: Waker) {
    let now = LATER.with_borrow_mut(|later| match later {
        Some(later) => {
            later.push(waker);
            None
        }
        None => Some(waker),
    });
    if let Some(waker) = now {
        waker.wake();
    }
}

/// The slots of a session that have been marked since it last looked, and the
/// waker of whoever polls the session's stream.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    ready: Names,
    /// When the oldest of what is ready was marked.
    since: Option<Instant>,
    waker: Option<Waker>,
}

impl Mailbox {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Nothing in here can be left half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks a slot and wakes the session, now or at the end of
    /// [`wake_later`].
    pub(crate) fn mark(&self, slot: u32, now: Instant) {
        let waker = {
            let mut inner = self.lock();
            inner.ready.push(slot);
            inner.since.get_or_insert(now);
            inner.waker.take()
        };
        if let Some(waker) = waker {
            wake(waker);
        }
    }

    /// Wakes the session for something other than a mark.
    pub(crate) fn wake(&self) {
        let waker = self.lock().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Takes what is ready, and since when the oldest of it is. If that is
    /// nothing and `idle` is true, the context is woken by the next mark.
    pub(crate) fn take(&self, into: &mut Names, idle: bool, cx: &Context<'_>) -> Option<Instant> {
        let mut inner = self.lock();
        while let Some(name) = inner.ready.pop() {
            into.push(name);
        }
        if into.is_empty() && idle {
            match &mut inner.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
        }
        inner.since.take()
    }

    /// How many slots are ready, and since when the oldest waits.
    pub(crate) fn waiting(&self) -> (usize, Option<Instant>) {
        let inner = self.lock();
        (inner.ready.len(), inner.since)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A mailbox that somebody sleeps on, and who counts its wakings.
    fn asleep() -> (Mailbox, Arc<Count>) {
        let (mailbox, count) = (Mailbox::default(), Arc::<Count>::default());
        let waker = Waker::from(Arc::clone(&count));
        mailbox.take(&mut Names::default(), true, &Context::from_waker(&waker));
        (mailbox, count)
    }

    #[test]
    fn a_mark_wakes_once_and_within_the_work_when_that_is_over() {
        let (mailbox, count) = asleep();
        mailbox.mark(1, Instant::now());
        mailbox.mark(2, Instant::now());
        assert_eq!(count.0.load(Ordering::SeqCst), 1);

        let (mailbox, count) = asleep();
        wake_later(|| {
            wake_later(|| mailbox.mark(1, Instant::now()));
            assert_eq!(count.0.load(Ordering::SeqCst), 0);
        });
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn work_that_panics_has_woken_whom_it_marked() {
        let (mailbox, count) = asleep();
        let work = std::panic::AssertUnwindSafe(|| {
            wake_later(|| {
                mailbox.mark(1, Instant::now());
                panic!("as it may");
            });
        });
        assert!(std::panic::catch_unwind(work).is_err());
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        // And the next work is as any other.
        let (mailbox, count) = asleep();
        wake_later(|| mailbox.mark(1, Instant::now()));
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
    }
}
