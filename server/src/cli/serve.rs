//! `persist-pubsub serve`.

use std::pin::pin;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::{Failure, ServeArgs, give_back};
use crate::app::{self, Server, StartError};
use crate::config::InvalidConfig;
use crate::drain::DrainOutcome;
use crate::logging::{self, LogFormat};

pub(super) async fn run(args: ServeArgs) -> Result<(), Failure> {
    logging::init(args.log.log_format, &args.log.log_filter).map_err(|e| InvalidConfig {
        flag: "--log-filter",
        value: args.log.log_filter.clone(),
        allowed: format!("a level (error, warn, info, debug, trace), or module=level,...: {e}"),
    })?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let open = args.config.access.is_open();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = app::start(args.config, async {
        // The sender goes only when this process does.
        let _ = stopped.await;
    })
    .await
    .map_err(|e| match e {
        StartError::Config(e) => Failure::from(e),
        e => Failure::from(e),
    })?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        listen = %server.data_addr(),
        listen_plaintext = server.plaintext_addr().map(tracing::field::display),
        admin_listen = %server.admin_addr(),
        "serving"
    );
    if args.log.log_format == LogFormat::Text && open {
        greet(&server);
    }
    // Ends with this process.
    tokio::spawn(give_back::watch(server.shared()));
    let mut stopped = pin!(server.wait());
    tokio::select! {
        // An operator's call has drained it.
        outcome = stopped.as_mut() => {
            tell(outcome);
            return Ok(());
        }
        _ = terminate.recv() => tracing::info!("SIGTERM: draining; a second signal ends at once"),
        _ = interrupt.recv() => tracing::info!("SIGINT: draining; a second signal ends at once"),
    }
    let _ = stop.send(());
    tokio::select! {
        outcome = stopped => {
            tell(outcome);
            Ok(())
        }
        _ = terminate.recv() => Err("ended at once by a second signal".into()),
        _ = interrupt.recv() => Err("ended at once by a second signal".into()),
    }
}

fn tell(outcome: DrainOutcome) {
    match outcome {
        DrainOutcome::Complete => tracing::info!("stopped; every stream had ended"),
        DrainOutcome::DeadlinePassed(streams) => {
            tracing::warn!(
                streams,
                "stopped at --drain-timeout; the streams left were cut"
            );
        }
    }
}

/// Where it serves and what to try, for somebody at a terminal who needs no
/// certificate and no token.
fn greet(server: &Server) {
    let (data, admin) = (server.data_addr(), server.admin_addr());
    // As it was called: under cargo it is not on the path.
    let program = std::env::args().next();
    let program = program.as_deref().unwrap_or("persist-pubsub");
    println!(
        "\
persist-pubsub {version} serves
  data port   {data}   gRPC: persist pubsub v0 and v1, health, reflection
  admin port  {admin}   gRPC: Admin, health, reflection; HTTP: / (status page) /metrics /livez /readyz

Try, in another terminal:
  {program} tap --server http://{data} s42344d73-94f1-48b1-a33b-0892cb4ebbb7
  {program} push --server http://{data} s42344d73-94f1-48b1-a33b-0892cb4ebbb7 1 hello
  {program} top --admin http://{admin}
  grpcurl -plaintext {data} list
Ctrl-C drains and stops.",
        version = env!("CARGO_PKG_VERSION"),
    );
}
