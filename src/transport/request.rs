//! One request as the merchant receives it, header by header.
//!
//! Never touches the payload's bytes.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Uri};

use super::Parcel;
use crate::model::Sent;
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
    let headers = request.headers_mut();
    headers.reserve(16);
    headers.insert(HOST, text(target.authority())?);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(USER_AGENT, user_agent.clone());
    if let Some(digest) = &sent.signature {
        headers.insert(X_WEBHOOK_SIGNATURE, text(signature::hex(digest))?);
    }
    if let Some(digest) = &sent.signature_old {
        headers.insert(X_WEBHOOK_SIGNATURE_PREVIOUS, text(signature::hex(digest))?);
    }
    headers.insert(X_WEBHOOK_EVENT, HeaderValue::from_static(parcel.event_type.as_str()));
    headers.insert(X_WEBHOOK_ATTEMPT, HeaderValue::from(parcel.number));
    headers.insert(X_WEBHOOK_SEQUENCE, HeaderValue::from(parcel.sequence));
    headers.insert(WEBHOOK_ID, text(parcel.event.to_string())?);
    headers.insert(WEBHOOK_TIMESTAMP, HeaderValue::from(sent.timestamp_s));
    if let Some(value) = signature::standard(sent) {
        headers.insert(WEBHOOK_SIGNATURE, text(value)?);
    }
    if let Some(value) = parcel.traceparent.as_deref().and_then(|value| HeaderValue::from_str(value).ok()) {
        headers.insert(TRACEPARENT, value);
    }
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(parcel.payload.len()));
    Some(request)
}

fn text(value: String) -> Option<HeaderValue> {
    HeaderValue::try_from(value).ok()
}
