//! The command line: one subcommand, one file.

mod bench;
mod check;
mod fence;
mod generations;
mod healthcheck;
mod listing;
mod push;
mod replay;
mod serve;
mod tap;
mod target;
mod top;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::Config;
use crate::logging::LogFormat;

/// Carries the write notifications of persist shards between processes of any
/// generation.
///
/// Without a subcommand it serves.
#[derive(Debug, Parser)]
#[command(
    name = "persist-pubsub",
    version,
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve; also what no subcommand means
    Serve(Box<ServeArgs>),
    /// Subscribe to shards and print what comes
    Tap(tap::TapArgs),
    /// Publish one diff, or say that a shard has reached a seqno
    Push(push::PushArgs),
    /// Play recorded v0 traffic, one connection per recorded client
    Replay(replay::ReplayArgs),
    /// Load a server, and report what arrived, how late, and what it cost
    Bench(Box<bench::BenchArgs>),
    /// List the connected sessions
    Sessions(listing::SessionsArgs),
    /// List the shards that have subscribers or recent diffs
    Shards(listing::ShardsArgs),
    /// Show or watch who is connected of which generation, or wait until one is gone
    Generations(generations::GenerationsArgs),
    /// Show or raise the fence below which generations are ended and refused
    Fence(fence::FenceArgs),
    /// Watch rates, generations, slow sessions and hot shards
    Top(top::TopArgs),
    /// Publish a diff and hear it, on a shard that nobody else has
    Check(check::CheckArgs),
    /// Ask a server whether it serves
    Healthcheck(healthcheck::HealthcheckArgs),
}

/// How a command prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    config: Config,
    #[command(flatten)]
    log: LogArgs,
}

/// How the program logs.
#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// How log lines look
    #[arg(
        help_heading = "Log lines",
        long,
        value_name = "FORMAT",
        env = "PERSIST_PUBSUB_LOG_FORMAT",
        default_value = "text"
    )]
    log_format: LogFormat,
    /// Which log lines are written: a level, or levels per module
    #[arg(
        help_heading = "Log lines",
        long,
        value_name = "FILTER",
        env = "PERSIST_PUBSUB_LOG_FILTER",
        default_value = "info"
    )]
    log_filter: String,
}

/// Why a command failed, for people.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Parses the command line, runs the command, and returns the exit code: 0,
/// 1 if the command failed, 2 if the command line is wrong, 3 if what was
/// waited for did not come in time, or not from every replica.
#[must_use]
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("error: cannot start the runtime: {e}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        match cli.command {
            None => serve::run(cli.serve).await,
            Some(Command::Serve(args)) => serve::run(*args).await,
            Some(Command::Tap(args)) => tap::run(args).await,
            Some(Command::Push(args)) => push::run(args).await,
            Some(Command::Replay(args)) => replay::run(args).await,
            Some(Command::Bench(args)) => bench::run(*args).await,
            Some(Command::Sessions(args)) => listing::sessions(args).await,
            Some(Command::Shards(args)) => listing::shards(args).await,
            Some(Command::Generations(args)) => generations::run(args).await,
            Some(Command::Fence(args)) => fence::run(args).await,
            Some(Command::Check(args)) => check::run(args).await,
            Some(Command::Healthcheck(args)) => healthcheck::run(args).await,
            Some(Command::Top(args)) => top::run(args).await,
        }
    });
    // What a subcommand left running does not keep the process.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            if e.is::<crate::config::InvalidConfig>() {
                ExitCode::from(2)
            } else if e.is::<generations::NotGone>() || e.is::<fence::NotConfirmed>() {
                ExitCode::from(3)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    const README: &str = include_str!("../../../README.md");

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Every flag of every subcommand is an environment variable of the same
    /// name as well.
    #[test]
    fn every_flag_is_an_environment_variable() {
        let mut cli = Cli::command();
        cli.build();
        for command in cli.get_subcommands().chain([&cli]) {
            for arg in command.get_arguments() {
                let Some(flag) = arg.get_long() else { continue };
                if matches!(flag, "help" | "version") {
                    continue;
                }
                let expected = format!("PERSIST_PUBSUB_{}", flag.to_uppercase().replace('-', "_"));
                let env = arg.get_env().and_then(|e| e.to_str());
                assert_eq!(
                    env,
                    Some(expected.as_str()),
                    "{} --{flag}",
                    command.get_name()
                );
            }
        }
    }

    /// The README's table of settings names every one with its default.
    #[test]
    fn the_readme_states_every_setting() {
        let cli = Cli::command();
        for arg in cli.get_arguments() {
            let Some(flag) = arg.get_long() else { continue };
            let default = arg
                .get_default_values()
                .first()
                .and_then(|value| value.to_str());
            let row = match default {
                Some(default) => format!("| `--{flag}` | {default} |"),
                None => format!("| `--{flag}` |"),
            };
            assert!(README.contains(&row), "README.md has no row {row}");
        }
    }
}
