//! Merchants: put, read, listed, paused, removed.
//!
//! Never removes a merchant's history.

use std::sync::Arc;

use serde::Serialize;

use super::{Admin, no_fields, unknown_merchant};
use crate::http::{Fields, Problem, Request, Response, SMALL_BODY_BYTES_MAX, StatusCode, response};
use crate::model::{Merchant, MerchantId};

const NAME_LEN_MAX: usize = 255;
const LIMIT: usize = 50;
const LIMIT_MAX: usize = 250;

#[derive(Serialize)]
struct Shown {
    id: String,
    name: Option<String>,
    webhook_configured: bool,
    /// Since when the operator holds its deliveries back.
    paused_at: Option<String>,
    created_at: String,
}

#[derive(Serialize)]
struct Page {
    data: Vec<Shown>,
    has_more: bool,
    next_cursor: Option<String>,
}

pub(super) async fn list(admin: Arc<Admin>, request: Request) -> Result<Response, Problem> {
    admin.require_operator(&request)?;
    let mut query = request.query();
    let after: Option<MerchantId> = query.parsed("cursor", "must be a cursor that was given out.");
    let limit = query.limit(LIMIT, LIMIT_MAX);
    query.finish()?;
    let mut merchants = admin.engine.registry.merchants(after.as_ref(), limit + 1);
    let has_more = merchants.len() > limit;
    merchants.truncate(limit);
    let next_cursor = merchants.last().filter(|_| has_more).map(|merchant| merchant.id.to_string());
    let data = merchants.iter().map(|merchant| shown(&admin, merchant)).collect();
    Ok(response::json(StatusCode::OK, &Page { data, has_more, next_cursor }))
}

pub(super) async fn put(admin: Arc<Admin>, mut request: Request) -> Result<Response, Problem> {
    admin.require_operator(&request)?;
    let id: MerchantId = request.param("id").parse().map_err(|_| {
        let detail = format!("A merchant id has 1 to {} of A-Z, a-z, 0-9, _ and -.", MerchantId::LEN_MAX);
        Problem::unprocessable("id", "invalid_merchant_id", detail)
    })?;
    let body = request.read_json(SMALL_BODY_BYTES_MAX).await?;
    let name = if body.is_empty() { None } else { name(&body)? };
    let is_new = admin.engine.registry.put_merchant(&id, name).await.map_err(|_| Problem::stopping())?;
    let merchant = admin.engine.registry.merchant(&id).ok_or_else(unknown_merchant)?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(response::json(status, &shown(&admin, &merchant)))
}

pub(super) async fn get(admin: Arc<Admin>, request: Request) -> Result<Response, Problem> {
    admin.require_operator(&request)?;
    let id = admin.known_merchant(&request)?;
    let merchant = admin.engine.registry.merchant(&id).ok_or_else(unknown_merchant)?;
    Ok(response::json(StatusCode::OK, &shown(&admin, &merchant)))
}

pub(super) async fn delete(admin: Arc<Admin>, request: Request) -> Result<Response, Problem> {
    admin.require_operator(&request)?;
    let id = admin.known_merchant(&request)?;
    admin.engine.registry.delete_merchant(&id).await.map_err(|_| Problem::stopping())?;
    Ok(response::empty())
}

/// Holds all deliveries of a merchant back until they are let go; its events are taken and wait.
pub(super) async fn pause(admin: Arc<Admin>, mut request: Request) -> Result<Response, Problem> {
    admin.require_operator(&request)?;
    let id = admin.known_merchant(&request)?;
    no_fields(&mut request).await?;
    set_paused(&admin, &id, true).await
}

/// Idempotent: letting go what is not held is done already.
pub(super) async fn resume(admin: Arc<Admin>, request: Request) -> Result<Response, Problem> {
    admin.require_operator(&request)?;
    let id = admin.known_merchant(&request)?;
    set_paused(&admin, &id, false).await
}

async fn set_paused(admin: &Admin, id: &MerchantId, paused: bool) -> Result<Response, Problem> {
    let merchant = admin.engine.registry.pause_merchant(id, paused).await.map_err(|_| Problem::stopping())?;
    let merchant = merchant.ok_or_else(unknown_merchant)?;
    tracing::info!(merchant = %id, paused, "an operator pauses or resumes a merchant");
    Ok(response::json(StatusCode::OK, &shown(admin, &merchant)))
}

fn name(body: &[u8]) -> Result<Option<Arc<str>>, Problem> {
    let mut fields = Fields::parse(body)?;
    let name = fields.optional_str("name");
    if name.as_ref().is_some_and(|name| name.is_empty() || name.len() > NAME_LEN_MAX) {
        fields.fault("name", "invalid_length", format!("must have 1 to {NAME_LEN_MAX} bytes."));
    }
    let name = name.map(|name| Arc::from(name.as_ref()));
    fields.finish()?;
    Ok(name)
}

fn shown(admin: &Admin, merchant: &Merchant) -> Shown {
    Shown {
        id: merchant.id.to_string(),
        name: merchant.name.as_deref().map(str::to_owned),
        webhook_configured: admin.engine.registry.endpoint_of(&merchant.id).is_some(),
        paused_at: merchant.paused_at.map(|at| at.to_string()),
        created_at: merchant.created_at.to_string(),
    }
}
