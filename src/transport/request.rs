//! One request as the merchant receives it, header by header.
//!
//! Never touches the payload's bytes.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT,
};
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Uri};

use super::Parcel;
use crate::model::{EventId, EventType, Sent};
use crate::policy::egress::Target;
use crate::policy::signature;

const X_WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("x-webhook-signature");
const X_WEBHOOK_SIGNATURE_PREVIOUS: HeaderName = HeaderName::from_static("x-webhook-signature-previous");
const X_WEBHOOK_EVENT: HeaderName = HeaderName::from_static("x-webhook-event");
const X_WEBHOOK_ATTEMPT: HeaderName = HeaderName::from_static("x-webhook-attempt");
const X_WEBHOOK_SEQUENCE: HeaderName = HeaderName::from_static("x-webhook-sequence");
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What the product calls itself to receivers.
pub const USER_AGENT_TEXT: &str = concat!("Posthaste/", env!("CARGO_PKG_VERSION"));

/// What the headers of a request say, besides its signatures.
#[derive(Clone, Copy, Debug)]
pub struct Headline<'a> {
    /// `webhook-id`.
    pub event: EventId,
    /// `X-Webhook-Event`.
    pub event_type: EventType,
    /// `X-Webhook-Attempt`.
    pub number: u32,
    /// `X-Webhook-Sequence`.
    pub sequence: u64,
    /// `traceparent`.
    pub traceparent: Option<&'a str>,
    /// `Content-Length`.
    pub payload_len: usize,
}

/// The headers of a request as names and values, but for those of which nothing is kept: `Host` was the URL's of that
/// time, `User-Agent` that of the version which sent it.
pub fn shown_headers(headline: &Headline<'_>, sent: &Sent) -> Vec<(String, String)> {
    let headers = headers(None, None, headline, sent).unwrap_or_default();
    let shown = |(name, value): (&HeaderName, &HeaderValue)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    headers.iter().map(shown).collect()
}

/// `Host` stands first because some receivers read no further before they route. `None` where a part is no
/// legal header value or path, which the rules for URLs and our own formats exclude.
pub(super) fn request(
    parcel: &Parcel,
    target: &Target,
    sent: &Sent,
    user_agent: &HeaderValue,
) -> Option<Request<Full<Bytes>>> {
    let path: PathAndQuery = target.path_and_query.parse().ok()?;
    let mut request = Request::post(Uri::from(path)).body(Full::new(parcel.payload.clone())).ok()?;
    let headline = Headline {
        event: parcel.event,
        event_type: parcel.event_type,
        number: parcel.number,
        sequence: parcel.sequence,
        traceparent: parcel.traceparent.as_deref(),
        payload_len: parcel.payload.len(),
    };
    *request.headers_mut() = headers(Some(target.authority()), Some(user_agent), &headline, sent)?;
    Some(request)
}

fn headers(
    host: Option<String>,
    user_agent: Option<&HeaderValue>,
    headline: &Headline<'_>,
    sent: &Sent,
) -> Option<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(16);
    if let Some(host) = host {
        headers.insert(HOST, text(host)?);
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(user_agent) = user_agent {
        headers.insert(USER_AGENT, user_agent.clone());
    }
    if let Some(digest) = &sent.signature {
        headers.insert(X_WEBHOOK_SIGNATURE, text(signature::hex(digest))?);
    }
    if let Some(digest) = &sent.signature_old {
        headers.insert(X_WEBHOOK_SIGNATURE_PREVIOUS, text(signature::hex(digest))?);
    }
    headers.insert(X_WEBHOOK_EVENT, HeaderValue::from_static(headline.event_type.as_str()));
    headers.insert(X_WEBHOOK_ATTEMPT, HeaderValue::from(headline.number));
    headers.insert(X_WEBHOOK_SEQUENCE, HeaderValue::from(headline.sequence));
    headers.insert(WEBHOOK_ID, text(headline.event.to_string())?);
    headers.insert(WEBHOOK_TIMESTAMP, HeaderValue::from(sent.timestamp_s));
    if let Some(value) = signature::standard(sent) {
        headers.insert(WEBHOOK_SIGNATURE, text(value)?);
    }
    if let Some(value) = headline.traceparent.and_then(|value| HeaderValue::from_str(value).ok()) {
        headers.insert(TRACEPARENT, value);
    }
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(headline.payload_len));
    Some(headers)
}

fn text(value: String) -> Option<HeaderValue> {
    HeaderValue::try_from(value).ok()
}
