//! Taking events: ids, sequences, idempotency, who is owed what.
//!
//! Never settles anything.

use std::sync::Barrier;
use std::thread;

use bytes::Bytes;
use posthaste::clock::Clock;
use posthaste::model::{Delivery, EventId, EventType, Location, Status, resource_hash};
use posthaste::store::{Acceptance, Change, NewEvent, Notice};

use crate::samples::{ACME, GLOBEX, event, everything, keyed, merchant, name, two_merchants, unrouted};
use crate::subject::{BEGINNING, FIRST_KEY, Subject, delivery_of};

const HOUR_MS: i64 = 60 * 60 * 1000;

pub(crate) fn an_accepted_event_is_owed_and_noticed_once(subject: &mut Subject) {
    two_merchants(subject);
    subject.clock.shift(1_234);
    let payload = Bytes::from_static(b"{\"id\":7}");
    let (id, sequence) = subject.fresh(NewEvent {
        event_type: EventType::CardState,
        resource_id: Some("card_7".into()),
        payload: payload.clone(),
        ..event("acme", ACME)
    });
    assert_eq!(sequence, 1);
    assert_eq!(id.accepted_at(), BEGINNING.plus_ms(1_234));

    let notices = subject.notices.about(id);
    let [Notice::Accepted(delivery)] = &notices[..] else { panic!("one notice of acceptance: {notices:?}") };
    assert_eq!((delivery.endpoint, &delivery.merchant), (ACME, &name("acme")));
    assert_eq!((delivery.event_type, delivery.sequence), (EventType::CardState, 1));
    assert_eq!(delivery.resource, resource_hash(Some("card_7")));
    assert_eq!((delivery.status, delivery.due), (Status::Pending, BEGINNING.plus_ms(1_234)));
    assert_eq!((delivery.attempts, delivery.attempts_before, delivery.last_attempt), (0, 0, None));
    assert_eq!(delivery.payload.as_ref(), Some(&payload));
    assert_eq!(delivery.written, delivery.location, "the record that accepted it also put it into its state");
    assert!(delivery.written > Location::ZERO);

    let noticed = delivery.clone();
    subject.holds(|subject| {
        let page = subject.due(ACME, FIRST_KEY, 10);
        assert_eq!(page.deliveries.len(), 1, "owed once");
        assert!(!page.more);
        let owed = &page.deliveries[0];
        assert_eq!((owed.event, owed.key()), (id, noticed.key()));
        assert_eq!((owed.location, owed.written), (noticed.location, noticed.written));
        assert_eq!((&owed.merchant, owed.resource, owed.sequence), (&noticed.merchant, noticed.resource, 1));
        assert!(owed.payload.is_none(), "payloads are read when they are needed");
        assert_eq!(subject.store().event(owed).expect("it stands there").payload, payload);
        assert_eq!(subject.notices.about(id).len(), 1, "nothing is noticed again");
    });
}

pub(crate) fn sequences_count_every_event_of_a_merchant_without_gaps(subject: &mut Subject) {
    two_merchants(subject);
    for expected in 1..=5 {
        assert_eq!(subject.fresh(event("acme", ACME)).1, 3 * expected - 2);
        assert_eq!(subject.fresh(unrouted("acme")).1, 3 * expected - 1, "skipped ones count");
        assert_eq!(subject.fresh(event("globex", GLOBEX)).1, expected);
        let again = || keyed(event("acme", ACME), u8::try_from(expected).expect("small"), 1);
        assert_eq!(subject.fresh(again()).1, 3 * expected);
        assert!(matches!(subject.accept(again()), Acceptance::Duplicate { .. }), "and takes no number");
    }
    subject.holds(|subject| {
        let sequences: Vec<u64> = subject.history(&everything("acme")).iter().map(|item| item.sequence).collect();
        assert_eq!(sequences, (1..=15).collect::<Vec<_>>());
    });
    assert_eq!(subject.fresh(event("acme", ACME)).1, 16);
    assert_eq!(subject.fresh(event("globex", GLOBEX)).1, 6);
}

pub(crate) fn a_merchant_that_was_deleted_and_put_again_goes_on_counting(subject: &mut Subject) {
    two_merchants(subject);
    assert_eq!(subject.fresh(event("acme", ACME)).1, 1);
    subject.change([Change::DeleteMerchant(name("acme"))]);
    subject.holds(|subject| assert_eq!(subject.history(&everything("acme")).len(), 1, "its history stays"));
    subject.change([Change::PutMerchant(merchant("acme"))]);
    assert_eq!(subject.fresh(event("acme", ACME)).1, 2);
    assert_eq!(subject.owed(ACME).len(), 2, "and its endpoint is served again");
}

pub(crate) fn ids_grow_even_when_the_clock_goes_back(subject: &mut Subject) {
    two_merchants(subject);
    let mut last = EventId::MIN;
    for shift in [0, 0, 5_000, -HOUR_MS, 0, -HOUR_MS, 1, 3 * HOUR_MS] {
        subject.clock.shift(shift);
        let delivery = subject.owe(event("acme", ACME));
        assert!(delivery.event > last, "{} after {last} at a shift of {shift} ms", delivery.event);
        assert_eq!(delivery.due, subject.clock.now(), "it is due now, whatever time its id says");
        last = delivery.event;
    }
    assert_eq!(last.accepted_at(), subject.clock.now(), "the clock is ahead of the ids again");
    subject.clock.shift(-HOUR_MS);
    subject.holds(|subject| assert_eq!(subject.owed(ACME).len(), 8));
    assert!(subject.fresh(event("acme", ACME)).0 > last, "also after an end");
}

pub(crate) fn a_key_stays_known_to_a_clock_that_goes_back_by_a_day(subject: &mut Subject) {
    two_merchants(subject);
    for (key, hours) in (0..12).zip((0..24).step_by(2)) {
        subject.clock.shift(hours * HOUR_MS);
        let (id, sequence) = subject.fresh(keyed(event("acme", ACME), key, 1));
        subject.clock.shift(-23 * HOUR_MS);
        subject.holds(|subject| {
            assert_eq!(subject.accept(keyed(event("acme", ACME), key, 1)), Acceptance::Duplicate { id, sequence });
            assert_eq!(subject.accept(keyed(event("acme", ACME), key, 2)), Acceptance::Conflict);
        });
        subject.clock.shift((23 - hours) * HOUR_MS);
    }
}

pub(crate) fn the_same_key_with_the_same_content_is_a_duplicate(subject: &mut Subject) {
    two_merchants(subject);
    subject.fresh(event("acme", ACME));
    let (id, sequence) = subject.fresh(keyed(event("acme", ACME), 1, 1));
    let (skipped, _) = subject.fresh(keyed(unrouted("acme"), 2, 1));
    subject.fresh(event("acme", ACME));
    subject.holds(|subject| {
        for _ in 0..3 {
            assert_eq!(subject.accept(keyed(event("acme", ACME), 1, 1)), Acceptance::Duplicate { id, sequence });
        }
        let second = subject.accept(keyed(event("acme", ACME), 2, 1));
        assert_eq!(second, Acceptance::Duplicate { id: skipped, sequence: 3 }, "a skipped event counts as handed in");
        assert_eq!(subject.owed(ACME).len(), 3, "nothing more is owed");
        assert_eq!(subject.notices.about(id).len(), 1);
    });
}

pub(crate) fn the_same_key_with_other_content_is_a_conflict_and_stores_nothing(subject: &mut Subject) {
    two_merchants(subject);
    let (id, sequence) = subject.fresh(keyed(event("acme", ACME), 1, 1));
    subject.holds(|subject| {
        assert_eq!(subject.accept(keyed(event("acme", ACME), 1, 2)), Acceptance::Conflict);
        assert_eq!(subject.owed_ids(ACME), [id]);
        assert_eq!(subject.history(&everything("acme")).len(), 1);
        let first = subject.accept(keyed(event("acme", ACME), 1, 1));
        assert_eq!(first, Acceptance::Duplicate { id, sequence }, "the first content stays the one that counts");
    });
    assert_eq!(subject.fresh(event("acme", ACME)).1, 2, "a conflict takes no number");
}

pub(crate) fn a_key_means_something_else_at_every_merchant(subject: &mut Subject) {
    two_merchants(subject);
    let (acme, _) = subject.fresh(keyed(event("acme", ACME), 1, 1));
    let (globex, _) = subject.fresh(keyed(event("globex", GLOBEX), 1, 2));
    subject.holds(|subject| {
        let first = |id| Acceptance::Duplicate { id, sequence: 1 };
        assert_eq!(subject.accept(keyed(event("acme", ACME), 1, 1)), first(acme));
        assert_eq!(subject.accept(keyed(event("globex", GLOBEX), 1, 2)), first(globex));
    });
}

pub(crate) fn one_key_from_sixteen_threads_makes_one_event(subject: &mut Subject) {
    two_merchants(subject);
    for round in 0..20 {
        let start = Barrier::new(16);
        let hand_in = || {
            start.wait();
            subject.accept(keyed(event("acme", ACME), round, 1))
        };
        let answers: Vec<Acceptance> = thread::scope(|scope| {
            let threads: Vec<_> = (0..16).map(|_| scope.spawn(hand_in)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no thread panics")).collect()
        });
        let sequence = u64::from(round) + 1;
        let fresh: Vec<EventId> = answers
            .iter()
            .filter_map(|answer| match answer {
                Acceptance::Fresh { id, sequence: given } if *given == sequence => Some(*id),
                _ => None,
            })
            .collect();
        assert_eq!(fresh.len(), 1, "one is the first: {answers:?}");
        let copies = answers.iter().filter(|a| **a == Acceptance::Duplicate { id: fresh[0], sequence }).count();
        assert_eq!(copies, 15, "the others are told of it: {answers:?}");
        assert_eq!(subject.notices.about(fresh[0]).len(), 1);
    }
    subject.holds(|subject| assert_eq!(subject.owed(ACME).len(), 20));
}

pub(crate) fn a_key_lives_for_a_day_and_is_free_again_later(subject: &mut Subject) {
    two_merchants(subject);
    let handed_in = || keyed(event("acme", ACME), 1, 1);
    let (first, _) = subject.fresh(handed_in());
    subject.clock.shift(24 * HOUR_MS - 1);
    subject.holds(|subject| {
        let answer = subject.accept(handed_in());
        assert_eq!(answer, Acceptance::Duplicate { id: first, sequence: 1 }, "it lives for a day");
    });
    subject.clock.shift(12 * HOUR_MS + 2);
    let (second, sequence) = subject.fresh(keyed(event("acme", ACME), 1, 2));
    assert_eq!(sequence, 2, "after a day and a half it is free, also for other content");
    assert!(second > first);
    subject.holds(|subject| {
        let answer = subject.accept(keyed(event("acme", ACME), 1, 2));
        assert_eq!(answer, Acceptance::Duplicate { id: second, sequence }, "and begins a life of its own");
        assert_eq!(subject.accept(handed_in()), Acceptance::Conflict);
    });
}

pub(crate) fn an_event_without_an_endpoint_is_skipped(subject: &mut Subject) {
    two_merchants(subject);
    is_skipped(subject, unrouted("acme"));
}

pub(crate) fn an_event_for_a_deleted_endpoint_is_skipped(subject: &mut Subject) {
    two_merchants(subject);
    subject.change([Change::DeleteEndpoint(ACME)]);
    is_skipped(subject, event("acme", ACME));
}

pub(crate) fn an_event_of_a_deleted_merchant_is_skipped(subject: &mut Subject) {
    two_merchants(subject);
    subject.change([Change::DeleteMerchant(name("acme"))]);
    is_skipped(subject, event("acme", ACME));
}

fn is_skipped(subject: &mut Subject, event: NewEvent) {
    let (merchant, payload) = (event.merchant.clone(), event.payload.clone());
    let (id, sequence) = subject.fresh(event);
    assert_eq!(sequence, 1, "it has its place in the row");
    subject.holds(|subject| {
        let dossier = subject.dossier(&merchant, id);
        assert_eq!((dossier.item.status, dossier.item.next_attempt_at), (Status::Skipped, None));
        assert!(dossier.delivery.is_none(), "nothing is owed");
        assert_eq!(dossier.event.payload, payload, "what was skipped can still be read");
        assert!(subject.owed(ACME).is_empty() && subject.backlog().is_empty());
        assert!(subject.notices.all().is_empty(), "nobody is told");
    });
}

pub(crate) fn events_from_many_threads_are_noticed_in_the_order_of_their_records(subject: &mut Subject) {
    two_merchants(subject);
    let start = Barrier::new(8);
    thread::scope(|scope| {
        for thread in 0..8 {
            let (subject, start) = (&*subject, &start);
            let sample = if thread % 2 == 0 { event("acme", ACME) } else { event("globex", GLOBEX) };
            scope.spawn(move || {
                start.wait();
                for _ in 0..25 {
                    let (id, _) = subject.fresh(sample.clone());
                    assert_eq!(subject.notices.about(id).len(), 1, "noticed before the receipt resolved");
                }
            });
        }
    });
    let notices = subject.notices.all();
    assert_eq!(notices.len(), 200);
    for pair in notices.windows(2) {
        assert!(delivery_of(&pair[0]).written < delivery_of(&pair[1]).written, "in the order of their records");
        assert!(delivery_of(&pair[0]).event < delivery_of(&pair[1]).event, "which is the order of their ids");
    }
    subject.holds(|subject| {
        for merchant in ["acme", "globex"] {
            let sequences: Vec<u64> = subject.history(&everything(merchant)).iter().map(|i| i.sequence).collect();
            assert_eq!(sequences, (1..=100).collect::<Vec<_>>(), "{merchant}");
        }
    });
}

pub(crate) fn payloads_come_back_byte_for_byte(subject: &mut Subject) {
    two_merchants(subject);
    let every_byte: Vec<u8> = (0..=255).collect();
    let payloads: Vec<Bytes> = vec![
        Bytes::new(),
        Bytes::from_static(b"\0"),
        Bytes::from_static(b"\0\0\r\n\r\n\0"),
        Bytes::from_static(br#"{"a":"\uD800","b":"\x","c":1e999, "a" : 01 }"#),
        Bytes::from_static(b"\xef\xbb\xbf{}\xc3\x28\xff"),
        Bytes::from(every_byte.repeat(257)),
        Bytes::from(vec![0; 256 * 1024]),
        Bytes::from(vec![0xff; 256 * 1024]),
        Bytes::from("}".repeat(256 * 1024 - 1)),
    ];
    let ids = subject.fresh_all(payloads.iter().map(|p| NewEvent { payload: p.clone(), ..event("acme", ACME) }));
    for (id, payload) in ids.iter().zip(&payloads) {
        let noticed = subject.notices.accepted(*id).expect("it is owed").payload.expect("the payload is in memory");
        assert!(noticed == *payload, "{} bytes as noticed", payload.len());
    }
    subject.holds(|subject| {
        let owed = subject.owed(ACME);
        assert_eq!(owed.len(), payloads.len());
        for (delivery, payload) in owed.iter().zip(&payloads) {
            let event = subject.store().event(delivery).expect("it stands there");
            assert!(event.payload == *payload, "{} bytes at their location", payload.len());
            assert_eq!((event.id, event.sequence), (delivery.event, delivery.sequence));
            let dossier = subject.dossier(&name("acme"), delivery.event);
            assert!(dossier.event.payload == *payload, "{} bytes in the dossier", payload.len());
        }
    });
}

pub(crate) fn a_location_without_an_event_is_an_error(subject: &mut Subject) {
    two_merchants(subject);
    let delivery = subject.owe(event("acme", ACME));
    subject.holds(|subject| {
        for wrong in [Location(delivery.location.0 + 1), Location(1 << 40), Location(u64::MAX)] {
            let astray = Delivery { location: wrong, ..delivery.clone() };
            let answer = subject.store().event(&astray).map(|event| event.id);
            assert!(answer.is_err(), "{wrong:?}: {answer:?}");
        }
        assert_eq!(subject.store().event(&delivery).expect("it stands there").id, delivery.event);
    });
}
