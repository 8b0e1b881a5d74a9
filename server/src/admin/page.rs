//! The status page: a document, its style and its script, all in the binary,
//! and a stream of events that fills it.
//!
//! What it shows comes from peers, who may call themselves anything: the
//! script writes text and never markup, and the browser is told to run
//! nothing but that script.

use std::collections::HashMap;
use std::convert::Infallible;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::routing::get;
use futures_util::StreamExt as _;

use super::{Admin, watch};
use crate::fleet::Shown;
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
/// `?replica=` says of which replicas, as in the Admin calls.
async fn events(
    State(admin): State<Admin>,
    query: Query<HashMap<String, String>>,
) -> impl IntoResponse {
    let replica = query.get("replica").map_or("", String::as_str);
    let scope = match admin.facts.fleet.scope(replica) {
        Ok(scope) => scope,
        // The page tells it, and offers those that there are.
        Err(status) => return (StatusCode::NOT_FOUND, status.message().to_owned()).into_response(),
    };
    let view = admin.gather.status(scope);
    let events = watch::looks(view, admin.facts.drain.clone(), |view| {
        Box::pin(async { Some(view.next().await?.map(|shown| event(&shown))) })
    });
    // A replica that does not answer ends the stream; the page comes back.
    let events = tokio_stream::StreamExt::map_while(events, Result::ok).map(Ok::<_, Infallible>);
    let headers = [(header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (headers, Sse::new(events).keep_alive(KeepAlive::default())).into_response()
}

fn event(shown: &Shown) -> Event {
    let made;
    let (status, samples) = match shown {
        Shown::Own(look, samples) => (look.json(), samples),
        Shown::Made(message) => {
            made = json::status(message).to_string();
            (made.as_str(), &message.samples)
        }
    };
    let samples: Vec<_> = samples.iter().map(json::sample).collect();
    let samples = serde_json::Value::Array(samples);
    let data = format!(r#"{{"status":{status},"samples":{samples}}}"#);
    Event::default().data(data)
}
