//! Posthaste.
pub mod clock;
pub mod entropy;
pub mod http;
pub mod model;
pub mod policy;
pub mod shard;
pub mod store;
