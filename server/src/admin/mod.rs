//! The operators' port.

mod calls;
mod guard;
mod http;
pub(crate) mod listing;
mod page;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use persist_pubsub_proto::admin_v1::admin_service_server::AdminServiceServer;
use persist_pubsub_proto::admin_v1::{self as pb, GetServerInfoResponse};
use persist_pubsub_proto::v1;
use tokio::time::Instant;
use tonic::service::Routes;
use tonic_health::pb::health_server::{Health, HealthServer};

use crate::access::Access;
use crate::backplane::Backplane;
use crate::clock;
use crate::drain::Drain;
use crate::fleet::{Agreement, Fleet, Gather};
use crate::metrics::ScrapeMetrics;
use crate::session::Shared;
use calls::show_fence;
pub(crate) use listing::{show_session, show_shard};

/// What is to be told of the server.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) shared: Arc<Shared>,
    pub(crate) drain: Drain,
    pub(crate) instance_id: String,
    pub(crate) started_at: SystemTime,
    pub(crate) started: Instant,
    pub(crate) data_addr: SocketAddr,
    pub(crate) v0_environment: String,
    pub(crate) fleet: Fleet,
    /// None: there are no other replicas.
    pub(crate) backplane: Option<Arc<Backplane>>,
}

impl Facts {
    /// What the server is, and holds at present.
    pub(crate) fn info(&self) -> GetServerInfoResponse {
        let sessions = self.shared.census.all();
        let registry = &self.shared.registry;
        GetServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance_id: self.instance_id.clone(),
            started_at: Some(clock::timestamp(self.started_at)),
            state: self.drain.state().as_str().to_owned(),
            listen_address: self.data_addr.to_string(),
            v0_environment: self.v0_environment.clone(),
            min_revision: v1::MIN_REVISION,
            max_revision: v1::MAX_REVISION,
            sessions: sessions.len() as u64,
            subscriptions: sessions.iter().map(|s| s.subscriptions() as u64).sum(),
            shards: registry.topics() as u64,
            log_bytes: registry.log_bytes() as u64,
            log_bytes_limit: registry.log_bytes_limit() as u64,
            replica: self.fleet.own().name.clone(),
        }
    }
}

impl Facts {
    /// The fence of an environment.
    pub(crate) fn fence(&self, environment: &str) -> Option<pb::Fence> {
        let token = self.shared.fences.get(environment)?;
        Some(show_fence(environment.to_owned(), token))
    }

    /// All fences, by environment.
    pub(crate) fn fences(&self) -> Vec<pb::Fence> {
        let fences = self.shared.fences.all();
        fences
            .into_iter()
            .map(|(environment, token)| show_fence(environment, token))
            .collect()
    }
}

/// What the operators' port shows.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    pub(crate) facts: Facts,
    pub(crate) gather: Gather,
    pub(crate) agreement: Arc<Agreement>,
    pub(crate) scrape: ScrapeMetrics,
    pub(crate) metrics: prometheus::Registry,
}

/// gRPC and HTTP on one port, for those who may. Health is here too: a
/// kubelet's gRPC probe can ask neither a port with TLS, nor one that is full.
pub(crate) fn router<H, R>(
    admin: Admin,
    access: Arc<Access>,
    health: HealthServer<H>,
    reflection: tonic_reflection::server::v1::ServerReflectionServer<R>,
) -> Routes
where
    H: Health,
    R: tonic_reflection::server::v1::ServerReflection,
{
    let grpc = Routes::new(AdminServiceServer::new(admin.clone()))
        .add_service(health)
        .add_service(reflection);
    let all = http::routes(admin.clone())
        .merge(page::routes(admin))
        .merge(grpc.into_axum_router());
    Routes::from(guard::over(all, access))
}
