//! Who gets in, and who does not.

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

use super::{counters, register};

/// Who is let in, and who takes too much.
#[derive(Clone, Debug)]
pub(crate) struct AccessMetrics {
    pub(crate) refused: IntCounterVec,
    pub(crate) limited_sessions: IntCounter,
    pub(crate) limited_subscriptions: IntCounter,
    pub(crate) limited_publishes: IntCounter,
    pub(crate) limited_bytes: IntCounter,
    pub(crate) reloaded: IntCounter,
    pub(crate) not_reloaded: IntCounter,
}

impl AccessMetrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let limited = counters(
            registry,
            "persist_pubsub_identity_limited_total",
            "Times that an identity or address was refused something, or a v0 session was slowed, by the limit: sessions (--max-sessions-per-identity), subscriptions (--max-subscriptions-per-identity), publishes (--max-publishes-per-second), publish_bytes (--max-publish-bytes-per-second).",
            &["limit"],
        )?;
        let reloads = counters(
            registry,
            "persist_pubsub_tokens_reloads_total",
            "Times that --tokens-file had changed, by result: ok, or error, where what was read before stays in force.",
            &["result"],
        )?;
        Ok(Self {
            refused: counters(
                registry,
                "persist_pubsub_access_refused_total",
                "Requests refused, by port and reason: unauthenticated (nobody known), not_allowed (without the right).",
                &["port", "reason"],
            )?,
            limited_sessions: limited.with_label_values(&["sessions"]),
            limited_subscriptions: limited.with_label_values(&["subscriptions"]),
            limited_publishes: limited.with_label_values(&["publishes"]),
            limited_bytes: limited.with_label_values(&["publish_bytes"]),
            reloaded: reloads.with_label_values(&["ok"]),
            not_reloaded: reloads.with_label_values(&["error"]),
        })
    }
}

/// What TLS does, by port.
#[derive(Clone, Debug)]
pub(crate) struct TlsMetrics {
    pub(crate) expiry: IntGaugeVec,
    pub(crate) reloads: IntCounterVec,
    pub(crate) handshake_errors: IntCounterVec,
}

impl TlsMetrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            expiry: register(
                registry,
                IntGaugeVec::new(
                    Opts::new(
                        "persist_pubsub_tls_certificate_expiry_timestamp_seconds",
                        "When the first certificate of the port's chain expires, in seconds since the Unix epoch.",
                    ),
                    &["port"],
                ),
            )?,
            reloads: counters(
                registry,
                "persist_pubsub_tls_reloads_total",
                "Times that a port's certificate files had changed, by result: ok, or error, where what was read before stays in force.",
                &["port", "result"],
            )?,
            handshake_errors: counters(
                registry,
                "persist_pubsub_tls_handshake_errors_total",
                "Connections that failed in TLS, as without a certificate that the port takes.",
                &["port"],
            )?,
        })
    }
}
