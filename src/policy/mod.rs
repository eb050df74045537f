//! Pure decisions: which endpoint wants an event, what follows an outcome, how fast and how long an endpoint
//! is tried, what a signature is, where a request may go.
//!
//! Never here: async, IO, clocks, chance.

pub mod breaker;
pub mod diagnosis;
pub mod egress;
pub mod failing;
pub mod form;
pub mod pacing;
pub mod retry;
pub mod routing;
pub mod signature;
