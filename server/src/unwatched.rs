//! Which topics nobody is subscribed to: the first that go when there are too
//! many.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::retention::TopicKey;
use crate::topic::Topic;

/// In the place of a ticket: not listed.
const UNLISTED: u64 = 0;
/// In the place of a ticket: the registry has let go of the topic.
const GONE: u64 = u64::MAX;

/// A topic's place in the list. Read and written under the list's lock alone,
/// but for the look that saves taking it.
#[derive(Debug, Default)]
pub(crate) struct Ticket(AtomicU64);

impl Ticket {
    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, to: u64) {
        self.0.store(to, Ordering::Relaxed);
    }
}

/// Topics without subscribers, in the order in which they came to have none.
///
/// Whoever adds or removes a subscriber has the topic listed anew afterwards,
/// so that the last to do so sees how it is. A topic with a subscriber may be
/// listed for a moment, and one without is never left out.
///
/// The order of locks is map, then this list, then topic.
#[derive(Debug, Default)]
pub(crate) struct Unwatched {
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    topics: BTreeMap<u64, TopicKey>,
    last: u64,
}

impl Unwatched {
    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists a topic, or takes it off, as it has subscribers or not.
    pub(crate) fn list(&self, topic: &Topic) {
        let mut list = self.lock();
        let ticket = topic.ticket.get();
        if ticket == GONE {
            return;
        }
        if topic.is_watched() {
            list.topics.remove(&ticket);
            topic.ticket.set(UNLISTED);
        } else if !list.topics.contains_key(&ticket) {
            list.last += 1;
            topic.ticket.set(list.last);
            let ticket = list.last;
            list.topics.insert(ticket, topic.key());
        }
    }

    /// Takes a topic off that has a subscriber now. Without the lock for one
    /// that is not listed; one that is listed in this moment is found out when
    /// it is to go.
    pub(crate) fn watched(&self, topic: &Topic) {
        if topic.ticket.get() != UNLISTED {
            self.list(topic);
        }
    }

    /// The registry has let go of a topic.
    pub(crate) fn forget(&self, topic: &Topic) {
        let mut list = self.lock();
        list.topics.remove(&topic.ticket.get());
        topic.ticket.set(GONE);
    }

    /// Takes out the topic that has had no subscriber for the longest. The
    /// caller forgets it, or has it listed anew.
    pub(crate) fn pop(&self) -> Option<TopicKey> {
        self.lock().topics.pop_first().map(|(_, key)| key)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.lock().topics.len()
    }
}
