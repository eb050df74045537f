//! A merchant's webhook config: one resource, read, set whole, removed.
//!
//! Never changes anything where one field is wrong, never returns the secret.

use std::sync::Arc;

use serde::Serialize;

use super::{Api, not_configured};
use crate::http::{
    Fields, HeaderMap, HeaderName, HeaderValue, Problem, Request, Response, SMALL_BODY_BYTES_MAX, StatusCode, Words,
    header, response,
};
use crate::model::{Endpoint, EndpointState, EventType, EventTypes, Secret};
use crate::policy::{egress, form};
use crate::registry::{Config, Precondition, Rejected, SecretChange, tag};

#[derive(Serialize)]
struct Shown<'a> {
    url: &'a str,
    event_types: ShownTypes,
    enabled: bool,
    secret_set: bool,
    secret_hint: Option<String>,
    state: &'static str,
    state_reason: Option<&'static str>,
    created_at: String,
    updated_at: String,
}

#[derive(Serialize)]
#[serde(untagged)]
enum ShownTypes {
    Every(&'static str),
    Only(Vec<&'static str>),
}

pub(super) async fn get(api: Arc<Api>, request: Request) -> Result<Response, Problem> {
    let merchant = api.merchant(&request)?;
    let endpoint = api.engine.registry.endpoint_of(&merchant).ok_or_else(not_configured)?;
    Ok(shown(&api, StatusCode::OK, &endpoint))
}

pub(super) async fn put(api: Arc<Api>, mut request: Request) -> Result<Response, Problem> {
    let merchant = api.merchant(&request)?;
    let precondition = precondition(&request.headers)?;
    let body = request.read_json(SMALL_BODY_BYTES_MAX).await?;
    let config = read(&body, &api.rules)?;
    let put = api.engine.registry.put_config(&merchant, config, &precondition).await;
    let (endpoint, is_new) = put.map_err(rejected)?;
    Ok(shown(&api, if is_new { StatusCode::CREATED } else { StatusCode::OK }, &endpoint))
}

/// Idempotent: removing what is not there is done already.
pub(super) async fn delete(api: Arc<Api>, request: Request) -> Result<Response, Problem> {
    let merchant = api.merchant(&request)?;
    let precondition = precondition(&request.headers)?;
    api.engine.registry.delete_config(&merchant, &precondition).await.map_err(rejected)?;
    Ok(response::empty())
}

fn read(body: &[u8], rules: &egress::Rules) -> Result<Config, Problem> {
    let mut fields = Fields::parse(body)?;
    let url = url(&mut fields, rules);
    let event_types = event_types(&mut fields);
    let enabled = fields.optional_bool("enabled").unwrap_or(true);
    let secret = secret(&mut fields);
    let grace_s = fields.optional_u64("secret_grace_seconds", form::SECRET_GRACE_S_MAX).unwrap_or(form::SECRET_GRACE_S);
    fields.finish()?;
    Ok(Config { url: url.into(), event_types, enabled, secret, secret_grace_ms: grace_s * 1000 })
}

fn url(fields: &mut Fields<'_>, rules: &egress::Rules) -> String {
    let Some(text) = fields.required_str("url") else { return String::new() };
    form::url(&text, rules).unwrap_or_else(|fault| {
        note(fields, fault);
        String::new()
    })
}

fn event_types(fields: &mut Fields<'_>) -> EventTypes {
    let words = match fields.optional_words("event_types") {
        None => return EventTypes::EVERY,
        Some(Words::One(word)) => {
            if word != "all" {
                let detail = format!("must be \"all\" or a list of {}.", form::known_types());
                fields.fault("event_types", "unknown_event_type", detail);
            }
            return EventTypes::EVERY;
        }
        Some(Words::Many(words)) => words,
    };
    form::event_types(&words).unwrap_or_else(|faults| {
        faults.into_iter().for_each(|fault| note(fields, fault));
        EventTypes::EVERY
    })
}

fn secret(fields: &mut Fields<'_>) -> SecretChange {
    match fields.nullable_str("secret") {
        None => SecretChange::Keep,
        Some(None) => SecretChange::Remove,
        Some(Some(text)) => match form::secret(&text) {
            Ok(secret) => SecretChange::Replace(secret),
            Err(fault) => {
                note(fields, fault);
                SecretChange::Keep
            }
        },
    }
}

fn note(fields: &mut Fields<'_>, fault: form::Fault) {
    fields.fault(fault.field, fault.code, fault.detail);
}

/// `If-Match` or `If-None-Match: *` (RFC 9110 §13.1). Both at once have no use here and are refused.
fn precondition(headers: &HeaderMap) -> Result<Precondition, Problem> {
    let broken = |what| Problem::bad_request("invalid_precondition", format!("{what} cannot be understood."));
    let (matching, absent) = (joined(headers, &header::IF_MATCH), joined(headers, &header::IF_NONE_MATCH));
    let matching = match (matching, absent.as_deref()) {
        (None, None) => return Ok(Precondition::None),
        (None, Some("*")) => return Ok(Precondition::Absent),
        (Some(matching), None) => matching,
        (None, Some(_)) => return Err(broken("The If-None-Match header")),
        (Some(_), Some(_)) => return Err(broken("If-Match beside If-None-Match")),
    };
    if matching == "*" {
        return Ok(Precondition::Exists);
    }
    let tags: Vec<String> = matching.split(',').map(|tag| tag.trim().to_owned()).collect();
    let is_tag = |tag: &String| tag.trim_start_matches("W/").starts_with('"') && tag.len() > 2 && tag.ends_with('"');
    if tags.iter().all(is_tag) { Ok(Precondition::Tags(tags)) } else { Err(broken("The If-Match header")) }
}

/// A list in several lines is one list (RFC 9110 §5.3). What is not ASCII becomes something that is no tag.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let values: Vec<&str> = headers.get_all(name).iter().map(|value| value.to_str().unwrap_or("")).collect();
    (!values.is_empty()).then(|| values.join(","))
}

fn rejected(rejected: Rejected) -> Problem {
    match rejected {
        Rejected::NoMerchant => Problem::unauthorized(),
        Rejected::Precondition => {
            let detail = "The config is not the one that the precondition names. Read it again and decide anew.";
            Problem::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", detail)
        }
        Rejected::Store(_) => Problem::stopping(),
    }
}

fn shown(api: &Api, status: StatusCode, endpoint: &Endpoint) -> Response {
    let standing = api.engine.registry.standing(endpoint);
    let event_types = if endpoint.event_types.is_every() {
        ShownTypes::Every("all")
    } else {
        ShownTypes::Only(endpoint.event_types.iter().map(EventType::as_str).collect())
    };
    let mut answer = response::json(
        status,
        &Shown {
            url: &endpoint.url,
            event_types,
            enabled: endpoint.state == EndpointState::Active,
            secret_set: endpoint.secret.is_some(),
            secret_hint: endpoint.secret.as_ref().map(Secret::hint),
            state: standing.as_str(),
            state_reason: standing.reason(),
            created_at: endpoint.created_at.to_string(),
            updated_at: endpoint.updated_at.to_string(),
        },
    );
    let tag = HeaderValue::try_from(tag(endpoint)).expect("a tag is visible ASCII");
    answer.headers_mut().insert(header::ETAG, tag);
    answer
}
