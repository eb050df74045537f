//! What one signature costs, in nanoseconds: the plain one over the body, and all that one request carries.
//!
//! Never touches a network. Run it with `cargo bench --bench signature`.

use std::hint::black_box;
use std::sync::Arc;

use posthaste::clock::{Clock, SystemClock};
use posthaste::model::{Endpoint, EndpointId, EndpointState, EventId, EventTypes, OldSecret, Secret, Timestamp};
use posthaste::policy::signature;

/// Each figure is the median of this many rounds.
const ROUNDS: usize = 15;
/// Bytes signed per round, so that every size gets about the same time.
const ROUND_BYTES: usize = 16 * 1024 * 1024;

fn main() {
    let clock = SystemClock;
    let now = clock.now();
    let plain = endpoint(now, None);
    let rotated = endpoint(now, Some("the secret before this one"));
    let event = EventId::next(EventId::MIN, now, 0);
    println!("{:>8} {:>14} {:>20} {:>24}", "bytes", "hex only ns", "with standard ns", "both, two secrets ns");
    for len in [200, 600, 4 * 1024, 64 * 1024] {
        let body = vec![b'x'; len];
        let secret = plain.secret.as_ref().expect("the endpoint signs");
        let header = signature::hex(&signature::sign(&plain, event, now, &body).signature.expect("signed"));
        let simple = median_ns(&clock, len, || signature::verify(secret, black_box(&body), &header));
        let triple = |endpoint: &Endpoint| {
            let sent = signature::sign(endpoint, event, now, black_box(&body));
            (sent.signature.as_ref().map(signature::hex), signature::standard(&sent))
        };
        let one = median_ns(&clock, len, || triple(&plain));
        let two = median_ns(&clock, len, || triple(&rotated));
        println!("{len:>8} {simple:>14} {one:>20} {two:>24}");
    }
}

fn endpoint(now: Timestamp, old: Option<&str>) -> Endpoint {
    Endpoint {
        id: EndpointId(1),
        merchant: "acme".parse().expect("a legal id"),
        url: Arc::from("https://example.com/"),
        event_types: EventTypes::EVERY,
        secret: Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        old_secrets: old
            .and_then(Secret::new)
            .map(|secret| OldSecret { secret, until: Timestamp::MAX })
            .into_iter()
            .collect(),
        state: EndpointState::Active,
        created_at: now,
        updated_at: now,
    }
}

fn median_ns<T>(clock: &SystemClock, len: usize, work: impl Fn() -> T) -> u128 {
    let calls = (ROUND_BYTES / len).max(64);
    let mut rounds: Vec<u128> = (0..ROUNDS)
        .map(|_| {
            let begun = clock.instant();
            for _ in 0..calls {
                black_box(work());
            }
            clock.instant().duration_since(begun).as_nanos() / calls as u128
        })
        .collect();
    rounds.sort_unstable();
    rounds[ROUNDS / 2]
}
