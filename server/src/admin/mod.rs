//! The operators' port.

mod calls;
mod http;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use persist_pubsub_proto::admin_v1::admin_service_server::AdminServiceServer;
use tokio::net::TcpListener;
use tonic::service::Routes;

use crate::drain::Drain;
use crate::metrics::ScrapeMetrics;
use crate::session::Shared;

/// What the operators' port shows.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    pub(crate) shared: Arc<Shared>,
    pub(crate) drain: Drain,
    pub(crate) scrape: ScrapeMetrics,
    pub(crate) metrics: prometheus::Registry,
    pub(crate) instance_id: String,
    pub(crate) started_at: SystemTime,
    pub(crate) data_addr: SocketAddr,
    pub(crate) v0_environment: String,
}

/// gRPC and HTTP on one port.
pub(crate) fn router<R>(
    admin: Admin,
    reflection: tonic_reflection::server::v1::ServerReflectionServer<R>,
) -> Router
where
    R: tonic_reflection::server::v1::ServerReflection,
{
    let grpc = Routes::new(AdminServiceServer::new(admin.clone())).add_service(reflection);
    http::routes(admin).merge(grpc.into_axum_router())
}

/// Serves until aborted.
pub(crate) async fn serve(listener: TcpListener, router: Router) {
    // Retries failures to accept by itself; never ends.
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the operators' port has failed");
    }
}
