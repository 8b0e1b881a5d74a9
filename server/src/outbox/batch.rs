//! Puts the frames that are ready together, so that they go to the socket in
//! one write.

use std::ops::ControlFlow;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use persist_pubsub_proto::ShardId;
use prometheus::local::LocalHistogram;

use crate::frame;
use crate::metrics::SessionMetrics;
use crate::topic::Sink;

/// Ready frames are put together up to so many bytes: large enough that the
/// cost of a write to the socket is spread over many diffs, small enough that
/// one session does not occupy a thread for long.
const BATCH_BYTES: usize = 64 * 1024;
/// A frame of at least so many bytes goes out by itself, without being copied.
const WHOLE_BYTES: usize = 32 * 1024;
/// Where a batch's buffer starts: some diffs of common size.
const FIRST_BYTES: usize = 2 * 1024;

/// Some frames, and what is counted of them.
pub(crate) struct Batch {
    /// A large frame, to go first.
    pub(crate) whole: Option<Bytes>,
    pub(crate) frames: Bytes,
    pub(crate) diffs: u64,
    pub(crate) missed: u64,
}

/// A batch under way.
pub(super) struct Filling<'a> {
    buf: BytesMut,
    whole: Option<Bytes>,
    diffs: u64,
    missed: u64,
    metrics: &'a SessionMetrics,
    now_nanos: u64,
    stamps: Option<LocalHistogram>,
    /// What is read now is new, not sent again to somebody who joins: its
    /// time from stamp to socket counts.
    pub(super) live: bool,
}

impl<'a> Filling<'a> {
    pub(super) fn new(metrics: &'a SessionMetrics, now_nanos: u64) -> Self {
        Self {
            buf: BytesMut::new(),
            whole: None,
            diffs: 0,
            missed: 0,
            metrics,
            now_nanos,
            stamps: None,
            live: false,
        }
    }

    pub(super) fn full(&self) -> bool {
        self.whole.is_some() || self.buf.len() >= BATCH_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.whole.is_none() && self.buf.is_empty()
    }

    pub(super) fn put(&mut self, frame: &[u8]) {
        if self.buf.capacity() == 0 {
            self.buf.reserve(FIRST_BYTES.max(frame.len()));
        }
        self.buf.put_slice(frame);
    }

    pub(super) fn done(mut self) -> Batch {
        if let Some(stamps) = self.stamps.take() {
            stamps.flush();
        }
        if self.diffs > 0 {
            self.metrics.broadcasted_diffs.inc_by(self.diffs);
        }
        Batch {
            whole: self.whole,
            frames: self.buf.freeze(),
            diffs: self.diffs,
            missed: self.missed,
        }
    }
}

impl Sink for Filling<'_> {
    fn now_nanos(&self) -> u64 {
        self.now_nanos
    }

    fn diff(&mut self, frame: &Bytes, stamp: Option<u64>) -> ControlFlow<()> {
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
        self.diffs += 1;
        self.metrics.broadcasted_bytes.inc_by(frame.len() as u64);
        if let Some(stamp) = stamp.filter(|_| self.live) {
            let nanos = self.now_nanos.saturating_sub(stamp);
            let metrics = self.metrics;
            self.stamps
                .get_or_insert_with(|| metrics.stamp_to_socket.local())
                .observe(Duration::from_nanos(nanos).as_secs_f64());
        }
        ControlFlow::Continue(())
    }

    fn gap(&mut self, shard: ShardId, from: u64, to: u64, highest: u64) {
        self.put(&frame::gap(shard, from, to, highest));
    }

    fn missed(&mut self, diffs: u64) {
        self.missed = self.missed.saturating_add(diffs);
        self.metrics.missed.inc_by(diffs);
    }

    fn oversize(&mut self) {
        self.metrics.oversize_v0.inc();
    }
}
