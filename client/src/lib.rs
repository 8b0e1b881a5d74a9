//! What a database process embeds to publish the diffs that it commits to
//! persist shards, and to hear those of others within a millisecond.
//!
//! [`connect`] returns two things and never waits: a [`Client`], on which any
//! thread pushes diffs and subscribes without ever blocking, and [`Events`],
//! the one stream of what happened. A task behind them connects, reconnects,
//! subscribes again to all that is wanted, and says what was missed.
//!
//! Nothing here may be relied upon for correctness: with the server slow, gone
//! or wrong, calls return at once, memory stays within the bounds of
//! [`Config`], and the process lives from polling as if this crate were not
//! there.
//!
//! ```no_run
//! use persist_pubsub_client::{Config, ConfigError, Event, ShardId, connect};
//!
//! # fn apply(_: ShardId, _: u64, _: bytes::Bytes) {}
//! # fn fetch_unless_reached(_: ShardId, _: Option<u64>) {}
//! # async fn host(shard: ShardId) -> Result<(), ConfigError> {
//! let config = Config::new("http://persist-pubsub:6879")?.client_name("clusterd-u1-replica-2");
//! let (client, mut events) = connect(config);
//!
//! let token = client.subscribe(&shard);
//! client.push_diff(&shard, 18, bytes::Bytes::from_static(b"what was committed"));
//!
//! while let Some(event) = events.next().await {
//!     match event {
//!         // If it is the state's seqno + 1; a lower one is passed over.
//!         Event::Diff { shard, seqno, diff, .. } => apply(shard, seqno, diff),
//!         Event::Gap { shard, to, .. } => fetch_unless_reached(shard, Some(to)),
//!         Event::Resync { shard, highest } => fetch_unless_reached(shard, highest),
//!         Event::Fenced { .. } => std::process::exit(0),
//!         _ => {}
//!     }
//! }
//! drop(token); // Unsubscribes.
//! # Ok(())
//! # }
//! ```
//!
//! It speaks `persist.pubsub.v1` (the specification is `pubsub.proto` of
//! `persist-pubsub-proto`) and, against a server without it, the unversioned
//! protocol of deployed processes. v0 cannot say what was missed: every
//! subscription begins with a [`Event::Resync`], holes are noticed when the
//! next diff comes, seqnos cannot be announced without a diff, and a late diff
//! of an earlier subscription cannot be told from one of the current.

#![deny(missing_docs)]

mod backoff;
mod config;
mod connection;
mod event;
mod handle;
mod home;
mod in_process;
mod interest;
mod merge;
mod outbox;
#[doc(hidden)]
pub mod probe;
mod queue;
mod settings;
mod shared;
mod stats;
mod system;
mod token;

use std::sync::Arc;

pub use config::{Config, ConfigError, Mode, WirePreference};
pub use event::{Event, Reason, ServerInfo, Wire};
pub use handle::Client;
pub use home::{DEFAULT_PORT, Home};
pub use in_process::{InProcess, Requests, Responses};
pub use persist_pubsub_proto::ShardId;
pub use queue::Events;
pub use settings::Settings;
pub use stats::Stats;
pub use system::{Io, OperatingSystem, System};
pub use token::Subscription;

/// Begins to connect, and returns at once. It cannot fail: whatever is wrong
/// with the server is tried again, with growing, jittered delays.
///
/// The connection lives until [`Events`] is dropped, every [`Client`] and
/// [`Subscription`] is dropped, the runtime ends, or the process's generation
/// is fenced out ([`Event::Fenced`]).
///
/// # Panics
/// Outside of a tokio runtime with time and I/O enabled.
#[must_use = "dropping either of the two ends the connection"]
pub fn connect(config: Config) -> (Client, Events) {
    connect_by(config, OperatingSystem)
}

/// As [`connect`], with names, connections and the time of day from `system`:
/// for a server in the same process, or a simulation.
///
/// # Panics
/// Outside of a tokio runtime with time enabled.
#[must_use = "dropping either of the two ends the connection"]
pub fn connect_by(config: Config, system: impl System) -> (Client, Events) {
    let shared = Arc::new(shared::Shared::new(&config, Arc::new(system)));
    let client = Client::new(Arc::clone(&shared));
    let (sink, events) = queue::Sink::new(&config, Arc::clone(&shared));
    tokio::spawn(connection::run(config, shared, sink));
    (client, events)
}
