//! The Admin calls.

use std::pin::Pin;
use std::sync::Arc;

use persist_pubsub_proto::ShardId;
use persist_pubsub_proto::admin_v1::admin_service_server::AdminService;
use persist_pubsub_proto::admin_v1::{
    self as pb, DrainRequest, DrainResponse, GetServerInfoRequest, GetServerInfoResponse,
    ListSessionsRequest, ListSessionsResponse, ListShardsRequest, ListShardsResponse,
    WatchShardsRequest, WatchShardsResponse, WatchStatusRequest, WatchStatusResponse,
};
use std::sync::atomic::Ordering::Relaxed;
use tokio::time::Instant;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::Admin;
use crate::clock;
use crate::session::Session;
use crate::topic::Topic;

/// The page that is given when none is asked, and the largest.
const PAGE: u32 = 100;
const MAX_PAGE: u32 = 1000;
/// Bytes of the reason for a drain.
const MAX_REASON: usize = 256;

fn page_size(asked: u32) -> Result<usize, Status> {
    match asked {
        0 => Ok(PAGE as usize),
        1..=MAX_PAGE => Ok(asked as usize),
        _ => Err(Status::invalid_argument(format!(
            "page_size is {asked}, at most {MAX_PAGE} is allowed"
        ))),
    }
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn get_server_info(
        &self,
        _: Request<GetServerInfoRequest>,
    ) -> Result<Response<GetServerInfoResponse>, Status> {
        Ok(Response::new(self.facts.info()))
    }

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let request = request.into_inner();
        let limit = page_size(request.page_size)?;
        let mut after = match request.page_token.as_str() {
            "" => 0,
            token => token
                .parse()
                .map_err(|_| Status::invalid_argument("page_token is not one of ours"))?,
        };
        let now = Instant::now();
        let mut sessions = Vec::new();
        let mut next_page_token = String::new();
        'pages: loop {
            let page = self.facts.shared.census.page(after, limit);
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
                    next_page_token = sessions
                        .last()
                        .map(|s: &pb::Session| s.session_id.to_string())
                        .unwrap_or_default();
                    break 'pages;
                }
                sessions.push(shown);
            }
        }
        Ok(Response::new(ListSessionsResponse {
            sessions,
            next_page_token,
        }))
    }

    async fn list_shards(
        &self,
        request: Request<ListShardsRequest>,
    ) -> Result<Response<ListShardsResponse>, Status> {
        let request = request.into_inner();
        let limit = page_size(request.page_size)?;
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(
                token
                    .split_at_checked(ShardId::TEXT_LEN)
                    .and_then(|(shard, environment)| {
                        Some((environment.to_owned(), shard.parse::<ShardId>().ok()?))
                    })
                    .ok_or_else(|| Status::invalid_argument("page_token is not one of ours"))?,
            ),
        };
        let mut topics = Vec::new();
        self.facts.shared.registry.for_each(|topic| {
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
        let more = topics.len() > limit;
        if more {
            topics.select_nth_unstable_by(limit, |a, b| place(a).cmp(&place(b)));
            topics.truncate(limit);
        }
        topics.sort_unstable_by(|a, b| place(a).cmp(&place(b)));
        let next_page_token = topics
            .last()
            .filter(|_| more)
            .map(|topic| format!("{}{}", topic.shard, topic.environment.name()))
            .unwrap_or_default();
        let now = Instant::now();
        Ok(Response::new(ListShardsResponse {
            shards: topics.iter().map(|t| show_shard(t, now)).collect(),
            next_page_token,
        }))
    }

    async fn drain(
        &self,
        request: Request<DrainRequest>,
    ) -> Result<Response<DrainResponse>, Status> {
        let reason = request.into_inner().reason;
        if reason.len() > MAX_REASON {
            return Err(Status::invalid_argument(format!(
                "reason has {} bytes, at most {MAX_REASON} are taken",
                reason.len()
            )));
        }
        self.facts.drain.ask(match reason.as_str() {
            "" => "an operator's call".to_owned(),
            reason => reason.escape_debug().to_string(),
        });
        Ok(Response::new(DrainResponse {}))
    }

    type WatchShardsStream =
        Pin<Box<dyn Stream<Item = Result<WatchShardsResponse, Status>> + Send>>;

    async fn watch_shards(
        &self,
        request: Request<WatchShardsRequest>,
    ) -> Result<Response<Self::WatchShardsStream>, Status> {
        let request = request.into_inner();
        let shard = match request.shard_id.as_str() {
            "" => None,
            text => Some(
                text.parse()
                    .map_err(|e| Status::invalid_argument(format!("shard_id: {e}")))?,
            ),
        };
        let happenings = self.facts.shared.registry.watch();
        Ok(Response::new(Box::pin(super::watch::shards(
            happenings,
            request.environment,
            shard,
            self.facts.drain.clone(),
            self.facts.shared.clock.clone(),
        ))))
    }

    type WatchStatusStream =
        Pin<Box<dyn Stream<Item = Result<WatchStatusResponse, Status>> + Send>>;

    async fn watch_status(
        &self,
        _: Request<WatchStatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        let watcher = self.board.watch();
        let messages =
            super::watch::status(watcher, self.facts.drain.clone(), |status, samples| {
                Ok(status.message(samples))
            });
        Ok(Response::new(Box::pin(messages)))
    }
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
        mode: mode(profile.read_only).to_owned(),
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
    })
}

/// Whether a session may publish, as operators see it.
pub(crate) fn mode(read_only: bool) -> &'static str {
    if read_only { "read-only" } else { "read-write" }
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
    }
}
