//! Posthaste: accepts events durably, delivers them signed, shows what happened.
//!
//! # Layout
//!
//! The modules stand in the order in which an event meets them.
//!
//! - `http` takes the connection; `ingest` reads the event and finds its merchant; `outbox` decides to whom it
//!   is owed (`policy::routing`) and has it stored (`store`), before anybody is told that it was accepted.
//! - `dispatcher` is the async shell round one `shard`, which decides what leaves when; `transport` makes the
//!   attempt; the outcome goes back through the shard into the store.
//! - `history` tells what happened, `registry` who there is; merchants see both through `api`, operators run the
//!   appliance through `admin`.
//! - `engine` puts these together; `config` and `cli` put the engine into a process.
//!
//! `model` and `policy` are the words and the rules that all of them share. `clock`, `entropy`, `store`,
//! `transport` and `metrics` are the only doors to the world. `docs/architecture.md` says what each never does.

pub mod http;
pub mod ingest;
pub mod outbox;
pub mod store;

pub mod dispatcher;
pub mod shard;
pub mod transport;

pub mod admin;
pub mod api;
pub mod feed;
pub mod history;
pub mod recovery;
pub mod registry;

pub mod cli;
pub mod config;
pub mod dashboard;
pub mod engine;

pub mod model;
pub mod policy;
pub mod portal;

pub mod clock;
pub mod entropy;
pub mod metrics;
