//! The Admin calls.

use std::pin::Pin;
use std::sync::Arc;

use persist_pubsub_proto::admin_v1::admin_service_server::AdminService;
use persist_pubsub_proto::admin_v1::{
    self as pb, DrainRequest, DrainResponse, FenceAgreement, GetFenceRequest, GetFenceResponse,
    GetServerInfoRequest, GetServerInfoResponse, ListGenerationsRequest, ListGenerationsResponse,
    ListSessionsRequest, ListSessionsResponse, ListShardsRequest, ListShardsResponse,
    SetFenceRequest, SetFenceResponse, WatchGenerationsRequest, WatchGenerationsResponse,
    WatchShardsRequest, WatchShardsResponse, WatchStatusRequest, WatchStatusResponse,
};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::{Admin, listing};
use crate::fence::{FenceError, Order, Token};
use crate::fleet::{Agreed, Holder, Scope, Shown, show_replica};

/// Bytes of the reason for a drain.
const MAX_REASON: usize = 256;

#[tonic::async_trait]
impl AdminService for Admin {
    async fn get_server_info(
        &self,
        request: Request<GetServerInfoRequest>,
    ) -> Result<Response<GetServerInfoResponse>, Status> {
        let request = request.into_inner();
        let info = match self.facts.fleet.scope(&request.replica)? {
            Scope::This | Scope::All => self.facts.info(),
            Scope::One(peer) => self.gather.one(&peer, request).await?,
        };
        Ok(Response::new(info))
    }

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let page = self.gather.page(request.into_inner(), |facts, request| {
            listing::sessions(facts, request, usize::MAX)
        });
        Ok(Response::new(page.await?))
    }

    async fn list_shards(
        &self,
        request: Request<ListShardsRequest>,
    ) -> Result<Response<ListShardsResponse>, Status> {
        let page = self.gather.page(request.into_inner(), |facts, request| {
            listing::shards(facts, request, usize::MAX)
        });
        Ok(Response::new(page.await?))
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
        request: Request<WatchStatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        let scope = self.facts.fleet.scope(&request.into_inner().replica)?;
        let view = self.gather.status(scope);
        let messages = super::watch::looks(view, self.facts.drain.clone(), |view| {
            Box::pin(async { Some(view.next().await?.map(Shown::into_message)) })
        });
        Ok(Response::new(Box::pin(messages)))
    }

    async fn list_generations(
        &self,
        request: Request<ListGenerationsRequest>,
    ) -> Result<Response<ListGenerationsResponse>, Status> {
        let request = request.into_inner();
        let scope = self.facts.fleet.scope(&request.replica)?;
        let mut view = self.gather.census(scope, request.environment);
        let leaving = || Status::unavailable("the server is going");
        // What was done between two looks are the rates.
        view.next().await.ok_or_else(leaving)??;
        let census = view.next().await.ok_or_else(leaving)??;
        Ok(Response::new(ListGenerationsResponse {
            census: Some(census),
        }))
    }

    type WatchGenerationsStream =
        Pin<Box<dyn Stream<Item = Result<WatchGenerationsResponse, Status>> + Send>>;

    async fn watch_generations(
        &self,
        request: Request<WatchGenerationsRequest>,
    ) -> Result<Response<Self::WatchGenerationsStream>, Status> {
        let request = request.into_inner();
        let scope = self.facts.fleet.scope(&request.replica)?;
        let view = self.gather.census(scope, request.environment);
        let messages = super::watch::looks(view, self.facts.drain.clone(), |view| {
            Box::pin(async {
                let census = view.next().await?;
                Some(census.map(|census| WatchGenerationsResponse {
                    census: Some(census),
                }))
            })
        });
        Ok(Response::new(Box::pin(messages)))
    }

    async fn get_fence(
        &self,
        request: Request<GetFenceRequest>,
    ) -> Result<Response<GetFenceResponse>, Status> {
        let request = request.into_inner();
        let environment = self.environment(request.environment);
        let fleet = &self.facts.fleet;
        let (fence, mut parts, missing) = match fleet.scope(&request.replica)? {
            Scope::One(peer) => {
                let request = GetFenceRequest {
                    environment,
                    ..GetFenceRequest::default()
                };
                let answer = self.gather.one(&peer, request).await?;
                (answer.fence.clone(), vec![(peer, Ok(answer))], Vec::new())
            }
            scope => {
                let fence = self.facts.fence(&environment);
                let mut parts = Vec::new();
                let mut missing = Vec::new();
                if let Some(me) = fleet.me() {
                    let answer = GetFenceResponse {
                        fence: fence.clone(),
                        ..GetFenceResponse::default()
                    };
                    parts.push((me.clone(), Ok(answer)));
                }
                if scope == Scope::All {
                    let (others, silent) = self.gather.fences(&environment).await;
                    parts.extend(others);
                    missing = silent;
                }
                (fence, parts, missing)
            }
        };
        parts.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        let stands = token(fence.as_ref());
        let holders = parts.into_iter().map(|(peer, answer)| match answer {
            Ok(answer) => pb::FenceHolder {
                confirmed: token(answer.fence.as_ref()).covers(stands),
                replica: Some(show_replica(&peer, "")),
                fence: answer.fence,
                sessions_ended: 0,
            },
            Err(status) => pb::FenceHolder {
                replica: Some(show_replica(&peer, status.message())),
                ..pb::FenceHolder::default()
            },
        });
        let missing = missing.into_iter().map(|replica| pb::FenceHolder {
            replica: Some(replica),
            ..pb::FenceHolder::default()
        });
        Ok(Response::new(GetFenceResponse {
            holders: holders.chain(missing).collect(),
            fence,
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
        let (agreement, of) = (Arc::clone(&self.agreement), environment.clone());
        // A caller that goes meanwhile does not cut it off.
        let set = tokio::spawn(async move { agreement.set(&of, order).await });
        let set = set.await.map_err(|e| Status::internal(e.to_string()))?;
        let agreed = set.map_err(|e| {
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
        Ok(Response::new(self.show_agreed(environment, agreed)))
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

    fn show_agreed(&self, environment: String, agreed: Agreed) -> SetFenceResponse {
        let Agreed { raised, .. } = agreed;
        let in_jetstream = agreed.in_jetstream.is_ok();
        let ended = agreed.holders.iter().filter_map(|holder| {
            let (_, sessions) = holder.holds.as_ref().ok()?;
            Some(*sessions as u64)
        });
        let holders = |holder: &Holder| show_holder(&environment, holder, raised.token);
        SetFenceResponse {
            changed: raised.changed,
            sessions_ended: match agreed.holders.is_empty() {
                true => raised.sessions as u64,
                false => ended.sum(),
            },
            survives_restart: in_jetstream || self.facts.shared.fences.survive(),
            holders: agreed.holders.iter().map(holders).collect(),
            agreement: match (self.facts.fleet.me(), in_jetstream) {
                (None, _) => FenceAgreement::Unspecified,
                (Some(_), true) => FenceAgreement::Jetstream,
                (Some(_), false) => FenceAgreement::Replicas,
            }
            .into(),
            confirmed_by_all: agreed.by_all,
            not_in_jetstream: agreed.in_jetstream.err().unwrap_or_default(),
            fence: Some(show_fence(environment, raised.token)),
        }
    }
}

fn show_holder(environment: &str, holder: &Holder, stands: Token) -> pb::FenceHolder {
    let confirmed = holder.confirms(stands);
    match &holder.holds {
        Ok((token, sessions)) => pb::FenceHolder {
            replica: Some(show_replica(&holder.peer, "")),
            confirmed,
            fence: Some(show_fence(environment.to_owned(), *token)),
            sessions_ended: *sessions as u64,
        },
        Err(why) => pb::FenceHolder {
            replica: Some(show_replica(&holder.peer, why.as_str())),
            ..pb::FenceHolder::default()
        },
    }
}

/// The token of a fence that is shown, as far as it is shown.
fn token(fence: Option<&pb::Fence>) -> Token {
    fence.map_or_else(Token::default, |fence| Token {
        generation: fence.generation,
        epoch: fence.epoch,
        unknown_v0: fence.unknown_v0,
        forced: 0,
    })
}

pub(super) fn show_fence(environment: String, token: Token) -> pb::Fence {
    pb::Fence {
        environment,
        generation: token.generation,
        epoch: token.epoch,
        unknown_v0: token.unknown_v0,
    }
}
