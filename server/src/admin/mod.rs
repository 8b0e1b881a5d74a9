//! The operators' port.

mod calls;
mod guard;
mod http;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use persist_pubsub_proto::admin_v1::admin_service_server::AdminServiceServer;
use tonic::service::Routes;

use crate::access::Access;
use crate::drain::Drain;
use crate::metrics::ScrapeMetrics;
use crate::session::Shared;

/// What the operators' port shows.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    pub(crate) shared: Arc<Shared>,
    pub(crate) access: Arc<Access>,
    pub(crate) drain: Drain,
    pub(crate) scrape: ScrapeMetrics,
    pub(crate) metrics: prometheus::Registry,
    pub(crate) instance_id: String,
    pub(crate) started_at: SystemTime,
    pub(crate) data_addr: SocketAddr,
    pub(crate) v0_environment: String,
}

/// gRPC and HTTP on one port, for those who may.
pub(crate) fn router<R>(
    admin: Admin,
    reflection: tonic_reflection::server::v1::ServerReflectionServer<R>,
) -> Routes
where
    R: tonic_reflection::server::v1::ServerReflection,
{
    let grpc = Routes::new(AdminServiceServer::new(admin.clone())).add_service(reflection);
    let access = Arc::clone(&admin.access);
    let all = http::routes(admin).merge(grpc.into_axum_router());
    Routes::from(guard::over(all, access))
}
