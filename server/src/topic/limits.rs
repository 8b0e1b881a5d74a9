//! The bounds of a shard's log and of its order.

use std::time::Duration;

/// The bounds of every topic.
#[derive(Clone, Debug)]
pub(crate) struct TopicLimits {
    /// How long a diff waits for its predecessor.
    pub(crate) reorder_window: Duration,
    /// How far back a v0 session is sent diffs again when it subscribes.
    pub(crate) v0_replay_window: Duration,
    /// Entries per log.
    pub(crate) log_entries: usize,
    /// Bytes per log.
    pub(crate) log_bytes: usize,
    /// A seqno further than this from the head is doubted.
    pub(crate) max_seqno_jump: u64,
    /// For so long at least.
    pub(crate) jump_confirm: Duration,
    /// A larger frame is not sent to a v0 session.
    pub(crate) v0_max_frame_bytes: usize,
}
