//! Attempts against scripted receivers and name servers on real sockets.
//!
//! Never mocks what runs here: sockets, TLS and DNS are the real ones; only what the peer says is written down.

mod dns;
mod hostile;
mod receiver;
mod reuse;
mod tls;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::clock::SystemClock;
use crate::model::{Attempt, EndpointId, EndpointState, ErrorCode, EventTypes, OldSecret, Outcome, Secret, Timestamp};
use crate::policy::egress::Rules;

/// No test waits longer than this for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// Loopback is open, and plain HTTP.
fn open_rules() -> Rules {
    Rules { allow_http: true, allow: vec!["127.0.0.1/32".parse().unwrap()], ..Rules::default() }
}

fn resolver(servers: &[std::net::SocketAddr]) -> Arc<dyn Resolver> {
    let limits = ResolverLimits { query_timeout_ms: 200, ttl_min_s: 0, ttl_max_s: 0, ..ResolverLimits::default() };
    Arc::new(DnsResolver::with_servers(servers, limits).unwrap())
}

fn settings(limits: Limits) -> Settings {
    Settings {
        rules: open_rules(),
        limits,
        clock: Arc::new(SystemClock),
        resolver: resolver(&[]),
        extra_ca: None,
        user_agent: "Posthaste/0.1.0".to_owned(),
    }
}

fn transport(limits: Limits) -> HyperTransport {
    HyperTransport::new(settings(limits)).unwrap()
}

/// Bounds for receivers that never answer.
fn hasty() -> Limits {
    Limits { timeout_ms: 300, body_timeout_ms: 200, ..Limits::default() }
}

fn endpoint(url: &str) -> Endpoint {
    Endpoint {
        id: EndpointId(1),
        merchant: "acme".parse().unwrap(),
        url: Arc::from(url),
        event_types: EventTypes::EVERY,
        secret: Some(Secret::new("new secret").unwrap()),
        old_secrets: Vec::new(),
        state: EndpointState::Active,
        created_at: Timestamp::ZERO,
        updated_at: Timestamp::ZERO,
    }
}

fn parcel(endpoint: Endpoint) -> Parcel {
    Parcel {
        endpoint: Arc::new(endpoint),
        event: EventId::next(EventId::MIN, Timestamp::from_ms(1_700_000_000_000), 5),
        event_type: EventType::CardTransaction,
        number: 1,
        sequence: 1042,
        traceparent: None,
        payload: Bytes::from_static(br#"{"id":"tx_1"}"#),
    }
}

async fn send(transport: &HyperTransport, parcel: Parcel) -> Attempt {
    tokio::time::timeout(PATIENCE, transport.send(parcel)).await.expect("an attempt ends by itself")
}

/// One attempt at `url` with a new transport.
async fn try_once(limits: Limits, url: &str) -> Attempt {
    send(&transport(limits), parcel(endpoint(url))).await
}

#[track_caller]
fn assert_failed(attempt: &Attempt, error: ErrorCode) {
    assert_eq!(attempt.outcome.error(), Some(error), "{attempt:?}");
}

#[track_caller]
fn assert_delivered(attempt: &Attempt) {
    assert_eq!(attempt.outcome, Outcome::Success { status: 200 }, "{attempt:?}");
}

fn grace(secret: &str) -> Vec<OldSecret> {
    vec![OldSecret { secret: Secret::new(secret).unwrap(), until: Timestamp::MAX }]
}
