//! Sending again everything that a filter matches: count, begin, look, stop.
//!
//! Never begins what could not be counted.

use std::sync::Arc;

use serde::Serialize;

use super::{Api, not_configured, unreadable};
use crate::http::{Fields, Problem, Request, Response, StatusCode, Words, response};
use crate::model::{EventType, Status, Timestamp};
use crate::recovery::{Progress, Refused, Wanted};

/// A request is far smaller.
const BODY_BYTES_MAX: usize = 16 << 10;

/// What can be sent again as a whole: nothing that waits, and nothing that has arrived.
const STATUSES: [Status; 3] = [Status::Failed, Status::Canceled, Status::Skipped];

#[derive(Serialize)]
struct Counted {
    dry_run: bool,
    matching: u64,
    more: bool,
}

#[derive(Serialize)]
struct Shown {
    state: &'static str,
    matching: u64,
    more: bool,
    queued: u64,
    started_at: String,
    ended_at: Option<String>,
}

pub(super) async fn begin(api: Arc<Api>, mut request: Request) -> Result<Response, Problem> {
    let merchant = api.merchant(&request)?;
    let body = request.read_json(BODY_BYTES_MAX).await?;
    let (wanted, dry_run) = read(&body)?;
    if api.engine.registry.endpoint_of(&merchant).is_none() {
        return Err(Problem { status: StatusCode::CONFLICT, ..not_configured() });
    }
    if dry_run {
        let counted = api.engine.recoveries.count(&merchant, &wanted).await;
        let count = counted.map_err(|error| unreadable(&error))?;
        let shown = Counted { dry_run, matching: count.matching, more: count.more };
        return Ok(response::json(StatusCode::OK, &shown));
    }
    match api.engine.recover(&merchant, &wanted).await {
        Ok(progress) => Ok(shown(StatusCode::ACCEPTED, &progress)),
        Err(Refused::UnderWay) => {
            let detail = "A recovery is under way. Wait for its end, or stop it with DELETE.";
            Err(Problem::new(StatusCode::CONFLICT, "recovery_under_way", detail))
        }
        Err(Refused::Unreadable(error)) => Err(unreadable(&error)),
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

fn read(body: &[u8]) -> Result<(Wanted, bool), Problem> {
    let mut fields = Fields::parse(body)?;
    let (from, to) = (moment(&mut fields, "from"), moment(&mut fields, "to"));
    if from.zip(to).is_some_and(|(from, to)| from >= to) {
        fields.fault("to", "out_of_range", "must be later than from.");
    }
    let mut statuses = words(&mut fields, "status", &STATUSES, Status::as_str);
    if statuses.is_empty() {
        statuses.push(Status::Failed);
    }
    let event_types = words(&mut fields, "event_type", &EventType::ALL, EventType::as_str);
    let dry_run = fields.optional_bool("dry_run").unwrap_or(false);
    fields.finish()?;
    Ok((Wanted { from, to, statuses, event_types }, dry_run))
}

fn moment(fields: &mut Fields<'_>, name: &str) -> Option<Timestamp> {
    let text = fields.optional_str(name)?;
    let moment = Timestamp::parse(&text);
    if moment.is_none() {
        let detail = "must be a time of RFC 3339, such as 2026-01-31T12:00:00Z.";
        fields.fault(name, "invalid_time", detail);
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

fn shown(status: StatusCode, progress: &Progress) -> Response {
    let shown = Shown {
        state: progress.stage.as_str(),
        matching: progress.count.matching,
        more: progress.count.more,
        queued: progress.queued,
        started_at: progress.started_at.to_string(),
        ended_at: progress.ended_at.map(|at| at.to_string()),
    };
    response::json(status, &shown)
}

fn none() -> Problem {
    Problem::not_found("recovery_not_found", "There has been no recovery since the last restart.")
}
