//! One answer of several replicas'.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use persist_pubsub_proto::admin_v1 as pb;
use tonic::Status;

use super::{Peer, show_replica};
use crate::status::{GROUPS, MAX_GROUPS, SESSIONS, SHARDS};

/// What a replica answered, or why it did not.
type Part<A> = (Peer, Result<A, Status>);

/// Who is connected to all of them. The first part is that of the one which
/// was asked.
pub(super) fn census(
    parts: Vec<Part<pb::GenerationCensus>>,
    missing: Vec<pb::Replica>,
) -> pb::GenerationCensus {
    let mut whole: Option<pb::GenerationCensus> = None;
    let mut replicas = Vec::new();
    for (peer, part) in parts {
        let mut part = match part {
            Ok(part) => part,
            Err(status) => {
                replicas.push(show_replica(&peer, status.message()));
                continue;
            }
        };
        replicas.push(show_replica(&peer, ""));
        for group in &mut part.groups {
            peer.name.clone_into(&mut group.replica);
        }
        let Some(whole) = &mut whole else {
            whole = Some(part);
            continue;
        };
        whole.groups.append(&mut part.groups);
        whole.groups_left_out += part.groups_left_out;
        let younger = |age: &Option<prost_types::Duration>| length(age.as_ref());
        if younger(&part.server_running_for) < younger(&whole.server_running_for) {
            whole.server_running_for = part.server_running_for;
        }
    }
    let mut whole = whole.unwrap_or_default();
    whole.groups_left_out += order(&mut whole.groups, MAX_GROUPS);
    replicas.sort_by(|a, b| a.name.cmp(&b.name));
    replicas.extend(missing);
    whole.replicas = replicas;
    whole
}

fn length(of: Option<&prost_types::Duration>) -> Duration {
    let of = of.and_then(|length| Duration::try_from(*length).ok());
    of.unwrap_or_default()
}

/// Sorts groups as one replica does, those of a kind by replica; how many were
/// too many.
fn order(groups: &mut Vec<pb::StatusGroup>, most: usize) -> u64 {
    groups.sort_by_cached_key(|g| {
        (
            g.environment.clone(),
            Reverse(g.generation),
            g.wire_version.clone(),
            g.role.clone(),
            g.mode.clone(),
            g.client_version.clone(),
            g.replica.clone(),
        )
    });
    let beyond = groups.len().saturating_sub(most);
    groups.truncate(most);
    beyond as u64
}

/// Names the replica of each row.
pub(super) fn name(look: &mut pb::WatchStatusResponse, replica: &str) {
    for group in &mut look.groups {
        replica.clone_into(&mut group.replica);
    }
    for session in look.sessions.iter_mut().filter_map(|s| s.session.as_mut()) {
        replica.clone_into(&mut session.replica);
    }
    for shard in &mut look.shards {
        replica.clone_into(&mut shard.replica);
    }
    for finding in &mut look.findings {
        replica.clone_into(&mut finding.replica);
    }
}

/// How all of them are. The first part is that of the one which was asked.
pub(super) fn status(
    parts: Vec<Part<pb::WatchStatusResponse>>,
    missing: Vec<pb::Replica>,
    mixer: &mut Mixer,
) -> pb::WatchStatusResponse {
    let mut whole = pb::WatchStatusResponse::default();
    let mut replicas = Vec::new();
    let mut samples = Vec::new();
    for (i, (peer, part)) in parts.into_iter().enumerate() {
        let mut part = match part {
            Ok(part) => part,
            Err(status) => {
                replicas.push(show_replica(&peer, status.message()));
                continue;
            }
        };
        name(&mut part, &peer.name);
        let server = part.server.unwrap_or_default();
        if i == 0 {
            whole.at = part.at;
            whole.server = Some(server.clone());
        } else if let Some(sum) = &mut whole.server {
            sum.sessions += server.sessions;
            sum.subscriptions += server.subscriptions;
            sum.shards += server.shards;
            sum.log_bytes += server.log_bytes;
            sum.log_bytes_limit += server.log_bytes_limit;
        }
        replicas.push(pb::Replica {
            server: Some(server),
            ..show_replica(&peer, "")
        });
        samples.push((peer.instance, part.samples));
        whole.groups.append(&mut part.groups);
        whole.groups_left_out += part.groups_left_out;
        whole.sessions.append(&mut part.sessions);
        whole.shards.append(&mut part.shards);
        whole.findings.append(&mut part.findings);
    }
    whole.samples = mixer.mix(samples);
    whole.groups_left_out += order(&mut whole.groups, GROUPS);
    whole.sessions.sort_by(|a, b| {
        let waits = |s: &pb::StatusSession| {
            let session = s.session.as_ref();
            length(session.and_then(|session| session.behind_for.as_ref()))
        };
        let busy = |s: &pb::StatusSession| s.publishes_per_second + s.deliveries_per_second;
        waits(b).cmp(&waits(a)).then(busy(b).total_cmp(&busy(a)))
    });
    whole.sessions.truncate(SESSIONS);
    whole.shards.sort_by(crate::status::hotter);
    whole.shards.truncate(SHARDS);
    replicas.sort_by(|a, b| a.name.cmp(&b.name));
    replicas.extend(missing);
    let silent = replicas
        .iter()
        .filter(|replica| !replica.missing.is_empty());
    whole.findings.extend(silent.map(absent));
    whole.findings.sort_by_key(|finding| Reverse(finding.level));
    whole.replicas = replicas;
    whole
}

fn absent(replica: &pb::Replica) -> pb::StatusFinding {
    pb::StatusFinding {
        level: pb::FindingLevel::Warning.into(),
        what: format!(
            "What {} holds is not shown here: {}.",
            replica.name, replica.missing
        ),
        remedy: "See its own status page and its log, and whether it reaches NATS (/readyz). If it was killed, it is forgotten in ten minutes.".to_owned(),
        replica: replica.name.clone(),
    }
}

/// Makes one row of samples of several.
#[derive(Debug, Default)]
pub(super) struct Mixer {
    /// The last sample of each replica, by instance.
    last: HashMap<String, pb::StatusSample>,
    begun: bool,
}

impl Mixer {
    /// What all replicas did since the last time; the first time, what they
    /// did in the last minutes. The first one's clock counts.
    fn mix(&mut self, parts: Vec<(String, Vec<pb::StatusSample>)>) -> Vec<pb::StatusSample> {
        let before = std::mem::take(&mut self.last);
        let of_before = |instance: &str| before.get(instance).copied();
        for (instance, samples) in &parts {
            let last = samples.last().copied();
            if let Some(last) = last.or_else(|| of_before(instance)) {
                self.last.insert(instance.clone(), last);
            }
        }
        if std::mem::replace(&mut self.begun, true) {
            // One a look: a replica whose clock ticks a little later has none
            // in one look and two in the next.
            let sums = parts.iter().map(|(instance, samples)| match &samples[..] {
                [] => of_before(instance).map(quiet),
                [one] => Some(*one),
                several => Some(sum_over_time(several)),
            });
            return sum(sums.flatten()).into_iter().collect();
        }
        let longest = parts.iter().map(|(_, samples)| samples.len()).max();
        // From the newest back: each is about a second.
        let ago = (0..longest.unwrap_or_default()).rev();
        ago.filter_map(|ago| {
            let then = parts.iter().filter_map(|(_, samples)| {
                let index = samples.len().checked_sub(ago + 1)?;
                samples.get(index).copied()
            });
            sum(then)
        })
        .collect()
    }
}

/// What is known of a replica that has no new sample: its rates, and that
/// nothing is to be counted twice.
fn quiet(last: pb::StatusSample) -> pb::StatusSample {
    pb::StatusSample {
        gaps: 0,
        held_back: 0,
        diffs_missed: 0,
        rejected: 0,
        refused: 0,
        evicted_for_total: 0,
        ..last
    }
}

/// Some samples of one replica as one: rates are means, counts are sums.
fn sum_over_time(samples: &[pb::StatusSample]) -> pb::StatusSample {
    let mut whole = sum(samples.iter().copied()).unwrap_or_default();
    // A few.
    let n = samples.len().max(1) as f64;
    whole.publishes_per_second /= n;
    whole.deliveries_per_second /= n;
    whole.delivered_bytes_per_second /= n;
    if let Some(last) = samples.last() {
        whole.at = last.at;
        whole.log_bytes = last.log_bytes;
        whole.sessions = last.sessions;
    }
    whole
}

/// Samples of several replicas as one. None: there are none.
fn sum(samples: impl Iterator<Item = pb::StatusSample>) -> Option<pb::StatusSample> {
    let worst = |a: Option<f64>, b: Option<f64>| match (a, b) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (a, b) => a.or(b),
    };
    samples.reduce(|a, b| pb::StatusSample {
        at: a.at,
        covers: a.covers,
        publishes_per_second: a.publishes_per_second + b.publishes_per_second,
        deliveries_per_second: a.deliveries_per_second + b.deliveries_per_second,
        delivered_bytes_per_second: a.delivered_bytes_per_second + b.delivered_bytes_per_second,
        latency_p50_seconds: worst(a.latency_p50_seconds, b.latency_p50_seconds),
        latency_p99_seconds: worst(a.latency_p99_seconds, b.latency_p99_seconds),
        gaps: a.gaps + b.gaps,
        held_back: a.held_back + b.held_back,
        diffs_missed: a.diffs_missed + b.diffs_missed,
        rejected: a.rejected + b.rejected,
        refused: a.refused + b.refused,
        evicted_for_total: a.evicted_for_total + b.evicted_for_total,
        log_bytes: a.log_bytes + b.log_bytes,
        sessions: a.sessions + b.sessions,
    })
}

#[cfg(test)]
mod tests;
