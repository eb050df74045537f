//! The operators' surface: merchants, keys, endpoints, figures, health.
//!
//! Never shows a key after it was made, never a secret or a payload.

mod health;
mod keys;
mod merchants;
mod overview;
mod portal;
mod retries;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::engine::Engine;
use crate::http::{Fields, Method, Problem, Request, Router, Routes, SMALL_BODY_BYTES_MAX};
use crate::model::{MerchantId, Role};

/// What the surface works with.
pub struct Admin {
    /// The running product.
    pub engine: Arc<Engine>,
    /// Whether the process takes work.
    pub readiness: Readiness,
    /// With what links to the merchants' dashboard begin.
    pub dashboard_url: String,
}

/// Whether the process takes work: yes from the start, no once it stops.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// The process has begun to stop.
    pub fn end(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_ready(&self) -> bool {
        !self.0.load(Ordering::Acquire)
    }
}

/// The routes of the surface.
pub fn routes(admin: Admin) -> Routes {
    Router::new(Arc::new(admin))
        .on(Method::GET, "/healthz", health::alive)
        .on(Method::GET, "/readyz", health::ready)
        .on(Method::GET, "/metrics", health::metrics)
        .on(Method::GET, "/admin/v1/stats", overview::stats)
        .on(Method::GET, "/admin/v1/endpoints", overview::endpoints)
        .on(Method::GET, "/admin/v1/merchants", merchants::list)
        .on(Method::PUT, "/admin/v1/merchants/{id}", merchants::put)
        .on(Method::GET, "/admin/v1/merchants/{id}", merchants::get)
        .on(Method::DELETE, "/admin/v1/merchants/{id}", merchants::delete)
        .on(Method::PUT, "/admin/v1/merchants/{id}/pause", merchants::pause)
        .on(Method::DELETE, "/admin/v1/merchants/{id}/pause", merchants::resume)
        .on(Method::PUT, "/admin/v1/retries/pause", retries::pause)
        .on(Method::DELETE, "/admin/v1/retries/pause", retries::resume)
        .on(Method::POST, "/admin/v1/merchants/{id}/keys", keys::create_for_merchant)
        .on(Method::GET, "/admin/v1/merchants/{id}/keys", keys::list_of_merchant)
        .on(Method::DELETE, "/admin/v1/merchants/{id}/keys/{key_id}", keys::delete_of_merchant)
        .on(Method::POST, "/admin/v1/merchants/{id}/portal", portal::create)
        .on(Method::POST, "/admin/v1/keys", keys::create)
        .on(Method::GET, "/admin/v1/keys", keys::list)
        .on(Method::DELETE, "/admin/v1/keys/{key_id}", keys::delete)
        .into_routes()
}

impl Admin {
    fn require_operator(&self, request: &Request) -> Result<(), Problem> {
        match self.engine.registry.authenticate(request.bearer()?) {
            Some(Role::Operator) => Ok(()),
            Some(_) => Err(Problem::forbidden()),
            None => Err(Problem::unauthorized()),
        }
    }

    /// The merchant in the path, which must exist.
    fn known_merchant(&self, request: &Request) -> Result<MerchantId, Problem> {
        let id: Option<MerchantId> = request.param("id").parse().ok();
        id.filter(|id| self.engine.registry.merchant(id).is_some()).ok_or_else(unknown_merchant)
    }
}

/// Reads a body that has nothing to say: none at all, or an object without members.
async fn no_fields(request: &mut Request) -> Result<(), Problem> {
    let body = request.read_json(SMALL_BODY_BYTES_MAX).await?;
    if body.is_empty() { Ok(()) } else { Fields::parse(&body)?.finish() }
}

fn unknown_merchant() -> Problem {
    Problem::not_found("merchant_not_found", "There is no such merchant.")
}
