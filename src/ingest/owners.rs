//! Who owns which account and card: the directory by which events find their merchant.
//!
//! Never points to a merchant that does not exist at that moment.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use super::{ID_LEN_MAX, Ingest, RefusedLine, read_lines, refused, write_line};
use crate::http::{Fields, Problem, Request, Response, StatusCode, response};
use crate::model::{MerchantId, OwnerKind};

#[derive(Clone, Serialize)]
struct Owner {
    kind: &'static str,
    id: String,
    merchant_id: String,
}

#[derive(Serialize)]
struct Line {
    status: u16,
    #[serde(flatten)]
    owner: Option<Owner>,
    #[serde(flatten)]
    refused: Option<RefusedLine>,
}

pub(super) async fn put(ingest: Arc<Ingest>, mut request: Request) -> Result<Response, Problem> {
    ingest.require_producer(&request)?;
    let (kind, id) = named(&request)?;
    let body = request.read_json(ingest.limits.body_bytes_max).await?;
    let mut fields = Fields::parse(&body)?;
    let merchant = merchant(&ingest, &mut fields);
    fields.finish()?;
    let merchant = merchant.expect("a missing merchant is a fault");
    let owner = Owner { kind: kind.as_str(), id: id.to_string(), merchant_id: merchant.to_string() };
    ingest.registry.change_owners(vec![(kind, id, Some(merchant))]).await.map_err(refused)?;
    Ok(response::json(StatusCode::OK, &owner))
}

pub(super) async fn get(ingest: Arc<Ingest>, request: Request) -> Result<Response, Problem> {
    ingest.require_producer(&request)?;
    let (kind, id) = named(&request)?;
    let Some(merchant) = ingest.outbox.owner(kind, &id).map_err(Problem::unreadable)? else {
        return Err(Problem::not_found("unknown_owner", format!("No merchant owns this {}.", kind.as_str())));
    };
    let owner = Owner { kind: kind.as_str(), id: id.to_string(), merchant_id: merchant.to_string() };
    Ok(response::json(StatusCode::OK, &owner))
}

pub(super) async fn delete(ingest: Arc<Ingest>, request: Request) -> Result<Response, Problem> {
    ingest.require_producer(&request)?;
    let (kind, id) = named(&request)?;
    ingest.registry.change_owners(vec![(kind, id, None)]).await.map_err(refused)?;
    Ok(response::empty())
}

/// Many at once: the good lines are stored together, durably; a bad one does not harm them.
pub(super) async fn post(ingest: Arc<Ingest>, mut request: Request) -> Result<Response, Problem> {
    ingest.require_producer(&request)?;
    let lines = read_lines(&ingest, &mut request).await?;
    let read: Vec<_> = lines.iter().map(|line| read_line(&ingest, line)).collect();
    let good = read.iter().flatten().map(|(kind, id, merchant)| (*kind, Arc::clone(id), Some(merchant.clone())));
    let good: Vec<_> = good.collect();
    if !good.is_empty() {
        ingest.registry.change_owners(good).await.map_err(refused)?;
    }
    let mut answer = Vec::with_capacity(lines.len() * 96);
    for line in read {
        write_line(&mut answer, &line_of(line));
    }
    Ok(response::ndjson(Bytes::from(answer)))
}

fn read_line(ingest: &Ingest, line: &[u8]) -> Result<(OwnerKind, Arc<str>, MerchantId), Problem> {
    let mut fields = Fields::parse(line)?;
    let kind = fields.required_str("kind").and_then(|word| {
        let kind: Option<OwnerKind> = word.parse().ok();
        if kind.is_none() {
            fields.fault("kind", "unknown_kind", "must be account or card.");
        }
        kind
    });
    let id = fields.required_str("id");
    if id.as_ref().is_some_and(|id| id.is_empty() || id.len() > ID_LEN_MAX) {
        fields.fault("id", "invalid_length", format!("must have 1 to {ID_LEN_MAX} bytes."));
    }
    let merchant = merchant(ingest, &mut fields);
    fields.finish()?;
    let checked = "what is missing is a fault";
    Ok((kind.expect(checked), id.expect(checked).as_ref().into(), merchant.expect(checked)))
}

fn line_of(line: Result<(OwnerKind, Arc<str>, MerchantId), Problem>) -> Line {
    match line {
        Ok((kind, id, merchant)) => {
            let owner = Owner { kind: kind.as_str(), id: id.to_string(), merchant_id: merchant.to_string() };
            Line { status: StatusCode::OK.as_u16(), owner: Some(owner), refused: None }
        }
        Err(problem) => {
            let Problem { status, code, detail, errors, .. } = problem;
            Line { status: status.as_u16(), owner: None, refused: Some(RefusedLine { code, detail, errors }) }
        }
    }
}

fn named(request: &Request) -> Result<(OwnerKind, Arc<str>), Problem> {
    let kind = request.param("kind").parse();
    let kind = kind.map_err(|_| Problem::not_found("not_found", "Owners are kept for account and card."))?;
    let id = request.param("id");
    if id.is_empty() || id.len() > ID_LEN_MAX {
        let detail = format!("The id in the path must have 1 to {ID_LEN_MAX} bytes.");
        return Err(Problem::bad_request("invalid_id", detail));
    }
    Ok((kind, id.into()))
}

fn merchant(ingest: &Ingest, fields: &mut Fields<'_>) -> Option<MerchantId> {
    let name = fields.required_str("merchant_id")?;
    let merchant: Option<MerchantId> = name.parse().ok();
    let known = merchant.filter(|id| ingest.registry.merchant(id).is_some());
    if known.is_none() {
        fields.fault("merchant_id", "unknown_merchant", "is not a merchant.");
    }
    known
}
