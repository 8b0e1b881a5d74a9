//! What Prometheus sees. One struct per component, registered into a registry
//! that is passed in; every label has a fixed, small set of values.
//!
//! The `mz_persist_pubsub_server_*` names are those of the server embedded in
//! `environmentd`, and keep their meaning, so that its dashboards work here.

mod access;
mod backplane;

use std::sync::{Arc, Mutex};

use prometheus::core::Collector;
use prometheus::{
    Counter, CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry,
};
use tokio::time::Instant;

pub(crate) use access::{AccessMetrics, TlsMetrics};
pub(crate) use backplane::BackplaneMetrics;

/// Registers a metric. A name that is registered twice is a defect that every
/// start shows, so it is an error of the start.
fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    made: prometheus::Result<C>,
) -> prometheus::Result<C> {
    let metric = made?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn counter(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntCounter> {
    register(registry, IntCounter::new(name, help))
}

fn gauge(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntGauge> {
    register(registry, IntGauge::new(name, help))
}

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntCounterVec> {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

/// What the topics do.
#[derive(Clone, Debug)]
pub(crate) struct TopicMetrics {
    pub(crate) held_back: IntCounter,
    pub(crate) filled_late: IntCounter,
    pub(crate) gapped: IntCounter,
    pub(crate) duplicates: IntCounter,
    pub(crate) doubted: IntCounter,
    pub(crate) adopted: IntCounter,
    pub(crate) diffs_too_large: IntCounter,
    pub(crate) shards_refused: IntCounter,
    pub(crate) evicted_shard: IntCounter,
    pub(crate) evicted_total: IntCounter,
    pub(crate) evicted_age: IntCounter,
    pub(crate) evicted_shards: IntCounter,
}

impl TopicMetrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let evicted = counters(
            registry,
            "persist_pubsub_log_evictions_total",
            "Diffs that left a log, by the bound that made them: shard (--log-entries-per-shard, --log-bytes-per-shard), total (--log-bytes-total), age (--log-age), shards (--max-shards: the shard had no subscriber, and room was needed for others).",
            &["bound"],
        )?;
        Ok(Self {
            held_back: counter(
                registry,
                "persist_pubsub_diffs_held_back_total",
                "Diffs that came before their predecessor and waited for it.",
            )?,
            filled_late: counter(
                registry,
                "persist_pubsub_diffs_filled_late_total",
                "Diffs that came after their place had been passed.",
            )?,
            gapped: counter(
                registry,
                "persist_pubsub_gaps_total",
                "Times that a shard was let on past a hole.",
            )?,
            duplicates: counter(
                registry,
                "persist_pubsub_diffs_duplicate_total",
                "Diffs that the log had already, or had given up.",
            )?,
            doubted: counter(
                registry,
                "persist_pubsub_diffs_doubted_total",
                "Diffs too far from their shard's head to be believed on their own (--max-seqno-jump).",
            )?,
            adopted: counter(
                registry,
                "persist_pubsub_runs_adopted_total",
                "Times that a doubted run of diffs took a shard over (--jump-confirm).",
            )?,
            diffs_too_large: counter(
                registry,
                "persist_pubsub_diffs_too_large_total",
                "Diffs that were not relayed but told as a gap (--max-diff-bytes).",
            )?,
            shards_refused: counter(
                registry,
                "persist_pubsub_shards_refused_total",
                "Messages refused because there are too many shards with subscribers (--max-shards).",
            )?,
            evicted_shard: evicted.with_label_values(&["shard"]),
            evicted_total: evicted.with_label_values(&["total"]),
            evicted_age: evicted.with_label_values(&["age"]),
            evicted_shards: evicted.with_label_values(&["shards"]),
        })
    }
}

/// A call, as the embedded server counts them: how often, and seconds in all.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    pub(crate) count: IntCounter,
    pub(crate) seconds: Counter,
}

/// Adds the time until it is dropped to an operation's seconds.
pub(crate) struct Timed<'a> {
    op: &'a Op,
    from: Instant,
}

impl<'a> Timed<'a> {
    pub(crate) fn new(op: &'a Op, from: Instant) -> Self {
        op.count.inc();
        Self { op, from }
    }
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        self.op.seconds.inc_by(self.from.elapsed().as_secs_f64());
    }
}

/// What the sessions do.
#[derive(Clone, Debug)]
pub(crate) struct SessionMetrics {
    pub(crate) push: Op,
    pub(crate) subscribe: Op,
    pub(crate) unsubscribe: Op,
    pub(crate) cleanup: Op,
    pub(crate) broadcasted_diffs: IntCounter,
    pub(crate) broadcasted_bytes: IntCounter,
    pub(crate) missed: IntCounter,
    pub(crate) oversize_v0: IntCounter,
    pub(crate) rejected: IntCounterVec,
    pub(crate) stamp_to_socket: Histogram,
    pub(crate) control_full: IntCounter,
    pub(crate) ended: IntCounterVec,
    pub(crate) refused: IntCounter,
}

impl SessionMetrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let calls = counters(
            registry,
            "mz_persist_pubsub_server_call_count",
            "Messages received, by kind.",
            &["call"],
        )?;
        let seconds = register(
            registry,
            CounterVec::new(
                Opts::new(
                    "mz_persist_pubsub_server_operation_seconds",
                    "Seconds spent, by operation.",
                ),
                &["op"],
            ),
        )?;
        let op = |name: &str| Op {
            count: calls.with_label_values(&[name]),
            seconds: seconds.with_label_values(&[name]),
        };
        Ok(Self {
            push: op("push"),
            subscribe: op("subscribe"),
            unsubscribe: op("unsubscribe"),
            cleanup: op("cleanup"),
            broadcasted_diffs: counter(
                registry,
                "mz_persist_pubsub_server_broadcasted_diff_count",
                "Diffs sent to subscribers.",
            )?,
            broadcasted_bytes: counter(
                registry,
                "mz_persist_pubsub_server_broadcasted_diff_bytes",
                "Bytes of diffs sent to subscribers, as messages.",
            )?,
            missed: counter(
                registry,
                "mz_persist_pubsub_server_broadcasted_diff_dropped_channel_full",
                "Diffs that a subscriber never got because they left the log before it read them.",
            )?,
            oversize_v0: counter(
                registry,
                "persist_pubsub_diffs_too_large_for_v0_total",
                "Diffs not sent to a v0 session because it takes 4 MiB at most.",
            )?,
            rejected: counters(
                registry,
                "persist_pubsub_messages_rejected_total",
                "Messages refused, by wire version and reason.",
                &["wire", "reason"],
            )?,
            stamp_to_socket: register(
                registry,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "persist_pubsub_stamp_to_socket_seconds",
                        "From a publisher's stamp to the hand-over to a subscriber's socket; the clocks of two machines.",
                    )
                    .buckets(vec![
                        50e-6, 100e-6, 200e-6, 400e-6, 800e-6, 1.6e-3, 3.2e-3, 6.4e-3, 12.8e-3,
                        25.6e-3, 51.2e-3, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 10.0,
                    ]),
                ),
            )?,
            control_full: counter(
                registry,
                "persist_pubsub_control_full_total",
                "Times that a session was not read because it did not read its answers (--max-control-frames).",
            )?,
            ended: counters(
                registry,
                "persist_pubsub_sessions_ended_total",
                "Sessions that ended, by reason.",
                &["reason"],
            )?,
            refused: counter(
                registry,
                "persist_pubsub_sessions_refused_total",
                "Streams refused because there are too many sessions (--max-sessions).",
            )?,
        })
    }
}

/// What fences do.
#[derive(Clone, Debug)]
pub(crate) struct FenceMetrics {
    pub(crate) fences: IntGauge,
    pub(crate) unconfirmed: IntGauge,
    pub(crate) in_jetstream: IntGauge,
    pub(crate) ended: IntCounter,
    pub(crate) refused: IntCounter,
}

impl FenceMetrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let sessions = counters(
            registry,
            "persist_pubsub_fenced_sessions_total",
            "Sessions below the fence of their environment: ended when it was set, or refused when they came.",
            &["outcome"],
        )?;
        Ok(Self {
            fences: gauge(
                registry,
                "persist_pubsub_fences",
                "Environments that have a fence.",
            )?,
            unconfirmed: gauge(
                registry,
                "persist_pubsub_fence_unconfirmed_replicas",
                "Replicas that are not known to hold the fences that this one holds: they hold others, do not answer, or fell silent without a goodbye. 0 without a backplane.",
            )?,
            in_jetstream: gauge(
                registry,
                "persist_pubsub_fences_in_jetstream",
                "1 while the fences are kept in a bucket of JetStream; 0: each replica keeps them, and a state file if it has one.",
            )?,
            ended: sessions.with_label_values(&["ended"]),
            refused: sessions.with_label_values(&["refused"]),
        })
    }
}

/// What a listener does.
#[derive(Clone, Debug)]
pub(crate) struct ListenerMetrics {
    pub(crate) connections: IntGauge,
    pub(crate) accepted: IntCounter,
    pub(crate) refused: IntCounter,
    pub(crate) handshakes: IntGauge,
    pub(crate) handshakes_evicted: IntCounter,
    pub(crate) handshake_timeouts: IntCounter,
    pub(crate) slowed: IntCounter,
    pub(crate) http2_errors: IntCounterVec,
    pub(crate) idle_timeouts: IntCounter,
    pub(crate) accept_errors: IntCounter,
}

impl ListenerMetrics {
    /// Of the data port.
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        Self::of(registry, "persist_pubsub", "the data port")
    }

    /// Of the operators' port.
    pub(crate) fn admin(registry: &Registry) -> prometheus::Result<Self> {
        Self::of(registry, "persist_pubsub_admin", "the operators' port")
    }

    fn of(registry: &Registry, prefix: &str, port: &str) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| {
            counter(
                registry,
                &format!("{prefix}_{name}"),
                &format!("On {port}: {help}"),
            )
        };
        let gauge = |name: &str, help: &str| {
            gauge(
                registry,
                &format!("{prefix}_{name}"),
                &format!("On {port}: {help}"),
            )
        };
        Ok(Self {
            connections: gauge("connections", "open connections.")?,
            accepted: counter("connections_accepted_total", "connections accepted.")?,
            refused: counter(
                "connections_refused_total",
                "connections closed at once because there are too many (--max-connections).",
            )?,
            handshakes: gauge(
                "handshakes",
                "connections that have not brought a request yet.",
            )?,
            handshakes_evicted: counter(
                "handshakes_evicted_total",
                "connections closed without a request because others waited for their place (--max-handshakes, --max-connections).",
            )?,
            slowed: counter(
                "connections_slowed_total",
                "times that a connection was not read for a while because its frames brought no message (--max-empty-frames-per-second).",
            )?,
            http2_errors: counters(
                registry,
                &format!("{prefix}_http2_errors_total"),
                "Streams (rst_stream) and connections (goaway) that the server ended below gRPC, by the error that it told.",
                &["frame", "code"],
            )?,
            handshake_timeouts: counter(
                "handshake_timeouts_total",
                "connections closed because they brought no request in time (--handshake-timeout).",
            )?,
            idle_timeouts: counter(
                "idle_timeouts_total",
                "connections closed because nothing ran over them (--idle-timeout).",
            )?,
            accept_errors: counter(
                "accept_errors_total",
                "failures to accept a connection, as when file descriptors run out.",
            )?,
        })
    }
}

/// What is counted anew at every scrape.
#[derive(Clone, Debug)]
pub(crate) struct ScrapeMetrics {
    /// Held by one scrape from its counting to its text: another at the same
    /// moment would set back to 0 what the first is about to show.
    pub(crate) turn: Arc<Mutex<()>>,
    pub(crate) active_connections: IntGauge,
    pub(crate) sessions: IntGaugeVec,
    pub(crate) silent: GaugeVec,
    pub(crate) subscriptions: IntGauge,
    pub(crate) behind: IntGauge,
    pub(crate) lag: Gauge,
    pub(crate) shards: IntGauge,
    pub(crate) log_bytes: IntGauge,
    pub(crate) log_bytes_limit: IntGauge,
}

impl ScrapeMetrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let info = register(
            registry,
            IntGaugeVec::new(
                Opts::new("persist_pubsub_build_info", "1; the version is a label."),
                &["version"],
            ),
        )?;
        info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Self {
            turn: Arc::default(),
            active_connections: gauge(
                registry,
                "mz_persist_pubsub_server_active_connections",
                "Connected sessions.",
            )?,
            sessions: register(
                registry,
                IntGaugeVec::new(
                    Opts::new(
                        "persist_pubsub_sessions",
                        "Connected sessions, by wire version and deploy generation; the 16 highest generations, the rest as other.",
                    ),
                    &["wire", "generation"],
                ),
            )?,
            silent: register(
                registry,
                GaugeVec::new(
                    Opts::new(
                        "persist_pubsub_generation_silent_seconds",
                        "How long no session of a deploy generation has published here, of which some are connected that may; of the 16 highest generations. Never: since the first of them came.",
                    ),
                    &["generation"],
                ),
            )?,
            subscriptions: gauge(
                registry,
                "persist_pubsub_subscriptions",
                "Subscriptions of all sessions.",
            )?,
            behind: gauge(
                registry,
                "persist_pubsub_sessions_behind",
                "Sessions that have waited for more than a second to take something.",
            )?,
            lag: register(
                registry,
                Gauge::new(
                    "persist_pubsub_session_lag_seconds",
                    "How long the slowest session has had something to take.",
                ),
            )?,
            shards: gauge(registry, "persist_pubsub_shards", "Shards held.")?,
            log_bytes: gauge(
                registry,
                "persist_pubsub_log_bytes",
                "Bytes in the logs of all shards.",
            )?,
            log_bytes_limit: gauge(
                registry,
                "persist_pubsub_log_bytes_limit",
                "The bound on persist_pubsub_log_bytes (--log-bytes-total).",
            )?,
        })
    }
}
