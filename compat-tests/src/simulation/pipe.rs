//! One direction of a simulated connection: bytes under way.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use fastrand::Rng;
use tokio::io::ReadBuf;
use tokio::time::{Instant, Sleep, sleep_until};

use super::lock;

/// Bytes that may be under way and unread, as a socket's two buffers bound
/// them; then the writer waits.
const CAPACITY: usize = 96 * 1024;
/// The most bytes that travel together.
const SEGMENT: usize = 16 * 1024;

/// How bytes travel now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
    pub(super) latency: Duration,
    /// A further delay of each segment is drawn below this.
    pub(super) jitter: Duration,
    /// One byte at a time reaches the reader.
    pub(super) trickle: bool,
    /// Nothing arrives. What was written waits, as TCP would send it again.
    pub(super) blocked: bool,
}

/// A direction, shared by its writer, its reader and whoever makes trouble.
pub(super) struct Pipe(Mutex<State>);

struct State {
    weather: Weather,
    rng: Rng,
    under_way: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    /// When the last segment arrives: none overtakes another.
    last: Instant,
    end: End,
    /// After so many more bytes the connection breaks.
    cut_after: Option<usize>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// How a direction ends, after what is under way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    /// The writer said that there is no more.
    Finished,
    /// The reader is gone, or the connection broke: nobody gets anything.
    Broken,
    /// What is written vanishes, and neither end is told.
    Lost,
}

/// What writing did.
pub(super) enum Written {
    Some(usize),
    /// So many, with which the connection breaks.
    Last(usize),
}

impl Pipe {
    pub(super) fn new(weather: Weather, rng: Rng) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            weather,
            rng,
            under_way: VecDeque::new(),
            bytes: 0,
            last: Instant::now(),
            end: End::Open,
            cut_after: None,
            reader: None,
            writer: None,
        })))
    }

    /// Changes how bytes travel. What is under way keeps its time, but for a
    /// direction that was blocked: that arrives now at the earliest.
    pub(super) fn change(&self, change: impl FnOnce(&mut Weather)) {
        let mut state = lock(&self.0);
        let was_blocked = state.weather.blocked;
        change(&mut state.weather);
        if was_blocked && !state.weather.blocked {
            let earliest = Instant::now() + state.weather.latency;
            for (at, _) in &mut state.under_way {
                *at = earliest.max(*at);
            }
            state.last = earliest.max(state.last);
        }
        state.wake();
    }

    /// Breaks the connection after so many more bytes.
    pub(super) fn cut_after(&self, bytes: usize) {
        lock(&self.0).cut_after = Some(bytes);
    }

    /// It will not be cut after all.
    pub(super) fn spare(&self) {
        lock(&self.0).cut_after = None;
    }

    pub(super) fn finish(&self) {
        self.end(End::Finished, false);
    }

    /// `now`: also what is under way is lost.
    pub(super) fn break_off(&self, now: bool) {
        self.end(End::Broken, now);
    }

    /// Loses all from now on, without a word to anybody.
    pub(super) fn lose(&self) {
        self.end(End::Lost, true);
    }

    fn end(&self, end: End, drop: bool) {
        let mut state = lock(&self.0);
        // The first end stands; but what is finished can still break.
        if matches!(state.end, End::Open) || (state.end == End::Finished && end == End::Broken) {
            state.end = end;
        }
        if drop {
            state.under_way.clear();
            state.bytes = 0;
        }
        state.wake();
    }

    /// Takes bytes, as many as there is room for, at least one.
    pub(super) fn write(&self, cx: &Context<'_>, buf: &[u8]) -> Poll<io::Result<Written>> {
        let mut state = lock(&self.0);
        if matches!(state.end, End::Broken | End::Finished) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = CAPACITY.saturating_sub(state.bytes);
        let cut = state.cut_after.filter(|&cut| cut <= room.min(buf.len()));
        let len = cut.unwrap_or(SEGMENT.min(room)).min(buf.len());
        if len == 0 && cut.is_none() && !buf.is_empty() {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let jitter = state.weather.jitter.mul_f64(state.rng.f64());
        let at = (Instant::now() + state.weather.latency + jitter).max(state.last);
        state.last = at;
        state.bytes += len;
        if let Some(after) = &mut state.cut_after {
            *after -= len;
        }
        // What is lost takes room, as what is never acknowledged does.
        if state.end != End::Lost {
            let segment = Bytes::copy_from_slice(&buf[..len]);
            state.under_way.push_back((at, segment));
        }
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(match cut {
            Some(_) => Written::Last(len),
            None => Written::Some(len),
        }))
    }

    /// Gives what has arrived. `timer` is the reader's: it wakes it when the
    /// next segment arrives.
    pub(super) fn read(
        &self,
        cx: &mut Context<'_>,
        timer: &mut Option<Pin<Box<Sleep>>>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = lock(&self.0);
        let now = Instant::now();
        let trickle = state.weather.trickle;
        let mut taken = false;
        while !state.weather.blocked
            && buf.remaining() > 0
            && !(taken && trickle)
            && let Some((at, segment)) = state.under_way.front_mut()
            && *at <= now
        {
            let most = if trickle { 1 } else { buf.remaining() };
            let len = segment.len().min(most);
            buf.put_slice(&segment[..len]);
            segment.advance(len);
            if trickle {
                *at = now + Duration::from_millis(1);
            }
            if segment.is_empty() {
                state.under_way.pop_front();
            }
            state.bytes -= len;
            taken = true;
        }
        if taken {
            if let Some(writer) = state.writer.take() {
                writer.wake();
            }
            return Poll::Ready(Ok(()));
        }
        state.reader = Some(cx.waker().clone());
        if state.weather.blocked {
            return Poll::Pending;
        }
        if let Some((at, _)) = state.under_way.front() {
            let at = *at;
            drop(state);
            let mut sleep = Box::pin(sleep_until(at));
            // It lies ahead: this registers the waker.
            if sleep.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
            *timer = Some(sleep);
            return Poll::Pending;
        }
        match state.end {
            End::Open | End::Lost => Poll::Pending,
            End::Finished => Poll::Ready(Ok(())),
            End::Broken => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }
}

impl State {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()]
            .into_iter()
            .flatten()
        {
            waker.wake();
        }
    }
}
