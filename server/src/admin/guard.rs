//! Who may ask what on the operators' port, and for how long an answer is
//! waited for.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tonic::{Code, Status};

use crate::access::{Access, Caller};
use crate::service::Connection;

/// How long a request may take to its answer's beginning, with what the peer
/// takes to send it. A stream's messages come later.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Open to whoever reaches the port: probes and Prometheus seldom have a
/// token, and see no shard and no caller there.
const OPEN: [&str; 3] = ["/livez", "/readyz", "/metrics"];
const HEALTH: &str = "/grpc.health.v1.Health/";
const SERVICE: &str = "/persist.pubsub.admin.v1.AdminService/";
/// What changes nothing. Whatever is not named needs the right to do anything.
const READING: [&str; 8] = [
    "GetFence",
    "GetServerInfo",
    "ListGenerations",
    "ListSessions",
    "ListShards",
    "WatchGenerations",
    "WatchShards",
    "WatchStatus",
];
const REFLECTION: &str = "/grpc.reflection.";

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    Nothing,
    Read,
    Admin,
}

fn needs(method: &axum::http::Method, path: &str) -> Needs {
    if OPEN.contains(&path) || path.starts_with(HEALTH) {
        return Needs::Nothing;
    }
    if path.starts_with(REFLECTION) {
        return Needs::Read;
    }
    match path.strip_prefix(SERVICE) {
        Some(call) if READING.contains(&call) => Needs::Read,
        Some(_) => Needs::Admin,
        // Pages, by their nature.
        None if method.is_safe() => Needs::Read,
        None => Needs::Admin,
    }
}

/// `routes`, behind the guard.
pub(super) fn over(routes: Router, access: Arc<Access>) -> Router {
    routes.layer(from_fn_with_state(access, guard))
}

async fn guard(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let grpc = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let refuse = |status: Status| refusal(grpc, status);
    match needs(request.method(), request.uri().path()) {
        Needs::Nothing => {}
        needs => match permit(&access, &request, needs) {
            Err(status) => return refuse(status),
            Ok((caller, peer)) if needs == Needs::Admin => {
                tracing::info!(
                    who = caller.name(),
                    peer,
                    call = request.uri().path().escape_debug().to_string(),
                    "an operator's call that changes something"
                );
            }
            Ok(_) => {}
        },
    }
    match tokio::time::timeout(ANSWER_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => refuse(Status::deadline_exceeded(format!(
            "no answer within {ANSWER_TIMEOUT:?}"
        ))),
    }
}

/// Who asks, if that may be.
fn permit(access: &Access, request: &Request, needs: Needs) -> Result<(Caller, String), Status> {
    let connection = request.extensions().get::<Connection>();
    let Some(connection) = connection else {
        return Err(Status::internal("the request has no connection"));
    };
    let caller = access.identify(request.headers(), connection)?;
    let rights = caller.rights();
    let (allowed, right) = match needs {
        Needs::Admin => (rights.admin, "admin"),
        Needs::Read | Needs::Nothing => (rights.read, "read"),
    };
    if allowed {
        return Ok((caller, connection.peer.to_string()));
    }
    let name = caller.name().unwrap_or_default();
    let why = format!("'{name}' has no right to {right}");
    access.refused(connection, "not_allowed", &why);
    Err(Status::permission_denied(why))
}

/// As the peer understands it: gRPC, or HTTP.
fn refusal(grpc: bool, status: Status) -> Response {
    if grpc {
        return status.into_http();
    }
    let code = match status.code() {
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    // A browser asks its user for a password then, which is the token.
    let challenge = [(
        header::WWW_AUTHENTICATE,
        "Bearer, Basic realm=\"persist-pubsub\"",
    )];
    let text = format!("{}\n", status.message());
    match code {
        StatusCode::UNAUTHORIZED => (code, challenge, text).into_response(),
        _ => (code, text).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Method;

    use super::*;

    #[test]
    fn what_is_not_known_to_change_nothing_needs_every_right() {
        for (path, expected) in [
            ("/metrics", Needs::Nothing),
            ("/metrics/", Needs::Read),
            ("/", Needs::Read),
            (
                "/persist.pubsub.admin.v1.AdminService/ListShards",
                Needs::Read,
            ),
            (
                "/persist.pubsub.admin.v1.AdminService/GetFence",
                Needs::Read,
            ),
            (
                "/persist.pubsub.admin.v1.AdminService/SetFence",
                Needs::Admin,
            ),
            ("/grpc.reflection.v1.ServerReflection/X", Needs::Read),
        ] {
            assert_eq!(needs(&Method::GET, path), expected, "{path}");
        }
        assert_eq!(needs(&Method::POST, "/x"), Needs::Admin);
    }
}
