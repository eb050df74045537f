//! Pure decisions: which endpoint wants an event, what follows an outcome, what a signature is,
//! where a request may go.
//!
//! Never here: async, IO, clocks, chance.

pub mod diagnosis;
pub mod egress;
pub mod form;
pub mod retry;
pub mod routing;
pub mod signature;
