//! `persist-pubsub healthcheck`: for a container's health check, where there
//! is no other program.

use std::time::Duration;

use clap::Args;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::Failure;
use super::target::Server;
use crate::units::duration;

#[derive(Debug, Args)]
pub(crate) struct HealthcheckArgs {
    // Either port answers.
    #[command(flatten)]
    server: Server,
    /// Whose health: a gRPC service's; `live`, as long as the process answers; the whole server's if none
    #[arg(
        long,
        value_name = "NAME",
        env = "PERSIST_PUBSUB_SERVICE",
        default_value = ""
    )]
    service: String,
    /// How long the answer may take
    #[arg(long, value_name = "DURATION", value_parser = duration, env = "PERSIST_PUBSUB_TIMEOUT", default_value = "2s")]
    timeout: Duration,
}

pub(super) async fn run(args: HealthcheckArgs) -> Result<(), Failure> {
    let asking = async {
        let request = HealthCheckRequest {
            service: args.service.clone(),
        };
        let channel = args.server.connect().await?;
        let answer =
            HealthClient::new(channel)
                .check(request)
                .await
                .map_err(|status| match status.code() {
                    tonic::Code::NotFound => {
                        format!("the server has no service {:?}", args.service)
                    }
                    code => format!("the server answers {code:?}: {}", status.message()),
                })?;
        Ok::<_, Failure>(answer.into_inner().status())
    };
    let status = tokio::time::timeout(args.timeout, asking)
        .await
        .map_err(|_| format!("no answer within {:?}", args.timeout))??;
    match status {
        ServingStatus::Serving => {
            println!("serving");
            Ok(())
        }
        other => Err(format!("not serving: {}", other.as_str_name()).into()),
    }
}
