//! A merchant's event history: pages by filter and cursor, one event in full, resend.
//!
//! Never reads more than a page, never widens a filter that it does not understand.

use std::fmt::Write as _;
use std::sync::Arc;

use serde::Serialize;

use super::shown::{Detail, Item};
use super::{Api, not_configured};
use crate::engine::{ResendFault, Resent};
use crate::history::{Question, Stretch};
use crate::http::{HeaderValue, Problem, Query, Request, Response, StatusCode, header, response};
use crate::model::{EventId, EventType, MerchantId, Status, Timestamp};

const LIMIT: usize = 50;
const LIMIT_MAX: usize = 250;

/// Longer than every resource id that is stored.
const RESOURCE_ID_LEN_MAX: usize = 255;

#[derive(Serialize)]
struct Page {
    data: Vec<Item>,
    has_more: bool,
    next_cursor: Option<String>,
    prev_cursor: Option<String>,
}

#[derive(Serialize)]
struct Queued {
    id: String,
    /// `queued`, or `under_way` where an attempt is being made this moment.
    state: &'static str,
}

pub(super) async fn list(api: Arc<Api>, request: Request) -> Result<Response, Problem> {
    let merchant = api.merchant(&request)?;
    let question = question(&merchant, request.query())?;
    let page = api.engine.history.page(question.query()).await.map_err(Problem::unreadable)?;
    let stretch = question.turned(page);
    let link = link(&request.path, &question, &stretch);
    let page = Page {
        data: stretch.items.iter().map(Item::of).collect(),
        has_more: stretch.more,
        next_cursor: stretch.next,
        prev_cursor: stretch.prev,
    };
    let mut answer = response::json(StatusCode::OK, &page);
    if let Some(link) = link.and_then(|link| HeaderValue::try_from(link).ok()) {
        answer.headers_mut().insert(header::LINK, link);
    }
    Ok(answer)
}

pub(super) async fn detail(api: Arc<Api>, request: Request) -> Result<Response, Problem> {
    let merchant = api.merchant(&request)?;
    let id = event_id(&request)?;
    let dossier = api.engine.history.dossier(&merchant, id).await.map_err(Problem::unreadable)?;
    let dossier = dossier.ok_or_else(unknown_event)?;
    Ok(response::json(StatusCode::OK, &Detail::of(&dossier)))
}

pub(super) async fn resend(api: Arc<Api>, request: Request) -> Result<Response, Problem> {
    let merchant = api.merchant(&request)?;
    let id = event_id(&request)?;
    let queued = |state| response::json(StatusCode::ACCEPTED, &Queued { id: id.to_string(), state });
    match api.engine.resend(&merchant, id).await {
        Ok(Resent::Queued) => Ok(queued("queued")),
        Ok(Resent::UnderWay) => Ok(queued("under_way")),
        Ok(Resent::Unknown) => Err(unknown_event()),
        Err(ResendFault::NoEndpoint) => Err(Problem { status: StatusCode::CONFLICT, ..not_configured() }),
        Err(ResendFault::Stopped) => Err(Problem::stopping()),
        Err(ResendFault::Read(error)) => Err(Problem::unreadable(error)),
    }
}

fn event_id(request: &Request) -> Result<EventId, Problem> {
    // What is no id at all does not exist either.
    request.param("id").parse().map_err(|_| unknown_event())
}

fn unknown_event() -> Problem {
    Problem::not_found("event_not_found", "There is no such event.")
}

/// What a client asks for, understood.
fn question(merchant: &MerchantId, mut query: Query<'_>) -> Result<Question, Problem> {
    let statuses = Status::ALL.map(Status::as_str).join(", ");
    let types = EventType::ALL.map(EventType::as_str).join(", ");
    let mut question = Question::new(merchant, LIMIT);
    question.statuses = query.all_parsed("status", &format!("must be one of {statuses}."));
    question.event_types = query.all_parsed("event_type", &format!("must be one of {types}."));
    question.resource_id = query.one("resource_id").map(std::borrow::Cow::into_owned);
    if question.resource_id.as_ref().is_some_and(|id| id.is_empty() || id.len() > RESOURCE_ID_LEN_MAX) {
        query.fault("resource_id", "invalid_parameter", format!("must have 1 to {RESOURCE_ID_LEN_MAX} bytes."));
    }
    (question.first, question.last) = bounds(&mut query);
    question.descending = match query.one("order").as_deref() {
        None | Some("desc") => true,
        Some("asc") => false,
        Some(_) => {
            query.fault("order", "invalid_parameter", "must be asc or desc.");
            true
        }
    };
    question.limit = query.limit(LIMIT, LIMIT_MAX);
    if let Some(text) = query.one("cursor")
        && !question.go_on_at(&text)
    {
        let detail = "must be one that was given out for the same filters and order; begin again without it.";
        query.fault("cursor", "invalid_cursor", detail);
    }
    query.finish()?;
    Ok(question)
}

/// RFC 8288.
fn link(path: &str, question: &Question, stretch: &Stretch) -> Option<String> {
    let (mut link, filters, limit) = (String::new(), question.filters(), question.limit);
    for (rel, cursor) in [("next", &stretch.next), ("prev", &stretch.prev)] {
        let Some(cursor) = cursor else { continue };
        let comma = if link.is_empty() { "" } else { ", " };
        let and = if filters.is_empty() { "" } else { "&" };
        write!(link, "{comma}<{path}?{filters}{and}limit={limit}&cursor={cursor}>; rel=\"{rel}\"")
            .expect("writing to a string succeeds");
    }
    (!link.is_empty()).then_some(link)
}

/// The ids of the time asked for: ids are ordered by the millisecond in which they were given out. Between two
/// milliseconds nothing was, so a finer bound is the next one on the side that keeps what it keeps.
fn bounds(query: &mut Query<'_>) -> (EventId, EventId) {
    let mut moment = |name: &str, parse: fn(&str) -> Option<Timestamp>| {
        let text = query.one(name)?;
        let moment = parse(&text);
        if moment.is_none() {
            query.fault(name, "invalid_parameter", "must be a time of RFC 3339, such as 2026-01-31T12:00:00Z.");
        }
        moment
    };
    let (down, up) = (Timestamp::parse, Timestamp::parse_up);
    let from = [moment("created[gte]", up), moment("created[gt]", down).map(|at| at.plus_ms(1))];
    let to = [moment("created[lte]", down).map(|at| at.plus_ms(1)), moment("created[lt]", up)];
    let first = from.into_iter().flatten().map(EventId::floor).max().unwrap_or(EventId::MIN);
    let last = to.into_iter().flatten().map(|at| EventId::floor(at).before()).min().unwrap_or(EventId::MAX);
    (first, last)
}
