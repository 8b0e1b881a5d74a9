//! The real `grpcurl`, the tool that people have at 3 am: a gRPC
//! implementation that is not ours.

use std::path::PathBuf;
use std::process::{Output, Stdio};

use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

use crate::child::workspace;
use crate::tools::{self, Missing};
use crate::wait::{TimedOut, within};

/// The environment variable that names the program.
pub const VARIABLE: &str = "GRPCURL";

/// An installed grpcurl.
#[derive(Clone, Debug)]
pub struct Grpcurl {
    program: PathBuf,
}

/// A call that did not work.
#[derive(Debug, thiserror::Error)]
pub enum GrpcurlError {
    /// It did not start, or its pipes broke.
    #[error("grpcurl: {0}")]
    Io(#[from] std::io::Error),
    /// It reported an error.
    #[error("grpcurl {arguments:?} ended with {status}:\n{stderr}")]
    Failed {
        /// What it was asked.
        arguments: Vec<String>,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// It did not end.
    #[error(transparent)]
    TimedOut(#[from] TimedOut),
}

impl Grpcurl {
    /// Finds it: `GRPCURL`, target/tools/bin, PATH.
    ///
    /// # Errors
    /// It is not installed; see [`tools::left_out`].
    pub fn find() -> Result<Self, Missing> {
        tools::find("grpcurl", VARIABLE).map(|program| Self { program })
    }

    /// Runs it to its end without input, and returns what it printed.
    ///
    /// # Errors
    /// It fails, with what it said, or does not end.
    pub async fn run(&self, arguments: &[&str]) -> Result<String, GrpcurlError> {
        self.run_with(arguments, "").await
    }

    /// The same with input: with `-d @`, the messages to send.
    ///
    /// # Errors
    /// As [`Grpcurl::run`].
    pub async fn run_with(&self, arguments: &[&str], input: &str) -> Result<String, GrpcurlError> {
        let mut child = self.start(arguments)?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).await?;
        }
        let what = format!("grpcurl {arguments:?} to end");
        let output: Output = within(&what, child.wait_with_output()).await??;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(GrpcurlError::Failed {
                arguments: arguments.iter().map(|&a| a.to_owned()).collect(),
                status: output.status,
                stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            })
        }
    }

    /// Starts it, with pipes to and from it: for a call that streams. It is
    /// killed when dropped.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(&self, arguments: &[&str]) -> std::io::Result<Child> {
        Command::new(&self.program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
    }
}

/// The flags that make grpcurl use a file of the schema instead of
/// reflection. `file` is relative to `proto/schema`.
#[must_use]
pub fn schema(file: &str) -> [String; 4] {
    [
        "-import-path".to_owned(),
        workspace().join("proto/schema").display().to_string(),
        "-proto".to_owned(),
        file.to_owned(),
    ]
}
