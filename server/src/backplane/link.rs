//! Whether NATS is reached, and what it says beside messages.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::{ClientError, Event};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::logging::LogGate;
use crate::metrics::BackplaneMetrics;

/// Log lines about the link a minute: NATS that comes and goes is no reason to
/// fill a disk.
const LINES: u32 = 20;

/// Why there is no connection before anything is known.
pub(super) const NOT_YET: &str = "not connected yet";

/// The link's state, and who is told of it.
#[derive(Debug)]
pub(crate) struct Link {
    /// Counts the connects; even: there is no connection.
    turn: watch::Sender<u64>,
    /// Why there is none, as far as it is known, or what is wrong with the one
    /// that there is.
    detail: Mutex<Detail>,
    /// NATS has dropped messages for this replica.
    pub(super) slow: Notify,
    lines: LogGate,
    metrics: BackplaneMetrics,
}

#[derive(Debug)]
struct Detail {
    since: Instant,
    why: String,
    /// What NATS has denied last on this connection.
    denied: Option<String>,
}

/// As operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LinkStatus {
    /// With what is wrong, if anything is.
    Connected(Option<String>),
    Lost(Duration, String),
}

impl fmt::Display for LinkStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected(None) => f.write_str("backplane: connected"),
            Self::Connected(Some(denied)) => write!(f, "backplane: connected, but {denied}"),
            Self::Lost(since, why) => {
                let since = humantime::format_duration(*since);
                write!(
                    f,
                    "backplane: not connected for {since}: {why}; this replica hears nothing of the others"
                )
            }
        }
    }
}

impl Link {
    pub(super) fn new(metrics: BackplaneMetrics) -> Arc<Self> {
        Arc::new(Self {
            turn: watch::Sender::new(0),
            detail: Mutex::new(Detail {
                since: Instant::now(),
                why: NOT_YET.to_owned(),
                denied: None,
            }),
            slow: Notify::new(),
            lines: LogGate::new(LINES, Duration::from_secs(60)),
            metrics,
        })
    }

    fn detail(&self) -> MutexGuard<'_, Detail> {
        self.detail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an event of the NATS client.
    pub(super) fn happened(&self, event: Event) {
        match event {
            Event::Connected => self.connected(),
            Event::Disconnected | Event::Closed => self.lost("the connection was lost"),
            Event::SlowConsumer(_) => {
                self.metrics.slow_consumer.inc();
                self.slow.notify_one();
            }
            Event::ServerError(error) => {
                self.metrics.denied.inc();
                let error = error.to_string();
                if let Some(unlogged) = self.may_log() {
                    tracing::error!(error, unlogged, "backplane: NATS refuses something");
                }
                self.detail().denied = Some(error);
            }
            Event::ClientError(ClientError::Other(error)) => self.failed(error),
            Event::ClientError(error) => self.failed(error.to_string()),
            Event::LameDuckMode | Event::Draining => {}
        }
    }

    /// As `happened`, where an event may have been lost.
    pub(super) fn is_now(&self, connected: bool) {
        if connected != self.is_up() {
            if connected {
                self.connected();
            } else {
                self.lost("the connection was lost");
            }
        }
    }

    fn connected(&self) {
        let mut detail = self.detail();
        let was_up = self.is_up();
        // Another connection, even where nobody has said that the last one was
        // lost.
        self.turn.send_modify(|turn| *turn = (*turn + 1) | 1);
        let away = detail.since.elapsed();
        detail.since = Instant::now();
        detail.denied = None;
        drop(detail);
        self.metrics.connected.set(1);
        if let Some(unlogged) = self.may_log() {
            let away = (!was_up).then(|| humantime::format_duration(whole(away)).to_string());
            tracing::info!(away, unlogged, "backplane: connected to NATS");
        }
    }

    pub(super) fn lost(&self, why: &str) {
        let mut detail = self.detail();
        if !self.is_up() {
            return;
        }
        detail.since = Instant::now();
        why.clone_into(&mut detail.why);
        self.turn.send_modify(|turn| *turn += 1);
        drop(detail);
        self.metrics.connected.set(0);
        if let Some(unlogged) = self.may_log() {
            tracing::warn!(
                why,
                unlogged,
                "backplane: NATS is lost; this replica serves its own sessions on"
            );
        }
    }

    /// An attempt to connect has failed.
    pub(super) fn failed(&self, why: String) {
        let mut detail = self.detail();
        if self.is_up() || detail.why == why {
            return;
        }
        detail.why.clone_from(&why);
        drop(detail);
        if let Some(unlogged) = self.may_log() {
            tracing::warn!(why, unlogged, "backplane: NATS cannot be reached");
        }
    }

    /// Whether a line about the backplane may be logged, and how many were not.
    pub(super) fn may_log(&self) -> Option<u64> {
        self.lines.admit(Instant::now())
    }

    /// Whether NATS is reached.
    pub(crate) fn is_up(&self) -> bool {
        *self.turn.borrow() & 1 == 1
    }

    /// Completes when NATS is not reached. Cancel safe.
    pub(super) async fn lost_again(&self) {
        self.reaches(|turn| turn & 1 == 0).await;
    }

    /// Completes when NATS is reached by another connection than the `turn`th,
    /// which it updates. Cancel safe.
    pub(super) async fn connected_again(&self, turn: &mut u64) {
        let last = *turn;
        *turn = self.reaches(|now| now & 1 == 1 && now != last).await;
    }

    async fn reaches(&self, is_it: impl Fn(u64) -> bool) -> u64 {
        let mut turn = self.turn.subscribe();
        let reached = turn.wait_for(|&turn| is_it(turn)).await.map(|turn| *turn);
        match reached {
            Ok(turn) => turn,
            // Its sender is this link's own.
            Err(_) => std::future::pending().await,
        }
    }

    pub(crate) fn status(&self) -> LinkStatus {
        let detail = self.detail();
        if self.is_up() {
            LinkStatus::Connected(detail.denied.clone())
        } else {
            LinkStatus::Lost(whole(detail.since.elapsed()), detail.why.clone())
        }
    }
}

/// Without the parts of a second, for people.
fn whole(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs())
}
