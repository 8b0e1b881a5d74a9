//! The recordings that come with the project. The reader is the server's, for
//! `persist-pubsub replay`.

use std::path::Path;

pub use persist_pubsub_server::recording::{
    Inversion, Problem, Push, Record, Recording, RecordingError, shard_of,
};

/// Reads a recording of `recordings/`: `v0-steady` or `v0-contended`.
///
/// # Errors
/// As [`Recording::read`].
pub fn named(name: &str) -> Result<Recording, RecordingError> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings");
    Recording::read(&folder.join(name))
}
