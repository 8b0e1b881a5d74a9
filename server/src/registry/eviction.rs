//! What goes when there is too much, or nobody needs it any more: diffs by age
//! and by bytes, and whole topics.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::Registry;
use crate::retention::TopicKey;
use crate::topic::Topic;

/// By how much more than the oldest entry an eviction for bytes takes from a
/// log, so that a busy log is not visited for each of its entries.
const RELIEF_QUANTUM: Duration = Duration::from_millis(10);

/// Topics looked at to make room for one: the first is the one, unless other
/// threads come and go at the same moment.
const ROOM_LOOKS: usize = 8;

impl Registry {
    pub(super) fn is_full(&self) -> bool {
        self.count.load(Ordering::Relaxed) >= self.limits.max_topics
    }

    /// Lets go of one topic that has no subscriber, if there is one.
    pub(super) fn make_room(&self) {
        for _ in 0..ROOM_LOOKS {
            let Some(key) = self.unwatched.pop() else {
                return;
            };
            let gone = self
                .topics
                .remove_if(&key, |_, topic| topic.close_if_unwatched());
            if let Some((_, topic)) = gone {
                self.forgotten(&topic);
                let (entries, bytes, age) = topic.empty();
                self.metrics.evicted_shards.inc_by(entries as u64);
                self.retention
                    .grew(-isize::try_from(bytes).unwrap_or(isize::MAX));
                if let Some(age) = age {
                    self.retention.leave(age, key);
                }
                return;
            }
            // It has just found a subscriber; who may have gone again.
            if let Some(topic) = self.topics.get(&key).map(|t| Arc::clone(&t)) {
                self.unwatched.list(&topic);
            }
        }
    }

    /// A topic was closed, and is not in the map any more.
    fn forgotten(&self, topic: &Topic) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.unwatched.forget(topic);
    }

    /// Lets go of a topic that nobody needs.
    pub(super) fn forget_idle(&self, key: &TopicKey) {
        // The order of locks is map, then topic: nobody asks the map for
        // anything while holding a topic's lock.
        let idle = |_: &TopicKey, topic: &Arc<Topic>| topic.close_if_idle();
        if let Some((_, topic)) = self.topics.remove_if(key, idle) {
            self.forgotten(&topic);
        }
    }

    /// Evicts what is too old, now and every so often, until dropped.
    pub(crate) async fn age(self: Arc<Self>) {
        let period =
            (self.limits.log_age / 32).clamp(Duration::from_millis(10), Duration::from_secs(1));
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(oldest) = Instant::now().checked_sub(self.limits.log_age) else {
                continue;
            };
            let mut visited = 0_u32;
            while let Some((_, key)) = self.retention.pop(oldest) {
                let evicted = self.evict(key, oldest);
                self.metrics.evicted_age.inc_by(evicted as u64);
                visited += 1;
                if visited.is_multiple_of(256) {
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// Evicts everything, and checks that nothing is left of it.
    #[cfg(test)]
    pub(crate) fn check_empty(&self) {
        self.evict_older(Instant::now() + Duration::from_secs(10_000));
        assert_eq!((self.retention.balance(), self.topics()), (0, 0));
        assert_eq!((self.topics.len(), self.unwatched.len()), (0, 0));
        assert_eq!(self.retention.pop_oldest(), None);
    }

    /// Evicts what came before `oldest`, in one go.
    #[cfg(test)]
    pub(crate) fn evict_older(&self, oldest: Instant) {
        while let Some((_, key)) = self.retention.pop(oldest) {
            self.evict(key, oldest);
        }
    }

    /// Evicts the oldest diffs, of whatever shard, until the logs are within
    /// their bytes again.
    pub(super) fn relieve(&self) {
        while self.retention.over() {
            let Some((at, key)) = self.retention.pop_oldest() else {
                break;
            };
            let evicted = self.evict(key, at + RELIEF_QUANTUM);
            self.metrics.evicted_total.inc_by(evicted as u64);
        }
    }

    /// Evicts what came to a topic before `oldest`. Returns how many went.
    fn evict(&self, key: TopicKey, oldest: Instant) -> usize {
        let Some(topic) = self.topics.get(&key).map(|t| Arc::clone(&t)) else {
            return 0;
        };
        let (evicted, freed, age, idle) = topic.evict(oldest, Instant::now(), &self.limits.topic);
        self.retention
            .grew(-isize::try_from(freed).unwrap_or(isize::MAX));
        if let Some(age) = age {
            self.retention.enter(age, key);
        }
        if idle {
            self.forget_idle(&key);
        }
        evicted
    }
}
