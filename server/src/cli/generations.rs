//! `persist-pubsub generations`.

use std::time::Duration;

use clap::Args;
use persist_pubsub_proto::admin_v1::{
    GenerationCensus, ListGenerationsRequest, StatusGroup, WatchGenerationsRequest,
};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Status};

use super::target::{AdminPort, OfReplica, say_missing};
use super::{Failure, Format, fence, listing};
use crate::config::InvalidConfig;
use crate::json;
use crate::units::duration;

/// Until the next attempt, when the server is lost.
const RETRY: Duration = Duration::from_millis(500);
/// The longest that is waited, so that clocks can add it.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug, Args)]
pub(crate) struct GenerationsArgs {
    #[command(flatten)]
    admin: AdminPort,
    /// Only this environment
    #[arg(
        long,
        value_name = "NAME",
        env = "PERSIST_PUBSUB_ENVIRONMENT",
        default_value = ""
    )]
    environment: String,
    /// How it is printed
    #[arg(long, env = "PERSIST_PUBSUB_FORMAT", default_value = "text")]
    format: Format,
    /// Print it again about each second, until the server goes
    #[arg(long, env = "PERSIST_PUBSUB_WATCH")]
    watch: bool,
    /// Wait until nobody of this generation or of one below is connected; exit code 3: not in time
    #[arg(
        long,
        value_name = "GENERATION",
        env = "PERSIST_PUBSUB_WAIT_GONE",
        conflicts_with = "watch"
    )]
    wait_gone: Option<u64>,
    /// With --wait-gone: for so long
    #[arg(long, value_name = "DURATION", value_parser = duration, env = "PERSIST_PUBSUB_TIMEOUT", default_value = "60s")]
    timeout: Duration,
    #[command(flatten)]
    belief: Belief,
    #[command(flatten)]
    of: OfReplica,
}

/// What is enough to take a generation for gone.
#[derive(Debug, Default, Args)]
struct Belief {
    /// With --wait-gone: a server that has run for less has not heard from everybody yet, and is not believed
    #[arg(long, value_name = "DURATION", value_parser = duration, env = "PERSIST_PUBSUB_SETTLE", default_value = "10s")]
    settle: Duration,
    /// With --wait-gone: do not wait for v0 sessions of unknown generation
    #[arg(long, env = "PERSIST_PUBSUB_KNOWN_ONLY", requires = "wait_gone")]
    known_only: bool,
    /// With --wait-gone: do not wait for replicas that fell silent without a goodbye: they were killed
    #[arg(long, env = "PERSIST_PUBSUB_PASS_OVER_LOST", requires = "wait_gone")]
    pass_over_lost: bool,
}

/// A generation is not known to be gone, and the time is over.
#[derive(Debug, thiserror::Error)]
#[error("not gone within {}: {why}", humantime::format_duration(*.within))]
pub(super) struct NotGone {
    within: Duration,
    why: String,
}

pub(super) async fn run(args: GenerationsArgs) -> Result<(), Failure> {
    if let Some(generation) = args.wait_gone {
        return wait_gone(&args, generation).await;
    }
    let mut client = args.admin.connect().await?;
    let environment = args.environment.clone();
    if !args.watch {
        let request = ListGenerationsRequest {
            environment,
            replica: args.of.named(),
        };
        let answer = client
            .list_generations(request)
            .await
            .map_err(|status| told(&status))?;
        return print(&args, &answer.into_inner().census.unwrap_or_default());
    }
    let request = WatchGenerationsRequest {
        environment,
        replica: args.of.named(),
    };
    let answer = client
        .watch_generations(request)
        .await
        .map_err(|status| told(&status))?;
    let mut messages = answer.into_inner();
    while let Some(message) = messages.message().await.map_err(|status| told(&status))? {
        print(&args, &message.census.unwrap_or_default())?;
        if args.format == Format::Text {
            println!();
        }
    }
    Err("the server has gone".into())
}

fn told(status: &Status) -> Failure {
    status.message().to_owned().into()
}

fn print(args: &GenerationsArgs, census: &GenerationCensus) -> Result<(), Failure> {
    args.of.check(&census.replicas)?;
    say_missing(&census.replicas);
    if args.format == Format::Json {
        return listing::print_lines([json::census(census)].into_iter());
    }
    listing::table_of(
        &census.replicas,
        &[
            "ENVIRONMENT",
            "GENERATION",
            "WIRE",
            "VERSION",
            "ROLE",
            "MODE",
            "SESSIONS",
            "SUBS",
            "IN/S",
            "OUT/S",
            "PUBLISHED",
        ],
        census.groups.iter().map(|g| (&g.replica, row(g))),
    )?;
    if census.groups_left_out > 0 {
        println!("and {} groups more", census.groups_left_out);
    }
    for fence in &census.fences {
        println!("fence of {}", fence::show(fence));
    }
    Ok(())
}

fn row(g: &StatusGroup) -> Vec<String> {
    let published = g.last_publish.map_or_else(
        || "never".to_owned(),
        |at| format!("{} ago", listing::since(Some(at))),
    );
    let unknown = || "unknown".to_owned();
    vec![
        g.environment.clone(),
        g.generation.map_or_else(unknown, |n| n.to_string()),
        g.wire_version.clone(),
        listing::dash(&g.client_version),
        listing::dash(&g.role),
        g.mode.clone(),
        g.sessions.to_string(),
        g.subscriptions.to_string(),
        format!("{:.1}", g.publishes_per_second),
        format!("{:.1}", g.deliveries_per_second),
        published,
    ]
}

async fn wait_gone(args: &GenerationsArgs, generation: u64) -> Result<(), Failure> {
    let within = args.timeout.min(LONGEST);
    let mut why = "the server was not reached".to_owned();
    let waiting = async {
        loop {
            match watch_until_gone(args, generation, &mut why).await {
                Ok(()) => return Ok(()),
                // Nothing that time mends.
                Err(Lost::ForGood(failure)) => return Err(failure),
                Err(Lost::ForNow(lost)) => why = lost,
            }
            sleep(RETRY).await;
        }
    };
    match timeout_at(Instant::now() + within, waiting).await {
        Ok(outcome) => outcome?,
        Err(_) => return Err(NotGone { within, why }.into()),
    }
    println!("generation {generation} is gone, with those below it");
    Ok(())
}

/// Why a server cannot tell.
enum Lost {
    /// A server that is restarted, say.
    ForNow(String),
    ForGood(Failure),
}

impl From<Status> for Lost {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::InvalidArgument
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented => Self::ForGood(told(&status)),
            _ => Self::ForNow(status.message().to_owned()),
        }
    }
}

/// Keeps in `why` what is waited for.
async fn watch_until_gone(
    args: &GenerationsArgs,
    generation: u64,
    why: &mut String,
) -> Result<(), Lost> {
    let mut client = args.admin.connect().await.map_err(|failure| {
        if failure.is::<InvalidConfig>() {
            Lost::ForGood(failure)
        } else {
            Lost::ForNow(failure.to_string())
        }
    })?;
    let request = WatchGenerationsRequest {
        environment: args.environment.clone(),
        replica: args.of.named(),
    };
    let mut messages = client.watch_generations(request).await?.into_inner();
    while let Some(message) = messages.message().await? {
        let census = message.census.unwrap_or_default();
        args.of.check(&census.replicas).map_err(Lost::ForGood)?;
        match remains(&args.belief, &census, generation) {
            None => return Ok(()),
            Some(remains) => *why = remains,
        }
    }
    Err(Lost::ForNow("the server has gone".to_owned()))
}

/// What keeps a generation from being gone. None: it is.
fn remains(belief: &Belief, census: &GenerationCensus, generation: u64) -> Option<String> {
    let sessions = |wanted: &dyn Fn(&StatusGroup) -> bool| -> u64 {
        let groups = census.groups.iter().filter(|group| wanted(group));
        groups.map(|group| group.sessions).sum()
    };
    let known = sessions(&|group| group.generation.is_some_and(|g| g <= generation));
    // v1 sessions that name no generation are operators' tools.
    let unknown = sessions(&|group| group.generation.is_none() && group.wire_version == "v0");
    let unknown = if belief.known_only { 0 } else { unknown };
    let mut remains = Vec::new();
    if known > 0 {
        remains.push(format!(
            "{known} sessions of generation {generation} or below are connected"
        ));
    }
    if unknown > 0 {
        remains.push(format!(
            "{unknown} v0 sessions of unknown generation are connected (the server's --v0-generation can tell them apart, --known-only passes them over)"
        ));
    }
    if census.groups_left_out > 0 {
        remains.push("there are more kinds of sessions than the server tells".to_owned());
    }
    for replica in census.replicas.iter().filter(|r| !r.missing.is_empty()) {
        // Nobody knows of one that fell silent whether it serves on.
        if replica.silent && belief.pass_over_lost {
            continue;
        }
        remains.push(format!("replica {}: {}", replica.name, replica.missing));
    }
    let running = census.server_running_for.unwrap_or_default();
    if Duration::try_from(running).unwrap_or_default() < belief.settle {
        remains.push("the server has only just started (--settle)".to_owned());
    }
    (!remains.is_empty()).then(|| remains.join("; "))
}

#[cfg(test)]
mod tests {
    use persist_pubsub_proto::admin_v1::Replica;

    use super::*;

    fn group(generation: Option<u64>, wire: &str) -> StatusGroup {
        StatusGroup {
            generation,
            wire_version: wire.to_owned(),
            sessions: 2,
            ..StatusGroup::default()
        }
    }

    fn census(groups: &[StatusGroup]) -> GenerationCensus {
        GenerationCensus {
            groups: groups.to_vec(),
            server_running_for: Duration::from_secs(60).try_into().ok(),
            ..GenerationCensus::default()
        }
    }

    #[test]
    fn who_keeps_a_generation_from_being_gone() {
        let remains = |census: &GenerationCensus, known_only| {
            let belief = Belief {
                settle: Duration::from_secs(10),
                known_only,
                pass_over_lost: false,
            };
            remains(&belief, census, 2)
        };
        for (groups, known_only, gone) in [
            (vec![], false, true),
            (vec![group(Some(3), "v1"), group(None, "v1")], false, true),
            (vec![group(Some(2), "v1")], true, false),
            (vec![group(Some(1), "v0")], true, false),
            (vec![group(None, "v0")], false, false),
            (vec![group(None, "v0")], true, true),
        ] {
            let remains = remains(&census(&groups), known_only);
            assert_eq!(remains.is_none(), gone, "{groups:?}: {remains:?}");
        }
        let more = GenerationCensus {
            groups_left_out: 1,
            ..census(&[])
        };
        assert!(remains(&more, true).is_some());
        let young = GenerationCensus {
            server_running_for: Duration::from_secs(9).try_into().ok(),
            ..census(&[])
        };
        assert!(remains(&young, true).is_some());
    }

    /// What a replica has that does not answer is not known.
    #[test]
    fn a_replica_that_is_missing_may_have_it() {
        let replica = |missing: &str, silent| Replica {
            name: "b".to_owned(),
            missing: missing.to_owned(),
            silent,
            ..Replica::default()
        };
        for (replicas, pass_over_lost, gone) in [
            (vec![replica("", false)], false, true),
            (vec![replica("no answer", false)], true, false),
            (vec![replica("not heard of", true)], false, false),
            (vec![replica("not heard of", true)], true, true),
        ] {
            let census = GenerationCensus {
                replicas,
                ..census(&[])
            };
            let belief = Belief {
                pass_over_lost,
                ..Belief::default()
            };
            let remains = remains(&belief, &census, 2);
            assert_eq!(remains.is_none(), gone, "{census:?}: {remains:?}");
        }
    }
}
