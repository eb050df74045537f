//! Posthaste.
pub mod clock;
pub mod entropy;
pub mod model;
pub mod policy;
pub mod store;
pub mod transport;
