//! Sending again everything that a filter matches: count, begin, look, stop.
//!
//! Never begins what could not be counted.

use std::sync::Arc;

use serde::Serialize;

use super::{Api, not_configured};
use crate::http::{Fields, Problem, Request, Response, SMALL_BODY_BYTES_MAX, StatusCode, Words, response};
use crate::model::{EventType, Status, Timestamp};
use crate::recovery::{Count, NotBegun, Period, Progress};

/// What can be sent again as a whole: nothing that waits, and nothing that has arrived.
const STATUSES: [Status; 3] = [Status::Failed, Status::Canceled, Status::Skipped];

#[derive(Serialize)]
struct Counted {
    dry_run: bool,
    matching: usize,
    /// Whether there are more than one recovery takes.
    more: bool,
}

#[derive(Serialize)]
struct Shown {
    state: &'static str,
    from: String,
    to: String,
    status: Vec<&'static str>,
    /// Empty: any.
    event_type: Vec<&'static str>,
    matching: usize,
    more: bool,
    queued: usize,
    started_at: String,
    ended_at: Option<String>,
}

pub(super) async fn begin(api: Arc<Api>, mut request: Request) -> Result<Response, Problem> {
    let merchant = api.merchant(&request)?;
    let body = request.read_json(SMALL_BODY_BYTES_MAX).await?;
    let (period, dry_run) = read(&body, api.engine.recoveries.now())?;
    if api.engine.registry.endpoint_of(&merchant).is_none() {
        return Err(Problem { status: StatusCode::CONFLICT, ..not_configured() });
    }
    if dry_run {
        let count = api.engine.recoveries.count(&merchant, &period).await.map_err(Problem::unreadable)?;
        return Ok(counted(dry_run, count));
    }
    match api.engine.recoveries.begin(&merchant, period).await.map_err(Problem::unreadable)? {
        Ok(progress) => Ok(shown(StatusCode::ACCEPTED, &progress)),
        Err(NotBegun::Running) => {
            let detail = "A recovery is under way. Wait for its end, or stop it with DELETE.";
            Err(Problem::new(StatusCode::CONFLICT, "recovery_under_way", detail))
        }
        Err(NotBegun::NoEndpoint) => Err(Problem { status: StatusCode::CONFLICT, ..not_configured() }),
        Err(NotBegun::Nothing) => Ok(counted(dry_run, Count { matching: 0, more: false })),
        Err(NotBegun::Busy) => {
            let detail = "Many merchants recover events at this moment. Try again in a few minutes.";
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "recoveries_busy", detail).retry_after_s(60))
        }
    }
}

pub(super) async fn progress(api: Arc<Api>, request: Request) -> Result<Response, Problem> {
    let merchant = api.merchant(&request)?;
    let progress = api.engine.recoveries.progress(&merchant).ok_or_else(none)?;
    Ok(shown(StatusCode::OK, &progress))
}

/// Idempotent: stopping what has ended changes nothing. What is queued stays queued.
pub(super) async fn cancel(api: Arc<Api>, request: Request) -> Result<Response, Problem> {
    let merchant = api.merchant(&request)?;
    if api.engine.recoveries.cancel(&merchant) { Ok(response::empty()) } else { Err(none()) }
}

fn read(body: &[u8], now: Timestamp) -> Result<(Period, bool), Problem> {
    let mut fields = if body.is_empty() { Fields::parse(b"{}")? } else { Fields::parse(body)? };
    let from = moment(&mut fields, "from").unwrap_or(Timestamp::ZERO);
    let to = moment(&mut fields, "to");
    if to.is_some_and(|to| from >= to) {
        fields.fault("to", "out_of_range", "must be later than from.");
    }
    let to = to.unwrap_or(now.plus_ms(1));
    let mut statuses = words(&mut fields, "status", &STATUSES, Status::as_str);
    if statuses.is_empty() {
        statuses.push(Status::Failed);
    }
    let event_types = words(&mut fields, "event_type", &EventType::ALL, EventType::as_str);
    let dry_run = fields.optional_bool("dry_run").unwrap_or(false);
    fields.finish()?;
    Ok((Period { from, to, statuses, event_types }, dry_run))
}

fn moment(fields: &mut Fields<'_>, name: &str) -> Option<Timestamp> {
    let text = fields.optional_str(name)?;
    let moment = Timestamp::parse_up(&text);
    if moment.is_none() {
        fields.fault(name, "invalid_time", "must be a time of RFC 3339, such as 2026-01-31T12:00:00Z.");
    }
    moment
}

/// One word or a list of them.
fn words<T: Copy>(fields: &mut Fields<'_>, name: &str, known: &[T], word: impl Fn(T) -> &'static str) -> Vec<T> {
    let said = match fields.optional_words(name) {
        None => return Vec::new(),
        Some(Words::One(word)) => vec![word],
        Some(Words::Many(words)) => words,
    };
    let must = known.iter().map(|value| word(*value)).collect::<Vec<_>>().join(", ");
    let mut values = Vec::with_capacity(said.len());
    for text in &said {
        match known.iter().find(|value| word(**value) == text.as_ref()) {
            Some(value) => values.push(*value),
            None => fields.fault(name, "unknown_word", format!("must be one or several of {must}.")),
        }
    }
    values
}

fn counted(dry_run: bool, count: Count) -> Response {
    response::json(StatusCode::OK, &Counted { dry_run, matching: count.matching, more: count.more })
}

fn shown(status: StatusCode, progress: &Progress) -> Response {
    let Progress { period, count, .. } = progress;
    let shown = Shown {
        state: progress.stage.as_str(),
        from: period.from.to_string(),
        to: period.to.to_string(),
        status: period.statuses.iter().map(|status| status.as_str()).collect(),
        event_type: period.event_types.iter().map(|event_type| event_type.as_str()).collect(),
        matching: count.matching,
        more: count.more,
        queued: progress.queued,
        started_at: progress.started_at.to_string(),
        ended_at: progress.ended_at.map(|at| at.to_string()),
    };
    response::json(status, &shown)
}

fn none() -> Problem {
    Problem::not_found("recovery_not_found", "There has been no recovery since the last restart.")
}
