//! What the handles, the events and the tasks behind them share.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;

use crate::board::{Board, Session};
use crate::config::Config;
use crate::connection::gate::LinkId;
use crate::connection::wire::Fenced;
use crate::event::{Event, Reason};
use crate::home::PlaceId;
use crate::interest::Interest;
use crate::merge::Told;
use crate::outbox::Outbox;
use crate::queue::Queue;
use crate::settings::Settings;
use crate::stats::Counters;
use crate::system::System;

/// Each mutex is held for a few map operations, never over an await. Where
/// two are held, they were taken in the order in which they stand here.
pub(crate) struct Shared {
    pub(crate) system: Arc<dyn System>,
    settings: Mutex<Arc<Settings>>,
    pub(crate) interest: Mutex<Interest>,
    pub(crate) outbox: Mutex<Outbox>,
    pub(crate) board: Mutex<Board>,
    pub(crate) queue: Queue,
    pub(crate) stats: Counters,
    #[cfg(feature = "metrics")]
    pub(crate) latency: crate::metrics::Latency,
    /// Wakes the task that keeps the homes: something has changed that it
    /// looks at.
    pub(crate) nudge: Notify,
    /// What becomes of a push: a [`Pushes`].
    pushes: AtomicU8,
    /// No `Client` and no `Subscription` is left. Set once.
    released: AtomicBool,
    links: AtomicU64,
}

/// What becomes of a push.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Pushes {
    /// Switched off: as if it had not been called.
    Off,
    /// Read-only, or ended: counted as dropped.
    Dropped,
    /// It is published.
    Taken,
}

impl Shared {
    pub(crate) fn new(config: &Config, system: Arc<dyn System>) -> Self {
        let settings = &config.settings;
        Self {
            system,
            interest: Mutex::new(Interest::new(config)),
            outbox: Mutex::new(Outbox::new(config)),
            board: Mutex::default(),
            queue: Queue::new(settings),
            stats: Counters::default(),
            #[cfg(feature = "metrics")]
            latency: crate::metrics::Latency::default(),
            nudge: Notify::new(),
            pushes: AtomicU8::new(Pushes::of(settings) as u8),
            released: AtomicBool::new(false),
            links: AtomicU64::new(0),
            settings: Mutex::new(Arc::new(settings.clone())),
        }
    }

    pub(crate) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&lock(&self.settings))
    }

    /// Swaps other settings in. Pushes follow at once, all else when the task
    /// that keeps the homes looks.
    pub(crate) fn configure(&self, settings: Settings) {
        self.reconfigure(|_| settings);
    }

    /// The same, of what the settings are at this moment.
    pub(crate) fn reconfigure(&self, change: impl FnOnce(Settings) -> Settings) {
        let mut current = lock(&self.settings);
        let settings = change(Settings::clone(&current));
        let pushes = Pushes::of(&settings) as u8;
        *current = Arc::new(settings);
        let outbox = lock(&self.outbox);
        if !outbox.is_closed() {
            self.pushes.store(pushes, Ordering::Release);
        }
        drop((outbox, current));
        self.nudge.notify_one();
    }

    /// What becomes of a push now.
    pub(crate) fn pushes(&self) -> Pushes {
        match self.pushes.load(Ordering::Acquire) {
            0 => Pushes::Off,
            1 => Pushes::Dropped,
            _ => Pushes::Taken,
        }
    }

    /// A change of what is wanted or was heard. What the host is to be told
    /// because of it stands in the queue before anybody else can change
    /// something, so that a shard's events come in order whichever task brings
    /// them. `told` is empty before and after.
    pub(crate) fn change<T>(
        &self,
        told: &mut Told,
        change: impl FnOnce(&mut Interest, &mut Told) -> T,
    ) -> T {
        let mut interest = lock(&self.interest);
        let changed = change(&mut interest, told);
        let sooner = interest.is_sooner();
        let mut reader = None;
        if !told.events.is_empty() {
            for queued in &told.events {
                match queued.event() {
                    Event::Diff { diff, .. } => {
                        self.stats.diffs.one();
                        self.stats.diff_bytes.add(diff.len());
                    }
                    Event::Gap { .. } => self.stats.gaps.one(),
                    Event::Resync { .. } => self.stats.resyncs.one(),
                    _ => {}
                }
            }
            reader = self.queue.put(told.events.drain(..));
        }
        drop(interest);
        if let Some(reader) = reader {
            reader.wake();
        }
        if told.cancelled > 0 {
            let cancelled = std::mem::take(&mut told.cancelled);
            self.stats.resyncs_cancelled.add(cancelled);
        }
        if sooner {
            self.nudge.notify_one();
        }
        changed
    }

    /// Wakes the sessions that wait for something to be pushed.
    pub(crate) fn ring_idle(&self) {
        loop {
            let gate = lock(&self.outbox).take_idle();
            match gate {
                Some(gate) => gate.ring(),
                None => return,
            }
        }
    }

    /// There is a session with a place. The host hears of it if there is none
    /// with another.
    pub(crate) fn up(&self, place: PlaceId, session: Session) {
        let mut board = lock(&self.board);
        if !board.has_other(place) {
            self.queue.up(session.wire, session.server.clone());
        }
        if let Some(line) = board.line_mut(place) {
            line.session = Some(session);
            line.draining = false;
        }
        self.stats.homes_connected.set(board.connected());
        drop(board);
        self.nudge.notify_one();
    }

    /// There is none with it any more, and none began. The host hears of it if
    /// it was the last.
    pub(crate) fn down(&self, place: PlaceId, reason: Reason) {
        let mut board = lock(&self.board);
        if !board.has_other(place) {
            self.queue.down(reason.clone());
        }
        if let Some(line) = board.line_mut(place) {
            line.lost(reason);
        }
        board.look_up = true;
        self.stats.homes_connected.set(board.connected());
        drop(board);
        self.nudge.notify_one();
    }

    /// The process's generation is fenced out: the first word of it ends all,
    /// whichever server says it.
    pub(crate) fn fence(&self, fenced: Fenced) {
        if std::mem::replace(&mut lock(&self.board).fenced, true) {
            return;
        }
        tracing::info!(
            generation = fenced.generation,
            epoch = fenced.epoch,
            reason = ?fenced.reason,
            "fenced out by the pubsub server: not connecting again"
        );
        self.close(Some(Event::Fenced {
            generation: fenced.generation,
            epoch: fenced.epoch,
            reason: fenced.reason,
        }));
        self.nudge.notify_one();
    }

    /// Whether [`fence`](Self::fence) has ended all.
    pub(crate) fn is_fenced(&self) -> bool {
        lock(&self.board).fenced
    }

    /// Names may have other addresses now.
    pub(crate) fn ask_names(&self) {
        lock(&self.board).look_up = true;
        self.nudge.notify_one();
    }

    /// Without a session: if the settings want none, nothing is kept for one.
    pub(crate) fn clear_if_off(&self) {
        let settings = lock(&self.settings);
        if !settings.connected {
            lock(&self.outbox).clear(&self.stats);
        }
    }

    /// There will be no session any more.
    pub(crate) fn close(&self, last: Option<Event>) {
        lock(&self.board).ended = true;
        self.stats.homes_wanted.set(0);
        self.stats.homes_connected.set(0);
        self.queue.end(last);
        let mut outbox = lock(&self.outbox);
        outbox.close(&self.stats);
        self.pushes.store(Pushes::Dropped as u8, Ordering::Release);
    }

    pub(crate) fn next_link(&self) -> LinkId {
        LinkId::new(self.links.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// The time of day since the Unix epoch, for stamps that go to other
    /// processes. Nothing here waits by it.
    pub(crate) fn unix_time(&self) -> Duration {
        self.system
            .now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
    }

    pub(crate) fn is_released(&self) -> bool {
        self.released.load(Ordering::Acquire)
    }
}

impl Pushes {
    fn of(settings: &Settings) -> Self {
        if !settings.connected {
            Self::Off
        } else if settings.publishes() {
            Self::Taken
        } else {
            Self::Dropped
        }
    }
}

/// Held by every `Client` and `Subscription`: the last one to go tells the
/// tasks to finish.
pub(crate) struct Held(pub(crate) Arc<Shared>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.released.store(true, Ordering::Release);
        self.0.nudge.notify_one();
    }
}

/// Locks, also after a panic elsewhere: every critical section leaves its
/// data consistent at each step, and a host must not fail because of us.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A stamp of the protocol as a time; 0 means unknown.
pub(crate) fn from_unix_nanos(nanos: u64) -> Option<SystemTime> {
    if nanos == 0 {
        return None;
    }
    UNIX_EPOCH.checked_add(Duration::from_nanos(nanos))
}
