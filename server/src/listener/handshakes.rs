//! Connections that have not brought a request yet: bounded, so that peers
//! that never do cannot keep those out that would.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::metrics::ListenerMetrics;

/// A handshake that has lasted for less is not ended to make room: when
/// everybody reconnects at once, honest ones wait for the processor too.
const GRACE: Duration = Duration::from_millis(250);

/// The handshakes under way.
#[derive(Debug)]
pub(super) struct Handshakes {
    /// By the order in which they began.
    waiting: Mutex<BTreeMap<u64, Waiting>>,
    max: usize,
    /// There may be room: one is done, or gone.
    room: Notify,
    metrics: ListenerMetrics,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    evicted: Arc<Notify>,
}

/// One connection's handshake. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Handshake {
    number: u64,
    evicted: Arc<Notify>,
    all: Arc<Handshakes>,
}

impl Handshakes {
    pub(super) fn new(max: usize, metrics: ListenerMetrics) -> Arc<Self> {
        Arc::new(Self {
            waiting: Mutex::default(),
            max,
            room: Notify::new(),
            metrics,
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins one, under a number above all before it.
    pub(super) fn begin(self: &Arc<Self>, number: u64) -> Handshake {
        let evicted = Arc::new(Notify::new());
        let waiting = Waiting {
            since: Instant::now(),
            evicted: Arc::clone(&evicted),
        };
        self.lock().insert(number, waiting);
        self.metrics.handshakes.inc();
        Handshake {
            number,
            evicted,
            all: Arc::clone(self),
        }
    }

    /// Waits for room for one more: until one is done, or the one that has
    /// lasted longest has had its grace and is ended. Waits for `GRACE` at
    /// most if nobody else begins one meanwhile. True: it was ended.
    pub(super) async fn room(&self) -> bool {
        loop {
            let oldest = {
                let waiting = self.lock();
                match waiting.first_key_value() {
                    Some((_, oldest)) if waiting.len() >= self.max => oldest.since,
                    _ => return false,
                }
            };
            if self.evict_slow() {
                return true;
            }
            tokio::select! {
                biased;
                () = self.room.notified() => {}
                () = sleep_until(oldest + GRACE) => {}
            }
        }
    }

    /// Ends the one that has lasted longest, if it has had its grace.
    pub(super) fn evict_slow(&self) -> bool {
        let mut waiting = self.lock();
        let Some(oldest) = waiting.first_entry() else {
            return false;
        };
        if oldest.get().since.elapsed() < GRACE {
            return false;
        }
        oldest.remove().evicted.notify_one();
        self.metrics.handshakes.dec();
        self.metrics.handshakes_evicted.inc();
        true
    }

    fn end(&self, number: u64) {
        if self.lock().remove(&number).is_some() {
            self.metrics.handshakes.dec();
            self.room.notify_one();
        }
    }
}

impl Handshake {
    /// The first request has come.
    pub(super) fn done(&self) {
        self.all.end(self.number);
    }

    /// Completes when others need the room.
    pub(super) async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.done();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handshakes(max: usize) -> Arc<Handshakes> {
        let metrics = ListenerMetrics::new(&prometheus::Registry::new()).unwrap();
        Handshakes::new(max, metrics)
    }

    async fn is_evicted(handshake: &Handshake) -> bool {
        tokio::time::timeout(Duration::ZERO, handshake.evicted())
            .await
            .is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn the_slowest_makes_room_and_not_before_its_grace() {
        let all = handshakes(2);
        let first = all.begin(1);
        tokio::time::advance(GRACE / 2).await;
        let second = all.begin(2);
        let began = Instant::now();
        assert!(all.room().await);
        assert_eq!(began.elapsed(), GRACE / 2);
        assert!(is_evicted(&first).await && !is_evicted(&second).await);
        // It holds no room any more, and gives none back twice.
        drop(first);
        let _third = all.begin(3);
        assert_eq!(all.metrics.handshakes.get(), 2);
        assert_eq!(all.metrics.handshakes_evicted.get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_done_makes_room() {
        let all = handshakes(1);
        let first = all.begin(1);
        let began = Instant::now();
        let (evicted, ()) = tokio::join!(all.room(), async { first.done() });
        assert!(!evicted && began.elapsed() < GRACE);
        assert_eq!(all.metrics.handshakes_evicted.get(), 0);
        assert!(!all.evict_slow());
        let _second = all.begin(2);
        assert!(!all.evict_slow(), "within its grace");
    }
}
