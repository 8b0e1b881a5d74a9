//! The program's other subcommands, as somebody at a terminal runs them.

use std::process::{Output, Stdio};

use tokio::process::Command;

use crate::built;
use crate::child::ChildError;
use crate::wait::{TimedOut, within};

/// What a subcommand said, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub output: String,
    /// Standard error.
    pub error: String,
}

/// A subcommand did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There is no program.
    #[error(transparent)]
    Binary(#[from] ChildError),
    /// The operating system refused.
    #[error("persist-pubsub: {0}")]
    Io(#[from] std::io::Error),
    /// It did not end.
    #[error(transparent)]
    TimedOut(#[from] TimedOut),
}

/// Runs the program with these arguments to its end, without the settings of
/// whoever runs the tests.
///
/// # Errors
/// It does not start, or not end within [`crate::wait::PATIENCE`].
pub async fn run(arguments: &[&str]) -> Result<Said, CommandError> {
    let mut command = Command::new(built::server().await?);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PERSIST_PUBSUB_") {
            command.env_remove(name);
        }
    }
    command
        .args(arguments)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let what = format!("persist-pubsub {arguments:?} to end");
    let Output {
        status,
        stdout,
        stderr,
    } = within(&what, command.output()).await??;
    Ok(Said {
        code: status.code(),
        output: String::from_utf8_lossy(&stdout).into_owned(),
        error: String::from_utf8_lossy(&stderr).into_owned(),
    })
}
