//! Links into a merchant's dashboard, for the platform to hand to its merchant.
//!
//! Never shows a link but in the answer that makes it.

use std::sync::Arc;

use serde::Serialize;

use super::{Admin, no_fields};
use crate::http::{Problem, Request, Response, StatusCode, response};

#[derive(Serialize)]
struct Shown {
    /// Works once.
    url: String,
    expires_at: String,
}

pub(super) async fn create(admin: Arc<Admin>, mut request: Request) -> Result<Response, Problem> {
    admin.require_operator(&request)?;
    let merchant = admin.known_merchant(&request)?;
    no_fields(&mut request).await?;
    let link = admin.engine.portal.mint(&merchant);
    let url = format!("{}{}", admin.dashboard_url, link.path());
    Ok(response::json(StatusCode::CREATED, &Shown { url, expires_at: link.expires_at.to_string() }))
}
