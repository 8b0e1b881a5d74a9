//! The service: carries the write notifications of persist shards between
//! processes of any generation.
//!
//! ```text
//! publish -> session -> registry -> topic: into the log, in seqno order;
//!                                   marks its subscribers
//!                                                |
//! the socket asks for more  <-  outbox  <-  "shard S has something for you"
//!                               answers first, then of each marked shard
//!                               the log's diffs past the cursor
//! ```
//!
//! A log per shard, a cursor per subscription: nothing is queued per session,
//! so a slow one costs nobody anything, and what it misses is a range that
//! can be named. [`app::start`] is the way in; [`config::Config`] has every
//! bound.

#![deny(missing_docs)]

pub mod app;
pub mod cli;
pub mod config;
pub mod logging;
#[doc(hidden)]
pub mod probe;
pub mod recording;

mod access;
mod admin;
mod backplane;
mod clock;
mod drain;
mod environment;
mod error;
mod fence;
mod fleet;
mod frame;
mod generation;
mod happening;
mod json;
mod listener;
mod mailbox;
mod metrics;
mod outbox;
mod process;
mod registry;
mod reload;
mod retention;
mod service;
mod session;
mod status;
mod tls;
mod topic;
mod units;
mod unwatched;

pub use clock::Clock;
pub use drain::{DrainOutcome, DrainState};
pub use listener::Accept;
pub use service::in_process::InProcess;
