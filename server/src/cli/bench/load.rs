//! What was pushed and what has arrived: shared by all connections, which
//! live in one thread.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use hdrhistogram::Histogram;
use tokio::sync::Notify;

use super::Failure;
use super::plan::Plan;
use crate::clock::Clock;

/// Latencies that are told apart, in nanoseconds: what is outside counts as
/// the nearest.
const SHORTEST: u64 = 1_000;
const LONGEST: u64 = 600_000_000_000;
/// Significant digits of them.
const DIGITS: u8 = 3;

/// Latencies in nanoseconds.
pub(super) type Latencies = Histogram<u64>;

/// What is counted. Everything since the first push.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) pushed: u64,
    pub(super) pushed_bytes: u64,
    /// Deliveries that these pushes have to lead to.
    pub(super) expected: u64,
    pub(super) delivered: u64,
    /// Diffs that a subscriber has passed without receiving them.
    pub(super) missed: u64,
    /// Diffs that came behind later ones, or once more.
    pub(super) repeated: u64,
    /// `Gap` messages.
    pub(super) gaps: u64,
}

impl Counts {
    pub(super) fn since(&self, before: &Self) -> Self {
        Self {
            pushed: self.pushed - before.pushed,
            pushed_bytes: self.pushed_bytes - before.pushed_bytes,
            expected: self.expected - before.expected,
            delivered: self.delivered - before.delivered,
            missed: self.missed - before.missed,
            repeated: self.repeated - before.repeated,
            gaps: self.gaps - before.gaps,
        }
    }
}

/// One publisher's deliveries that have not arrived.
#[derive(Debug)]
struct Outstanding {
    deliveries: Cell<u64>,
    most: u64,
    /// The publisher waits for it to be less.
    waits: Cell<bool>,
}

/// See the module.
pub(super) struct Load {
    pub(super) plan: Plan,
    pub(super) clock: Clock,
    pub(super) counts: Cell<Counts>,
    /// Since the last look: for the report, and for the progress line.
    pub(super) latencies: RefCell<Latencies>,
    pub(super) lately: RefCell<Latencies>,
    /// Connections whose server has answered their first words.
    pub(super) ready: Cell<usize>,
    /// Subscriptions that the server has confirmed.
    pub(super) subscribed: Cell<usize>,
    /// The furthest that a push was behind its time, in nanoseconds.
    pub(super) latest_push: Cell<u64>,
    outstanding: Vec<Outstanding>,
    /// One for each publisher: it may push again. Also woken by the clock of
    /// another thread.
    pub(super) may_push: Arc<Vec<Notify>>,
    failed: RefCell<Option<Failure>>,
    /// Something of the above has changed.
    pub(super) changed: Notify,
}

/// An empty histogram.
pub(super) fn latencies() -> Result<Latencies, Failure> {
    let histogram = Histogram::new_with_bounds(SHORTEST, LONGEST, DIGITS);
    histogram.map_err(|e| format!("{e:?}").into())
}

impl Load {
    pub(super) fn new(plan: Plan, window: u64) -> Result<Rc<Self>, Failure> {
        let publishers = 0..plan.publishers;
        Ok(Rc::new(Self {
            clock: Clock::system(),
            counts: Cell::default(),
            latencies: RefCell::new(latencies()?),
            lately: RefCell::new(latencies()?),
            ready: Cell::default(),
            subscribed: Cell::default(),
            latest_push: Cell::default(),
            outstanding: publishers
                .clone()
                .map(|publisher| Outstanding {
                    deliveries: Cell::default(),
                    most: window * plan.mean_fan_out(publisher),
                    waits: Cell::default(),
                })
                .collect(),
            may_push: Arc::new(publishers.map(|_| Notify::new()).collect()),
            failed: RefCell::default(),
            changed: Notify::new(),
            plan,
        }))
    }

    pub(super) fn is_ready(&self) {
        self.ready.set(self.ready.get() + 1);
        self.changed.notify_one();
    }

    pub(super) fn has_subscribed(&self, shards: usize) {
        self.subscribed.set(self.subscribed.get() + shards);
        self.changed.notify_one();
    }

    /// The first failure stands.
    pub(super) fn fail(&self, failure: Failure) {
        self.failed.borrow_mut().get_or_insert(failure);
        self.changed.notify_one();
    }

    pub(super) fn failure(&self) -> Option<Failure> {
        self.failed.borrow_mut().take()
    }

    pub(super) fn pushed(&self, publisher: usize, shard: u64, bytes: usize) {
        let fan_out = self.plan.fan_out(shard);
        let mut counts = self.counts.get();
        counts.pushed += 1;
        counts.pushed_bytes += bytes as u64;
        counts.expected += fan_out;
        self.counts.set(counts);
        if let Some(outstanding) = self.outstanding.get(publisher) {
            let deliveries = &outstanding.deliveries;
            deliveries.set(deliveries.get() + fan_out);
        }
    }

    /// Whether a publisher may push one more without having more than its
    /// window on the way; if not, it is woken when it may.
    pub(super) fn has_room(&self, publisher: usize) -> bool {
        let Some(outstanding) = self.outstanding.get(publisher) else {
            return false;
        };
        let room = outstanding.deliveries.get() < outstanding.most;
        outstanding.waits.set(!room);
        room
    }

    /// What arrived of one reading of a socket.
    pub(super) fn arrived(&self) -> Arrivals<'_> {
        Arrivals {
            load: self,
            now: self.clock.unix_nanos(),
            counts: self.counts.get(),
            latencies: self.latencies.borrow_mut(),
            lately: self.lately.borrow_mut(),
        }
    }

    /// Everything has arrived, or is known not to come.
    pub(super) fn is_complete(&self) -> bool {
        let counts = self.counts.get();
        counts.delivered + counts.missed >= counts.expected
    }
}

/// Counts the diffs of one reading, with one look at the clock for all.
pub(super) struct Arrivals<'a> {
    load: &'a Load,
    now: u64,
    counts: Counts,
    latencies: std::cell::RefMut<'a, Latencies>,
    lately: std::cell::RefMut<'a, Latencies>,
}

impl Arrivals<'_> {
    /// A diff; `next` is the seqno that its subscriber expects of its shard.
    pub(super) fn diff(&mut self, next: &mut u64, shard: u64, seqno: u64, stamp: u64) {
        if seqno < *next {
            self.counts.repeated += 1;
            return;
        }
        self.counts.missed += seqno - *next;
        self.counts.delivered += 1;
        let settled = seqno + 1 - *next;
        *next = seqno + 1;
        let latency = self.now.saturating_sub(stamp);
        self.latencies.saturating_record(latency);
        self.lately.saturating_record(latency);
        let load = self.load;
        // Both below 10^8.
        let publisher = (shard % load.plan.publishers as u64) as usize;
        if let Some(outstanding) = load.outstanding.get(publisher) {
            let left = outstanding.deliveries.get().saturating_sub(settled);
            outstanding.deliveries.set(left);
            if left < outstanding.most
                && outstanding.waits.replace(false)
                && let Some(publisher) = load.may_push.get(publisher)
            {
                publisher.notify_one();
            }
        }
    }

    pub(super) fn gap(&mut self) {
        self.counts.gaps += 1;
    }
}

impl Drop for Arrivals<'_> {
    fn drop(&mut self) {
        self.load.counts.set(self.counts);
    }
}
