//! The product over real sockets: the real binary, real requests, real receivers.
//!
//! Never looks inside: what a test knows, a merchant, a producer or an operator could know.

#![expect(clippy::disallowed_methods, reason = "the world outside has clocks and sockets of its own")]

mod backlog;
mod bad_input;
mod bodies;
mod changes;
mod configuration;
mod dashboard;
mod deadlines;
mod dev_mode;
mod disk;
mod edges;
mod events;
#[path = "../harness/mod.rs"]
mod harness;
mod https;
mod ingest;
mod isolation;
mod lifetime;
mod listeners;
mod operators;
mod outage;
mod production;
mod promises;
mod recovering;
mod resending;
mod schedule;
mod secrecy;
mod signatures;
mod store_tools;
mod treatment;
mod turmoil;
mod wire;
