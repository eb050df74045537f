//! Posthaste.
pub mod clock;
pub mod entropy;
pub mod model;
pub mod store;
