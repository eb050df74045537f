//! Figures and endpoints at a glance.
//!
//! Never reads the history: everything here is in memory.

use std::sync::Arc;

use serde::Serialize;

use super::Admin;
use crate::engine::Engine;
use crate::http::{Problem, Request, Response, StatusCode, response};
use crate::model::{Endpoint, EndpointState, EventType};

const ENDPOINTS_MAX: usize = 1000;

const ACTIVE: &str = EndpointState::Active.as_str();
const FAILING: &str = "failing";

/// What can be asked for.
const STATES: [&str; 4] = [ACTIVE, FAILING, "paused", "disabled"];

#[derive(Serialize)]
struct Stats {
    merchants: usize,
    merchants_paused: usize,
    /// Since when the operator holds everybody's retries back.
    retries_paused_at: Option<String>,
    endpoints: usize,
    endpoints_failing: usize,
    endpoints_disabled: usize,
    deliveries_waiting: u64,
    commit_queued: u64,
    journal_bytes: u64,
    disk_free_bytes: u64,
}

#[derive(Serialize)]
struct Endpoints {
    data: Vec<ShownEndpoint>,
    has_more: bool,
    /// What failed before this moment and was not tried again since is not known to be failing, unless it had been
    /// for so long that it was recorded.
    attempts_known_since: String,
}

#[derive(Serialize)]
struct ShownEndpoint {
    merchant_id: String,
    url: String,
    event_types: Vec<&'static str>,
    state: &'static str,
    state_reason: Option<&'static str>,
    /// When the first attempt after the last success failed.
    failing_since: Option<String>,
    updated_at: String,
}

pub(super) async fn stats(admin: Arc<Admin>, request: Request) -> Result<Response, Problem> {
    admin.require_operator(&request)?;
    let figures = admin.engine.figures();
    let endpoints = admin.engine.registry.endpoints();
    let disabled = |endpoint: &Endpoint| matches!(endpoint.state, EndpointState::Disabled(_));
    let stats = Stats {
        merchants: admin.engine.registry.merchant_count(),
        merchants_paused: admin.engine.registry.paused_count(),
        retries_paused_at: admin.engine.registry.retries_paused_at().map(|at| at.to_string()),
        endpoints: endpoints.len(),
        endpoints_failing: endpoints.iter().filter(|endpoint| admin.engine.is_failing(endpoint)).count(),
        endpoints_disabled: endpoints.iter().filter(|endpoint| disabled(endpoint)).count(),
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
    if state.as_deref().is_some_and(|state| !STATES.contains(&state)) {
        query.fault("state", "invalid_parameter", format!("must be one of {}.", STATES.join(", ")));
    }
    query.finish()?;
    let engine = &admin.engine;
    let mut found = engine.registry.endpoints();
    found.sort_unstable_by(|a, b| a.merchant.cmp(&b.merchant));
    let shown = found.iter().map(|endpoint| shown(engine, endpoint));
    let wanted = shown.filter(|shown| state.as_deref().is_none_or(|state| shown.is(state)));
    let mut data: Vec<ShownEndpoint> = wanted.take(ENDPOINTS_MAX + 1).collect();
    let has_more = data.len() > ENDPOINTS_MAX;
    data.truncate(ENDPOINTS_MAX);
    let attempts_known_since = engine.pulse.since().to_string();
    Ok(response::json(StatusCode::OK, &Endpoints { data, has_more, attempts_known_since }))
}

fn shown(engine: &Engine, endpoint: &Endpoint) -> ShownEndpoint {
    let standing = engine.registry.standing(endpoint);
    ShownEndpoint {
        merchant_id: endpoint.merchant.to_string(),
        url: endpoint.url.to_string(),
        event_types: endpoint.event_types.iter().map(EventType::as_str).collect(),
        state: standing.as_str(),
        state_reason: standing.reason(),
        failing_since: engine.failing_since(endpoint).map(|since| since.to_string()),
        updated_at: endpoint.updated_at.to_string(),
    }
}

impl ShownEndpoint {
    /// Failing is a part of active: what is switched off makes no attempts that could fail.
    fn is(&self, state: &str) -> bool {
        match state {
            FAILING => self.state == ACTIVE && self.failing_since.is_some(),
            state => self.state == state,
        }
    }
}
