//! What probes and Prometheus ask.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::{Encoder, TextEncoder};

use super::Admin;
use crate::drain::DrainState;
use crate::generation::count;

pub(super) fn routes(admin: Admin) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .with_state(admin)
}

async fn readyz(State(admin): State<Admin>) -> impl IntoResponse {
    let state = admin.facts.drain.state();
    let code = if state == DrainState::Serving {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let mut detail = format!("{}\n", state.as_str());
    if let Some(backplane) = &admin.facts.backplane {
        // No reason not to be ready: its own sessions are served.
        detail.push_str(&backplane.status().to_string());
        detail.push('\n');
    }
    (code, detail)
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    let (scrape, registry) = (&admin.scrape, &admin.facts.shared.registry);
    admin.facts.shared.census.observe(scrape);
    scrape.shards.set(count(registry.topics()));
    scrape.log_bytes.set(count(registry.log_bytes()));
    scrape
        .log_bytes_limit
        .set(count(registry.log_bytes_limit()));
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    match encoder.encode(&admin.metrics.gather(), &mut text) {
        Ok(()) => (
            StatusCode::OK,
            [(header::CONTENT_TYPE, encoder.format_type().to_owned())],
            text,
        ),
        Err(e) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain".to_owned())],
            e.to_string().into_bytes(),
        ),
    }
}
