//! Posthaste.
pub mod clock;
pub mod entropy;
pub mod http;
pub mod model;
pub mod policy;
pub mod store;
pub mod transport;
