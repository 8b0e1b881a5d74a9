//! One shard: its log, its order, its subscribers. Knows no wire version's
//! messages and no session's inside.

mod closing;
mod cursor;
mod foreign;
mod limits;
mod log;
mod order;
mod own;
mod rate;
mod subscribers;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use persist_pubsub_proto::ShardId;
use tokio::time::Instant;

pub(crate) use cursor::{Cursor, Reader, Sink};
pub(crate) use foreign::Foreign;
pub(crate) use limits::TopicLimits;
pub(crate) use log::Entry;
#[cfg(test)]
pub(crate) use log::Ranges;
pub(crate) use order::Verdict;
pub(crate) use own::Own;

use crate::environment::Environment;
use crate::frame::Diff;
use crate::mailbox::Mailbox;
use crate::retention::TopicKey;
use crate::session::SessionId;
use crate::unwatched::Ticket;
use order::Order;
use rate::Rate;
use subscribers::Subscribers;

/// A shard of an environment.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) environment: Arc<Environment>,
    pub(crate) shard: ShardId,
    /// Its place among the topics without subscribers.
    pub(crate) ticket: Ticket,
    /// The order's epoch after the last publication, for who has just
    /// published.
    epoch: AtomicU32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    order: Order,
    subscribers: Subscribers,
    rate: Rate,
    /// The registry has let go of this topic: whoever still holds it looks
    /// the shard up again.
    closed: bool,
    /// A timer will call `release_due`.
    timer: bool,
    /// The age by which the retention knows of this topic's log.
    aging: Option<Instant>,
}

/// The topic was closed: look the shard up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed;

/// What a publication led to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Published {
    pub(crate) verdict: Verdict,
    /// Bytes by which the topic has grown, less what it had to evict.
    pub(crate) grown: isize,
    /// Entries evicted for it.
    pub(crate) evicted: usize,
    /// The caller arms a timer that calls `release_due` then.
    pub(crate) arm: Option<Instant>,
    /// The caller enters the topic into the retention, with this age.
    pub(crate) age: Option<Instant>,
    /// The topic has its first entry, and no subscriber.
    pub(crate) unwatched: bool,
}

/// What a reading led to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadOn {
    /// The sink was full: there is more.
    pub(crate) more: bool,
    /// Bytes by which the topic has grown, less what it had to evict.
    pub(crate) grown: isize,
    /// Entries evicted for it.
    pub(crate) evicted: usize,
}

/// What a subscriber leaves behind that goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// Other subscribers.
    Watched,
    /// Entries.
    Unwatched,
    /// Nothing: the registry may let go of the topic.
    Idle,
}

/// A subscription as the session holds it.
#[derive(Debug)]
pub(crate) struct Joined {
    /// Names the subscription to the topic.
    pub(crate) index: u32,
    pub(crate) cursor: Cursor,
    /// The highest seqno accepted.
    pub(crate) head: Option<u64>,
    /// What the session asked for and the log no longer holds.
    pub(crate) gap: Option<(u64, u64)>,
}

/// Where a subscription begins.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start {
    /// With the diffs of the last replay window.
    Replay,
    /// With what comes from now on.
    Now,
    /// Behind this seqno.
    After(u64),
}

/// A topic as operators see it.
#[derive(Clone, Debug)]
pub(crate) struct TopicStatus {
    pub(crate) head: Option<u64>,
    pub(crate) oldest: Option<u64>,
    pub(crate) newest: Option<u64>,
    pub(crate) entries: usize,
    pub(crate) bytes: usize,
    pub(crate) held: usize,
    pub(crate) subscribers: usize,
    pub(crate) rate: f64,
}

impl Topic {
    pub(crate) fn new(environment: Arc<Environment>, shard: ShardId) -> Self {
        Self {
            environment,
            shard,
            ticket: Ticket::default(),
            epoch: AtomicU32::new(0),
            state: Mutex::new(State {
                order: Order::new(),
                subscribers: Subscribers::default(),
                rate: Rate::default(),
                closed: false,
                timer: false,
                aging: None,
            }),
        }
    }

    pub(crate) fn key(&self) -> TopicKey {
        (self.environment.id(), self.shard)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under this lock would be a defect of ours; the shard lives
        // on with what it has rather than taking every session down.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a publication, and marks whom it concerns.
    pub(crate) fn publish(
        &self,
        seqno: u64,
        diff: Option<Arc<Diff>>,
        publisher: SessionId,
        own_index: Option<u32>,
        now: Instant,
        limits: &TopicLimits,
    ) -> Result<Published, Closed> {
        let mut state = self.lock();
        if state.closed {
            return Err(Closed);
        }
        let before = state.order.bytes();
        let released = state.order.released();
        let unwatched = before == 0 && state.subscribers.len() == 0;
        state.rate.count(now);
        let verdict = state.order.accept(
            Entry {
                seqno,
                diff,
                publisher,
                at: now,
                notice: 0,
            },
            limits,
        );
        self.epoch.store(state.order.epoch(), Relaxed);
        let mut arm = None;
        match verdict {
            Verdict::Duplicate | Verdict::DoubtedAgain => {}
            Verdict::Held => {
                if !state.timer {
                    state.timer = true;
                    arm = Some(now + limits.reorder_window);
                }
            }
            _ => {
                // The publisher has its own diff, but not what waited for it,
                // nor what it named as its own when nothing was known.
                let alone = released == Some(seqno) && state.order.released() == Some(seqno + 1);
                let except = own_index.filter(|_| alone);
                state.subscribers.mark_all(except, now);
            }
        }
        let evicted = state.evict(None, now, limits);
        Ok(state.published(verdict, before, evicted, arm, unwatched))
    }

    /// Lets through what has waited long enough. Returns the last seqno that
    /// was missing if it did, and when to call again; with None the timer is
    /// disarmed.
    pub(crate) fn release_due(
        &self,
        now: Instant,
        limits: &TopicLimits,
    ) -> (Option<u64>, Option<Instant>) {
        let mut state = self.lock();
        let (passed, next) = state.order.release_due(now, limits);
        if passed.is_some() {
            state.subscribers.mark_all(None, now);
        }
        state.timer = next.is_some();
        (passed, next)
    }

    /// Adds a subscriber.
    pub(crate) fn subscribe(
        &self,
        mailbox: &Arc<Mailbox>,
        slot: u32,
        start: Start,
        now: Instant,
        limits: &TopicLimits,
    ) -> Result<Joined, Closed> {
        let mut state = self.lock();
        if state.closed {
            return Err(Closed);
        }
        let order = &state.order;
        let released = order.released();
        let mut gap = None;
        let next = match (start, released) {
            (Start::Replay | Start::Now, None) => 0,
            (Start::After(have), None) => have.saturating_add(1),
            (Start::Now, Some(released)) => released,
            (Start::Replay, Some(released)) => order.replay_from(released, now, limits),
            // Nobody is that far ahead: the client is wrong, or the shard was.
            (Start::After(have), Some(released))
                if have >= released.saturating_add(limits.max_seqno_jump) =>
            {
                released
            }
            (Start::After(have), Some(released)) => {
                let next = have.saturating_add(1);
                let first = order
                    .log
                    .first()
                    .map_or(released, |e| e.seqno)
                    .min(released);
                // As for a cursor that comes to so large a hole: what is behind
                // it is told, not delivered.
                let doubtful =
                    first < released && first.saturating_sub(next) > limits.max_seqno_jump;
                let begin = if doubtful { first + 1 } else { first };
                if next < begin {
                    gap = Some((next, begin - 1));
                }
                next.max(begin)
            }
        };
        let cursor = Cursor::at(next, order);
        let head = order.head();
        let pending = released.is_some_and(|released| next < released);
        let index = state.subscribers.add(mailbox, slot);
        if pending {
            state.subscribers.mark(index, now);
        }
        Ok(Joined {
            index,
            cursor,
            head,
            gap,
        })
    }

    /// A cursor where a subscription that starts with a replay begins, for a
    /// subscriber that there is already.
    pub(crate) fn replay(&self, index: u32, now: Instant, limits: &TopicLimits) -> Cursor {
        let mut state = self.lock();
        let next = state
            .order
            .released()
            .map_or(0, |released| state.order.replay_from(released, now, limits));
        state.subscribers.mark(index, now);
        Cursor::at(next, &state.order)
    }

    /// The order's epoch: at least that in which the caller's last publication
    /// was taken, which the topic's lock has seen to.
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch.load(Relaxed)
    }

    /// The highest seqno accepted.
    pub(crate) fn head(&self) -> Option<u64> {
        self.lock().order.head()
    }

    /// Removes a subscriber.
    pub(crate) fn unsubscribe(&self, index: u32) -> Left {
        let mut state = self.lock();
        state.subscribers.remove(index);
        match (state.subscribers.len(), state.idle()) {
            (_, true) => Left::Idle,
            (0, false) => Left::Unwatched,
            _ => Left::Watched,
        }
    }

    /// Reads on for one subscriber; see [`Cursor::read`]. What was encoded for
    /// it may leave no room for the oldest.
    pub(crate) fn read(
        &self,
        index: u32,
        cursor: &mut Cursor,
        reader: Reader,
        own: &mut Own,
        limits: &TopicLimits,
        sink: &mut impl Sink,
    ) -> ReadOn {
        let mut state = self.lock();
        let reading = cursor.read(self.shard, &state.order, reader, own, limits, sink);
        state.order.log.grew(reading.encoded - reading.beside);
        // Cleared under the lock that publishers mark under: what is
        // published after this reading marks anew.
        state.subscribers.has_read(index, reading.more);
        let mut grown = signed(reading.encoded);
        let mut evicted = 0;
        if reading.encoded > 0 {
            let before = state.order.bytes();
            evicted = state.evict(None, Instant::now(), limits);
            grown -= signed(before) - signed(state.order.bytes());
        }
        ReadOn {
            more: reading.more,
            grown,
            evicted,
        }
    }

    /// Where the unbroken run of diffs begins that ends with the newest entry.
    #[cfg(test)]
    pub(crate) fn last_run(&self) -> u64 {
        let state = self.lock();
        let order = &state.order;
        let mut first = order.released().unwrap_or(0);
        for entry in order.log.iter().rev() {
            if entry.seqno + 1 != first || entry.diff.is_none() {
                break;
            }
            first = entry.seqno;
        }
        first
    }

    pub(crate) fn status(&self, now: Instant) -> TopicStatus {
        let state = self.lock();
        let log = &state.order.log;
        TopicStatus {
            head: state.order.head(),
            oldest: log.first().map(|e| e.seqno),
            newest: log.last().map(|e| e.seqno),
            entries: log.len(),
            bytes: state.order.bytes(),
            held: state.order.held(),
            subscribers: state.subscribers.len(),
            rate: state.rate.per_second(now),
        }
    }
}

impl State {
    /// What is to be told of a publication, before which the topic held
    /// `before` bytes.
    fn published(
        &mut self,
        verdict: Verdict,
        before: usize,
        evicted: usize,
        arm: Option<Instant>,
        unwatched: bool,
    ) -> Published {
        let grown = signed(self.order.bytes()) - signed(before);
        let age = match self.aging {
            Some(_) => None,
            None => self.order.oldest_at(),
        };
        self.aging = self.aging.or(age);
        Published {
            verdict,
            grown,
            evicted,
            arm,
            age,
            unwatched,
        }
    }

    /// Evicts; what was held back and has to go is let through as a hole, and
    /// the subscribers are told.
    fn evict(&mut self, oldest: Option<Instant>, now: Instant, limits: &TopicLimits) -> usize {
        let released = self.order.released();
        let evicted = self.order.evict(oldest, limits);
        if self.order.released() != released {
            self.subscribers.mark_all(None, now);
        }
        evicted
    }

    fn idle(&self) -> bool {
        self.subscribers.len() == 0 && self.order.oldest_at().is_none()
    }
}

/// Sizes in memory are far below 2^63.
fn signed(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
}
