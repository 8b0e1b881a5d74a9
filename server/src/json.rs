//! The operators' messages as JSON: for commands and for the status page.

use persist_pubsub_proto::admin_v1::{
    Fence, FenceHolder, FindingLevel, GenerationCensus, GetServerInfoResponse, Replica, Session,
    Shard, StatusFinding, StatusGroup, StatusSample, StatusSession, WatchStatusResponse,
};
use prost_types::{Duration, Timestamp};
use serde_json::{Value, json};

pub(crate) fn session(s: &Session) -> Value {
    json!({
        "session_id": s.session_id, "wire_version": s.wire_version, "caller_id": s.caller_id,
        "environment": s.environment, "generation": s.generation, "role": s.role, "mode": s.mode,
        "client_version": s.client_version, "address": s.address,
        "connected_since": s.connected_since.map(|t| t.to_string()),
        "subscriptions": s.subscriptions, "diffs_in": s.diffs_in, "bytes_in": s.bytes_in,
        "diffs_out": s.diffs_out, "bytes_out": s.bytes_out, "shards_behind": s.shards_behind,
        "behind_for": s.behind_for.map(|d| d.to_string()), "diffs_missed": s.diffs_missed,
        "replica": s.replica,
    })
}

pub(crate) fn shard(s: &Shard) -> Value {
    json!({
        "environment": s.environment, "shard_id": s.shard_id, "head_seqno": s.head_seqno,
        "oldest_seqno": s.oldest_seqno, "newest_seqno": s.newest_seqno,
        "log_entries": s.log_entries, "log_bytes": s.log_bytes, "held_back": s.held_back,
        "subscribers": s.subscribers, "diffs_per_second": s.diffs_per_second,
        "replica": s.replica,
    })
}

/// Times are in seconds since the Unix epoch, and lengths of time in seconds:
/// for a program that counts with them.
pub(crate) fn status(s: &WatchStatusResponse) -> Value {
    json!({
        "at": s.at.as_ref().map(time),
        "server": s.server.as_ref().map(server),
        "replicas": s.replicas.iter().map(replica).collect::<Vec<_>>(),
        "groups": s.groups.iter().map(group).collect::<Vec<_>>(),
        "groups_left_out": s.groups_left_out,
        "sessions": s.sessions.iter().filter_map(status_session).collect::<Vec<_>>(),
        "shards": s.shards.iter().map(shard).collect::<Vec<_>>(),
        "findings": s.findings.iter().map(finding).collect::<Vec<_>>(),
    })
}

fn server(s: &GetServerInfoResponse) -> Value {
    json!({
        "version": s.version, "instance_id": s.instance_id,
        "started_at": s.started_at.as_ref().map(time), "state": s.state,
        "listen_address": s.listen_address, "sessions": s.sessions,
        "subscriptions": s.subscriptions, "shards": s.shards,
        "log_bytes": s.log_bytes, "log_bytes_limit": s.log_bytes_limit,
        "replica": s.replica,
    })
}

fn replica(r: &Replica) -> Value {
    json!({
        "name": r.name, "instance_id": r.instance_id, "missing": r.missing,
        "server": r.server.as_ref().map(server),
    })
}

/// The replicas that hold a fence, or may not.
pub(crate) fn holders(holders: &[FenceHolder]) -> Value {
    let holder = |h: &FenceHolder| {
        let of = h.replica.clone().unwrap_or_default();
        json!({
            "replica": of.name, "instance_id": of.instance_id, "missing": of.missing,
            "confirmed": h.confirmed, "fence": h.fence.as_ref().map(fence),
            "sessions_ended": h.sessions_ended,
        })
    };
    holders.iter().map(holder).collect()
}

/// As in `status`.
pub(crate) fn sample(s: &StatusSample) -> Value {
    json!({
        "at": s.at.as_ref().map(time), "covers": s.covers.as_ref().map(seconds),
        "publishes_per_second": s.publishes_per_second,
        "deliveries_per_second": s.deliveries_per_second,
        "delivered_bytes_per_second": s.delivered_bytes_per_second,
        "latency_p50_seconds": s.latency_p50_seconds,
        "latency_p99_seconds": s.latency_p99_seconds,
        "gaps": s.gaps, "held_back": s.held_back, "diffs_missed": s.diffs_missed,
        "rejected": s.rejected, "refused": s.refused,
        "evicted_for_total": s.evicted_for_total,
        "log_bytes": s.log_bytes, "sessions": s.sessions,
    })
}

/// The census of generations, as `persist-pubsub generations` prints it.
pub(crate) fn census(c: &GenerationCensus) -> Value {
    json!({
        "at": c.at.as_ref().map(time),
        "server_running_for": c.server_running_for.as_ref().map(seconds),
        "groups": c.groups.iter().map(group).collect::<Vec<_>>(),
        "groups_left_out": c.groups_left_out,
        "fences": c.fences.iter().map(fence).collect::<Vec<_>>(),
        "replicas": c.replicas.iter().map(replica).collect::<Vec<_>>(),
    })
}

/// A fence, as `persist-pubsub fence` prints it.
pub(crate) fn fence(f: &Fence) -> Value {
    json!({
        "environment": f.environment, "generation": f.generation, "epoch": f.epoch,
        "unknown_v0": f.unknown_v0,
    })
}

fn group(g: &StatusGroup) -> Value {
    json!({
        "environment": g.environment, "generation": g.generation,
        "wire_version": g.wire_version, "client_version": g.client_version,
        "role": g.role, "mode": g.mode,
        "sessions": g.sessions, "sessions_behind": g.sessions_behind,
        "subscriptions": g.subscriptions,
        "publishes_per_second": g.publishes_per_second,
        "deliveries_per_second": g.deliveries_per_second,
        "last_publish": g.last_publish.as_ref().map(time), "diffs_missed": g.diffs_missed,
        "replica": g.replica,
    })
}

fn status_session(s: &StatusSession) -> Option<Value> {
    let it = s.session.as_ref()?;
    Some(json!({
        "session_id": it.session_id, "wire_version": it.wire_version,
        "caller_id": it.caller_id, "environment": it.environment,
        "generation": it.generation, "role": it.role, "mode": it.mode,
        "client_version": it.client_version, "address": it.address,
        "connected_since": it.connected_since.as_ref().map(time),
        "subscriptions": it.subscriptions, "shards_behind": it.shards_behind,
        "behind_for": it.behind_for.as_ref().map(seconds), "diffs_missed": it.diffs_missed,
        "publishes_per_second": s.publishes_per_second,
        "deliveries_per_second": s.deliveries_per_second,
        "replica": it.replica,
    }))
}

fn finding(f: &StatusFinding) -> Value {
    let level = match f.level() {
        FindingLevel::Unspecified | FindingLevel::Note => "note",
        FindingLevel::Warning => "warning",
        FindingLevel::Alarm => "alarm",
    };
    json!({ "level": level, "what": f.what, "remedy": f.remedy, "replica": f.replica })
}

fn time(at: &Timestamp) -> f64 {
    // Milliseconds are shown: a double holds them.
    at.seconds as f64 + f64::from(at.nanos) / 1e9
}

fn seconds(length: &Duration) -> f64 {
    length.seconds as f64 + f64::from(length.nanos) / 1e9
}
