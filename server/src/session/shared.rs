//! What sessions share, and what is known of each.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Clock;
use crate::environment::Environment;
use crate::fence::Fences;
use crate::generation::Census;
use crate::logging::LogGate;
use crate::metrics::SessionMetrics;
use crate::registry::Registry;

/// Where the client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// At the other end of a connection.
    Network(SocketAddr),
    /// In the server's own process, reached without a network.
    InProcess,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(address) => address.fmt(f),
            Self::InProcess => f.write_str("in-process"),
        }
    }
}

/// Whom the session speaks for.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    /// v0: the caller id; v1: the client's name. Escaped: printable ASCII.
    pub(crate) caller_id: String,
    pub(crate) environment: Arc<Environment>,
    /// None: unknown.
    pub(crate) generation: Option<u64>,
    pub(crate) role: String,
    pub(crate) client_version: String,
}

/// Whether a session may publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mode {
    ReadOnly,
    ReadWrite,
}

impl Mode {
    /// As operators see it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::ReadOnly => "read-only",
            Self::ReadWrite => "read-write",
        }
    }
}

/// Bounds of every session.
#[derive(Clone, Debug)]
pub(crate) struct SessionLimits {
    /// Shards that it may be subscribed to.
    pub(crate) max_subscriptions: usize,
    /// Answers that wait for the client to read them; with more, the client
    /// is not read.
    pub(crate) max_control_frames: usize,
    /// Ranges of its own publications that it has not read past; with more it
    /// is ended, for else they would have to be told to it as gaps.
    pub(crate) max_own_ranges: usize,
}

/// What all sessions of a server share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) registry: Arc<Registry>,
    pub(crate) census: Arc<Census>,
    pub(crate) fences: Fences,
    pub(crate) metrics: SessionMetrics,
    pub(crate) limits: SessionLimits,
    pub(crate) clock: Clock,
    /// Bounds the lines about sessions that come and go: a peer that connects
    /// in a loop is no reason to fill a disk.
    pub(crate) lines: LogGate,
}

/// What passed over a session.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) diffs_in: AtomicU64,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) diffs_out: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    pub(crate) missed: AtomicU64,
    /// When it last published, in milliseconds since it began, and one more;
    /// 0: never.
    published: AtomicU64,
}

impl Traffic {
    /// Counts a message received.
    pub(crate) fn count_in(&self, bytes: u64) {
        self.bytes_in.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts a publication, so long after the session began.
    pub(crate) fn count_publication(&self, after: Duration) {
        self.diffs_in.fetch_add(1, Ordering::Relaxed);
        let millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX - 1);
        self.published.store(millis + 1, Ordering::Relaxed);
    }

    /// How long after the session began the last publication was.
    pub(crate) fn published(&self) -> Option<Duration> {
        let millis = self.published.load(Ordering::Relaxed).checked_sub(1)?;
        Some(Duration::from_millis(millis))
    }
}
