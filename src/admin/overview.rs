//! Figures and endpoints at a glance.
//!
//! Never reads the history: everything here is in memory.

use std::sync::Arc;

use serde::Serialize;

use super::Admin;
use crate::http::{Problem, Request, Response, StatusCode, response};
use crate::model::{Endpoint, EventType};

const ENDPOINTS_MAX: usize = 1000;

#[derive(Serialize)]
struct Stats {
    merchants: usize,
    endpoints: usize,
    deliveries_waiting: u64,
    commit_queued: u64,
    journal_bytes: u64,
    disk_free_bytes: u64,
}

#[derive(Serialize)]
struct Endpoints {
    data: Vec<ShownEndpoint>,
    has_more: bool,
}

#[derive(Serialize)]
struct ShownEndpoint {
    merchant_id: String,
    url: String,
    event_types: Vec<&'static str>,
    state: &'static str,
    state_reason: Option<&'static str>,
    updated_at: String,
}

pub(super) async fn stats(admin: Arc<Admin>, request: Request) -> Result<Response, Problem> {
    admin.require_operator(&request)?;
    let figures = admin.engine.figures();
    let stats = Stats {
        merchants: admin.engine.registry.merchant_count(),
        endpoints: admin.engine.registry.endpoints().len(),
        deliveries_waiting: figures.waiting,
        commit_queued: figures.queued,
        journal_bytes: figures.journal_bytes,
        disk_free_bytes: figures.free_bytes,
    };
    Ok(response::json(StatusCode::OK, &stats))
}

/// Endpoints in a state, or all of them, by merchant.
pub(super) async fn endpoints(admin: Arc<Admin>, request: Request) -> Result<Response, Problem> {
    admin.require_operator(&request)?;
    let mut query = request.query();
    let state = query.one("state").map(std::borrow::Cow::into_owned);
    if state.as_deref().is_some_and(|state| !["active", "paused", "disabled"].contains(&state)) {
        query.fault("state", "invalid_parameter", "must be active, paused or disabled.");
    }
    query.finish()?;
    let mut found = admin.engine.registry.endpoints();
    found.retain(|endpoint| state.as_deref().is_none_or(|state| state == endpoint.state.as_str()));
    found.sort_unstable_by(|a, b| a.merchant.cmp(&b.merchant));
    let has_more = found.len() > ENDPOINTS_MAX;
    let data = found.iter().take(ENDPOINTS_MAX).map(|endpoint| shown(endpoint)).collect();
    Ok(response::json(StatusCode::OK, &Endpoints { data, has_more }))
}

fn shown(endpoint: &Endpoint) -> ShownEndpoint {
    ShownEndpoint {
        merchant_id: endpoint.merchant.to_string(),
        url: endpoint.url.to_string(),
        event_types: endpoint.event_types.iter().map(EventType::as_str).collect(),
        state: endpoint.state.as_str(),
        state_reason: endpoint.state.reason(),
        updated_at: endpoint.updated_at.to_string(),
    }
}
