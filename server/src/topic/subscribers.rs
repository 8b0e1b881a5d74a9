//! Who is to be told that a topic has something.

use std::sync::Arc;

use tokio::time::Instant;

use crate::mailbox::Mailbox;

/// In a slot's name: the mailbox has been told, and the session has not read
/// since. Names are far below it: `--max-subscriptions-per-session`.
const MARKED: u32 = 1 << 31;

/// Subscribers at stable places, so that a session can name its own. Two lists
/// side by side, and no flag of its own: there are many more subscriptions than
/// there is of anything else.
#[derive(Debug, Default)]
pub(super) struct Subscribers {
    /// None: a free place.
    mailboxes: Vec<Option<Arc<Mailbox>>>,
    /// The session's name for the subscription, with [`MARKED`].
    slots: Vec<u32>,
    free: Vec<u32>,
}

/// Tells one that there is something to read: once, until it has read.
fn tell(mailbox: &Mailbox, slot: &mut u32, now: Instant) {
    if *slot & MARKED == 0 {
        mailbox.mark(*slot, now);
        *slot |= MARKED;
    }
}

impl Subscribers {
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Adds one, which the session calls `slot`, and which has not been told
    /// of anything.
    pub(super) fn add(&mut self, mailbox: &Arc<Mailbox>, slot: u32) -> u32 {
        debug_assert!(slot < MARKED, "a session has so many subscriptions");
        let mailbox = Some(Arc::clone(mailbox));
        if let Some(index) = self.free.pop()
            && let Some(place) = self.mailboxes.get_mut(index as usize)
            && let Some(name) = self.slots.get_mut(index as usize)
        {
            (*place, *name) = (mailbox, slot);
            return index;
        }
        self.mailboxes.push(mailbox);
        self.slots.push(slot);
        // Bounded by the sessions of a server, far below 2^32.
        u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
    }

    pub(super) fn remove(&mut self, index: u32) {
        if let Some(mailbox) = self.mailboxes.get_mut(index as usize)
            && mailbox.take().is_some()
        {
            self.free.push(index);
        }
        if self.free.len() == self.slots.len() {
            *self = Self::default();
        }
    }

    /// Tells one that there is something to read.
    pub(super) fn mark(&mut self, index: u32, now: Instant) {
        if let Some(Some(mailbox)) = self.mailboxes.get(index as usize)
            && let Some(slot) = self.slots.get_mut(index as usize)
        {
            tell(mailbox, slot, now);
        }
    }

    /// One has read, and knows whether there is more.
    pub(super) fn has_read(&mut self, index: u32, more: bool) {
        if let Some(slot) = self.slots.get_mut(index as usize) {
            *slot &= !MARKED;
            *slot |= MARKED * u32::from(more);
        }
    }

    /// Tells every subscriber but one that there is something to read: once,
    /// until it has read.
    pub(super) fn mark_all(&mut self, except: Option<u32>, now: Instant) {
        let all = self.mailboxes.iter().zip(&mut self.slots);
        for (index, (mailbox, slot)) in (0_u32..).zip(all) {
            if let Some(mailbox) = mailbox
                && Some(index) != except
            {
                tell(mailbox, slot, now);
            }
        }
    }
}
