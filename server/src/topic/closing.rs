//! What a topic lets go of, and its end.

use tokio::time::Instant;

use super::order::Order;
use super::{Topic, TopicLimits};

impl Topic {
    /// Drops entries that came before `oldest`. Returns how many, the bytes
    /// they held, the age of what is oldest now, and whether the topic is idle.
    pub(crate) fn evict(
        &self,
        oldest: Instant,
        now: Instant,
        limits: &TopicLimits,
    ) -> (usize, usize, Option<Instant>, bool) {
        let mut state = self.lock();
        let before = state.order.bytes();
        let evicted = state.evict(Some(oldest), now, limits);
        let freed = before.saturating_sub(state.order.bytes());
        let age = state.order.oldest_at();
        state.aging = age;
        (evicted, freed, age, state.idle())
    }

    /// Closes the topic if nobody needs it: no subscriber and no entry. The
    /// registry calls this under its own lock and then forgets the topic;
    /// whoever took hold of it before finds it closed and looks again, so that
    /// neither a subscription nor a diff is lost with it.
    pub(crate) fn close_if_idle(&self) -> bool {
        let mut state = self.lock();
        state.closed = state.closed || state.idle();
        state.closed
    }

    /// Closes the topic if nobody is subscribed to it, whatever it holds.
    pub(crate) fn close_if_unwatched(&self) -> bool {
        let mut state = self.lock();
        state.closed = state.closed || state.subscribers.len() == 0;
        state.closed
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.lock().subscribers.len() > 0
    }

    /// Gives back what a closed topic holds: how many entries, their bytes, and
    /// the age by which the retention may know it.
    pub(crate) fn empty(&self) -> (usize, usize, Option<Instant>) {
        let mut state = self.lock();
        let order = std::mem::replace(&mut state.order, Order::new());
        (order.log.len(), order.bytes(), state.aging.take())
    }
}
