//! The Admin calls.

use std::pin::Pin;
use std::sync::Arc;

use persist_pubsub_proto::ShardId;
use persist_pubsub_proto::admin_v1::admin_service_server::AdminService;
use persist_pubsub_proto::admin_v1::{
    self as pb, DrainRequest, DrainResponse, GetFenceRequest, GetFenceResponse,
    GetServerInfoRequest, GetServerInfoResponse, ListGenerationsRequest, ListGenerationsResponse,
    ListSessionsRequest, ListSessionsResponse, ListShardsRequest, ListShardsResponse,
    SetFenceRequest, SetFenceResponse, WatchGenerationsRequest, WatchGenerationsResponse,
    WatchShardsRequest, WatchShardsResponse, WatchStatusRequest, WatchStatusResponse,
};
use std::sync::atomic::Ordering::Relaxed;
use tokio::time::Instant;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::Admin;
use crate::clock;
use crate::fence::{FenceError, Order, Token};
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

    async fn list_generations(
        &self,
        request: Request<ListGenerationsRequest>,
    ) -> Result<Response<ListGenerationsResponse>, Status> {
        let environment = request.into_inner().environment;
        let mut watcher = self.board.watch();
        // What was done between two looks are the rates.
        let leaving = || Status::unavailable("the server is going");
        watcher.next().await.ok_or_else(leaving)?;
        let (status, _) = watcher.next().await.ok_or_else(leaving)?;
        Ok(Response::new(ListGenerationsResponse {
            census: Some(status.generations(&environment)),
        }))
    }

    type WatchGenerationsStream =
        Pin<Box<dyn Stream<Item = Result<WatchGenerationsResponse, Status>> + Send>>;

    async fn watch_generations(
        &self,
        request: Request<WatchGenerationsRequest>,
    ) -> Result<Response<Self::WatchGenerationsStream>, Status> {
        let environment = request.into_inner().environment;
        let watcher = self.board.watch();
        let messages = super::watch::status(watcher, self.facts.drain.clone(), move |status, _| {
            Ok(WatchGenerationsResponse {
                census: Some(status.generations(&environment)),
            })
        });
        Ok(Response::new(Box::pin(messages)))
    }

    async fn get_fence(
        &self,
        request: Request<GetFenceRequest>,
    ) -> Result<Response<GetFenceResponse>, Status> {
        let environment = self.environment(request.into_inner().environment);
        let token = self.facts.shared.fences.get(&environment);
        Ok(Response::new(GetFenceResponse {
            fence: token.map(|token| show_fence(environment, token)),
        }))
    }

    async fn set_fence(
        &self,
        request: Request<SetFenceRequest>,
    ) -> Result<Response<SetFenceResponse>, Status> {
        let request = request.into_inner();
        let environment = self.environment(request.environment);
        let order = Order {
            generation: request.generation,
            unknown_v0: request.unknown_v0,
            force_was: request.force_was,
        };
        let shared = Arc::clone(&self.facts.shared);
        let fenced = environment.clone();
        let set = move || shared.fences.set(&fenced, order, &shared.census);
        let survives_restart = self.facts.shared.fences.survive();
        let raised = if survives_restart {
            // It writes a file. A caller that goes meanwhile does not cut it off.
            let set = tokio::task::spawn_blocking(set).await;
            set.map_err(|e| Status::internal(e.to_string()))?
        } else {
            set()
        }
        .map_err(|e| {
            let why = e.to_string();
            match e {
                FenceError::Name | FenceError::NoGeneration => Status::invalid_argument(why),
                FenceError::Lower { .. } | FenceError::NotThere { .. } => {
                    Status::failed_precondition(why)
                }
                FenceError::TooMany => Status::resource_exhausted(why),
                FenceError::NotWritten { .. } => Status::internal(why),
            }
        })?;
        Ok(Response::new(SetFenceResponse {
            fence: Some(show_fence(environment, raised.token)),
            changed: raised.changed,
            sessions_ended: raised.sessions as u64,
            survives_restart,
        }))
    }
}

impl Admin {
    /// The environment that a request means.
    fn environment(&self, named: String) -> String {
        if named.is_empty() {
            self.facts.v0_environment.clone()
        } else {
            named
        }
    }
}

pub(super) fn show_fence(environment: String, token: Token) -> pb::Fence {
    pb::Fence {
        environment,
        generation: token.generation,
        epoch: token.epoch,
        unknown_v0: token.unknown_v0,
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
    }
}
