//! Posthaste.
pub mod model;
