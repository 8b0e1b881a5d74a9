//! `persist-pubsub fence`.

use clap::Args;
use persist_pubsub_proto::admin_v1::{Fence, GetFenceRequest, SetFenceRequest};
use tonic::Status;

use super::target::AdminPort;
use super::{Failure, Format, listing};
use crate::json;

#[derive(Debug, Args)]
pub(crate) struct FenceArgs {
    #[command(flatten)]
    admin: AdminPort,
    /// The environment; otherwise that of v0 sessions
    #[arg(
        long,
        value_name = "NAME",
        env = "PERSIST_PUBSUB_ENVIRONMENT",
        default_value = ""
    )]
    environment: String,
    /// End the sessions of generations below this one, and refuse them from now on; without it the fence is shown
    #[arg(long, value_name = "GENERATION", env = "PERSIST_PUBSUB_BELOW")]
    below: Option<u64>,
    /// End and refuse v0 sessions of unknown generation, too
    #[arg(long, env = "PERSIST_PUBSUB_V0", requires = "below")]
    v0: bool,
    /// Set the fence to exactly this, lower or not; to let everybody in, below 0
    #[arg(long, env = "PERSIST_PUBSUB_FORCE", requires_all = ["below", "was"])]
    force: bool,
    /// With --force: the generation that the fence stands at now, 0 if there is none
    #[arg(
        long,
        value_name = "GENERATION",
        env = "PERSIST_PUBSUB_WAS",
        requires = "force"
    )]
    was: Option<u64>,
    /// How it is printed
    #[arg(long, env = "PERSIST_PUBSUB_FORMAT", default_value = "text")]
    format: Format,
}

pub(super) async fn run(args: FenceArgs) -> Result<(), Failure> {
    let mut client = args.admin.connect().await?;
    let refused = |status: Status| -> Failure { status.message().to_owned().into() };
    let Some(generation) = args.below else {
        let request = GetFenceRequest {
            environment: args.environment,
        };
        let answer = client.get_fence(request).await.map_err(refused)?;
        let fence = answer.into_inner().fence;
        return match (args.format, fence) {
            (Format::Json, fence) => listing::print_lines(fence.iter().map(json::fence)),
            (Format::Text, None) => say("no fence: everybody is let in"),
            (Format::Text, Some(fence)) => say(&show(&fence)),
        };
    };
    let request = SetFenceRequest {
        environment: args.environment,
        generation,
        unknown_v0: args.v0,
        force_was: args.was.filter(|_| args.force),
    };
    let answer = client.set_fence(request).await.map_err(refused)?;
    let answer = answer.into_inner();
    let fence = answer.fence.unwrap_or_default();
    if args.format == Format::Json {
        let mut line = json::fence(&fence);
        line["changed"] = answer.changed.into();
        line["sessions_ended"] = answer.sessions_ended.into();
        line["survives_restart"] = answer.survives_restart.into();
        return listing::print_lines([line].into_iter());
    }
    let before = if answer.changed { "" } else { " as before" };
    say(&format!("{}{before}", show(&fence)))?;
    say(&format!("{} sessions ended", answer.sessions_ended))?;
    if !answer.survives_restart {
        say("a restarted server will not know of it: there is no --state-file")?;
    }
    Ok(())
}

/// Where a fence stands, for people.
pub(super) fn show(fence: &Fence) -> String {
    let v0 = match fence.unknown_v0 {
        true => ", and no v0 session of unknown generation",
        false => "",
    };
    format!(
        "{}: generation {} and above (epoch {}){v0}",
        fence.environment, fence.generation, fence.epoch
    )
}

fn say(line: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    // A pipe that was closed: nobody wants more.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
    Ok(())
}
