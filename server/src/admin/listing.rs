//! What a server holds, as rows, page by page.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use persist_pubsub_proto::ShardId;
use persist_pubsub_proto::admin_v1::{
    self as pb, ListSessionsRequest, ListSessionsResponse, ListShardsRequest, ListShardsResponse,
};
use tokio::time::Instant;
use tonic::Status;

use super::Facts;
use crate::clock;
use crate::fleet::fitting;
use crate::session::Session;
use crate::topic::Topic;

/// The page that is given when none is asked, and the largest.
const PAGE: u32 = 100;
const MAX_PAGE: u32 = 1000;

/// How many rows a request asks for.
pub(crate) fn page_size(asked: u32) -> Result<usize, Status> {
    match asked {
        0 => Ok(PAGE as usize),
        1..=MAX_PAGE => Ok(asked as usize),
        _ => Err(Status::invalid_argument(format!(
            "page_size is {asked}, at most {MAX_PAGE} is allowed"
        ))),
    }
}

/// A page that this server has not named.
pub(crate) fn strange_token() -> Status {
    Status::invalid_argument("page_token is not one of ours")
}

/// The sessions, as many as fit into some bytes.
pub(crate) fn sessions(
    facts: &Facts,
    request: ListSessionsRequest,
    bytes: usize,
) -> Result<ListSessionsResponse, Status> {
    let limit = page_size(request.page_size)?;
    let mut after = match request.page_token.as_str() {
        "" => 0,
        token => token.parse().map_err(|_| strange_token())?,
    };
    let now = Instant::now();
    let mut sessions = Vec::new();
    let mut more = false;
    'pages: loop {
        let page = facts.shared.census.page(after, limit);
        let Some(last) = page.last() else { break };
        after = last.id;
        for session in page {
            let Some(shown) = show_session(&session, now) else {
                continue;
            };
            if !request.environment.is_empty() && shown.environment != request.environment {
                continue;
            }
            if sessions.len() == limit {
                more = true;
                break 'pages;
            }
            sessions.push(shown);
        }
    }
    let fits = fitting(&sessions, bytes).max(1);
    more |= fits < sessions.len();
    sessions.truncate(fits);
    let last = sessions.last().filter(|_| more);
    Ok(ListSessionsResponse {
        next_page_token: last.map_or_else(String::new, |s| s.session_id.to_string()),
        sessions,
        replicas: Vec::new(),
    })
}

/// The shards, as many as fit into some bytes.
pub(crate) fn shards(
    facts: &Facts,
    request: ListShardsRequest,
    bytes: usize,
) -> Result<ListShardsResponse, Status> {
    let limit = page_size(request.page_size)?;
    let after = match request.page_token.as_str() {
        "" => None,
        token => Some(
            token
                .split_at_checked(ShardId::TEXT_LEN)
                .and_then(|(shard, environment)| {
                    Some((environment.to_owned(), shard.parse::<ShardId>().ok()?))
                })
                .ok_or_else(strange_token)?,
        ),
    };
    let mut topics = Vec::new();
    facts.shared.registry.for_each(|topic| {
        let (environment, shard) = place(topic);
        let wanted = (request.environment.is_empty() || environment == request.environment)
            && shard.to_text().starts_with(request.shard_prefix.as_bytes())
            && after
                .as_ref()
                .is_none_or(|(e, s)| (environment, shard) > (e.as_str(), *s));
        if wanted {
            topics.push(Arc::clone(topic));
        }
    });
    let mut more = topics.len() > limit;
    if more {
        topics.select_nth_unstable_by(limit, |a, b| place(a).cmp(&place(b)));
        topics.truncate(limit);
    }
    topics.sort_unstable_by(|a, b| place(a).cmp(&place(b)));
    let now = Instant::now();
    let mut shards: Vec<_> = topics.iter().map(|topic| show_shard(topic, now)).collect();
    let fits = fitting(&shards, bytes).max(1);
    more |= fits < shards.len();
    shards.truncate(fits);
    let last = shards.last().filter(|_| more);
    Ok(ListShardsResponse {
        next_page_token: last
            .map_or_else(String::new, |s| format!("{}{}", s.shard_id, s.environment)),
        shards,
        replicas: Vec::new(),
    })
}

/// Where a shard stands in a list.
fn place(topic: &Topic) -> (&str, ShardId) {
    (topic.environment.name(), topic.shard)
}

/// A session as operators see it. None: it has not said who it is.
pub(crate) fn show_session(session: &Session, now: Instant) -> Option<pb::Session> {
    let profile = session.profile()?;
    let traffic = &session.traffic;
    let (shards_behind, since) = session.behind();
    Some(pb::Session {
        session_id: session.id,
        caller_id: profile.caller_id.clone(),
        wire_version: session.wire.as_str().to_owned(),
        environment: profile.environment.name().to_owned(),
        generation: profile.generation,
        role: profile.role.clone(),
        mode: session.mode().as_str().to_owned(),
        client_version: profile.client_version.clone(),
        address: session.address.to_string(),
        connected_since: Some(clock::timestamp(session.connected_at)),
        subscriptions: session.subscriptions() as u64,
        diffs_in: traffic.diffs_in.load(Relaxed),
        bytes_in: traffic.bytes_in.load(Relaxed),
        diffs_out: traffic.diffs_out.load(Relaxed),
        bytes_out: traffic.bytes_out.load(Relaxed),
        shards_behind: shards_behind as u64,
        behind_for: since.and_then(|since| now.duration_since(since).try_into().ok()),
        diffs_missed: traffic.missed.load(Relaxed),
        identity: session.caller.name().unwrap_or_default().to_owned(),
        replica: String::new(),
    })
}

pub(crate) fn show_shard(topic: &Topic, now: Instant) -> pb::Shard {
    let status = topic.status(now);
    pb::Shard {
        environment: topic.environment.name().to_owned(),
        shard_id: topic.shard.to_string(),
        head_seqno: status.head,
        oldest_seqno: status.oldest,
        newest_seqno: status.newest,
        log_entries: status.entries as u64,
        log_bytes: status.bytes as u64,
        held_back: status.held as u64,
        subscribers: status.subscribers as u64,
        diffs_per_second: status.rate,
        replica: String::new(),
    }
}
