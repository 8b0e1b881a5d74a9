//! The counters of a client as Prometheus sees them.
//!
//! Nothing is counted twice: a scrape reads [`Stats`]. Only the latency is
//! kept here, and only once there is a registry for it.
//!
//! The names are those that dashboards of the client embedded in database
//! processes know. Of their `call` label a client has `push`, `subscribe` and
//! `unsubscribe`; what a call cannot do (be received, fail) has no series.

use std::fmt;
use std::sync::{Arc, OnceLock};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Histogram, HistogramOpts, Registry};

use crate::event::Event;
use crate::shared::Shared;
use crate::stats::Stats;

const PREFIX: &str = "mz_persist_pubsub_client_";
const CALL: &str = "call";

/// From a tenth of a millisecond, which is a good delivery, to longer than a
/// host's own poll takes to find a diff. Seconds.
const LATENCIES: [f64; 16] = [
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

type Read = fn(&Stats) -> u64;

/// A metric, and where it stands in the stats.
struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    /// By the value of the label `call`; without the label where it is empty.
    series: &'static [(&'static str, Read)],
}

const fn counter(
    name: &'static str,
    help: &'static str,
    series: &'static [(&'static str, Read)],
) -> Family {
    Family {
        name,
        help,
        kind: MetricType::COUNTER,
        series,
    }
}

const fn gauge(
    name: &'static str,
    help: &'static str,
    series: &'static [(&'static str, Read)],
) -> Family {
    Family {
        name,
        help,
        kind: MetricType::GAUGE,
        series,
    }
}

const FAMILIES: &[Family] = &[
    gauge(
        "grpc_connected",
        "whether there is a session now",
        &[("", |s| u64::from(s.connected))],
    ),
    counter(
        "grpc_connection_established_count",
        "sessions that began",
        &[("", |s| s.established)],
    ),
    counter(
        "grpc_connect_call_attempt_count",
        "attempts to connect",
        &[("", |s| s.attempts)],
    ),
    counter(
        "grpc_error_count",
        "attempts that failed and sessions that were lost",
        &[("", |s| s.failed.saturating_add(s.lost))],
    ),
    counter(
        "call_received",
        "diffs told to the host",
        &[("push", |s| s.diffs)],
    ),
    counter(
        "call_succeeded",
        "pushes handed to the network; subscriptions begun and given back",
        &[
            ("push", |s| s.sent),
            ("subscribe", |s| s.subscribes),
            ("unsubscribe", |s| s.unsubscribes),
        ],
    ),
    counter(
        "call_failed",
        "pushes dropped; what can be is announced without the diff",
        &[("push", |s| s.pushes_dropped)],
    ),
    counter(
        "call_bytes_sent",
        "bytes of the diffs handed to the network",
        &[("push", |s| s.sent_bytes)],
    ),
    gauge(
        "homes_connected",
        "servers with a session now",
        &[("", |s| s.homes_connected)],
    ),
    counter(
        "gap_count",
        "gaps told to the host, each of which asks for a fetch",
        &[("", |s| s.gaps)],
    ),
    counter(
        "resync_count",
        "resyncs told to the host, each of which asks for a fetch",
        &[("", |s| s.resyncs)],
    ),
    counter(
        "duplicate_dropped_count",
        "diffs that came again, and were dropped",
        &[("", |s| s.duplicates)],
    ),
    counter(
        "stale_dropped_count",
        "messages and events of subscriptions that had ended, dropped",
        &[("", |s| s.stale)],
    ),
    counter(
        "announced_count",
        "seqnos announced without a diff",
        &[("", |s| s.announced)],
    ),
    counter(
        "rejected_count",
        "messages that the server refused",
        &[("", |s| s.rejected)],
    ),
    counter(
        "malformed_count",
        "messages of the server that made no sense, and were passed over",
        &[("", |s| s.malformed)],
    ),
    gauge(
        "push_buffer_bytes",
        "bytes that wait to be sent",
        &[("", |s| s.buffered_bytes)],
    ),
    gauge(
        "refused_shards",
        "shards that are wanted, but not taken by the server",
        &[("", |s| s.refused_shards)],
    ),
];

const LATENCY: &str = "approx_diff_apply_latency_seconds";
const LATENCY_HELP: &str = "from the publisher's stamp to the host's taking of the diff, where there is a stamp; between two \
     machines as exact as their clocks";

/// The metrics could not be registered, or given back. A retry cannot help.
#[derive(Debug)]
pub struct RegistryError {
    doing: &'static str,
    source: prometheus::Error,
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { doing, source } = self;
        write!(
            f,
            "cannot {doing} {PREFIX}*: {source}; a registry takes the metrics of one client, once"
        )
    }
}

impl std::error::Error for RegistryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// How old diffs were when the host took them; nothing until a registry wants
/// to know.
#[derive(Default)]
pub(crate) struct Latency(OnceLock<Histogram>);

impl Latency {
    /// A clock that is behind the publisher's makes a latency of 0.
    pub(crate) fn observe(&self, event: &Event, shared: &Shared) {
        let Some(histogram) = self.0.get() else {
            return;
        };
        if let Event::Diff {
            committed: Some(committed),
            ..
        } = event
        {
            let age = shared.system.now().duration_since(*committed);
            histogram.observe(age.unwrap_or_default().as_secs_f64());
        }
    }
}

pub(crate) fn register(shared: &Arc<Shared>, registry: &Registry) -> Result<(), RegistryError> {
    collector(shared)
        .and_then(|collector| registry.register(Box::new(collector)))
        .map_err(error("register"))
}

pub(crate) fn unregister(shared: &Arc<Shared>, registry: &Registry) -> Result<(), RegistryError> {
    collector(shared)
        .and_then(|collector| registry.unregister(Box::new(collector)))
        .map_err(error("unregister"))
}

fn error(doing: &'static str) -> impl FnOnce(prometheus::Error) -> RegistryError {
    move |source| RegistryError { doing, source }
}

/// Keeps what a client has in memory, but not its connection.
struct FromStats {
    shared: Arc<Shared>,
    descs: Vec<Desc>,
    latency: Histogram,
}

fn collector(shared: &Arc<Shared>) -> prometheus::Result<FromStats> {
    let options = HistogramOpts::new(name(LATENCY), LATENCY_HELP).buckets(LATENCIES.to_vec());
    let made = Histogram::with_opts(options)?;
    let latency = shared.latency.0.get_or_init(|| made).clone();
    let mut descs = FAMILIES
        .iter()
        .map(|family| {
            let labels: &[&str] = match family.series {
                [("", _)] => &[],
                _ => &[CALL],
            };
            let labels = labels.iter().map(|&label| label.to_owned()).collect();
            Desc::new(
                name(family.name),
                family.help.to_owned(),
                labels,
                std::collections::HashMap::new(),
            )
        })
        .collect::<prometheus::Result<Vec<_>>>()?;
    descs.extend(latency.desc().into_iter().cloned());
    Ok(FromStats {
        shared: Arc::clone(shared),
        descs,
        latency,
    })
}

impl Collector for FromStats {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let stats = self.shared.stats.snapshot();
        let mut families: Vec<_> = FAMILIES
            .iter()
            .map(|family| collected(family, &stats))
            .collect();
        families.extend(self.latency.collect());
        families
    }
}

fn collected(family: &Family, stats: &Stats) -> MetricFamily {
    let metrics = family.series.iter().map(|(call, read)| {
        // Exact below 2^53, as every number of Prometheus.
        #[allow(clippy::cast_precision_loss)]
        let value = read(stats) as f64;
        let mut metric = Metric::default();
        if family.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        if !call.is_empty() {
            let mut label = LabelPair::default();
            label.set_name(CALL.to_owned());
            label.set_value((*call).to_owned());
            metric.set_label(vec![label]);
        }
        metric
    });
    let mut collected = MetricFamily::default();
    collected.set_name(name(family.name));
    collected.set_help(family.help.to_owned());
    collected.set_field_type(family.kind);
    collected.set_metric(metrics.collect());
    collected
}

fn name(short: &str) -> String {
    format!("{PREFIX}{short}")
}
