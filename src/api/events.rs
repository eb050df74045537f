//! A merchant's event history: pages by filter and cursor, one event in full, resend.
//!
//! Never reads more than a page, never widens a filter that it does not understand.

use std::fmt::Write as _;
use std::sync::Arc;

use serde::Serialize;
use url::form_urlencoded;

use super::cursor::Cursor;
use super::shown::{Detail, Item};
use super::{Api, not_configured, stopping, unreadable};
use crate::engine::{ResendFault, Resent};
use crate::history::{HistoryItem, HistoryPage, HistoryQuery};
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
    let question = Question::read(&merchant, &mut request.query())?;
    let page = api.engine.history.page(&question.query()).map_err(|error| unreadable(&error))?;
    let page = question.turned(page);
    let link = question.link(&request.path, &page);
    let mut answer = response::json(StatusCode::OK, &page);
    if let Some(link) = link.and_then(|link| HeaderValue::try_from(link).ok()) {
        answer.headers_mut().insert(header::LINK, link);
    }
    Ok(answer)
}

pub(super) async fn detail(api: Arc<Api>, request: Request) -> Result<Response, Problem> {
    let merchant = api.merchant(&request)?;
    let id = event_id(&request)?;
    let dossier = api.engine.history.dossier(&merchant, id).map_err(|error| unreadable(&error))?;
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
        Err(ResendFault::Stopped) => Err(stopping()),
        Err(ResendFault::Read(error)) => Err(unreadable(&error)),
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
struct Question {
    merchant: MerchantId,
    statuses: Vec<Status>,
    event_types: Vec<EventType>,
    resource_id: Option<String>,
    first: EventId,
    last: EventId,
    descending: bool,
    limit: usize,
    cursor: Option<Cursor>,
    /// The filters in one form, for binding cursors and for links.
    filters: String,
}

impl Question {
    fn read(merchant: &MerchantId, query: &mut Query<'_>) -> Result<Question, Problem> {
        let statuses = Status::ALL.map(Status::as_str).join(", ");
        let types = EventType::ALL.map(EventType::as_str).join(", ");
        let mut statuses: Vec<Status> = query.all_parsed("status", &format!("must be one of {statuses}."));
        let mut event_types: Vec<EventType> = query.all_parsed("event_type", &format!("must be one of {types}."));
        statuses.sort_unstable();
        statuses.dedup();
        event_types.sort_unstable();
        event_types.dedup();
        let resource_id = query.one("resource_id").map(std::borrow::Cow::into_owned);
        if resource_id.as_ref().is_some_and(|id| id.is_empty() || id.len() > RESOURCE_ID_LEN_MAX) {
            query.fault("resource_id", "invalid_parameter", format!("must have 1 to {RESOURCE_ID_LEN_MAX} bytes."));
        }
        let (first, last) = bounds(query);
        let descending = match query.one("order").as_deref() {
            None | Some("desc") => true,
            Some("asc") => false,
            Some(_) => {
                query.fault("order", "invalid_parameter", "must be asc or desc.");
                true
            }
        };
        let limit = limit(query);
        let text = query.one("cursor");
        let mut question = Question {
            merchant: merchant.clone(),
            statuses,
            event_types,
            resource_id,
            first,
            last,
            descending,
            limit,
            cursor: None,
            filters: String::new(),
        };
        question.filters = question.filters();
        question.cursor = text.as_deref().and_then(|text| Cursor::open(text, &question.binding()));
        if text.is_some() && question.cursor.is_none() {
            let detail = "must be one that was given out for the same filters and order; begin again without it.";
            query.fault("cursor", "invalid_cursor", detail);
        }
        std::mem::replace(query, Query::parse("")).finish()?;
        Ok(question)
    }

    /// The question as the history understands it.
    fn query(&self) -> HistoryQuery {
        let backwards = self.cursor.is_some_and(|cursor| cursor.before);
        let descending = self.descending != backwards;
        let (mut first, mut last) = (self.first, self.last);
        if let Some(cursor) = self.cursor {
            if descending {
                last = last.min(cursor.event.before());
            } else {
                first = first.max(cursor.event.after());
            }
        }
        HistoryQuery {
            merchant: self.merchant.clone(),
            statuses: self.statuses.clone(),
            event_types: self.event_types.clone(),
            resource_id: self.resource_id.clone(),
            first,
            last,
            descending,
            limit: self.limit,
        }
    }

    /// The page in the order asked for, with the cursors that lead on from it.
    fn turned(&self, page: HistoryPage) -> Page {
        let HistoryPage { mut items, more } = page;
        let backwards = self.cursor.is_some_and(|cursor| cursor.before);
        if backwards {
            items.reverse();
        }
        let (before, after) = match self.cursor {
            None => (false, more),
            Some(_) if backwards => (more, true),
            Some(_) => (true, more),
        };
        let seal = |item: &HistoryItem, before| Cursor { event: item.id, before }.seal(&self.binding());
        Page {
            has_more: after && !items.is_empty(),
            next_cursor: items.last().filter(|_| after).map(|item| seal(item, false)),
            prev_cursor: items.first().filter(|_| before).map(|item| seal(item, true)),
            data: items.iter().map(Item::of).collect(),
        }
    }

    /// RFC 8288.
    fn link(&self, path: &str, page: &Page) -> Option<String> {
        let mut link = String::new();
        for (rel, cursor) in [("next", &page.next_cursor), ("prev", &page.prev_cursor)] {
            let Some(cursor) = cursor else { continue };
            let comma = if link.is_empty() { "" } else { ", " };
            let and = if self.filters.is_empty() { "" } else { "&" };
            let (filters, limit) = (&self.filters, self.limit);
            write!(link, "{comma}<{path}?{filters}{and}limit={limit}&cursor={cursor}>; rel=\"{rel}\"")
                .expect("writing to a string succeeds");
        }
        (!link.is_empty()).then_some(link)
    }

    fn binding(&self) -> String {
        format!("{}?{}", self.merchant, self.filters)
    }

    fn filters(&self) -> String {
        let mut text = form_urlencoded::Serializer::new(String::new());
        for status in &self.statuses {
            text.append_pair("status", status.as_str());
        }
        for event_type in &self.event_types {
            text.append_pair("event_type", event_type.as_str());
        }
        if let Some(id) = &self.resource_id {
            text.append_pair("resource_id", id);
        }
        if self.first > EventId::MIN {
            text.append_pair("created[gte]", &self.first.accepted_at().to_string());
        }
        if self.last < EventId::MAX {
            text.append_pair("created[lte]", &self.last.accepted_at().to_string());
        }
        if !self.descending {
            text.append_pair("order", "asc");
        }
        text.finish()
    }
}

/// The ids of the time asked for: ids are ordered by the millisecond in which they were given out.
fn bounds(query: &mut Query<'_>) -> (EventId, EventId) {
    let mut moment = |name: &str| {
        let text = query.one(name)?;
        let moment = Timestamp::parse(&text);
        if moment.is_none() {
            query.fault(name, "invalid_parameter", "must be a time of RFC 3339, such as 2026-01-31T12:00:00Z.");
        }
        moment
    };
    let from = [moment("created[gte]"), moment("created[gt]").map(|at| at.plus_ms(1))];
    let to = [moment("created[lte]").map(|at| at.plus_ms(1)), moment("created[lt]")];
    let first = from.into_iter().flatten().map(EventId::floor).max().unwrap_or(EventId::MIN);
    let last = to.into_iter().flatten().map(|at| EventId::floor(at).before()).min().unwrap_or(EventId::MAX);
    (first, last)
}

fn limit(query: &mut Query<'_>) -> usize {
    let must = format!("must be a number from 1 to {LIMIT_MAX}.");
    let limit = query.parsed::<usize>("limit", &must).unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        query.fault("limit", "invalid_parameter", must);
    }
    limit
}
