//! Merchants, endpoints, events, attempts and settlements to test with.
//!
//! Never random: each is the same in every test, and a test says what it changes.

use bytes::Bytes;
use posthaste::model::{
    Attempt, Delivery, Endpoint, EndpointId, EndpointState, ErrorCode, EventId, EventType, EventTypes, Key, KeyId,
    Merchant, MerchantId, Ordering, Outcome, Phases, Role, Status, Timestamp,
};
use posthaste::store::{Change, Dossier, HistoryQuery, Idempotency, NewEvent, Settlement};

use crate::subject::{BEGINNING, Subject};

/// Acme's endpoint.
pub(crate) const ACME: EndpointId = EndpointId(1);
/// Globex's endpoint.
pub(crate) const GLOBEX: EndpointId = EndpointId(2);

/// Puts the merchants acme and globex, each with its endpoint.
pub(crate) fn two_merchants(subject: &Subject) {
    subject.change([
        Change::PutMerchant(merchant("acme")),
        Change::PutEndpoint(endpoint(ACME, "acme")),
        Change::PutMerchant(merchant("globex")),
        Change::PutEndpoint(endpoint(GLOBEX, "globex")),
    ]);
}

pub(crate) fn name(text: &str) -> MerchantId {
    text.parse().expect("a legal merchant id")
}

pub(crate) fn merchant(id: &str) -> Merchant {
    Merchant { id: name(id), name: Some(format!("{id} & Söhne").into()), created_at: BEGINNING, paused_at: None }
}

pub(crate) fn endpoint(id: EndpointId, merchant: &str) -> Endpoint {
    Endpoint {
        id,
        merchant: name(merchant),
        url: format!("https://{merchant}.example/hooks/{}", id.0).into(),
        event_types: EventTypes::EVERY,
        secret: None,
        old_secrets: Vec::new(),
        state: EndpointState::Active,
        ordering: Ordering::Free,
        rate: None,
        failing_since: None,
        created_at: BEGINNING,
        updated_at: BEGINNING,
    }
}

pub(crate) fn key(id: u64, role: Role) -> Key {
    Key { id: KeyId(id), role, digest: [u8::try_from(id).expect("a small number"); 32], created_at: BEGINNING }
}

/// An event of a merchant, owed to its endpoint.
pub(crate) fn event(merchant: &str, endpoint: EndpointId) -> NewEvent {
    NewEvent { endpoints: vec![endpoint], ..unrouted(merchant) }
}

/// An event that nobody wants.
pub(crate) fn unrouted(merchant: &str) -> NewEvent {
    NewEvent {
        merchant: name(merchant),
        event_type: EventType::CardTransaction,
        resource_id: None,
        traceparent: None,
        occurred_at: None,
        payload: Bytes::from_static(b"{\"amount\":1}"),
        idempotency: None,
        endpoints: Vec::new(),
    }
}

/// An event with a producer's key and what must be the same the second time.
pub(crate) fn keyed(event: NewEvent, key: u8, content: u8) -> NewEvent {
    NewEvent { idempotency: Some(Idempotency { key: [key; 32], content: [content; 32] }), ..event }
}

/// All of a merchant's history, oldest first, fifty at a time.
pub(crate) fn everything(merchant: &str) -> HistoryQuery {
    HistoryQuery {
        merchant: name(merchant),
        statuses: Vec::new(),
        event_types: Vec::new(),
        resource_id: None,
        first: EventId::MIN,
        last: EventId::MAX,
        descending: false,
        limit: 50,
    }
}

/// The attempt that follows on a delivery's last one.
pub(crate) fn attempt(delivery: &Delivery, started_at: Timestamp, outcome: Outcome) -> Attempt {
    Attempt {
        number: delivery.attempts + 1,
        started_at,
        duration_ms: 40 + delivery.attempts,
        phases: Phases::default(),
        outcome,
        sent: None,
        response: None,
    }
}

/// The attempt failed with 503 and another is due at `due`.
pub(crate) fn retried(delivery: &Delivery, due: Timestamp) -> Settlement {
    let outcome = Outcome::of_status(503, None);
    Settlement {
        attempt: Some(attempt(delivery, delivery.due, outcome)),
        status: Status::Retrying,
        due,
        ..moved(delivery, due)
    }
}

/// The attempt succeeded.
pub(crate) fn delivered(delivery: &Delivery, at: Timestamp) -> Settlement {
    let outcome = Outcome::Success { status: 204 };
    Settlement {
        attempt: Some(attempt(delivery, delivery.due, outcome)),
        status: Status::Delivered,
        at,
        ..moved(delivery, delivery.due)
    }
}

/// The last attempt of the schedule failed.
pub(crate) fn failed(delivery: &Delivery) -> Settlement {
    let outcome = Outcome::failed(ErrorCode::Timeout);
    Settlement {
        attempt: Some(attempt(delivery, delivery.due, outcome)),
        status: Status::Failed,
        ..moved(delivery, delivery.due)
    }
}

/// Nobody waits for it any more.
pub(crate) fn canceled(delivery: &Delivery) -> Settlement {
    Settlement { status: Status::Canceled, ..moved(delivery, delivery.due) }
}

/// A new schedule begins at `due`.
pub(crate) fn resent(delivery: &Delivery, due: Timestamp) -> Settlement {
    Settlement { status: Status::Pending, attempts_before: delivery.attempts, ..moved(delivery, due) }
}

/// It waits until `due`, without an attempt.
pub(crate) fn moved(delivery: &Delivery, due: Timestamp) -> Settlement {
    Settlement {
        delivery: delivery.clone(),
        attempt: None,
        status: delivery.status,
        at: BEGINNING,
        due,
        attempts_before: delivery.attempts_before,
    }
}

/// The delivery that whoever resends a skipped event makes up.
pub(crate) fn made_up(dossier: &Dossier, endpoint: EndpointId) -> Delivery {
    Delivery { status: Status::Skipped, ..Delivery::first(&dossier.event, endpoint, dossier.location, Timestamp::ZERO) }
}
