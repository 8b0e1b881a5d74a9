//! Who is to be told that a topic has something.

use std::sync::Arc;

use tokio::time::Instant;

use crate::mailbox::Mailbox;

/// Subscribers at stable places, so that a session can name its own.
#[derive(Debug, Default)]
pub(super) struct Subscribers {
    slots: Vec<Option<Subscriber>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Subscriber {
    mailbox: Arc<Mailbox>,
    /// The session's name for this subscription.
    slot: u32,
    /// The mailbox has been told, and the session has not read since.
    marked: bool,
}

impl Subscriber {
    fn mark(&mut self, now: Instant) {
        if !self.marked {
            self.marked = true;
            self.mailbox.mark(self.slot, now);
        }
    }
}

impl Subscribers {
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Adds one, which the session calls `slot`, and which has not been told
    /// of anything.
    pub(super) fn add(&mut self, mailbox: &Arc<Mailbox>, slot: u32) -> u32 {
        let subscriber = Subscriber {
            mailbox: Arc::clone(mailbox),
            slot,
            marked: false,
        };
        if let Some(index) = self.free.pop()
            && let Some(place) = self.slots.get_mut(index as usize)
        {
            *place = Some(subscriber);
            return index;
        }
        self.slots.push(Some(subscriber));
        // Bounded by the sessions of a server, far below 2^32.
        u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
    }

    pub(super) fn remove(&mut self, index: u32) {
        if let Some(slot) = self.slots.get_mut(index as usize)
            && slot.take().is_some()
        {
            self.free.push(index);
        }
        if self.free.len() == self.slots.len() {
            *self = Self::default();
        }
    }

    /// Tells one that there is something to read.
    pub(super) fn mark(&mut self, index: u32, now: Instant) {
        if let Some(Some(subscriber)) = self.slots.get_mut(index as usize) {
            subscriber.mark(now);
        }
    }

    /// One has read, and knows whether there is more.
    pub(super) fn has_read(&mut self, index: u32, more: bool) {
        if let Some(Some(subscriber)) = self.slots.get_mut(index as usize) {
            subscriber.marked = more;
        }
    }

    /// Tells every subscriber but one that there is something to read: once,
    /// until it has read.
    pub(super) fn mark_all(&mut self, except: Option<u32>, now: Instant) {
        for (index, subscriber) in (0_u32..).zip(&mut self.slots) {
            if let Some(subscriber) = subscriber
                && Some(index) != except
            {
                subscriber.mark(now);
            }
        }
    }
}
