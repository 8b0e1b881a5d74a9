//! Which of a session's shards have something for it.

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

    /// Marks a slot and wakes the session.
    pub(crate) fn mark(&self, slot: u32, now: Instant) {
        let waker = {
            let mut inner = self.lock();
            inner.ready.push(slot);
            inner.since.get_or_insert(now);
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
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
