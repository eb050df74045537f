//! Recovering what failed in a period: count first, then begin, watch, cancel.
//!
//! Never begins anything that was not counted on the page before.

use std::sync::Arc;

use askama::Template;

use super::page::{Frame, Tab, page};
use super::{Dashboard, HOME, Stop, words};
use crate::http::{HeaderName, HeaderValue, Request, Response, StatusCode, response};
use crate::model::{Status, Timestamp};
use crate::recovery::{Count, NotBegun, Period, Progress, Stage};

const DAY_MS: i64 = 86_400_000;

/// How often the page of a running recovery comes anew, in seconds.
const REFRESH_S: &str = "2";

/// What can be recovered.
const STATUSES: [Status; 3] = [Status::Failed, Status::Canceled, Status::Skipped];

#[derive(Template)]
#[template(path = "recover.html", config = "src/dashboard/templates.toml")]
struct RecoverPage {
    frame: Frame,
    has_webhook: bool,
    from: String,
    to: String,
    statuses: Vec<Choice>,
    error: Option<&'static str>,
    /// How many there are, once it was asked.
    count: Option<String>,
    is_none: bool,
    running: Option<Shown>,
    last: Option<Shown>,
}

struct Choice {
    value: &'static str,
    word: &'static str,
    meaning: &'static str,
    is_chosen: bool,
}

struct Shown {
    queued: usize,
    total: usize,
    from: String,
    to: String,
    word: &'static str,
}

pub(super) async fn show(dashboard: Arc<Dashboard>, request: Request) -> Result<Response, Stop> {
    let visitor = dashboard.visitor(&request)?;
    let merchant = &visitor.visit.merchant;
    let mut query = request.query();
    let frame = Frame::new(&visitor, Tab::Tools, query.one("done").as_deref());
    let statuses: Vec<String> = query.all("status").into_iter().map(|word| word.into_owned()).collect();
    let (from, to) = (query.one("from"), query.one("to"));
    let is_asked = from.is_some() || to.is_some();
    let read = read(from.as_deref(), to.as_deref(), &statuses, dashboard.clock.now());
    let counted = match (&read, is_asked) {
        (Ok(period), true) => {
            let counted = dashboard.engine.recoveries.count(merchant, period).await;
            Some(counted.map_err(|error| Stop::unreadable(&error))?)
        }
        _ => None,
    };
    let progress = dashboard.engine.recoveries.progress(merchant);
    let is_running = progress.as_ref().is_some_and(|progress| progress.stage == Stage::Running);
    let chosen = |status: Status| match is_asked {
        true => statuses.iter().any(|word| word == status.as_str()),
        false => status == Status::Failed,
    };
    let (from, to) = match &read {
        Ok(_) => shown_period(from.as_deref(), to.as_deref(), dashboard.clock.now()),
        // What is no time cannot stand in a field for times.
        Err(_) => shown_period(None, None, dashboard.clock.now()),
    };
    let shown = RecoverPage {
        frame,
        has_webhook: dashboard.engine.registry.endpoint_of(merchant).is_some(),
        from,
        to,
        statuses: STATUSES.map(|status| choice(status, chosen(status))).into(),
        error: read.err(),
        is_none: counted.is_some_and(|count| count.matching == 0),
        count: counted.map(|Count { matching, more }| match more {
            true => format!("the first {matching}"),
            false => matching.to_string(),
        }),
        running: progress.as_ref().filter(|_| is_running).map(Shown::of),
        last: progress.as_ref().filter(|_| !is_running).map(Shown::of),
    };
    let mut answer = page(StatusCode::OK, &shown);
    if is_running {
        answer.headers_mut().insert(HeaderName::from_static("refresh"), HeaderValue::from_static(REFRESH_S));
    }
    Ok(answer)
}

pub(super) async fn begin(dashboard: Arc<Dashboard>, mut request: Request) -> Result<Response, Stop> {
    let (visitor, form) = dashboard.action(&mut request).await?;
    let merchant = &visitor.visit.merchant;
    if dashboard.engine.registry.endpoint_of(merchant).is_none() {
        return Ok(response::see_other(&format!("{HOME}?done=no_webhook")));
    }
    let statuses: Vec<String> = form.all("status").map(str::to_owned).collect();
    let period = read(Some(form.text("from")), Some(form.text("to")), &statuses, dashboard.clock.now());
    let period = period.map_err(|text| Stop::sorry(StatusCode::UNPROCESSABLE_ENTITY, "Nothing was recovered", text))?;
    match dashboard.engine.recoveries.begin(merchant, period).await.map_err(|error| Stop::unreadable(&error))? {
        Ok(_) | Err(NotBegun::Running) => Ok(response::see_other(&format!("{HOME}/recover?done=recovering"))),
        Err(NotBegun::NoEndpoint) => Ok(response::see_other(&format!("{HOME}?done=no_webhook"))),
        Err(NotBegun::Nothing) => Ok(response::see_other(&format!("{HOME}/recover"))),
        Err(NotBegun::Busy) => {
            let text = "Many merchants recover events at this moment. Try again in a few minutes.";
            Err(Stop::sorry(StatusCode::SERVICE_UNAVAILABLE, "Busy", text))
        }
    }
}

pub(super) async fn cancel(dashboard: Arc<Dashboard>, mut request: Request) -> Result<Response, Stop> {
    let (visitor, _) = dashboard.form(&mut request).await?;
    dashboard.engine.recoveries.cancel(&visitor.visit.merchant);
    Ok(response::see_other(&format!("{HOME}/recover?done=recovery_canceled")))
}

fn read(from: Option<&str>, to: Option<&str>, statuses: &[String], now: Timestamp) -> Result<Period, &'static str> {
    let (from, to) = shown_period(from, to, now);
    let statuses: Vec<Status> =
        STATUSES.into_iter().filter(|status| statuses.iter().any(|word| word == status.as_str())).collect();
    let (Some(from), Some(to)) = (words::parse_moment(&from), words::parse_moment(&to)) else {
        return Err("Write both times as 2026-01-31T12:00, in UTC.");
    };
    if from >= to {
        return Err("The period must begin before it ends.");
    }
    if statuses.is_empty() {
        return Err("Choose at least one kind of events to recover.");
    }
    Ok(Period { from, to, statuses, event_types: Vec::new() })
}

/// What was given, else the last day.
fn shown_period(from: Option<&str>, to: Option<&str>, now: Timestamp) -> (String, String) {
    let or = |given: Option<&str>, at| match given.map(str::trim) {
        Some(text) if !text.is_empty() => text.to_owned(),
        _ => words::input_moment(at),
    };
    (or(from, Timestamp::from_ms(now.as_ms() - DAY_MS)), or(to, now.plus_ms(1_000)))
}

fn choice(status: Status, is_chosen: bool) -> Choice {
    let meaning = match status {
        Status::Failed => "every attempt failed",
        Status::Canceled => "waited when a webhook was deleted",
        _ => "came while there was no webhook or their type was not selected",
    };
    Choice { value: status.as_str(), word: words::status(status), meaning, is_chosen }
}

impl Shown {
    fn of(progress: &Progress) -> Shown {
        Shown {
            queued: progress.queued,
            total: progress.count.matching,
            from: words::moment(progress.period.from),
            to: words::moment(progress.period.to),
            word: match progress.stage {
                Stage::Running => "under way",
                Stage::Done => "done",
                Stage::Canceled => "canceled",
                Stage::Broken => "stopped before its end: your webhook is gone, or took nothing for long",
            },
        }
    }
}
