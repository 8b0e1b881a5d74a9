//! All tests over real connections, in one binary: one link, one summary.
//! `../README.md` tells what is where and how to add a scenario.

use std::error::Error;
use std::fmt;
use std::time::Duration;

mod access;
mod admin;
mod backplane;
mod bad_input_stream;
mod bad_input_v0;
mod bad_input_v1;
mod benching;
mod broadcasting;
mod burst;
mod checking;
mod children;
mod client;
mod contended;
mod draining;
mod fencing;
mod fleet;
mod floods;
mod foreign;
mod frozen;
mod fuzzing;
mod generations;
mod half_open;
mod homes;
mod host;
mod in_process;
mod incarnations;
mod isolation;
mod leaving;
mod liveness;
mod many_shards;
mod matrix;
mod migration;
mod mixed;
mod mutations;
mod nats_servers;
mod observing;
mod poison;
mod promises;
mod promoting;
mod proxying;
mod recordings;
mod replacing;
mod replaying;
mod replicas;
mod restarting;
mod resume;
mod rough_network;
mod simulation;
mod stalled_reader;
mod starting;
mod status_page;
mod watching;

use persist_pubsub_client::Config;
use persist_pubsub_compat_tests::child::{Child, ChildError};
use persist_pubsub_proto::ShardId;

/// A server with further flags. It asks for no heartbeats while a test lasts:
/// scripted peers send none by themselves.
async fn server(flags: &[&str]) -> Result<Child, ChildError> {
    let quiet = ["--heartbeat-interval=1h"];
    Child::start(&[&quiet, flags].concat()).await
}

/// How the client of a [`V1Process`] is set up. It is quick to come back: the
/// server of a test is away for a moment.
///
/// [`V1Process`]: persist_pubsub_compat_tests::v1_process::V1Process
fn quick_client(url: &str) -> Result<Config, Failure> {
    Ok(Config::new(url)?.backoff(Duration::from_millis(20), Duration::from_millis(200))?)
}

/// So many shards, all of one test.
fn shards(test: u8, count: u64) -> Vec<ShardId> {
    let shard = |n: u64| {
        let mut bytes = [test; 16];
        bytes[8..].copy_from_slice(&n.to_be_bytes());
        ShardId::new(bytes)
    };
    (0..count).map(shard).collect()
}

/// How a test ends that could not get to its assertions.
type Verdict = Result<(), Failure>;

/// Any error, shown as it is meant to be read, with its causes.
struct Failure(Box<dyn Error>);

impl Failure {
    /// An error that is `Send` already.
    fn plain(error: Box<dyn Error + Send + Sync>) -> Self {
        Self(error)
    }
}

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
