//! A refusal in the form of RFC 9457: what every 4xx and 5xx of ours looks like.
//!
//! Never carries what only we may know: no source of an error, no path, no key.

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{self, HeaderName, HeaderValue};
use serde::Serialize;

use super::response::{self, Response};

/// One fault of the input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// Which part: a member or parameter name, with a path such as `event_types[1]` inside it. Empty: the whole.
    pub field: String,
    /// What is wrong, for programs.
    pub code: &'static str,
    /// What is wrong and what would be right, for people.
    pub detail: String,
}

/// A refusal. Rendered as `application/problem+json` with `type`, `title`, `status`, `code`, `detail` and,
/// for bad input, `errors`.
#[derive(Clone, Debug)]
pub struct Problem {
    /// 4xx or 5xx.
    pub status: StatusCode,
    /// Stable, for programs. `type` and `title` follow from it.
    pub code: &'static str,
    /// One or two sentences for people.
    pub detail: String,
    /// The faults of the input, all that were found.
    pub errors: Vec<FieldError>,
    /// `Retry-After`, in seconds.
    pub retry_after_s: Option<u32>,
    /// Further headers of the answer.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether the connection ends with this answer.
    pub closes: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: String,
    status: u16,
    code: &'a str,
    detail: &'a str,
    #[serde(skip_serializing_if = "<[FieldError]>::is_empty")]
    errors: &'a [FieldError],
}

impl Problem {
    pub(super) const CONTENT_TYPE: &'static str = "application/problem+json";

    /// Any refusal.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Problem {
        Problem {
            status,
            code,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after_s: None,
            headers: Vec::new(),
            closes: false,
        }
    }

    /// 400: the request cannot be understood.
    pub fn bad_request(code: &'static str, detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// 401: no key, or none that we know. Says how to send one (RFC 6750 §3).
    pub fn unauthorized() -> Problem {
        let detail = "Send a valid key: Authorization: Bearer <key>.";
        Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
            .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"posthaste\""))
    }

    /// 403: a valid key of the wrong role.
    pub fn forbidden() -> Problem {
        Problem::new(StatusCode::FORBIDDEN, "forbidden", "This key may not do that.")
    }

    /// 404.
    pub fn not_found(code: &'static str, detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, code, detail)
    }

    /// 422: understood, but this field is wrong.
    pub fn unprocessable(field: impl Into<String>, code: &'static str, detail: impl Into<String>) -> Problem {
        Problem::of_faults(
            StatusCode::UNPROCESSABLE_ENTITY,
            vec![FieldError { field: field.into(), code, detail: detail.into() }],
        )
    }

    /// 500: the engine could not do its job.
    pub fn internal() -> Problem {
        let detail = "Something went wrong on our side. It is logged under this answer's Request-Id.";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    /// 503: the process ends.
    pub fn stopping() -> Problem {
        let detail = "The process is stopping. It is not certain whether this was stored; try again.";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", detail).retry_after_s(1)
    }

    /// 500: what the answer would be made of cannot be read. Logged here, and told to nobody outside.
    pub fn unreadable(error: impl std::error::Error) -> Problem {
        tracing::error!(%error, "the store cannot be read");
        Problem::internal()
    }

    /// The input has these faults, at least one. The code is that of the first.
    pub(super) fn of_faults(status: StatusCode, errors: Vec<FieldError>) -> Problem {
        let first = errors.first().expect("a problem of the input names at least one fault");
        let code = first.code;
        let detail = match (first.field.is_empty(), errors.len()) {
            (true, 1) => format!("The request {}", first.detail),
            (_, 1) => format!("{} {}", first.field, first.detail),
            (_, count) => format!("{count} parts of the request are wrong; see errors."),
        };
        Problem { errors, ..Problem::new(status, code, detail) }
    }

    /// With one more header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Problem {
        self.headers.push((name, value));
        self
    }

    /// With `Retry-After` (RFC 9110 §10.2.3).
    #[must_use]
    pub fn retry_after_s(mut self, seconds: u32) -> Problem {
        self.retry_after_s = Some(seconds);
        self
    }

    /// As the last answer of its connection.
    #[must_use]
    pub(super) fn closing(mut self) -> Problem {
        self.closes = true;
        self
    }

    /// What stands in the body.
    pub(super) fn document(&self) -> Vec<u8> {
        let document = Document {
            kind: format!("urn:posthaste:problem:{}", self.code),
            title: title(self.code),
            status: self.status.as_u16(),
            code: self.code,
            detail: &self.detail,
            errors: &self.errors,
        };
        serde_json::to_vec(&document).expect("strings and numbers are always JSON")
    }

    /// The answer on the wire.
    pub fn into_response(self) -> Response {
        let mut answer = response::bytes(self.status, Self::CONTENT_TYPE, Bytes::from(self.document()));
        answer.headers_mut().extend(self.headers);
        if let Some(seconds) = self.retry_after_s {
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.closes {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }
}

/// `webhook_not_configured` → `Webhook not configured`: RFC 9457 wants one title per type.
fn title(code: &str) -> String {
    let mut words = code.replace('_', " ");
    if let Some(first) = words.get_mut(0..1) {
        first.make_ascii_uppercase();
    }
    words
}
