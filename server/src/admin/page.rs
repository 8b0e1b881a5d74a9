//! The status page: a document, its style and its script, all in the binary,
//! and a stream of events that fills it.
//!
//! What it shows comes from peers, who may call themselves anything: the
//! script writes text and never markup, and the browser is told to run
//! nothing but that script.

use std::convert::Infallible;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::routing::get;

use super::{Admin, watch};
use crate::json;

/// Nothing from elsewhere, nothing inline, in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) fn routes(admin: Admin) -> Router {
    Router::new()
        .route(
            "/",
            file("text/html; charset=utf-8", include_str!("page/index.html")),
        )
        .route(
            "/status.css",
            file("text/css; charset=utf-8", include_str!("page/status.css")),
        )
        .route(
            "/status.js",
            file(
                "text/javascript; charset=utf-8",
                include_str!("page/status.js"),
            ),
        )
        .route("/status/events", get(events))
        .with_state(admin)
}

fn file(kind: &'static str, text: &'static str) -> axum::routing::MethodRouter<Admin> {
    let headers: [(HeaderName, HeaderValue); 5] = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(POLICY),
        ),
        (
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ),
        (
            header::REFERRER_POLICY,
            HeaderValue::from_static("no-referrer"),
        ),
        // The next version of the server has another one.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    get(async move || (headers, text))
}

/// Each event is a status with the samples that this page has not been sent.
async fn events(State(admin): State<Admin>) -> impl IntoResponse {
    let watcher = admin.board.watch();
    let drain = admin.facts.drain.clone();
    let events = watch::status(watcher, drain, |status, samples| {
        let samples: Vec<_> = samples.iter().map(json::sample).collect();
        let samples = serde_json::Value::Array(samples);
        let data = format!(r#"{{"status":{},"samples":{samples}}}"#, status.json());
        Ok::<_, Infallible>(Event::default().data(data))
    });
    let headers = [(header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (headers, Sse::new(events).keep_alive(KeepAlive::default()))
}
