//! A request: its head, and its body unread until a handler says how much it will take.
//!
//! Never prints itself: headers hold keys, queries and bodies hold what merchants own.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderMap};
use hyper::{Method, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use url::form_urlencoded;

use super::problem::Problem;
use super::query::Query;
use super::stream::Progress;

/// What is set aside for a body before its first byte has come, whatever its `Content-Length` claims.
const FIRST_ALLOCATION_BYTES_MAX: usize = 16 * 1024;
/// The longest body where a few short fields are asked for: a config, a name, a role.
pub const SMALL_BODY_BYTES_MAX: usize = 16 * 1024;
/// What a client is told to wait when too many bodies are in memory.
const OVERLOAD_RETRY_AFTER_S: u32 = 1;

/// One request.
pub struct Request {
    /// Its method.
    pub method: Method,
    /// Its path as it came, percent-encoded.
    pub path: String,
    /// Its query string as it came, without the question mark.
    pub query: Option<String>,
    /// Its headers.
    pub headers: HeaderMap,
    pub(super) params: Vec<(String, String)>,
    pub(super) body: Unread,
}

/// A body that still sits in the socket, and what it may cost to read it.
pub(super) struct Unread {
    pub(super) incoming: Incoming,
    pub(super) progress: Arc<Progress>,
    pub(super) timeout: Duration,
    /// One permit per byte of request bodies that the listener may hold in memory.
    pub(super) memory: Arc<Semaphore>,
    /// Held until the request is dropped.
    pub(super) held: Option<OwnedSemaphorePermit>,
}

impl Request {
    /// What stands in the path for `{name}`, percent-decoded. The route must have it.
    pub fn param(&self, name: &str) -> &str {
        let found = self.params.iter().find(|(known, _)| known == name);
        &found.expect("a handler asks only for the parameters of its own route").1
    }

    /// The query string's reader.
    pub fn query(&self) -> Query<'_> {
        Query::parse(self.query.as_deref().unwrap_or(""))
    }

    /// The key of `Authorization: Bearer <key>` (RFC 6750 §2.1). 401 where there is none or more than one.
    pub fn bearer(&self) -> Result<&str, Problem> {
        let mut values = self.headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(Problem::unauthorized());
        };
        let (scheme, key) = value.to_str().ok().and_then(|v| v.split_once(' ')).ok_or_else(Problem::unauthorized)?;
        let key = key.trim_matches(' ');
        if !scheme.eq_ignore_ascii_case("bearer") || key.is_empty() || key.contains(' ') {
            return Err(Problem::unauthorized());
        }
        Ok(key)
    }

    /// The whole body, at most `bytes_max`. 413 before anything is read where `Content-Length` says too much,
    /// and as soon as a chunked body has grown too long; 408 where it does not come in time; 400 where it breaks;
    /// 415 where it is compressed; 503 where the listener's memory for bodies is spent. Empty the second time.
    pub async fn read_body(&mut self, bytes_max: usize) -> Result<Bytes, Problem> {
        let encodings = self.headers.get_all(header::CONTENT_ENCODING);
        if encodings.iter().any(|e| !e.as_bytes().eq_ignore_ascii_case(b"identity")) {
            let detail = "Send the body as it is, without Content-Encoding.";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_content_encoding", detail));
        }
        let deadline = self.body.timeout;
        match timeout(deadline, self.body.collect(bytes_max)).await {
            Ok(read) => read,
            Err(_) => {
                let detail = format!("The body did not come within {} ms.", deadline.as_millis());
                Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", detail).closing())
            }
        }
    }

    /// [`Request::read_body`] where the content type is JSON or not given; else 415.
    pub async fn read_json(&mut self, bytes_max: usize) -> Result<Bytes, Problem> {
        self.require_content_type(&["application/json"])?;
        self.read_body(bytes_max).await
    }

    /// A form of at most `bytes_max`, as browsers send it (URL Standard, application/x-www-form-urlencoded).
    pub async fn read_form(&mut self, bytes_max: usize) -> Result<Form, Problem> {
        self.require_content_type(&["application/x-www-form-urlencoded"])?;
        let body = self.read_body(bytes_max).await?;
        Ok(Form(form_urlencoded::parse(&body).into_owned().collect()))
    }

    /// A cookie's value (RFC 6265 §5.4); the first where it is sent more than once.
    pub fn cookie(&self, name: &str) -> Option<&str> {
        let lines = self.headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// 415 where a content type is given that is none of `accepted`, or a charset that is not UTF-8.
    pub fn require_content_type(&self, accepted: &[&str]) -> Result<(), Problem> {
        let Some(given) = self.headers.get(header::CONTENT_TYPE) else {
            return Ok(());
        };
        let mut parts = given.to_str().unwrap_or("").split(';').map(str::trim);
        let kind = parts.next().unwrap_or("");
        let is_utf8 = |part: &str| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            !name.eq_ignore_ascii_case("charset") || value.trim_matches('"').eq_ignore_ascii_case("utf-8")
        };
        if accepted.iter().any(|a| a.eq_ignore_ascii_case(kind)) && parts.all(is_utf8) {
            return Ok(());
        }
        let detail = format!("Send Content-Type: {} in UTF-8.", accepted.join(" or "));
        Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail))
    }
}

/// The fields of a form. What is absent and what is empty is not told apart: browsers do not.
#[derive(Clone, Default)]
pub struct Form(Vec<(String, String)>);

impl Form {
    /// The first value of a field.
    pub fn text(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value)
    }

    /// Every value of a field.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether a box is checked.
    pub fn is_checked(&self, name: &str) -> bool {
        !self.text(name).is_empty()
    }
}

impl Unread {
    async fn collect(&mut self, bytes_max: usize) -> Result<Bytes, Problem> {
        let announced = self.incoming.size_hint().lower();
        if announced > bytes_max as u64 {
            return Err(too_large(bytes_max));
        }
        let announced = usize::try_from(announced).unwrap_or(usize::MAX);
        let mut body = BytesMut::with_capacity(announced.min(FIRST_ALLOCATION_BYTES_MAX));
        while let Some(frame) = self.incoming.frame().await {
            let frame = frame.map_err(|_| Problem::bad_request("broken_body", "The body is cut or badly framed."));
            let Ok(data) = frame.map_err(Problem::closing)?.into_data() else {
                continue;
            };
            if body.len() + data.len() > bytes_max {
                return Err(too_large(bytes_max));
            }
            self.hold(data.len())?;
            body.extend_from_slice(&data);
        }
        self.progress.body_is_read();
        Ok(body.freeze())
    }

    /// Takes `bytes` of the memory for bodies until the request is dropped.
    fn hold(&mut self, bytes: usize) -> Result<(), Problem> {
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        let Ok(permit) = Arc::clone(&self.memory).try_acquire_many_owned(permits) else {
            let detail = "Too many requests are being read. Try again.";
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail);
            return Err(problem.retry_after_s(OVERLOAD_RETRY_AFTER_S).closing());
        };
        match &mut self.held {
            Some(held) => held.merge(permit),
            None => self.held = Some(permit),
        }
        Ok(())
    }
}

fn too_large(bytes_max: usize) -> Problem {
    let detail = format!("The body is longer than {bytes_max} bytes.");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail).closing()
}
