//! Links into a merchant's dashboard, for the platform to hand to its merchant.
//!
//! Never shows a link but in the answer that makes it.

use std::sync::Arc;

use serde::Serialize;

use super::Admin;
use crate::http::{Fields, Problem, Request, Response, SMALL_BODY_BYTES_MAX, StatusCode, response};

#[derive(Serialize)]
struct Shown {
    /// Works once.
    url: String,
    expires_at: String,
}

pub(super) async fn create(admin: Arc<Admin>, mut request: Request) -> Result<Response, Problem> {
    admin.require_operator(&request)?;
    let merchant = admin.known_merchant(&request)?;
    let body = request.read_json(SMALL_BODY_BYTES_MAX).await?;
    if !body.is_empty() {
        Fields::parse(&body)?.finish()?;
    }
    let link = admin.engine.portal.mint(&merchant);
    let url = format!("{}{}", admin.dashboard_url, link.path());
    Ok(response::json(StatusCode::CREATED, &Shown { url, expires_at: link.expires_at.to_string() }))
}
