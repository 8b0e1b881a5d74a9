//! What Prometheus sees of the backplane. Registered where there is one.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Registry};

use super::{counter, counters, gauge, register};

/// What the link to the other replicas does.
#[derive(Clone, Debug)]
pub(crate) struct BackplaneMetrics {
    pub(crate) connected: IntGauge,
    pub(crate) replicas: IntGauge,
    pub(crate) interests: IntGauge,
    pub(crate) forwarded: IntCounter,
    pub(crate) received: IntCounter,
    pub(crate) unwanted: IntCounter,
    pub(crate) queue_full: IntCounter,
    pub(crate) too_large: IntCounter,
    pub(crate) asked: IntCounter,
    pub(crate) answered: IntCounter,
    pub(crate) refused: IntCounter,
    pub(crate) join_timeouts: IntCounter,
    pub(crate) joins: Histogram,
    pub(crate) resyncs: IntCounterVec,
    pub(crate) slow_consumer: IntCounter,
    pub(crate) denied: IntCounter,
    pub(crate) bad_messages: IntCounter,
    pub(crate) moved: IntCounter,
}

impl BackplaneMetrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| {
            counter(registry, &format!("persist_pubsub_backplane_{name}"), help)
        };
        let gauge = |name: &str, help: &str| {
            gauge(registry, &format!("persist_pubsub_backplane_{name}"), help)
        };
        Ok(Self {
            connected: gauge("connected", "1 while NATS is reached, else 0.")?,
            replicas: gauge("replicas", "Other replicas that are heard.")?,
            interests: gauge(
                "interests",
                "Shards that are taken from NATS because sessions want them, or did until a moment ago (--backplane-linger).",
            )?,
            forwarded: counter(
                "forwarded_total",
                "Publications of this replica's sessions handed to NATS.",
            )?,
            received: counter(
                "received_total",
                "Publications of other replicas' sessions, heard or answered.",
            )?,
            unwanted: counter(
                "unwanted_total",
                "Of these, those of a shard that nobody here has any more.",
            )?,
            queue_full: counter(
                "queue_full_total",
                "Publications not forwarded because NATS took them too slowly (--backplane-queue-bytes) or was away; the other replicas are told that they were there, and ask.",
            )?,
            too_large: counter(
                "too_large_total",
                "Diffs told as a gap to other replicas' sessions because they are larger than NATS' max_payload.",
            )?,
            asked: counter("asked_total", "Questions put to other replicas.")?,
            answered: counter("answered_total", "Questions of other replicas answered.")?,
            refused: counter(
                "questions_refused_total",
                "Questions of other replicas left unanswered because there were too many at a time.",
            )?,
            join_timeouts: counter(
                "join_timeouts_total",
                "Times that subscribers waited in vain for a replica's answer (--backplane-join-timeout).",
            )?,
            joins: register(
                registry,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "persist_pubsub_backplane_join_seconds",
                        "How long subscribers waited for what other replicas have of their shards.",
                    )
                    .buckets(vec![
                        250e-6, 500e-6, 1e-3, 2e-3, 4e-3, 8e-3, 16e-3, 32e-3, 64e-3, 128e-3,
                        256e-3, 512e-3, 1.024,
                    ]),
                ),
            )?,
            resyncs: counters(
                registry,
                "persist_pubsub_backplane_resyncs_total",
                "Times that other replicas were asked for what NATS may have lost, by the reason: connected, slow_consumer, replica (one that is new or was away), audit (now and then), heads (a replica told of more).",
                &["reason"],
            )?,
            slow_consumer: counter(
                "slow_consumer_total",
                "Messages dropped because this replica took them too slowly; it asks for them.",
            )?,
            denied: counter(
                "denied_total",
                "Times that NATS has refused something, as for want of a permission.",
            )?,
            bad_messages: counter(
                "bad_messages_total",
                "Messages on the backplane that could not be read.",
            )?,
            moved: counter(
                "sessions_moved_total",
                "Sessions asked to go to another replica, which has fewer (--rebalance-interval).",
            )?,
        })
    }
}
