//! Counters of one client.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a client has done so far. A snapshot: the numbers are read one after
/// the other. All but `connected`, those of homes, `buffered_bytes` and
/// `refused_shards` only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Whether there is a session now, with any home.
    pub connected: bool,
    /// With how many servers there are sessions now; two of a server that is
    /// being replaced count as one.
    pub homes_connected: u64,
    /// With how many servers there are to be sessions.
    pub homes_wanted: u64,
    /// Attempts to connect.
    pub attempts: u64,
    /// Sessions that began.
    pub established: u64,
    /// Attempts that failed. One that met a fence did not.
    pub failed: u64,
    /// Sessions that were lost.
    pub lost: u64,
    /// Calls of `push_diff`.
    pub pushes: u64,
    /// Diffs handed to the network; each once, on however many sessions.
    pub sent: u64,
    /// Bytes of those diffs.
    pub sent_bytes: u64,
    /// Pushes that were dropped: overflowed, read-only, after the end, or
    /// with a seqno that there cannot be.
    pub pushes_dropped: u64,
    /// Seqnos announced without a diff.
    pub announced: u64,
    /// Seqnos that could not even be remembered to be announced.
    pub announcements_dropped: u64,
    /// Bytes of diffs that wait to be sent.
    pub buffered_bytes: u64,
    /// Calls of `subscribe` and `subscribe_from`.
    pub subscribes: u64,
    /// Tokens dropped.
    pub unsubscribes: u64,
    /// Diffs told to the host.
    pub diffs: u64,
    /// Bytes of those diffs.
    pub diff_bytes: u64,
    /// Diffs that came again, and were dropped.
    pub duplicates: u64,
    /// Messages and events of subscriptions that had ended, dropped.
    pub stale: u64,
    /// Gaps told to the host.
    pub gaps: u64,
    /// Resyncs told to the host.
    pub resyncs: u64,
    /// Resyncs that were to be told after a reconnect to a server that had
    /// forgotten, and were not needed any more when their moment came.
    pub resyncs_cancelled: u64,
    /// Messages of this client that the server refused.
    pub rejected: u64,
    /// Messages of the server that made no sense, and were passed over.
    pub malformed: u64,
    /// Shards that are wanted, but not taken by a server: tried again. Counted
    /// for each server.
    pub refused_shards: u64,
}

macro_rules! counters {
    ($($name:ident),*) => {
        /// The counters behind [`Stats`].
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        impl Counters {
            pub(crate) fn snapshot(&self) -> Stats {
                Stats {
                    connected: self.homes_connected.get() != 0,
                    $($name: self.$name.get(),)*
                }
            }
        }
    };
}

counters!(
    homes_connected,
    homes_wanted,
    attempts,
    established,
    failed,
    lost,
    pushes,
    sent,
    sent_bytes,
    pushes_dropped,
    announced,
    announcements_dropped,
    buffered_bytes,
    subscribes,
    unsubscribes,
    diffs,
    diff_bytes,
    duplicates,
    stale,
    gaps,
    resyncs,
    resyncs_cancelled,
    rejected,
    malformed,
    refused_shards
);

/// One number. Nothing is ordered by it.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: usize) {
        self.0
            .fetch_add(u64::try_from(n).unwrap_or(u64::MAX), Relaxed);
    }

    pub(crate) fn one(&self) {
        self.add(1);
    }

    pub(crate) fn set(&self, n: usize) {
        self.0.store(u64::try_from(n).unwrap_or(u64::MAX), Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
