//! Events and attempts as merchants see them.
//!
//! Never changes a payload: its bytes stand in the answer as they were accepted.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::history::{Dossier, HistoryItem, request_headers};
use crate::model::{Attempt, ErrorCode, Event, Response};

/// A line of the history.
#[derive(Serialize)]
pub(super) struct Item {
    id: String,
    /// `null` only of a damaged one.
    sequence: Option<u64>,
    event_type: &'static str,
    resource_id: Option<String>,
    status: &'static str,
    status_reason: Option<&'static str>,
    attempt_count: u32,
    created_at: String,
    delivered_at: Option<String>,
    next_attempt_at: Option<String>,
    last_attempt: Option<LastAttempt>,
    /// A record of it cannot be read any more; what stands here is what is left.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    damaged: bool,
}

#[derive(Serialize)]
struct LastAttempt {
    at: String,
    status_code: Option<u16>,
    error_code: Option<&'static str>,
    duration_ms: u32,
}

impl Item {
    pub(super) fn of(item: &HistoryItem) -> Item {
        Item {
            id: item.id.to_string(),
            sequence: (!item.damaged || item.sequence > 0).then_some(item.sequence),
            event_type: item.event_type.as_str(),
            resource_id: item.resource_id.as_deref().map(str::to_owned),
            status: item.status.as_str(),
            status_reason: item.expired.then_some("expired"),
            attempt_count: item.attempts,
            created_at: item.id.accepted_at().to_string(),
            delivered_at: item.delivered_at.map(|at| at.to_string()),
            next_attempt_at: item.next_attempt_at.map(|at| at.to_string()),
            last_attempt: item.last_attempt.map(|attempt| LastAttempt {
                at: attempt.at.to_string(),
                status_code: attempt.status_code,
                error_code: attempt.error.map(ErrorCode::as_str),
                duration_ms: attempt.duration_ms,
            }),
            damaged: item.damaged,
        }
    }
}

/// Everything about one event.
#[derive(Serialize)]
pub(super) struct Detail {
    #[serde(flatten)]
    item: Item,
    occurred_at: Option<String>,
    payload: Box<RawValue>,
    attempts: Vec<ShownAttempt>,
}

#[derive(Serialize)]
struct ShownAttempt {
    number: u32,
    started_at: String,
    duration_ms: u32,
    phases: ShownPhases,
    status_code: Option<u16>,
    error_code: Option<&'static str>,
    request_headers: Vec<(String, String)>,
    response_headers: Vec<(String, String)>,
    response_body: Option<String>,
    response_body_encoding: Option<&'static str>,
    response_truncated: bool,
}

/// Milliseconds; `null` where a phase did not happen, as on a connection that was open already.
#[derive(Serialize)]
struct ShownPhases {
    dns_ms: Option<f64>,
    connect_ms: Option<f64>,
    tls_ms: Option<f64>,
    first_byte_ms: Option<f64>,
    body_ms: Option<f64>,
}

impl Detail {
    pub(super) fn of(dossier: &Dossier) -> Detail {
        let text = String::from_utf8_lossy(&dossier.event.payload).into_owned();
        Detail {
            item: Item::of(&dossier.item),
            occurred_at: dossier.event.occurred_at.map(|at| at.to_string()),
            payload: RawValue::from_string(text).expect("only JSON is accepted as a payload"),
            attempts: dossier.attempts.iter().map(|attempt| shown(&dossier.event, attempt)).collect(),
        }
    }
}

fn shown(event: &Event, attempt: &Attempt) -> ShownAttempt {
    let ms = |us: Option<u32>| us.map(|us| f64::from(us) / 1000.0);
    let phases = &attempt.phases;
    let (body, encoding) = attempt.response.as_ref().map(body).unzip();
    ShownAttempt {
        number: attempt.number,
        started_at: attempt.started_at.to_string(),
        duration_ms: attempt.duration_ms,
        phases: ShownPhases {
            dns_ms: ms(phases.dns_us),
            connect_ms: ms(phases.connect_us),
            tls_ms: ms(phases.tls_us),
            first_byte_ms: ms(phases.head_us),
            body_ms: ms(phases.body_us),
        },
        status_code: attempt.outcome.status(),
        error_code: attempt.outcome.error().map(ErrorCode::as_str),
        request_headers: request_headers(event, attempt),
        response_headers: attempt.response.as_ref().map(response_headers).unwrap_or_default(),
        response_body: body,
        response_body_encoding: encoding,
        response_truncated: attempt.response.as_ref().is_some_and(|response| response.truncated),
    }
}

fn response_headers(response: &Response) -> Vec<(String, String)> {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    response.headers.iter().map(|(name, value)| (name.clone(), text(value))).collect()
}

/// Text where it is UTF-8, else base64. A body that was cut within a character is still text.
fn body(response: &Response) -> (String, &'static str) {
    match std::str::from_utf8(&response.body) {
        Ok(text) => (text.to_owned(), "utf-8"),
        Err(fault) if response.truncated && fault.error_len().is_none() => {
            (String::from_utf8_lossy(&response.body[..fault.valid_up_to()]).into_owned(), "utf-8")
        }
        Err(_) => (STANDARD.encode(&response.body), "base64"),
    }
}
