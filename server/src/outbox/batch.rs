//! Puts together what is ready: for a socket as frames, so that they go out in
//! one write, and for a reader in this process as messages.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use persist_pubsub_proto::ShardId;
use prometheus::local::LocalHistogram;

use super::Control;
use crate::frame::{self, Diff, Response, Wire};
use crate::metrics::SessionMetrics;
use crate::topic::Sink;

/// What is ready is put together up to so many bytes: large enough that the
/// cost of a write to the socket is spread over many diffs, small enough that
/// one session does not occupy a thread for long.
const BATCH_BYTES: usize = 64 * 1024;
/// A frame of at least so many bytes goes out by itself, without being copied.
const WHOLE_BYTES: usize = 32 * 1024;
/// Where a batch's buffer starts: some diffs of common size.
const FIRST_BYTES: usize = 2 * 1024;
/// Messages that are put together for a reader in this process: as many small
/// diffs as fit `BATCH_BYTES`, about.
const BATCH_MESSAGES: usize = 64;

/// Some frames, for a socket.
pub(crate) struct Frames {
    /// A large frame, to go first.
    pub(crate) whole: Option<Bytes>,
    pub(crate) rest: Bytes,
}

/// What was put together, and what is counted of it.
pub(crate) struct Batch<T> {
    pub(crate) told: T,
    pub(crate) bytes: usize,
    pub(crate) diffs: u64,
    pub(crate) missed: u64,
}

/// Takes answers and diffs until there is enough.
pub(super) trait Filling: Sink {
    /// What it makes of them.
    type Told;
    fn full(&self) -> bool;
    fn is_empty(&self) -> bool;
    fn answer(&mut self, answer: Control);
    /// What is read from here on is new, not sent again to somebody who joins:
    /// its time from stamp to socket counts.
    fn live(&mut self, live: bool);
    fn done(self) -> Batch<Self::Told>;
}

/// Counts what goes to one session.
struct Tally<'a> {
    bytes: usize,
    diffs: u64,
    /// Of the diffs alone.
    diff_bytes: u64,
    missed: u64,
    metrics: &'a SessionMetrics,
    now_nanos: u64,
    /// Seconds from stamp to socket of the first diff, and of all when there
    /// are more: so a diff that goes alone costs no list.
    first: Option<f64>,
    stamps: Option<LocalHistogram>,
    live: bool,
}

impl<'a> Tally<'a> {
    fn new(metrics: &'a SessionMetrics, now_nanos: u64) -> Self {
        Self {
            bytes: 0,
            diffs: 0,
            diff_bytes: 0,
            missed: 0,
            metrics,
            now_nanos,
            first: None,
            stamps: None,
            live: false,
        }
    }

    fn diff(&mut self, bytes: usize, stamp: Option<u64>) {
        self.diffs += 1;
        self.diff_bytes += bytes as u64;
        if let Some(stamp) = stamp.filter(|_| self.live) {
            let nanos = self.now_nanos.saturating_sub(stamp);
            let seconds = Duration::from_nanos(nanos).as_secs_f64();
            let Some(first) = self.first else {
                self.first = Some(seconds);
                return;
            };
            let metrics = self.metrics;
            self.stamps
                .get_or_insert_with(|| {
                    let stamps = metrics.stamp_to_socket.local();
                    stamps.observe(first);
                    stamps
                })
                .observe(seconds);
        }
    }

    fn missed(&mut self, diffs: u64) {
        self.missed = self.missed.saturating_add(diffs);
        self.metrics.missed.inc_by(diffs);
    }

    fn done<T>(self, told: T) -> Batch<T> {
        match (&self.stamps, self.first) {
            (Some(stamps), _) => stamps.flush(),
            (None, Some(first)) => self.metrics.stamp_to_socket.observe(first),
            (None, None) => {}
        }
        if self.diffs > 0 {
            self.metrics.broadcasted_diffs.inc_by(self.diffs);
            self.metrics.broadcasted_bytes.inc_by(self.diff_bytes);
        }
        Batch {
            told,
            bytes: self.bytes,
            diffs: self.diffs,
            missed: self.missed,
        }
    }
}

/// A batch of frames under way.
pub(super) struct FillingFrames<'a> {
    wire: Wire,
    buf: BytesMut,
    whole: Option<Bytes>,
    tally: Tally<'a>,
}

impl<'a> FillingFrames<'a> {
    pub(super) fn new(wire: Wire, metrics: &'a SessionMetrics, now_nanos: u64) -> Self {
        Self {
            wire,
            buf: BytesMut::new(),
            whole: None,
            tally: Tally::new(metrics, now_nanos),
        }
    }

    fn put(&mut self, frame: &[u8]) {
        if self.buf.capacity() == 0 {
            self.buf.reserve(FIRST_BYTES.max(frame.len()));
        }
        self.buf.put_slice(frame);
    }
}

impl Filling for FillingFrames<'_> {
    type Told = Frames;

    fn full(&self) -> bool {
        self.whole.is_some() || self.buf.len() >= BATCH_BYTES
    }

    fn is_empty(&self) -> bool {
        self.whole.is_none() && self.buf.is_empty()
    }

    fn answer(&mut self, answer: Control) {
        match answer {
            Control::Frame(frame) => self.put(&frame),
            Control::Message(message) => self.put(&frame::encode(*message)),
        }
    }

    fn live(&mut self, live: bool) {
        self.tally.live = live;
    }

    fn done(mut self) -> Batch<Frames> {
        self.tally.bytes = self.buf.len() + self.whole.as_ref().map_or(0, Bytes::len);
        self.tally.done(Frames {
            whole: self.whole,
            rest: self.buf.freeze(),
        })
    }
}

impl Sink for FillingFrames<'_> {
    fn now_nanos(&self) -> u64 {
        self.tally.now_nanos
    }

    fn diff(&mut self, shard: ShardId, seqno: u64, diff: &Diff) -> ControlFlow<()> {
        let frame = diff.frame(self.wire, shard, seqno, self.tally.now_nanos);
        if self.whole.is_some()
            || (!self.buf.is_empty() && self.buf.len() + frame.len() > BATCH_BYTES)
        {
            return ControlFlow::Break(());
        }
        if self.buf.is_empty() && frame.len() >= WHOLE_BYTES {
            self.whole = Some(frame.clone());
        } else {
            self.put(frame);
        }
        self.tally.diff(frame.len(), diff.committed_unix_nanos());
        ControlFlow::Continue(())
    }

    fn gap(&mut self, shard: ShardId, from: u64, to: u64, highest: u64) {
        self.put(&frame::encode(frame::gap(shard, from, to, highest)));
    }

    fn missed(&mut self, diffs: u64) {
        self.tally.missed(diffs);
    }

    fn oversize(&mut self) {
        self.tally.metrics.oversize_v0.inc();
    }
}

/// A batch of v1 messages under way. No bytes of a diff are copied.
pub(super) struct FillingMessages<'a> {
    messages: VecDeque<Response>,
    tally: Tally<'a>,
}

impl<'a> FillingMessages<'a> {
    pub(super) fn new(metrics: &'a SessionMetrics, now_nanos: u64) -> Self {
        Self {
            messages: VecDeque::new(),
            tally: Tally::new(metrics, now_nanos),
        }
    }
}

impl Filling for FillingMessages<'_> {
    type Told = VecDeque<Response>;

    fn full(&self) -> bool {
        self.messages.len() >= BATCH_MESSAGES || self.tally.bytes >= BATCH_BYTES
    }

    fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    fn answer(&mut self, answer: Control) {
        // A session has one form from its beginning: no frame comes here.
        if let Control::Message(message) = answer {
            self.messages.push_back(*message);
        }
    }

    fn live(&mut self, live: bool) {
        self.tally.live = live;
    }

    fn done(self) -> Batch<VecDeque<Response>> {
        self.tally.done(self.messages)
    }
}

impl Sink for FillingMessages<'_> {
    fn now_nanos(&self) -> u64 {
        self.tally.now_nanos
    }

    fn diff(&mut self, shard: ShardId, seqno: u64, diff: &Diff) -> ControlFlow<()> {
        if self.full() {
            return ControlFlow::Break(());
        }
        self.messages.push_back(diff.message(shard, seqno));
        self.tally.bytes += diff.len();
        self.tally.diff(diff.len(), diff.committed_unix_nanos());
        ControlFlow::Continue(())
    }

    fn gap(&mut self, shard: ShardId, from: u64, to: u64, highest: u64) {
        self.messages
            .push_back(frame::gap(shard, from, to, highest));
    }

    fn missed(&mut self, diffs: u64) {
        self.tally.missed(diffs);
    }

    // v0's bound, and nobody in this process speaks v0.
    fn oversize(&mut self) {}
}
