//! Keys of merchants, producers and operators: made, listed, revoked.
//!
//! Never shows a key but in the answer that makes it.

use std::sync::Arc;

use serde::Serialize;

use super::{Admin, no_fields, unknown_merchant};
use crate::http::{Fields, Problem, Request, Response, SMALL_BODY_BYTES_MAX, StatusCode, response};
use crate::model::{Key, KeyId, Role};
use crate::registry::Rejected;

#[derive(Serialize)]
struct Shown {
    id: String,
    role: &'static str,
    /// Only in the answer that makes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    created_at: String,
}

#[derive(Serialize)]
struct List {
    data: Vec<Shown>,
}

pub(super) async fn create_for_merchant(admin: Arc<Admin>, mut request: Request) -> Result<Response, Problem> {
    admin.require_operator(&request)?;
    let merchant = admin.known_merchant(&request)?;
    no_fields(&mut request).await?;
    created(&admin, Role::Merchant(merchant)).await
}

pub(super) async fn list_of_merchant(admin: Arc<Admin>, request: Request) -> Result<Response, Problem> {
    admin.require_operator(&request)?;
    let role = Role::Merchant(admin.known_merchant(&request)?);
    Ok(listed(&admin, |other| *other == role))
}

pub(super) async fn delete_of_merchant(admin: Arc<Admin>, request: Request) -> Result<Response, Problem> {
    admin.require_operator(&request)?;
    let role = Role::Merchant(admin.known_merchant(&request)?);
    deleted(&admin, &request, |other| *other == role).await
}

pub(super) async fn create(admin: Arc<Admin>, mut request: Request) -> Result<Response, Problem> {
    admin.require_operator(&request)?;
    let body = request.read_json(SMALL_BODY_BYTES_MAX).await?;
    let mut fields = Fields::parse(&body)?;
    let role = match fields.required_str("role").as_deref() {
        Some("producer") | None => Role::Producer,
        Some("operator") => Role::Operator,
        Some(_) => {
            let detail =
                "must be producer or operator; keys of merchants are made under /admin/v1/merchants/{id}/keys.";
            fields.fault("role", "unknown_role", detail);
            Role::Producer
        }
    };
    fields.finish()?;
    created(&admin, role).await
}

pub(super) async fn list(admin: Arc<Admin>, request: Request) -> Result<Response, Problem> {
    admin.require_operator(&request)?;
    Ok(listed(&admin, is_platforms))
}

pub(super) async fn delete(admin: Arc<Admin>, request: Request) -> Result<Response, Problem> {
    admin.require_operator(&request)?;
    deleted(&admin, &request, is_platforms).await
}

/// Not a merchant's.
fn is_platforms(role: &Role) -> bool {
    matches!(role, Role::Producer | Role::Operator)
}

async fn created(admin: &Admin, role: Role) -> Result<Response, Problem> {
    let (key, text) = admin.engine.registry.create_key(role).await.map_err(|rejected| match rejected {
        Rejected::NoMerchant => unknown_merchant(),
        Rejected::Precondition | Rejected::Store(_) => Problem::stopping(),
    })?;
    Ok(response::json(StatusCode::CREATED, &Shown { key: Some(text), ..shown(&key) }))
}

fn listed(admin: &Admin, wanted: impl Fn(&Role) -> bool) -> Response {
    let data = admin.engine.registry.keys(wanted).iter().map(|key| shown(key)).collect();
    response::json(StatusCode::OK, &List { data })
}

async fn deleted(admin: &Admin, request: &Request, wanted: impl Fn(&Role) -> bool) -> Result<Response, Problem> {
    let unknown = || Problem::not_found("key_not_found", "There is no such key.");
    let id = KeyId::parse(request.param("key_id")).ok_or_else(unknown)?;
    let deleted = admin.engine.registry.delete_key(id, wanted).await.map_err(|_| Problem::stopping())?;
    if deleted { Ok(response::empty()) } else { Err(unknown()) }
}

fn shown(key: &Key) -> Shown {
    Shown {
        id: key.id.to_string(),
        role: match key.role {
            Role::Merchant(_) => "merchant",
            Role::Producer => "producer",
            Role::Operator => "operator",
        },
        key: None,
        created_at: key.created_at.to_string(),
    }
}
