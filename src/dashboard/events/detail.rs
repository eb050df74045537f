//! One event in full: what was sent, what came back, each attempt with where its time went.
//!
//! Never interprets a body or a header: they are shown as text.

use std::fmt::Write as _;
use std::sync::Arc;

use askama::Template;

use super::Row;
use crate::dashboard::page::{Frame, Tab, page};
use crate::dashboard::{Dashboard, Stop, words};
use crate::history::{Dossier, request_headers};
use crate::http::{Request, Response, StatusCode};
use crate::model::{self, Attempt, Event, EventId, Phases};

/// The width of a timing bar in its own units.
const BAR_WIDTH: f64 = 600.0;

/// Where a bar could not be seen.
const BAR_PART_MIN: f64 = 2.0;

#[derive(Template)]
#[template(path = "event.html", config = "src/dashboard/templates.toml")]
struct EventPage {
    frame: Frame,
    row: Row,
    occurred: Option<String>,
    delivered: Option<String>,
    next: Option<String>,
    payload: String,
    payload_indented: String,
    payload_bytes: usize,
    attempts: Vec<ShownAttempt>,
    curl: Option<String>,
    can_resend: bool,
}

struct ShownAttempt {
    number: u32,
    started: String,
    took: String,
    is_success: bool,
    code: String,
    what: &'static str,
    advice: &'static str,
    error: &'static str,
    parts: Vec<Part>,
    request_headers: Vec<(String, String)>,
    response_headers: Vec<(String, String)>,
    response_body: String,
    response_is_text: bool,
    has_response: bool,
    truncated: bool,
}

/// A stretch of a timing bar.
struct Part {
    name: &'static str,
    class: &'static str,
    took: String,
    x: String,
    width: String,
}

pub(in crate::dashboard) async fn detail(dashboard: Arc<Dashboard>, request: Request) -> Result<Response, Stop> {
    let visitor = dashboard.visitor(&request)?;
    let merchant = &visitor.visit.merchant;
    let id: EventId = request.param("id").parse().map_err(|_| Stop::no_event())?;
    let dossier = dashboard.engine.history.dossier(merchant, id).await.map_err(|error| Stop::unreadable(&error))?;
    let dossier = dossier.ok_or_else(Stop::no_event)?;
    let frame = Frame::new(&visitor, Tab::Events, request.query().one("done").as_deref());
    let endpoint = dashboard.engine.registry.endpoint_of(merchant);
    let url = endpoint.as_ref().map(|endpoint| &*endpoint.url);
    Ok(page(StatusCode::OK, &EventPage::of(frame, &dashboard, &dossier, url)))
}

impl EventPage {
    fn of(frame: Frame, dashboard: &Dashboard, dossier: &Dossier, url: Option<&str>) -> EventPage {
        let now = dashboard.clock.now();
        let Dossier { event, item, attempts, .. } = dossier;
        let payload = String::from_utf8_lossy(&event.payload).into_owned();
        let next = item.next_attempt_at.map(|at| format!("{} UTC ({})", words::moment(at), words::distance(at, now)));
        EventPage {
            frame,
            row: Row::of(item, now),
            occurred: event.occurred_at.map(words::moment),
            delivered: item.delivered_at.map(words::moment),
            next,
            payload_indented: words::indented(&payload),
            payload_bytes: event.payload.len(),
            attempts: attempts.iter().rev().map(|attempt| ShownAttempt::of(event, attempt)).collect(),
            curl: url.zip(attempts.last()).map(|(url, attempt)| curl(url, event, attempt, &payload)),
            payload,
            can_resend: url.is_some(),
        }
    }
}

impl ShownAttempt {
    fn of(event: &Event, attempt: &Attempt) -> ShownAttempt {
        let error = attempt.outcome.error();
        let (what, advice) = error.map_or(("Your endpoint answered 2xx.", ""), words::fault);
        let (response_body, response_is_text) = attempt.response.as_ref().map(body).unwrap_or_default();
        ShownAttempt {
            number: attempt.number,
            started: words::moment(attempt.started_at),
            took: words::duration(attempt.duration_ms.into()),
            is_success: error.is_none(),
            code: attempt.outcome.status().map(|code| code.to_string()).unwrap_or_default(),
            what,
            advice,
            error: error.map_or("", model::ErrorCode::as_str),
            parts: parts(&attempt.phases),
            request_headers: request_headers(event, attempt),
            response_headers: attempt.response.as_ref().map(headers).unwrap_or_default(),
            response_body,
            response_is_text,
            has_response: attempt.response.is_some(),
            truncated: attempt.response.as_ref().is_some_and(|response| response.truncated),
        }
    }
}

fn headers(response: &model::Response) -> Vec<(String, String)> {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    response.headers.iter().map(|(name, value)| (name.clone(), text(value))).collect()
}

/// The body, and whether it is all text.
fn body(response: &model::Response) -> (String, bool) {
    let text = String::from_utf8_lossy(&response.body);
    (text.clone().into_owned(), matches!(text, std::borrow::Cow::Borrowed(_)) || response.truncated)
}

/// The phases one after the other, each as wide as its part of the whole.
fn parts(phases: &Phases) -> Vec<Part> {
    let named = [
        ("DNS", "dns", phases.dns_us),
        ("Connect", "connect", phases.connect_us),
        ("TLS", "tls", phases.tls_us),
        ("Waiting for the answer", "head", phases.head_us),
        ("Reading the body", "body", phases.body_us),
    ];
    let took: Vec<_> = named.into_iter().filter_map(|(name, class, us)| Some((name, class, f64::from(us?)))).collect();
    let whole = took.iter().map(|(_, _, us)| us).sum::<f64>().max(1.0);
    let mut x = 0.0;
    let part = |(name, class, us): (&'static str, &'static str, f64)| {
        let width = (us / whole * BAR_WIDTH).max(BAR_PART_MIN);
        let at = x;
        x += width;
        Part { name, class, took: microseconds(us), x: format!("{at:.1}"), width: format!("{width:.1}") }
    };
    took.into_iter().map(part).collect()
}

fn microseconds(us: f64) -> String {
    if us < 10_000.0 { format!("{:.2} ms", us / 1000.0) } else { words::duration((us / 1000.0) as u64) }
}

/// A command that sends the same bytes and headers to the present URL.
fn curl(url: &str, event: &Event, attempt: &Attempt, payload: &str) -> String {
    const LEFT_TO_CURL: [&str; 2] = ["content-length", "accept-encoding"];
    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    let mut command = format!("curl -i -X POST {}", quoted(url));
    for (name, value) in request_headers(event, attempt) {
        if !LEFT_TO_CURL.contains(&name.as_str()) {
            write!(command, " \\\n  -H {}", quoted(&format!("{name}: {value}"))).expect("writing to a string succeeds");
        }
    }
    write!(command, " \\\n  --data-raw {}", quoted(payload)).expect("writing to a string succeeds");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timing_bar_is_as_long_as_its_parts() {
        let phases = Phases { dns_us: Some(1_000), head_us: Some(3_000), ..Phases::default() };
        let parts = parts(&phases);
        let shown: Vec<_> = parts.iter().map(|part| (part.class, &*part.x, &*part.width, &*part.took)).collect();
        assert_eq!(shown, [("dns", "0.0", "150.0", "1.00 ms"), ("head", "150.0", "450.0", "3.00 ms")]);
    }
}
