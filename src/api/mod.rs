//! The merchants' surface, version 2: their config, their history.
//!
//! Never shows one merchant anything of another, never returns a secret.

mod config;
mod events;
mod shown;

use std::sync::Arc;

use crate::engine::Engine;
use crate::http::{Method, Problem, Request, Router, Routes};
use crate::model::{MerchantId, Role};
use crate::policy::egress;

/// What the surface works with.
pub struct Api {
    /// The running product.
    pub engine: Arc<Engine>,
    /// Which URLs a merchant may set.
    pub rules: egress::Rules,
}

/// The routes of the surface.
pub fn routes(api: Api) -> Routes {
    Router::new(Arc::new(api))
        .on(Method::GET, "/api/v2/webhooks/config", config::get)
        .on(Method::PUT, "/api/v2/webhooks/config", config::put)
        .on(Method::DELETE, "/api/v2/webhooks/config", config::delete)
        .on(Method::GET, "/api/v2/webhooks/events", events::list)
        .on(Method::GET, "/api/v2/webhooks/events/{id}", events::detail)
        .on(Method::POST, "/api/v2/webhooks/events/{id}/resend", events::resend)
        .into_routes()
}

impl Api {
    /// The merchant whose key the request carries.
    fn merchant(&self, request: &Request) -> Result<MerchantId, Problem> {
        match self.engine.registry.authenticate(request.bearer()?) {
            Some(Role::Merchant(id)) => Ok(id),
            Some(Role::Producer | Role::Operator) => Err(Problem::forbidden()),
            None => Err(Problem::unauthorized()),
        }
    }
}

fn not_configured() -> Problem {
    let detail = "No webhook is configured. Set one with PUT /api/v2/webhooks/config.";
    Problem::not_found("webhook_not_configured", detail)
}
