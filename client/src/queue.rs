//! The bounded way from the connection to the host.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use persist_pubsub_proto::ShardId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::config::Config;
use crate::event::{Event, Reason, ServerInfo, Wire};
use crate::shared::{Shared, lock};

/// What an event is counted with beside its diff, in bytes.
const OVERHEAD: usize = 64;

/// An event on its way.
pub(crate) struct Queued {
    event: Event,
    /// The subscription that brought it; `None`: about the connection.
    incarnation: Option<u64>,
}

impl Queued {
    pub(crate) fn of_shard(incarnation: u64, event: Event) -> Self {
        Self {
            event,
            incarnation: Some(incarnation),
        }
    }

    pub(crate) fn event(&self) -> &Event {
        &self.event
    }

    fn cost(&self) -> usize {
        match &self.event {
            Event::Diff { diff, .. } => diff.len().saturating_add(OVERHEAD),
            _ => OVERHEAD,
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
/// Bounded in number and in bytes ([`Config::event_buffer`]). A host that
/// does not read stops the reading of the network and nothing else: no event
/// is dropped, pushes still go out, and a lost connection is still replaced.
///
/// Dropping it ends the connection at once; pushes are dropped from then on.
pub struct Events {
    receiver: mpsc::Receiver<Slot>,
    shared: Arc<Shared>,
}

struct Slot {
    queued: Queued,
    /// Gives the event's bytes back when the host takes it.
    _room: OwnedSemaphorePermit,
}

impl Events {
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
            let Some(slot) = ready!(self.receiver.poll_recv(cx)) else {
                return Poll::Ready(None);
            };
            let queued = slot.queued;
            if let (Some(shard), Some(incarnation)) = (queued.shard(), queued.incarnation)
                && !lock(&self.shared.interest).is_current(shard, incarnation)
            {
                self.shared.stats.stale.one();
                continue;
            }
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

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events")
            .field("waiting", &self.receiver.len())
            .finish()
    }
}

/// The connection's end of the queue, with what did not fit yet.
///
/// While anything waits here the connection does not read the network, so
/// that at most the events of one message wait, and the last change of the
/// connection's state.
pub(crate) struct Sink {
    sender: mpsc::Sender<Slot>,
    room: Arc<Semaphore>,
    most: u32,
    waiting: VecDeque<Queued>,
    /// Not told yet, and after `waiting`: that the session is over, and then
    /// that another began. What happens and is undone before the host reads is
    /// not told.
    down: Option<Reason>,
    up: Option<(Wire, ServerInfo)>,
    /// Whether the host was told that there is a session.
    told_up: bool,
}

/// The host dropped its `Events`.
pub(crate) struct HostGone;

impl Sink {
    pub(crate) fn new(config: &Config, shared: Arc<Shared>) -> (Self, Events) {
        let (sender, receiver) = mpsc::channel(config.settings.event_buffer_count.min(1 << 24));
        let most = u32::try_from(config.settings.event_buffer_bytes).unwrap_or(u32::MAX);
        let room = usize::try_from(most).unwrap_or(usize::MAX);
        let sink = Self {
            sender,
            room: Arc::new(Semaphore::new(room.min(Semaphore::MAX_PERMITS))),
            most,
            waiting: VecDeque::new(),
            down: None,
            up: None,
            told_up: false,
        };
        (sink, Events { receiver, shared })
    }

    pub(crate) fn put(&mut self, queued: impl Iterator<Item = Queued>) {
        self.waiting.extend(queued);
    }

    pub(crate) fn put_up(&mut self, wire: Wire, server: ServerInfo) {
        self.up = Some((wire, server));
    }

    pub(crate) fn put_down(&mut self, reason: Reason) {
        self.up = None;
        if self.told_up && self.down.is_none() {
            self.down = Some(reason);
        }
    }

    pub(crate) fn put_last(&mut self, event: Event) {
        self.down = None;
        self.up = None;
        self.waiting.push_back(Queued {
            event,
            incarnation: None,
        });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.down.is_none() && self.up.is_none()
    }

    /// Hands over all that waits; with nothing to hand over, waits for the
    /// host to drop its `Events`. Cancelling it loses nothing.
    pub(crate) async fn work(&mut self) -> Result<(), HostGone> {
        if self.is_empty() {
            self.sender.closed().await;
            return Err(HostGone);
        }
        loop {
            let cost = match self.waiting.front() {
                Some(queued) => queued.cost(),
                None if self.down.is_some() || self.up.is_some() => OVERHEAD,
                None => return Ok(()),
            };
            // What is larger than the whole bound passes alone.
            let cost = u32::try_from(cost).unwrap_or(u32::MAX).min(self.most);
            let room = Arc::clone(&self.room)
                .acquire_many_owned(cost)
                .await
                .map_err(|_| HostGone)?;
            let place = self.sender.reserve().await.map_err(|_| HostGone)?;
            // No await from here on: the event leaves the one and enters the
            // other.
            let queued = if let Some(queued) = self.waiting.pop_front() {
                queued
            } else {
                let event = if let Some(reason) = self.down.take() {
                    self.told_up = false;
                    Event::Disconnected { reason }
                } else if let Some((wire, server)) = self.up.take() {
                    self.told_up = true;
                    Event::Connected { wire, server }
                } else {
                    return Ok(());
                };
                Queued {
                    event,
                    incarnation: None,
                }
            };
            place.send(Slot {
                queued,
                _room: room,
            });
        }
    }
}
