//! Posthaste.
pub mod clock;
pub mod config;
pub mod entropy;
pub mod http;
pub mod model;
pub mod store;
