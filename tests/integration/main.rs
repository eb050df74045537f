//! The product over real sockets: the real binary, real requests, real receivers.
//!
//! Never looks inside: what a test knows, a merchant, a producer or an operator could know.

mod bad_input;
mod bodies;
mod configuration;
mod deadlines;
mod events;
#[path = "../harness/mod.rs"]
mod harness;
mod ingest;
mod lifetime;
mod operators;
mod promises;
mod resending;
mod signatures;
