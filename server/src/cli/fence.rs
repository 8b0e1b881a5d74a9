//! `persist-pubsub fence`.

use clap::Args;
use persist_pubsub_proto::admin_v1::{
    Fence, FenceAgreement, FenceHolder, GetFenceRequest, SetFenceRequest,
};
use serde_json::Value;

use super::target::{AdminPort, OfReplica};
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
    #[arg(
        long,
        value_name = "GENERATION",
        env = "PERSIST_PUBSUB_BELOW",
        conflicts_with = "replica"
    )]
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
    #[command(flatten)]
    of: OfReplica,
}

/// A fence stands, and not every replica is known to hold it.
#[derive(Debug, thiserror::Error)]
#[error("not confirmed by {}; they may let in whom it keeps out until they are reached; the same command asks them again", unconfirmed.join("; "))]
pub(super) struct NotConfirmed {
    unconfirmed: Vec<String>,
}

pub(super) async fn run(args: FenceArgs) -> Result<(), Failure> {
    let mut client = args.admin.connect().await?;
    let Some(generation) = args.below else {
        let request = GetFenceRequest {
            environment: args.environment,
            replica: args.of.named(),
        };
        let answer = client.get_fence(request).await.map_err(listing::told)?;
        let answer = answer.into_inner();
        let replicas = answer.holders.iter().filter_map(|h| h.replica.clone());
        args.of.check(&replicas.collect::<Vec<_>>())?;
        match (args.format, &answer.fence) {
            (Format::Json, fence) => {
                let mut line = fence.as_ref().map_or(Value::Null, json::fence);
                if fence.is_some() || !answer.holders.is_empty() {
                    line["holders"] = json::holders(&answer.holders);
                    return listing::print_lines([line].into_iter());
                }
                return Ok(());
            }
            (Format::Text, None) => say("no fence: everybody is let in"),
            (Format::Text, Some(fence)) => say(&show(fence)),
        }
        return all_confirm(&answer.holders);
    };
    let request = SetFenceRequest {
        environment: args.environment,
        generation,
        unknown_v0: args.v0,
        force_was: args.was.filter(|_| args.force),
    };
    let answer = client.set_fence(request).await.map_err(listing::told)?;
    let answer = answer.into_inner();
    let fence = answer.fence.clone().unwrap_or_default();
    if args.format == Format::Json {
        let mut line = json::fence(&fence);
        line["changed"] = answer.changed.into();
        line["sessions_ended"] = answer.sessions_ended.into();
        line["survives_restart"] = answer.survives_restart.into();
        if !answer.holders.is_empty() {
            line["in_jetstream"] = (answer.agreement() == FenceAgreement::Jetstream).into();
            line["not_in_jetstream"] = answer.not_in_jetstream.into();
            line["confirmed_by_all"] = answer.confirmed_by_all.into();
            line["holders"] = json::holders(&answer.holders);
        }
        listing::print_lines([line].into_iter())?;
        return confirmed(&answer.holders);
    }
    let before = if answer.changed { "" } else { " as before" };
    say(&format!("{}{before}", show(&fence)));
    say(&format!("{} sessions ended", answer.sessions_ended));
    match answer.agreement() {
        FenceAgreement::Unspecified => {}
        FenceAgreement::Jetstream => say("it is kept in JetStream"),
        FenceAgreement::Replicas => say(&format!(
            "it is agreed between the replicas alone: {}",
            answer.not_in_jetstream
        )),
    }
    if !answer.survives_restart {
        say(match answer.holders.is_empty() {
            true => "a restarted server will not know of it: there is no --state-file",
            false => "with all replicas down it is forgotten: there is no --state-file",
        });
    }
    all_confirm(&answer.holders)
}

/// Says who holds the fence, and fails if somebody may not.
fn all_confirm(holders: &[FenceHolder]) -> Result<(), Failure> {
    let held = holders.iter().filter(|holder| holder.confirmed);
    let held: Vec<_> = held.map(name).collect();
    if !held.is_empty() {
        say(&format!("confirmed by {}", held.join(", ")));
    }
    confirmed(holders)
}

/// Fails if somebody may not hold the fence.
fn confirmed(holders: &[FenceHolder]) -> Result<(), Failure> {
    let unconfirmed = holders.iter().filter(|holder| !holder.confirmed);
    let unconfirmed: Vec<_> = unconfirmed
        .map(|holder| {
            let missing = holder.replica.as_ref().map_or("", |r| &r.missing);
            let why = match (&holder.fence, missing) {
                (Some(fence), _) => format!("it holds {}", show(fence)),
                (None, "") => "it holds none".to_owned(),
                (None, missing) => missing.to_owned(),
            };
            format!("{} ({why})", name(holder))
        })
        .collect();
    if unconfirmed.is_empty() {
        return Ok(());
    }
    Err(NotConfirmed { unconfirmed }.into())
}

fn name(holder: &FenceHolder) -> &str {
    holder.replica.as_ref().map_or("", |replica| &replica.name)
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

fn say(line: &str) {
    use std::io::Write as _;
    // A pipe that was closed: nobody wants more.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}
