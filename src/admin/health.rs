//! Liveness, readiness and figures, for machines; no key is asked for.
//!
//! Never says more than a load balancer or Prometheus needs.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use super::Admin;
use crate::http::{Problem, Request, Response, StatusCode, response};

#[derive(Serialize)]
struct State {
    status: &'static str,
}

/// The process answers.
pub(super) async fn alive(_: Arc<Admin>, _: Request) -> Result<Response, Problem> {
    Ok(response::json(StatusCode::OK, &State { status: "ok" }))
}

/// The process takes work.
pub(super) async fn ready(admin: Arc<Admin>, _: Request) -> Result<Response, Problem> {
    if admin.readiness.is_ready() {
        return Ok(response::json(StatusCode::OK, &State { status: "ready" }));
    }
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "The process is stopping."))
}

/// Prometheus text format 0.0.4.
pub(super) async fn metrics(admin: Arc<Admin>, _: Request) -> Result<Response, Problem> {
    let text = Bytes::from(admin.engine.render_metrics());
    Ok(response::bytes(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text))
}
