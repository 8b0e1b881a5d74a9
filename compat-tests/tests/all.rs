//! All tests over real connections, in one binary: one link, one summary.
//! `../README.md` tells what is where and how to add a scenario.

use std::error::Error;
use std::fmt;

mod admin;
mod bad_input_stream;
mod bad_input_v0;
mod bad_input_v1;
mod broadcasting;
mod burst;
mod children;
mod client;
mod contended;
mod draining;
mod floods;
mod foreign;
mod fuzzing;
mod isolation;
mod leaving;
mod liveness;
mod many_shards;
mod mixed;
mod mutations;
mod poison;
mod promises;
mod recordings;
mod replaying;
mod resume;
mod simulation;
mod starting;
mod watching;

use persist_pubsub_compat_tests::child::{Child, ChildError};

/// A server with further flags. It asks for no heartbeats while a test lasts:
/// scripted peers send none by themselves.
async fn server(flags: &[&str]) -> Result<Child, ChildError> {
    let quiet = ["--heartbeat-interval=1h"];
    Child::start(&[&quiet, flags].concat()).await
}

/// How a test ends that could not get to its assertions.
type Verdict = Result<(), Failure>;

/// Any error, shown as it is meant to be read, with its causes.
struct Failure(Box<dyn Error>);

impl<E: Into<Box<dyn Error>>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

/// The test runner shows a failed test's error by `Debug`.
impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut error = self.0.source();
        while let Some(cause) = error {
            write!(f, "\n  because: {cause}")?;
            error = cause.source();
        }
        Ok(())
    }
}
