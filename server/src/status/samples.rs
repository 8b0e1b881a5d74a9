//! Counters over time.

use std::collections::VecDeque;

use persist_pubsub_proto::admin_v1::StatusSample;
use prometheus::core::Collector;
use prometheus::{Histogram, IntCounterVec};
use tokio::time::Instant;

use super::{Sources, per_second};

/// Samples that are kept: five minutes.
const KEPT: usize = 300;

/// The last samples, numbered from 1 on.
#[derive(Debug, Default)]
pub(super) struct Samples {
    kept: VecDeque<StatusSample>,
    newest: u64,
}

impl Samples {
    pub(super) fn push(&mut self, sample: StatusSample) {
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(sample);
        self.newest += 1;
    }

    /// The number of the newest; 0: there is none.
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    /// Newest first.
    pub(super) fn latest(&self) -> impl Iterator<Item = &StatusSample> + Clone {
        self.kept.iter().rev()
    }

    /// Those kept with a number above `seen`, up to `to`, oldest first.
    pub(super) fn after(&self, seen: u64, to: u64) -> Vec<StatusSample> {
        let first = self.newest - self.kept.len() as u64 + 1;
        (first..)
            .zip(&self.kept)
            .filter(|&(number, _)| seen < number && number <= to)
            .map(|(_, sample)| *sample)
            .collect()
    }
}

/// What the counters stood at.
#[derive(Clone, Debug, Default)]
struct Counts {
    publishes: u64,
    deliveries: u64,
    delivered_bytes: u64,
    gaps: u64,
    held_back: u64,
    diffs_missed: u64,
    rejected: u64,
    refused: u64,
    evicted_for_total: u64,
    latencies: Latencies,
}

/// Deliveries by latency.
#[derive(Clone, Debug, Default)]
struct Latencies {
    count: u64,
    /// Upper bounds in seconds, rising, and how many were at most so late.
    buckets: Vec<(f64, u64)>,
}

/// Takes samples.
#[derive(Debug)]
pub(super) struct Sampler {
    sources: Sources,
    before: Option<(Instant, Counts)>,
}

impl Sampler {
    pub(super) fn new(sources: Sources) -> Self {
        Self {
            sources,
            before: None,
        }
    }

    /// What happened since the last one. None: this is the first.
    pub(super) fn take(
        &mut self,
        now: Instant,
        at: prost_types::Timestamp,
        sessions: usize,
        log_bytes: usize,
    ) -> Option<StatusSample> {
        let counts = self.count();
        let (since, before) = self.before.replace((now, counts.clone()))?;
        let covers = now.duration_since(since);
        let rate = |count: fn(&Counts) -> u64| per_second(count(&counts) - count(&before), covers);
        let more = |count: fn(&Counts) -> u64| count(&counts) - count(&before);
        let late = counts.latencies.since(&before.latencies);
        Some(StatusSample {
            at: Some(at),
            covers: covers.try_into().ok(),
            publishes_per_second: rate(|c| c.publishes),
            deliveries_per_second: rate(|c| c.deliveries),
            delivered_bytes_per_second: rate(|c| c.delivered_bytes),
            latency_p50_seconds: late.quantile(0.5),
            latency_p99_seconds: late.quantile(0.99),
            gaps: more(|c| c.gaps),
            held_back: more(|c| c.held_back),
            diffs_missed: more(|c| c.diffs_missed),
            rejected: more(|c| c.rejected),
            refused: more(|c| c.refused),
            evicted_for_total: more(|c| c.evicted_for_total),
            log_bytes: log_bytes as u64,
            sessions: sessions as u64,
        })
    }

    fn count(&self) -> Counts {
        let Sources {
            sessions,
            topics,
            listener,
        } = &self.sources;
        Counts {
            publishes: sessions.push.count.get(),
            deliveries: sessions.broadcasted_diffs.get(),
            delivered_bytes: sessions.broadcasted_bytes.get(),
            gaps: topics.gapped.get(),
            held_back: topics.held_back.get(),
            diffs_missed: sessions.missed.get(),
            rejected: sum(&sessions.rejected),
            refused: sessions.refused.get() + listener.refused.get(),
            evicted_for_total: topics.evicted_total.get(),
            latencies: Latencies::of(&sessions.stamp_to_socket),
        }
    }
}

impl Latencies {
    fn of(histogram: &Histogram) -> Self {
        let families = histogram.collect();
        let mut metrics = families.iter().flat_map(|family| family.get_metric());
        metrics.next().map_or_else(Self::default, |metric| {
            let histogram = metric.get_histogram();
            let buckets = histogram.get_bucket().iter();
            Self {
                count: histogram.get_sample_count(),
                buckets: buckets
                    .map(|b| (b.upper_bound(), b.cumulative_count()))
                    .collect(),
            }
        })
    }

    fn since(&self, before: &Self) -> Self {
        let buckets = self.buckets.iter().enumerate();
        Self {
            count: self.count - before.count,
            buckets: buckets
                .map(|(i, &(bound, n))| (bound, n - before.buckets.get(i).map_or(0, |b| b.1)))
                .collect(),
        }
    }

    /// Somewhere in the bucket where the quantile lies, as if its latencies
    /// were spread evenly over it; the last bound, if it lies above. None:
    /// there is nothing.
    fn quantile(&self, quantile: f64) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        // Counts of a second or so: exact.
        let wanted = self.count as f64 * quantile;
        let (mut below, mut up_to) = (0.0, 0.0);
        for &(bound, cumulative) in &self.buckets {
            let cumulative = cumulative as f64;
            if cumulative >= wanted {
                let within = (wanted - up_to) / (cumulative - up_to).max(1.0);
                return Some(below + (bound - below) * within);
            }
            (below, up_to) = (bound, cumulative);
        }
        Some(below)
    }
}

/// Over all labels.
fn sum(counters: &IntCounterVec) -> u64 {
    let families = counters.collect();
    let metrics = families.iter().flat_map(|family| family.get_metric());
    // Counts of messages: exact.
    metrics.map(|m| m.get_counter().get_value() as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latencies(buckets: &[(f64, u64)], count: u64) -> Latencies {
        Latencies {
            count,
            buckets: buckets.to_vec(),
        }
    }

    #[test]
    fn a_quantile_lies_in_its_bucket() {
        let all = latencies(&[(0.1, 0), (0.2, 50), (0.4, 100)], 100);
        assert_eq!(all.quantile(0.5), Some(0.2));
        let p99 = all.quantile(0.99).unwrap();
        assert!((0.39..0.4).contains(&p99), "{p99}");
        assert_eq!(latencies(&[(0.1, 0)], 0).quantile(0.5), None);
        // Above the last bound nothing more is known.
        assert_eq!(latencies(&[(0.1, 0)], 7).quantile(0.5), Some(0.1));
    }

    #[test]
    fn what_was_before_does_not_count() {
        let before = latencies(&[(0.1, 90), (0.2, 90)], 90);
        let now = latencies(&[(0.1, 90), (0.2, 100)], 100);
        let p50 = now.since(&before).quantile(0.5).unwrap();
        assert!(p50 > 0.1, "{p50}");
    }

    #[test]
    fn the_last_ones_are_kept_and_given_once() {
        let mut samples = Samples::default();
        assert!(samples.after(0, samples.newest()).is_empty());
        for gaps in 1..=KEPT as u64 + 5 {
            samples.push(StatusSample {
                gaps,
                ..StatusSample::default()
            });
        }
        let gaps = |seen| {
            let given = samples.after(seen, samples.newest());
            given.iter().map(|s| s.gaps).collect::<Vec<_>>()
        };
        assert_eq!(gaps(0), (6..=KEPT as u64 + 5).collect::<Vec<_>>());
        assert_eq!(gaps(KEPT as u64 + 3), [304, 305]);
        assert!(gaps(KEPT as u64 + 5).is_empty());
        assert_eq!(samples.latest().next().map(|s| s.gaps), Some(305));
    }
}
