//! The producers' surface: events and owners in, one at a time or many to a request.
//!
//! Never answers 202 before the event is durable, never rewrites a payload, never guesses a merchant.

mod owners;
mod pointer;
mod submission;

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::http::{FieldError, Method, Problem, Request, Response, Router, Routes, StatusCode, response};
use crate::metrics::{Metrics, RefusalReason};
use crate::model::{EventId, EventType, MerchantId, Role};
use crate::outbox::{Acceptance, Outbox, Receipt, Refusal, Submission};
use crate::registry::Registry;

/// A producer is told to come back after so many seconds when the disk is busy.
const OVERLOAD_RETRY_AFTER_S: u32 = 1;

/// A producer is told to come back after so many seconds when the disk is nearly full.
const DISK_FULL_RETRY_AFTER_S: u32 = 60;

/// The longest id of a card, account or resource, and the longest idempotency key, in bytes.
const ID_LEN_MAX: usize = 255;

/// What producers may send.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Of one event's request, and of one line of a batch.
    pub body_bytes_max: usize,
    /// Lines in a batch.
    pub batch_lines_max: usize,
    /// Of a batch.
    pub batch_bytes_max: usize,
}

/// Where in `data` of one event type the ids stand: JSON pointers (RFC 6901), the first that leads
/// somewhere counts.
#[derive(Clone, Debug, Default)]
pub struct Pointers {
    /// To the card's id.
    pub card: Vec<String>,
    /// To the account's id.
    pub account: Vec<String>,
    /// To the resource's id.
    pub resource: Vec<String>,
}

/// What the surface works with.
pub struct Ingest {
    /// Takes events.
    pub outbox: Outbox,
    /// Knows merchants and keys.
    pub registry: Arc<Registry>,
    /// Figures.
    pub metrics: Metrics,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub entropy: Arc<dyn Entropy>,
    /// What producers may send.
    pub limits: Limits,
    /// By event type, in the order of `EventType::ALL`.
    pub pointers: [Pointers; EventType::ALL.len()],
    /// Whether events that nobody wants are kept as skipped.
    pub record_skipped: bool,
}

/// The routes of the surface.
pub fn routes(ingest: Ingest) -> Routes {
    Router::new(Arc::new(ingest))
        .on(Method::POST, "/v1/events", post_event)
        .on(Method::POST, "/v1/events/batch", post_batch)
        .on(Method::POST, "/v1/owners", owners::post)
        .on(Method::PUT, "/v1/owners/{kind}/{id}", owners::put)
        .on(Method::GET, "/v1/owners/{kind}/{id}", owners::get)
        .on(Method::DELETE, "/v1/owners/{kind}/{id}", owners::delete)
        .into_routes()
}

#[derive(Serialize)]
struct Accepted {
    id: String,
    merchant_id: String,
    /// `null` where the event was not kept because nobody wants it.
    sequence: Option<u64>,
    duplicate: bool,
}

/// One line of a batch's answer.
#[derive(Serialize)]
struct Line {
    status: u16,
    #[serde(flatten)]
    accepted: Option<Accepted>,
    #[serde(flatten)]
    refused: Option<RefusedLine>,
}

#[derive(Serialize)]
struct RefusedLine {
    code: &'static str,
    detail: String,
    errors: Vec<FieldError>,
}

/// An event on its way into the store.
struct Pending {
    merchant: MerchantId,
    /// `None` where it is not kept.
    receipt: Option<Receipt<Acceptance>>,
}

impl Ingest {
    fn require_producer(&self, request: &Request) -> Result<(), Problem> {
        match self.registry.authenticate(request.bearer()?) {
            Some(Role::Producer) => Ok(()),
            Some(_) => Err(Problem::forbidden()),
            None => Err(Problem::unauthorized()),
        }
    }

    fn begin(&self, submission: Result<Submission, Problem>) -> Result<Pending, Problem> {
        let submission = submission.inspect_err(|problem| self.count_refused(problem))?;
        let merchant = submission.merchant.clone();
        let kept = self.record_skipped || self.outbox.is_wanted(&submission);
        Ok(Pending { merchant, receipt: kept.then(|| self.outbox.submit(submission)) })
    }

    async fn finish(&self, pending: Pending) -> Result<(StatusCode, Accepted), Problem> {
        let merchant_id = pending.merchant.to_string();
        let Some(receipt) = pending.receipt else {
            let id = EventId::next(EventId::MIN, self.clock.now(), self.entropy.number()).to_string();
            return Ok((StatusCode::ACCEPTED, Accepted { id, merchant_id, sequence: None, duplicate: false }));
        };
        let accepted = |id: EventId, sequence, duplicate| Accepted {
            id: id.to_string(),
            merchant_id,
            sequence: Some(sequence),
            duplicate,
        };
        match self.outbox.committed(receipt).await.map_err(refused)? {
            Acceptance::Fresh { id, sequence } => Ok((StatusCode::ACCEPTED, accepted(id, sequence, false))),
            Acceptance::Duplicate { id, sequence } => Ok((StatusCode::OK, accepted(id, sequence, true))),
            Acceptance::Conflict => Err(Problem::new(
                StatusCode::CONFLICT,
                "idempotency_conflict",
                "An event with this id but other content was handed in before. Use a new id for a new event.",
            )),
        }
    }

    fn count_refused(&self, problem: &Problem) {
        let reason = match problem.code {
            "unknown_merchant" | "unknown_owner" => RefusalReason::UnknownMerchant,
            _ => RefusalReason::Invalid,
        };
        self.metrics.refused(reason);
    }
}

async fn post_event(ingest: Arc<Ingest>, mut request: Request) -> Result<Response, Problem> {
    ingest.require_producer(&request)?;
    let body = request.read_json(ingest.limits.body_bytes_max).await?;
    let pending = ingest.begin(submission::read(&ingest, &body, &request.headers))?;
    let (status, accepted) = ingest.finish(pending).await?;
    Ok(response::json(status, &accepted))
}

async fn post_batch(ingest: Arc<Ingest>, mut request: Request) -> Result<Response, Problem> {
    ingest.require_producer(&request)?;
    let lines = read_lines(&ingest, &mut request).await?;
    let mut begun = Vec::with_capacity(lines.len());
    for line in &lines {
        let submission = if line.len() > ingest.limits.body_bytes_max {
            let detail = format!("The line is longer than {} bytes.", ingest.limits.body_bytes_max);
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail))
        } else {
            submission::read_line(&ingest, line)
        };
        begun.push(ingest.begin(submission));
    }
    let mut answer = Vec::with_capacity(begun.len() * 128);
    for pending in begun {
        let finished = match pending {
            Ok(pending) => ingest.finish(pending).await,
            Err(problem) => Err(problem),
        };
        write_line(&mut answer, &line_of(finished));
    }
    Ok(response::ndjson(Bytes::from(answer)))
}

/// The lines of an NDJSON body; empty ones do not count.
async fn read_lines(ingest: &Ingest, request: &mut Request) -> Result<Vec<Bytes>, Problem> {
    request.require_content_type(&["application/x-ndjson", "application/ndjson", "application/json"])?;
    let body = request.read_body(ingest.limits.batch_bytes_max).await?;
    let lines: Vec<Bytes> = body
        .split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter(|line| !line.is_empty())
        .map(|line| body.slice_ref(line))
        .collect();
    if lines.len() > ingest.limits.batch_lines_max {
        let detail =
            format!("A request holds at most {} lines; this one has {}.", ingest.limits.batch_lines_max, lines.len());
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many_lines", detail));
    }
    Ok(lines)
}

fn line_of(finished: Result<(StatusCode, Accepted), Problem>) -> Line {
    match finished {
        Ok((status, accepted)) => Line { status: status.as_u16(), accepted: Some(accepted), refused: None },
        Err(problem) => {
            let Problem { status, code, detail, errors, .. } = problem;
            Line { status: status.as_u16(), accepted: None, refused: Some(RefusedLine { code, detail, errors }) }
        }
    }
}

fn write_line(answer: &mut Vec<u8>, line: &impl Serialize) {
    serde_json::to_writer(&mut *answer, line).expect("our own answers are always JSON");
    answer.push(b'\n');
}

/// Why the store did not take a write, for a client.
fn refused(refusal: Refusal) -> Problem {
    match refusal {
        Refusal::Overloaded => {
            let detail = "More is waiting for the disk than the limit allows. Nothing was stored; try again.";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail).retry_after_s(OVERLOAD_RETRY_AFTER_S)
        }
        Refusal::DiskFull => {
            let detail = "The disk is nearly full. Nothing was stored; try again when the operator has made room.";
            Problem::new(StatusCode::INSUFFICIENT_STORAGE, "disk_full", detail).retry_after_s(DISK_FULL_RETRY_AFTER_S)
        }
        Refusal::TooLarge => {
            let detail = "These lines are more than can be stored together. Nothing was stored; send fewer at a time.";
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many_lines", detail)
        }
        Refusal::Unreadable => {
            let detail = "What came first with this id is damaged on the disk, so it cannot be told whether this is the \
                          same. Nothing was stored. The operator's log names the place.";
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
        }
        Refusal::Mending => {
            let detail =
                "Whether this id was used before cannot be told at this moment. Nothing was stored; try again.";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail).retry_after_s(OVERLOAD_RETRY_AFTER_S)
        }
        Refusal::Stopped => {
            let detail =
                "The process is stopping. It is not certain whether this was stored; try again with the same id.";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", detail).retry_after_s(OVERLOAD_RETRY_AFTER_S)
        }
    }
}
