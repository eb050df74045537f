//! Answers: JSON, NDJSON, HTML, bytes, nothing.
//!
//! Never sets what every answer carries (`Request-Id`, `Cache-Control` where there is none, …): the connection does.

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::StatusCode;
use hyper::header::{self, HeaderValue};
use serde::Serialize;

/// A body, whole or streamed. A stream that ends in an error cuts the connection, so that the client
/// cannot take a part for the whole.
pub type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// An answer.
pub type Response = hyper::Response<Body>;

/// `value` as JSON. Its `Serialize` must not fail: no maps with keys that are not strings.
pub fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let text = serde_json::to_vec(value).expect("our own answers are always JSON");
    bytes(status, "application/json", Bytes::from(text))
}

/// 204.
pub fn empty() -> Response {
    let mut answer = Response::new(whole(Bytes::new()));
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

/// 200 with one JSON value per line, as `lines` already is.
pub fn ndjson(lines: Bytes) -> Response {
    bytes(StatusCode::OK, "application/x-ndjson", lines)
}

/// A page.
pub fn html(status: StatusCode, text: String) -> Response {
    bytes(status, "text/html; charset=utf-8", Bytes::from(text))
}

/// 303: the answer to a form is another page, so that reloading it sends nothing twice. `target` is one of our
/// own paths with a query of visible ASCII.
pub fn see_other(target: &str) -> Response {
    let mut answer = Response::new(whole(Bytes::new()));
    *answer.status_mut() = StatusCode::SEE_OTHER;
    let target = HeaderValue::from_str(target).expect("a path of ours is visible ASCII");
    answer.headers_mut().insert(header::LOCATION, target);
    answer
}

/// `content` as it is.
pub fn bytes(status: StatusCode, content_type: &'static str, content: Bytes) -> Response {
    stream(status, content_type, whole(content))
}

/// Any body.
pub fn stream(status: StatusCode, content_type: &'static str, body: Body) -> Response {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

fn whole(content: Bytes) -> Body {
    Full::new(content).map_err(|never| match never {}).boxed_unsync()
}
