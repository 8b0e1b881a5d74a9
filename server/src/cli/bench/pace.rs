//! When a publisher pushes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::load::Load;

/// Wake-ups of the clock are no closer together: what is due by then is
/// pushed together.
const FINEST: Duration = Duration::from_micros(50);

/// One publisher's beat.
#[derive(Debug)]
pub(super) struct Pace {
    beat: Option<Beat>,
    pushes: u64,
    /// No more is to be pushed.
    stop: Arc<AtomicBool>,
}

/// Pushes at given times.
#[derive(Debug)]
struct Beat {
    /// Of the first push of this publisher, once it has begun.
    start: Option<Instant>,
    /// How long after the others' beginning its turn comes.
    turn: Duration,
    /// Between two bursts of this publisher.
    every: Duration,
    burst: u64,
}

impl Pace {
    /// As fast as the window allows.
    pub(super) fn saturating(stop: &Arc<AtomicBool>) -> Self {
        Self {
            beat: None,
            pushes: 0,
            stop: Arc::clone(stop),
        }
    }

    /// `rate` pushes a second of `publishers` together, which take turns.
    pub(super) fn steady(
        rate: f64,
        burst: u64,
        publisher: usize,
        publishers: usize,
        stop: &Arc<AtomicBool>,
    ) -> Self {
        let between = between(rate, burst);
        let turns = |n: usize| between.saturating_mul(u32::try_from(n).unwrap_or(u32::MAX));
        Self {
            beat: Some(Beat {
                start: None,
                turn: turns(publisher),
                every: turns(publishers),
                burst,
            }),
            pushes: 0,
            stop: Arc::clone(stop),
        }
    }

    /// Pushing begins now.
    pub(super) fn begin(&mut self) {
        if let Some(beat) = &mut self.beat {
            beat.start = Instant::now().checked_add(beat.turn);
        }
    }

    /// How many pushes there were.
    pub(super) fn pushes(&self) -> usize {
        // A run's pushes are far below 2^63.
        usize::try_from(self.pushes).unwrap_or(usize::MAX)
    }

    /// Whether the next one is due.
    pub(super) fn may(&self, load: &Load, publisher: usize) -> bool {
        if self.stop.load(Ordering::Relaxed) {
            return false;
        }
        match &self.beat {
            None => load.has_room(publisher),
            Some(beat) => beat
                .due(self.pushes)
                .is_some_and(|due| due <= Instant::now()),
        }
    }

    pub(super) fn pushed(&mut self, load: &Load) {
        if let Some(due) = self.beat.as_ref().and_then(|beat| beat.due(self.pushes)) {
            let late = due.elapsed().as_nanos();
            let late = u64::try_from(late).unwrap_or(u64::MAX);
            load.latest_push.set(load.latest_push.get().max(late));
        }
        self.pushes += 1;
    }
}

impl Beat {
    /// None: never.
    fn due(&self, push: u64) -> Option<Instant> {
        let bursts = push / self.burst.max(1);
        let nanos = u64::try_from(self.every.as_nanos())
            .unwrap_or(u64::MAX)
            .saturating_mul(bursts);
        self.start?.checked_add(Duration::from_nanos(nanos))
    }
}

/// Between two bursts, whoever pushes them.
fn between(rate: f64, burst: u64) -> Duration {
    // Below 2^20.
    let burst = u32::try_from(burst).unwrap_or(u32::MAX);
    Duration::try_from_secs_f64(f64::from(burst) / rate).unwrap_or(Duration::MAX)
}

/// Wakes publishers when their pushes are due, from a thread of its own:
/// tokio's timers know milliseconds. Ends when dropped.
#[derive(Debug)]
pub(super) struct Metronome {
    _end: mpsc::Sender<()>,
}

impl Metronome {
    pub(super) fn start(rate: f64, burst: u64, may_push: &Arc<Vec<Notify>>) -> Self {
        let (end, ended) = mpsc::channel();
        let may_push = Arc::clone(may_push);
        let every = between(rate, burst).max(FINEST);
        std::thread::spawn(move || {
            let mut due = Instant::now();
            loop {
                for publisher in may_push.iter() {
                    due += every;
                    let wait = due.saturating_duration_since(Instant::now());
                    match ended.recv_timeout(wait) {
                        Err(mpsc::RecvTimeoutError::Timeout) => publisher.notify_one(),
                        _ => return,
                    }
                }
            }
        });
        Self { _end: end }
    }
}
