//! The client against a scripted peer: real sockets, exact frames.
//!
//! Nothing sleeps to be ready and nothing asserts how long something took:
//! each test awaits what has to happen, within one generous time.

// A panic is a test's verdict, in its helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "all/api.rs"]
mod api;
#[path = "all/bad_servers.rs"]
mod bad_servers;
#[path = "all/connecting.rs"]
mod connecting;
#[path = "all/cost.rs"]
mod cost;
#[path = "all/draining.rs"]
mod draining;
#[path = "all/ending.rs"]
mod ending;
#[path = "all/homes.rs"]
mod homes;
#[path = "all/inside.rs"]
mod inside;
#[cfg(feature = "metrics")]
#[path = "all/metrics.rs"]
mod metrics;
#[path = "all/never_in_the_way.rs"]
mod never_in_the_way;
#[path = "all/peer.rs"]
mod peer;
#[path = "all/promoting.rs"]
mod promoting;
#[path = "all/pushing.rs"]
mod pushing;
#[path = "all/returning.rs"]
mod returning;
#[path = "all/script.rs"]
mod script;
#[path = "all/settings.rs"]
mod settings;
#[path = "all/subscribing.rs"]
mod subscribing;
#[path = "all/v0.rs"]
mod v0;
