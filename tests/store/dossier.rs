//! Everything about one event, as its merchant may ask for it.
//!
//! Never lists: that is the history.

use bytes::Bytes;
use posthaste::model::{Attempt, ErrorCode, EventId, EventType, Outcome, Phases, Response, Sent, Status, Timestamp};
use posthaste::store::{NewEvent, Settlement};

use crate::samples::{ACME, GLOBEX, canceled, event, everything, name, resent, retried, two_merchants, unrouted};
use crate::subject::{BEGINNING, Subject, after};

pub(crate) fn a_dossier_holds_the_event_as_it_came(subject: &mut Subject) {
    two_merchants(subject);
    let longest = "é".repeat(127) + "x";
    let events = [
        event("acme", ACME),
        NewEvent { resource_id: Some("".into()), traceparent: Some("".into()), ..event("acme", ACME) },
        NewEvent {
            event_type: EventType::AccountTopup,
            resource_id: Some(longest.as_str().into()),
            traceparent: Some(longest.as_str().into()),
            payload: Bytes::from_static(b"[1, 2]"),
            ..event("acme", ACME)
        },
        NewEvent {
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
            ..unrouted("acme")
        },
    ];
    let ids = subject.fresh_all(events.clone());
    subject.holds(|subject| {
        for (n, (id, handed_in)) in ids.iter().zip(&events).enumerate() {
            let dossier = subject.dossier(&name("acme"), *id);
            let kept = &dossier.event;
            assert_eq!((kept.id, &kept.merchant, kept.sequence), (*id, &handed_in.merchant, n as u64 + 1));
            assert_eq!(kept.event_type, handed_in.event_type);
            assert_eq!((&kept.resource_id, &kept.traceparent), (&handed_in.resource_id, &handed_in.traceparent));
            assert_eq!(kept.payload, handed_in.payload);
            assert!(dossier.attempts.is_empty());
            assert_eq!(dossier.item, subject.history(&everything("acme"))[n], "the same line as in the list");
        }
    });
}

pub(crate) fn a_dossier_holds_every_attempt_in_order(subject: &mut Subject) {
    two_merchants(subject);
    let mut delivery = subject.owe(event("acme", ACME));
    let neighbour = subject.owe(event("acme", ACME));
    let attempts: Vec<Attempt> = every_attempt();
    for attempt in &attempts {
        subject.settle(retried(&subject.owe(event("globex", GLOBEX)), BEGINNING));
        let settlement = Settlement { attempt: Some(attempt.clone()), ..retried(&delivery, BEGINNING) };
        delivery = subject.settle(settlement);
        assert_eq!((delivery.attempts, delivery.last_attempt), (attempt.number, Some(delivery.written)));
    }
    let delivery = subject.settle(resent(&subject.settle(canceled(&delivery)), BEGINNING));
    subject.holds(|subject| {
        let dossier = subject.dossier(&delivery.merchant, delivery.event);
        assert_eq!(dossier.attempts.len(), attempts.len());
        for (kept, made) in dossier.attempts.iter().zip(&attempts) {
            same_attempt(kept, made);
        }
        let last = dossier.item.last_attempt.expect("there were attempts");
        let newest = attempts.last().expect("there were attempts");
        assert_eq!((last.at, last.duration_ms), (newest.started_at, newest.duration_ms));
        assert_eq!((last.status_code, last.error), (newest.outcome.status(), newest.outcome.error()));
        assert!(subject.dossier(&neighbour.merchant, neighbour.event).attempts.is_empty(), "only its own");
    });
}

fn same_attempt(kept: &Attempt, made: &Attempt) {
    assert_eq!((kept.number, kept.started_at, kept.duration_ms), (made.number, made.started_at, made.duration_ms));
    assert_eq!(kept.phases, made.phases, "attempt {}", made.number);
    assert_eq!(kept.outcome, made.outcome, "attempt {}", made.number);
    assert_eq!(kept.sent, made.sent, "attempt {}", made.number);
    assert_eq!(kept.response, made.response, "attempt {}", made.number);
}

/// One attempt of each outcome, with as much and as little beside it as there can be.
fn every_attempt() -> Vec<Attempt> {
    let failures = ErrorCode::ALL.map(|error| Outcome::Failure {
        error,
        status: (error == ErrorCode::HttpStatus).then_some(599),
        retry_after_ms: (error == ErrorCode::Gone).then_some(u64::MAX),
    });
    let outcomes = failures.into_iter().chain([Outcome::Success { status: 200 }, Outcome::Success { status: 299 }]);
    let every_byte: Vec<u8> = (0..=255).collect();
    let responses = [
        None,
        Some(Response::default()),
        Some(Response {
            headers: vec![
                ("Set-Cookie".to_owned(), every_byte.clone()),
                ("set-cookie".to_owned(), Vec::new()),
                (String::new(), b"\xff\xfe".to_vec()),
            ],
            body: Bytes::from(every_byte.repeat(16)),
            truncated: true,
        }),
    ];
    let signed = |byte: u8| Some([byte; 32]);
    let sent = [
        None,
        Some(Sent { timestamp_s: i64::MIN, ..Sent::default() }),
        Some(Sent {
            timestamp_s: i64::MAX,
            signature: signed(0),
            signature_old: signed(1),
            standard: signed(0x80),
            standards_old: vec![[0xff; 32], [0xfe; 32]],
        }),
        Some(Sent { timestamp_s: 0, signature_old: signed(9), ..Sent::default() }),
    ];
    let phases = [
        Phases::default(),
        Phases { head_us: Some(0), body_us: Some(u32::MAX), ..Phases::default() },
        Phases { dns_us: Some(1), connect_us: Some(2), tls_us: Some(3), head_us: Some(4), body_us: Some(5) },
    ];
    let every = outcomes.enumerate().map(|(n, outcome)| Attempt {
        number: u32::try_from(n).expect("small") + 1,
        started_at: if n == 4 { Timestamp::ZERO } else { BEGINNING.plus_ms(n as u64 * 1_001) },
        duration_ms: if n == 5 { u32::MAX } else { u32::try_from(n).expect("small") },
        phases: phases[n % 3],
        outcome,
        sent: sent[n % 4].clone(),
        response: responses[(n + 1) % 3].clone(),
    });
    every.collect()
}

pub(crate) fn a_dossier_shows_the_delivery_as_it_stands(subject: &mut Subject) {
    two_merchants(subject);
    let first = subject.owe(event("acme", ACME));
    let retry = subject.settle(retried(&first, BEGINNING.plus_ms(9)));
    let cancel = subject.settle(canceled(&subject.owe(event("acme", ACME))));
    let skipped = subject.fresh(unrouted("acme")).0;
    subject.holds(|subject| {
        for settled in [&retry, &cancel] {
            let found = subject.dossier(&settled.merchant, settled.event).delivery.expect("it has one");
            assert_eq!((found.event, found.endpoint, &found.merchant), (settled.event, ACME, &settled.merchant));
            assert_eq!((found.event_type, found.resource), (settled.event_type, settled.resource));
            assert_eq!((found.sequence, found.location), (settled.sequence, settled.location));
            assert_eq!((found.attempts, found.last_attempt), (settled.attempts, settled.last_attempt));
            assert_eq!(found.status, settled.status);
            if settled.status.is_waiting() {
                assert_eq!((found.written, found.attempts_before), (settled.written, settled.attempts_before));
            }
        }
        assert_eq!(subject.dossier(&first.merchant, first.event).delivery.expect("it has one").due, retry.due);
        let dossier = subject.dossier(&name("acme"), skipped);
        assert!(dossier.delivery.is_none());
        assert_eq!(dossier.item.status, Status::Skipped);
    });
    let resend = subject.settle(resent(&retry, BEGINNING.plus_ms(1)));
    subject.holds(|subject| {
        let found = subject.dossier(&resend.merchant, resend.event).delivery.expect("it has one");
        assert_eq!((found.attempts, found.attempts_before), (1, 1));
        assert_eq!((found.written, found.key()), (resend.written, resend.key()));
    });
}

pub(crate) fn a_dossier_is_for_its_merchant_only(subject: &mut Subject) {
    two_merchants(subject);
    let id = subject.fresh(event("acme", ACME)).0;
    let skipped = subject.fresh(unrouted("acme")).0;
    subject.holds(|subject| {
        let ask = |merchant: &str, id| subject.store().dossier(&name(merchant), id).expect("readable").is_some();
        assert!(ask("acme", id) && ask("acme", skipped));
        for (merchant, id) in [
            ("globex", id),
            ("globex", skipped),
            ("initech", id),
            ("acme", after(skipped)),
            ("acme", EventId::MIN),
            ("acme", EventId::MAX),
        ] {
            assert!(!ask(merchant, id), "{merchant} asks for {id}");
        }
    });
}
