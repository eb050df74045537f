//! The servers' floor: accept loop, limits, TLS, timeouts, routing, problem documents.
//!
//! Never knows what an event is, who may do what, or what a path means; never calls out.

mod bare;
mod connection;
mod fields;
mod problem;
mod query;
mod request;
pub mod response;
mod route;
mod server;
mod stream;
#[cfg(test)]
mod tests;
mod tls;

pub use fields::{Fields, Words};
pub use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
pub use hyper::{Method, StatusCode};
pub use problem::{FieldError, Problem};
pub use query::Query;
pub use request::{Form, Request, SMALL_BODY_BYTES_MAX};
pub use response::{Body, Response};
pub use route::{Router, Routes};
pub use server::{Drained, Hooks, Limits, Server};
pub use tls::{Tls, TlsError};
