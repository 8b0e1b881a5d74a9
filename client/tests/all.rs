//! The client against a scripted peer: real sockets, exact frames.
//!
//! Nothing sleeps to be ready and nothing asserts how long something took:
//! each test awaits what has to happen, within one generous time.

// A panic is a test's verdict, in its helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "all/bad_servers.rs"]
mod bad_servers;
#[path = "all/connecting.rs"]
mod connecting;
#[path = "all/draining.rs"]
mod draining;
#[path = "all/ending.rs"]
mod ending;
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
#[path = "all/subscribing.rs"]
mod subscribing;
#[path = "all/v0.rs"]
mod v0;
