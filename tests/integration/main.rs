//! The product over real sockets: the real binary, real requests, real receivers.
//!
//! Never looks inside: what a test knows, a merchant, a producer or an operator could know.

#![expect(clippy::disallowed_methods, reason = "the world outside has clocks and sockets of its own")]

mod bad_input;
mod bodies;
mod configuration;
mod dashboard;
mod deadlines;
mod events;
#[path = "../harness/mod.rs"]
mod harness;
mod ingest;
mod isolation;
mod lifetime;
mod operators;
mod promises;
mod resending;
mod signatures;
