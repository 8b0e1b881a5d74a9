//! Several replicas over real nats-servers: what their sessions are owed of
//! each other, and what they hear when a replica, a nats-server or a network
//! goes.
//!
//! Measurements are printed. What is asserted is what was told, and that
//! everybody learns where every shard is: a v1 process of these tests never
//! polls.

mod absurd;
mod alone;
mod broker;
mod crowding;
mod joining;
mod naming;
mod refused;
mod resuming;
mod rolling;
mod slow_consumer;
mod stage;
