//! One event as a producer writes it: read, bounded, and the merchant found.
//!
//! Never stores anything; never changes a byte of `data`.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::{ID_LEN_MAX, Ingest, pointer};
use crate::http::{Fields, HeaderMap, Problem};
use crate::model::{EventType, MerchantId, OwnerKind, Timestamp};
use crate::outbox::{Idempotency, Submission};

/// The event in a request: its body, and the headers that speak of it.
pub(super) fn read(ingest: &Ingest, body: &Bytes, headers: &HeaderMap) -> Result<Submission, Problem> {
    let key = idempotency_key(headers)?;
    let traceparent = headers.get("traceparent").and_then(|v| v.to_str().ok()).filter(|v| is_traceparent(v));
    parse(ingest, body, key, traceparent)
}

/// The event in a line of a batch.
pub(super) fn read_line(ingest: &Ingest, line: &Bytes) -> Result<Submission, Problem> {
    parse(ingest, line, None, None)
}

fn parse(
    ingest: &Ingest,
    body: &Bytes,
    header_key: Option<&str>,
    traceparent: Option<&str>,
) -> Result<Submission, Problem> {
    let mut fields = Fields::parse(body)?;
    let event_type = event_type(&mut fields);
    let data = fields.required_raw("data");
    if !data.is_empty() && !data.starts_with('{') {
        fields.fault("data", "wrong_type", "must be a JSON object: the resource as the REST API returns it.");
    }
    let named = fields.optional_str("merchant_id");
    let card = id(&mut fields, "card_id");
    let account = id(&mut fields, "account_id");
    let resource = id(&mut fields, "resource_id");
    let key = id(&mut fields, "id");
    let occurred_at = occurred_at(&mut fields);
    if let (Some(key), Some(header)) = (&key, header_key)
        && key != header
    {
        fields.fault("id", "conflicting_ids", "differs from the Idempotency-Key header; give one of them.");
    }
    fields.finish()?;
    let event_type = event_type.expect("a missing type is a fault");
    let owners = Owners { named, card, account };
    let merchant = owners.merchant(ingest, event_type, data)?;
    let pointers = &ingest.pointers[usize::from(event_type.code())];
    let resource = resource.map(Cow::into_owned).or_else(|| {
        pointer::find(data, &pointers.resource).filter(|found| !found.is_empty() && found.len() <= ID_LEN_MAX)
    });
    let idempotency = key.as_deref().or(header_key).map(|key| Idempotency {
        key: Sha256::digest(key.as_bytes()).into(),
        content: content(event_type, &merchant, resource.as_deref(), data),
    });
    Ok(Submission {
        merchant,
        event_type,
        resource_id: resource.map(Arc::from),
        traceparent: traceparent.map(Arc::from),
        occurred_at,
        // A copy, so that the payload does not keep the whole request in memory.
        payload: Bytes::copy_from_slice(data.as_bytes()),
        idempotency,
        endpoints: Vec::new(),
    })
}

fn event_type(fields: &mut Fields<'_>) -> Option<EventType> {
    let event_type = fields.required_str("type")?.parse().ok();
    if event_type.is_none() {
        let known = EventType::ALL.map(EventType::as_str).join(", ");
        fields.fault("type", "unknown_event_type", format!("must be one of {known}."));
    }
    event_type
}

fn id<'a>(fields: &mut Fields<'a>, name: &str) -> Option<Cow<'a, str>> {
    let text = fields.optional_str(name)?;
    if text.is_empty() || text.len() > ID_LEN_MAX {
        fields.fault(name, "invalid_length", format!("must have 1 to {ID_LEN_MAX} bytes."));
    }
    Some(text)
}

fn occurred_at(fields: &mut Fields<'_>) -> Option<Timestamp> {
    let text = fields.optional_str("occurred_at")?;
    let moment = Timestamp::parse(&text);
    if moment.is_none() {
        fields.fault("occurred_at", "invalid_time", "must be a time of RFC 3339, such as 2026-01-31T12:00:00.000Z.");
    }
    moment
}

/// What the producer said of whom the event belongs to.
struct Owners<'a> {
    named: Option<Cow<'a, str>>,
    card: Option<Cow<'a, str>>,
    account: Option<Cow<'a, str>>,
}

impl Owners<'_> {
    /// By name, else by card, else by account, else by the ids that stand in the data.
    fn merchant(&self, ingest: &Ingest, event_type: EventType, data: &str) -> Result<MerchantId, Problem> {
        if let Some(name) = &self.named {
            let known = name.parse().ok().filter(|id: &MerchantId| ingest.registry.merchant(id).is_some());
            let detail = "is not a merchant; the operator makes it with PUT /admin/v1/merchants/{id}.";
            return known.ok_or_else(|| Problem::unprocessable("merchant_id", "unknown_merchant", detail));
        }
        let said = [
            ("card_id", OwnerKind::Card, self.card.as_deref().map(str::to_owned)),
            ("account_id", OwnerKind::Account, self.account.as_deref().map(str::to_owned)),
        ];
        let pointers = &ingest.pointers[usize::from(event_type.code())];
        let told = said.iter().any(|(_, _, id)| id.is_some());
        let found = if told {
            said
        } else {
            [
                ("data", OwnerKind::Card, pointer::find(data, &pointers.card)),
                ("data", OwnerKind::Account, pointer::find(data, &pointers.account)),
            ]
        };
        let mut unowned = None;
        for (field, kind, id) in found {
            let Some(id) = id else { continue };
            if let Some(merchant) = ingest.outbox.owner(kind, &id).map_err(Problem::unreadable)? {
                return Ok(merchant);
            }
            unowned = unowned.or(Some((field, kind)));
        }
        let Some((field, kind)) = unowned else {
            let detail = "is missing, and neither card_id, account_id nor an id in data says whose event it is.";
            return Err(Problem::unprocessable("merchant_id", "unknown_merchant", detail));
        };
        let detail = format!("names a {} that no merchant owns; set it with PUT /v1/owners/{0}/{{id}}.", kind.as_str());
        Err(Problem::unprocessable(field, "unknown_owner", detail))
    }
}

/// Everything that must be the same when an event is handed in again. Lengths stand before contents, so
/// that no two contents run together.
fn content(event_type: EventType, merchant: &MerchantId, resource: Option<&str>, data: &str) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update([event_type.code(), u8::from(resource.is_some())]);
    for part in [merchant.as_str(), resource.unwrap_or(""), data] {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().into()
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    let key = value.to_str().ok().filter(|key| !key.is_empty() && key.len() <= ID_LEN_MAX);
    let key = key.filter(|_| values.next().is_none());
    let detail = format!("Send one Idempotency-Key header of 1 to {ID_LEN_MAX} visible ASCII characters.");
    key.map(Some).ok_or_else(|| Problem::bad_request("invalid_idempotency_key", detail))
}

/// The shape of a W3C trace context; what is none of that shape is not passed on.
fn is_traceparent(text: &str) -> bool {
    let bytes = text.as_bytes();
    let dashes = [2, 35, 52];
    bytes.len() == 55
        && bytes.iter().enumerate().all(|(i, b)| {
            if dashes.contains(&i) { *b == b'-' } else { b.is_ascii_digit() || (b'a'..=b'f').contains(b) }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_trace_context_is_passed_on() {
        assert!(is_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
        for bad in ["", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g", "00-short-01"] {
            assert!(!is_traceparent(bad), "{bad}");
        }
    }

    #[test]
    fn contents_that_differ_anywhere_have_other_digests() {
        let merchant: MerchantId = "acme".parse().expect("a legal id");
        let base = content(EventType::CardState, &merchant, Some("a"), "{}");
        assert_eq!(base, content(EventType::CardState, &merchant, Some("a"), "{}"));
        assert_ne!(base, content(EventType::CardTransaction, &merchant, Some("a"), "{}"));
        assert_ne!(base, content(EventType::CardState, &merchant, None, "{}"));
        assert_ne!(base, content(EventType::CardState, &merchant, Some("a"), "{ }"));
        assert_ne!(
            content(EventType::CardState, &merchant, Some("a{"), "}"),
            content(EventType::CardState, &merchant, Some("a"), "{}")
        );
    }
}
