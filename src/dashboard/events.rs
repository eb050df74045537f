//! The event log and everything about one event, with its attempts and Resend.
//!
//! Never reads more than a page, never changes a byte of what was sent.

use std::sync::Arc;

use askama::Template;
use url::form_urlencoded;

use super::page::{Frame, Tab, page};
use super::{Dashboard, HOME, Stop, words};
use crate::engine::{ResendFault, Resent};
use crate::history::{HistoryItem, Question, Stretch};
use crate::http::{Query, Request, Response, StatusCode, response};
use crate::model::{ErrorCode, EventId, EventType, MerchantId, Status, Timestamp};

mod detail;

pub(super) use detail::detail;

const LIMIT: usize = 50;
const RESOURCE_ID_LEN_MAX: usize = 255;

#[derive(Template)]
#[template(path = "events.html", config = "src/dashboard/templates.toml")]
struct EventsPage {
    frame: Frame,
    filters: Filters,
    rows: Vec<Row>,
    newer: Option<String>,
    older: Option<String>,
    has_webhook: bool,
    /// Whether this is the top of the log, where new events appear.
    is_top: bool,
}

/// The filters as they stand on the page.
#[derive(Default)]
pub(super) struct Filters {
    statuses: Vec<Choice>,
    event_types: Vec<Choice>,
    resource_id: String,
    from: String,
    to: String,
    errors: Vec<String>,
    /// The same as a query string.
    text: String,
}

struct Choice {
    value: &'static str,
    word: &'static str,
    is_chosen: bool,
}

impl Filters {
    fn is_any(&self) -> bool {
        !self.text.is_empty()
    }
}

/// A line of the log.
pub(super) struct Row {
    pub(super) id: String,
    pub(super) sequence: u64,
    pub(super) event_type: &'static str,
    pub(super) resource_id: String,
    pub(super) status: &'static str,
    pub(super) status_word: &'static str,
    pub(super) status_meaning: &'static str,
    pub(super) created: String,
    pub(super) created_full: String,
    pub(super) attempts: u32,
    pub(super) answer: String,
    pub(super) answer_meaning: &'static str,
    pub(super) took: String,
    pub(super) next: String,
}

impl Row {
    pub(super) fn of(item: &HistoryItem, now: Timestamp) -> Row {
        let (answer, meaning) = match item.last_attempt {
            _ if item.damaged => ("not readable".to_owned(), words::DAMAGED),
            None => (String::new(), ""),
            Some(attempt) => {
                let code = attempt.status_code.map(|code| code.to_string());
                let error = attempt.error.map_or("", ErrorCode::as_str);
                (code.unwrap_or_else(|| error.to_owned()), attempt.error.map_or("", |error| words::fault(error).0))
            }
        };
        Row {
            id: item.id.to_string(),
            sequence: item.sequence,
            event_type: item.event_type.as_str(),
            resource_id: item.resource_id.as_deref().unwrap_or_default().to_owned(),
            status: item.status.as_str(),
            status_word: words::status(item.status),
            status_meaning: words::status_meaning(item.status, item.expired),
            created: words::moment(item.id.accepted_at()),
            created_full: item.id.accepted_at().to_string(),
            attempts: item.attempts,
            answer,
            answer_meaning: meaning,
            took: item.last_attempt.map(|attempt| words::duration(attempt.duration_ms.into())).unwrap_or_default(),
            next: item.next_attempt_at.map(|at| words::distance(at, now)).unwrap_or_default(),
        }
    }
}

pub(super) async fn list(dashboard: Arc<Dashboard>, request: Request) -> Result<Response, Stop> {
    let visitor = dashboard.visitor(&request)?;
    let merchant = &visitor.visit.merchant;
    let (question, filters, is_top) = read(merchant, request.query());
    // Whoever has an event's id, from a log or a support request, puts it where ids go.
    if let Some(id) = question.resource_id.as_deref().and_then(|id| id.parse::<EventId>().ok()) {
        let dossier = dashboard.engine.history.dossier(merchant, id).await.map_err(|error| Stop::unreadable(&error))?;
        if dossier.is_some() {
            return Ok(response::see_other(&format!("{HOME}/events/{id}")));
        }
    }
    let history = dashboard.engine.history.page(question.query()).await.map_err(|error| Stop::unreadable(&error))?;
    let Stretch { items, next, prev, .. } = question.turned(history);
    let now = dashboard.clock.now();
    let leads = |cursor: Option<String>| {
        let and = if filters.text.is_empty() { "" } else { "&" };
        cursor.map(|cursor| format!("{HOME}/events?{}{and}cursor={cursor}", filters.text))
    };
    let status = if filters.errors.is_empty() { StatusCode::OK } else { StatusCode::BAD_REQUEST };
    let shown = EventsPage {
        frame: Frame::new(&visitor, Tab::Events, request.query().one("done").as_deref()),
        rows: items.iter().map(|item| Row::of(item, now)).collect(),
        newer: leads(prev),
        older: leads(next),
        has_webhook: dashboard.engine.registry.endpoint_of(merchant).is_some(),
        is_top,
        filters,
    };
    Ok(page(status, &shown))
}

pub(super) async fn resend(dashboard: Arc<Dashboard>, mut request: Request) -> Result<Response, Stop> {
    let (visitor, _) = dashboard.action(&mut request).await?;
    let id: EventId = request.param("id").parse().map_err(|_| Stop::no_event())?;
    let done = match dashboard.engine.resend(&visitor.visit.merchant, id).await {
        Ok(Resent::Queued) => "queued",
        Ok(Resent::UnderWay) => "under_way",
        Ok(Resent::Unknown) => return Err(Stop::no_event()),
        Err(ResendFault::NoEndpoint) => "no_webhook",
        Err(ResendFault::Stopped) => return Err(Stop::stopping()),
        Err(ResendFault::Read(error)) => return Err(Stop::unreadable(&error)),
    };
    Ok(response::see_other(&format!("{HOME}/events/{id}?done={done}")))
}

/// A form sends every field, also the empty ones; a link that somebody shared may hold anything. What is not
/// understood is said, and narrows nothing.
pub(super) fn read(merchant: &MerchantId, mut query: Query<'_>) -> (Question, Filters, bool) {
    let mut question = Question::new(merchant, LIMIT);
    let mut filters = Filters::default();
    let mut errors = Vec::new();
    for word in query.all("status").into_iter().filter(|word| !word.is_empty()) {
        match word.parse::<Status>() {
            Ok(status) => question.statuses.push(status),
            Err(_) => errors.push(format!("“{word}” is no status.")),
        }
    }
    for word in query.all("event_type").into_iter().filter(|word| !word.is_empty()) {
        match word.parse::<EventType>() {
            Ok(event_type) => question.event_types.push(event_type),
            Err(_) => errors.push(format!("“{word}” is no event type.")),
        }
    }
    let mut text = |name: &str| query.one(name).map(|value| value.trim().to_owned()).unwrap_or_default();
    (filters.resource_id, filters.from, filters.to) = (text("resource_id"), text("from"), text("to"));
    let cursor = text("cursor");
    if filters.resource_id.len() > RESOURCE_ID_LEN_MAX {
        errors.push("A resource id has at most 255 bytes.".to_owned());
    } else if !filters.resource_id.is_empty() {
        question.resource_id = Some(filters.resource_id.clone());
    }
    for (given, is_from) in [(&mut filters.from, true), (&mut filters.to, false)] {
        match words::parse_moment(given) {
            Some(at) if is_from => question.first = EventId::floor(at),
            Some(at) => question.last = EventId::floor(at).before(),
            None if given.is_empty() => {}
            // A field for times shows nothing else, so that it goes out empty.
            None => {
                errors.push(format!("“{}” is no time: write it as 2026-01-31T12:00, in UTC.", std::mem::take(given)))
            }
        }
    }
    filters.text = as_query(&question, &filters);
    let is_top = cursor.is_empty() || !question.go_on_at(&cursor);
    if is_top && !cursor.is_empty() {
        errors.push("This link leads into another log or to other filters. Here are the newest events.".to_owned());
    }
    let statuses = Status::ALL.map(|one| choice(&question.statuses, one, one.as_str(), words::status(one)));
    let event_types = EventType::ALL.map(|one| choice(&question.event_types, one, one.as_str(), one.as_str()));
    (filters.statuses, filters.event_types) = (statuses.into(), event_types.into());
    filters.errors = errors;
    (question, filters, is_top)
}

/// The filters that were understood, for links.
fn as_query(question: &Question, filters: &Filters) -> String {
    let mut text = form_urlencoded::Serializer::new(String::new());
    for status in &question.statuses {
        text.append_pair("status", status.as_str());
    }
    for event_type in &question.event_types {
        text.append_pair("event_type", event_type.as_str());
    }
    let named = [
        ("resource_id", question.resource_id.as_deref().unwrap_or("")),
        ("from", if question.first > EventId::MIN { &filters.from } else { "" }),
        ("to", if question.last < EventId::MAX { &filters.to } else { "" }),
    ];
    for (name, value) in named.into_iter().filter(|(_, value)| !value.is_empty()) {
        text.append_pair(name, value);
    }
    text.finish()
}

fn choice<T: Copy + PartialEq>(chosen: &[T], one: T, value: &'static str, word: &'static str) -> Choice {
    Choice { value, word, is_chosen: chosen.contains(&one) }
}
