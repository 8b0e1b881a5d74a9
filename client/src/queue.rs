//! The bounded way from the sessions to the host.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;
use persist_pubsub_proto::ShardId;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::event::{Event, Reason, ServerInfo, Wire};
use crate::settings::Settings;
use crate::shared::{Shared, lock};

/// What an event is counted with beside its diff, in bytes.
const OVERHEAD: usize = 64;
/// How many events' room is kept when none waits.
const KEPT_ROOM: usize = 256;

/// An event on its way.
pub(crate) struct Queued {
    event: Event,
    of: Of,
}

#[derive(Clone, Copy)]
enum Of {
    /// The subscription that brought it.
    Incarnation(u64),
    /// About the sessions.
    Sessions,
}

impl Queued {
    pub(crate) fn of_shard(incarnation: u64, event: Event) -> Self {
        Self {
            event,
            of: Of::Incarnation(incarnation),
        }
    }

    pub(crate) fn event(&self) -> &Event {
        &self.event
    }

    /// Bytes and number. Those about sessions are not counted: there are at
    /// most three in a row.
    fn cost(&self) -> (usize, usize) {
        match (&self.of, &self.event) {
            (Of::Sessions, _) => (0, 0),
            (_, Event::Diff { diff, .. }) => (diff.len().saturating_add(OVERHEAD), 1),
            _ => (OVERHEAD, 1),
        }
    }

    fn shard(&self) -> Option<ShardId> {
        match &self.event {
            Event::Diff { shard, .. } | Event::Gap { shard, .. } | Event::Resync { shard, .. } => {
                Some(*shard)
            }
            _ => None,
        }
    }
}

/// What happened, in order, for the one consumer that the host makes of it.
///
/// Bounded in number and in bytes
/// ([`Settings::event_buffer`](crate::Settings::event_buffer)). A host that
/// does not read stops the reading of the network and nothing else: no event
/// is dropped, pushes still go out, and a lost connection is still replaced.
///
/// Dropping it ends the connection at once; pushes are dropped from then on.
pub struct Events {
    shared: Arc<Shared>,
}

impl Events {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The next event; `None` at the end: after [`Event::Fenced`], or when
    /// every [`Client`](crate::Client) and
    /// [`Subscription`](crate::Subscription) is gone.
    ///
    /// An event of a subscription that has ended meanwhile is passed over.
    /// Cancelling it loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        loop {
            let Some(queued) = std::task::ready!(self.shared.queue.poll_take(cx)) else {
                return Poll::Ready(None);
            };
            if let (Some(shard), Of::Incarnation(incarnation)) = (queued.shard(), queued.of)
                && !lock(&self.shared.interest).is_current(shard, incarnation)
            {
                self.shared.stats.stale.one();
                continue;
            }
            #[cfg(feature = "metrics")]
            self.shared.latency.observe(&queued.event, &self.shared);
            return Poll::Ready(Some(queued.event));
        }
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.poll(cx)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.shared.queue.abandon();
        self.shared.nudge.notify_one();
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events")
            .field("waiting", &self.shared.queue.len())
            .finish()
    }
}

/// What waits to be read by the host.
///
/// While it is full no session is read, so that beyond its bounds at most the
/// events of one message of each wait, and of what that message freed.
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    /// Notifies those who wait for room.
    room: Notify,
}

struct Inner {
    waiting: VecDeque<Queued>,
    bytes: usize,
    count: usize,
    max_bytes: usize,
    max_count: usize,
    full: bool,
    /// Whether there is a session, as far as the host will know when it has
    /// read what waits.
    up: bool,
    reader: Option<Waker>,
    /// Nothing comes any more.
    ended: bool,
    /// The host dropped its `Events`.
    abandoned: bool,
}

impl Queue {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            inner: Mutex::new(Inner {
                waiting: VecDeque::new(),
                bytes: 0,
                count: 0,
                max_bytes: settings.event_buffer_bytes,
                max_count: settings.event_buffer_count,
                full: false,
                up: false,
                reader: None,
                ended: false,
                abandoned: false,
            }),
            room: Notify::new(),
        }
    }

    pub(crate) fn configure(&self, settings: &Settings) {
        let mut inner = lock(&self.inner);
        inner.max_bytes = settings.event_buffer_bytes;
        inner.max_count = settings.event_buffer_count;
        inner.full = inner.is_over();
        drop(inner);
        self.room.notify_waiters();
    }

    /// Returns whom to wake: the host, if it waits for an event.
    pub(crate) fn put(&self, queued: impl Iterator<Item = Queued>) -> Option<Waker> {
        let mut inner = lock(&self.inner);
        for queued in queued {
            inner.push(queued);
        }
        inner.reader.take()
    }

    /// There is a session. Sessions that come and go while the host does not
    /// read are not all told.
    pub(crate) fn up(&self, wire: Wire, server: ServerInfo) {
        let mut inner = lock(&self.inner);
        if matches!(inner.back(0), Some(Event::Connected { .. })) {
            inner.waiting.pop_back();
        }
        inner.push_state(Event::Connected { wire, server });
        inner.up = true;
    }

    /// There is none any more.
    pub(crate) fn down(&self, reason: Reason) {
        let mut inner = lock(&self.inner);
        if !std::mem::replace(&mut inner.up, false) {
            return;
        }
        if let (Some(Event::Disconnected { .. }), Some(Event::Connected { .. })) =
            (inner.back(1), inner.back(0))
        {
            inner.waiting.pop_back();
        } else {
            inner.push_state(Event::Disconnected { reason });
        }
    }

    /// Nothing comes behind this.
    pub(crate) fn end(&self, last: Option<Event>) {
        let mut inner = lock(&self.inner);
        if !inner.ended
            && let Some(event) = last
        {
            inner.push_state(event);
        }
        inner.ended = true;
        inner.wake();
    }

    /// Whether sessions have to wait for the host. Ask for
    /// [`room`](Self::room) before.
    pub(crate) fn is_full(&self) -> bool {
        lock(&self.inner).full
    }

    /// Resolves at the first moment after this call at which there may be room.
    pub(crate) fn room(&self) -> Notified<'_> {
        self.room.notified()
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        lock(&self.inner).abandoned
    }

    fn len(&self) -> usize {
        lock(&self.inner).waiting.len()
    }

    fn abandon(&self) {
        let mut inner = lock(&self.inner);
        inner.abandoned = true;
        inner.ended = true;
        inner.waiting = VecDeque::new();
        inner.bytes = 0;
        inner.count = 0;
    }

    fn poll_take(&self, cx: &Context<'_>) -> Poll<Option<Queued>> {
        let mut inner = lock(&self.inner);
        let Some(queued) = inner.waiting.pop_front() else {
            if inner.ended {
                return Poll::Ready(None);
            }
            inner.waiting.shrink_to(KEPT_ROOM);
            match &mut inner.reader {
                Some(known) if known.will_wake(cx.waker()) => {}
                reader => *reader = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        };
        let (bytes, count) = queued.cost();
        inner.bytes = inner.bytes.saturating_sub(bytes);
        inner.count = inner.count.saturating_sub(count);
        // Not with every event: a few are read at a time.
        let roomy =
            inner.full && inner.bytes <= inner.max_bytes / 2 && inner.count <= inner.max_count / 2;
        if roomy {
            inner.full = false;
        }
        drop(inner);
        if roomy {
            self.room.notify_waiters();
        }
        Poll::Ready(Some(queued))
    }
}

impl Inner {
    fn push(&mut self, queued: Queued) {
        if self.ended {
            return;
        }
        let (bytes, count) = queued.cost();
        self.bytes = self.bytes.saturating_add(bytes);
        self.count = self.count.saturating_add(count);
        self.waiting.push_back(queued);
        self.full |= self.is_over();
    }

    fn is_over(&self) -> bool {
        self.bytes >= self.max_bytes || self.count >= self.max_count
    }

    fn push_state(&mut self, event: Event) {
        let of = Of::Sessions;
        self.push(Queued { event, of });
        self.wake();
    }

    /// The last event but so many.
    fn back(&self, before: usize) -> Option<&Event> {
        let queued = self.waiting.iter().rev().nth(before);
        queued.map(|queued| &queued.event)
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

#[cfg(test)]
mod tests;
