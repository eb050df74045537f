//! History that ends: what is past its time is gone from every view and from the disk, what is owed is not.
//!
//! For the store that drops by itself. Never waits for its own rhythm: it is told to look.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use posthaste::clock::{Clock, SystemClock};
use posthaste::model::{Delivery, EndpointId, EventId, KeyId, OwnerKind, Role, Status, Timestamp};
use posthaste::store::embedded::{EmbeddedStore, Limits, Probes, Surroundings};
use posthaste::store::{Acceptance, Change, HistoryQuery, NewEvent, Notice, Refusal, Store};

use crate::disk::{RETENTION_MS, fleeting, scratch, small, with};
use crate::samples::{
    ACME, GLOBEX, delivered, endpoint, event, everything, failed, key, keyed, merchant, name, resent, retried,
    two_merchants, unrouted,
};
use crate::subject::{Ending, Subject, TestEntropy};

/// Time in which everything that is not owed has been dropped: once to end the segment, once for its age.
fn let_history_end(subject: &Subject) {
    for _ in 0..2 {
        subject.clock.shift(RETENTION_MS + 1_000);
        subject.retain();
    }
}

fn is_gone(subject: &Subject, merchant: &str, id: EventId) -> bool {
    let dossier = subject.store().dossier(&name(merchant), id).expect("readable");
    let listed = subject.history(&everything(merchant)).iter().any(|item| item.id == id);
    assert_eq!(dossier.is_some(), listed, "the list and the dossier say the same");
    !listed
}

fn now(subject: &Subject) -> Timestamp {
    subject.clock.now()
}

#[test]
fn what_is_past_its_time_is_gone_from_every_view_and_from_the_disk() {
    let mut subject = fleeting();
    two_merchants(&subject);
    let mut ids = Vec::new();
    for n in 0..200 {
        let event = NewEvent { resource_id: Some(format!("card_{}", n % 7).into()), ..event("acme", ACME) };
        let owed = subject.owe(event);
        subject.settle(delivered(&owed, now(&subject)));
        ids.push(owed.event);
    }
    let skipped = subject.fresh(unrouted("acme")).0;
    let before = subject.store().figures().journal_bytes;
    let_history_end(&subject);
    let fresh = subject.fresh(event("acme", ACME)).0;
    assert!(subject.store().figures().journal_bytes < before / 10, "the disk is given back");
    subject.holds(|subject| {
        for id in ids.iter().chain([&skipped]) {
            assert!(is_gone(subject, "acme", *id));
        }
        for resource in 0..7 {
            let query = HistoryQuery { resource_id: Some(format!("card_{resource}")), limit: 3, ..everything("acme") };
            assert!(subject.history(&query).is_empty());
        }
        assert!(!is_gone(subject, "acme", fresh));
        assert_eq!(subject.backlog().len(), 1);
    });
}

#[test]
fn nothing_is_dropped_before_its_time() {
    let mut subject = fleeting();
    two_merchants(&subject);
    let ids = subject.fresh_all((0..100).map(|_| unrouted("acme")));
    subject.clock.shift(RETENTION_MS - 1_000);
    subject.retain();
    subject.holds(|subject| assert_eq!(subject.history(&everything("acme")).len(), ids.len()));
}

#[test]
fn what_is_owed_outlives_its_segment_with_every_attempt() {
    let mut subject = fleeting();
    two_merchants(&subject);
    let payload = Bytes::from(vec![7; 3000]);
    let new = || NewEvent { payload: payload.clone(), resource_id: Some("card_1".into()), ..event("acme", ACME) };
    let fresh = subject.owe(new());
    let mut tried = subject.owe(new());
    for minute in 1..=5 {
        subject.fresh_all((0..20).map(|_| unrouted("globex")));
        tried = subject.settle(retried(&tried, now(&subject).plus_ms(minute * 60_000)));
    }
    let again = subject.owe(new());
    let again = subject.settle(failed(&again));
    let again = subject.settle(resent(&again, now(&subject)));
    let picture = |subject: &Subject| {
        let mut lines = Vec::new();
        for id in [fresh.event, tried.event, again.event] {
            let dossier = subject.dossier(&name("acme"), id);
            assert_eq!(subject.history(&everything("acme")).iter().filter(|item| item.id == id).count(), 1);
            lines.push(format!("{:?} {:?} {:?}", dossier.event, dossier.item, dossier.attempts));
        }
        let told = |d: &Delivery| {
            format!("{} {:?} {:?} {:?} {} {}", d.event, d.written, d.due, d.status, d.attempts, d.attempts_before)
        };
        lines.extend(subject.owed(ACME).iter().map(told));
        lines.push(format!("{:?}", subject.backlog()));
        lines
    };
    let before = picture(&subject);
    for _ in 0..3 {
        let_history_end(&subject);
        subject.holds(|subject| assert_eq!(picture(subject), before));
        assert!(subject.history(&everything("globex")).is_empty(), "nobody waits for these");
    }
    for old in [&fresh, &tried, &again] {
        let found = subject.store().event(old).expect("a delivery in hand finds its event");
        assert_eq!((found.id, found.payload), (old.event, payload.clone()));
    }
    let settled = subject.settle(delivered(&tried, now(&subject)));
    assert_eq!((settled.status, settled.attempts), (Status::Delivered, 6));
    subject.holds(|subject| {
        let numbers: Vec<u32> =
            subject.dossier(&name("acme"), tried.event).attempts.iter().map(|attempt| attempt.number).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
        assert_eq!(subject.owed(ACME).len(), 2);
    });
    let_history_end(&subject);
    subject.holds(|subject| assert!(is_gone(subject, "acme", tried.event), "what is delivered ends"));
}

#[test]
fn what_is_configured_outlives_its_segment() {
    let mut subject = fleeting();
    two_merchants(&subject);
    subject.change([
        Change::PutKey(key(1, Role::Merchant(name("acme")))),
        Change::PutKey(key(2, Role::Producer)),
        Change::PutOwner(OwnerKind::Card, "c1".into(), name("acme")),
        Change::PutOwner(OwnerKind::Card, "c2".into(), name("acme")),
        Change::PutEndpoint(endpoint(EndpointId(9), "globex")),
        Change::PutMerchant(merchant("initech")),
    ]);
    subject.change([
        Change::DeleteKey(KeyId(2)),
        Change::PutOwner(OwnerKind::Card, "c1".into(), name("globex")),
        Change::DeleteOwner(OwnerKind::Card, "c2".into()),
        Change::DeleteEndpoint(EndpointId(9)),
        Change::DeleteMerchant(name("initech")),
    ]);
    let picture = |subject: &Subject| {
        let owner = |id| subject.store().owner(OwnerKind::Card, id).expect("readable");
        (format!("{:?}", subject.catalog()), owner("c1"), owner("c2"))
    };
    let before = picture(&subject);
    for _ in 0..3 {
        let_history_end(&subject);
        subject.holds(|subject| assert_eq!(picture(subject), before));
    }
}

#[test]
fn a_merchant_goes_on_counting_where_all_its_history_is_gone() {
    let mut subject = fleeting();
    two_merchants(&subject);
    let mut newest = EventId::MIN;
    for round in 0..6 {
        for n in 0..30 {
            let (id, sequence) = subject.fresh(unrouted("acme"));
            assert_eq!(sequence, round * 30 + n + 1);
            assert!(id > newest);
            newest = id;
        }
        let_history_end(&subject);
        assert!(subject.history(&everything("acme")).is_empty());
        subject.end(Ending::ALL[usize::try_from(round % 3).expect("small")]);
        // Ids grow also where the clock went back over the end of all history.
        subject.clock.shift(-RETENTION_MS / 2);
    }
}

#[test]
fn a_producers_key_outlives_the_history_of_its_event_and_not_its_window() {
    let mut subject = fleeting();
    two_merchants(&subject);
    let (id, sequence) = subject.fresh(keyed(unrouted("acme"), 1, 1));
    subject.fresh_all((0..50).map(|_| unrouted("acme")));
    for _ in 0..5 {
        let_history_end(&subject);
        assert!(is_gone(&subject, "acme", id));
        subject.holds(|subject| {
            assert_eq!(subject.accept(keyed(unrouted("acme"), 1, 1)), Acceptance::Duplicate { id, sequence });
            assert_eq!(subject.accept(keyed(unrouted("acme"), 1, 2)), Acceptance::Conflict);
        });
    }
    subject.clock.shift(37 * 60 * 60 * 1000);
    let_history_end(&subject);
    subject.holds(|subject| {
        let again = subject.accept(keyed(unrouted("acme"), 1, 2));
        assert!(matches!(again, Acceptance::Fresh { .. } | Acceptance::Duplicate { .. }), "{again:?}");
    });
}

#[test]
fn a_longer_window_keeps_producers_keys_for_longer() {
    let mut subject = with(&Limits { idempotency_ms: 3 * 24 * 60 * 60 * 1000, ..small() });
    two_merchants(&subject);
    subject.fresh(keyed(unrouted("acme"), 1, 1));
    subject.clock.shift(71 * 60 * 60 * 1000);
    subject.holds(|subject| {
        let answer = subject.accept(keyed(unrouted("acme"), 1, 1));
        assert!(matches!(answer, Acceptance::Duplicate { .. }), "{answer:?}");
    });
    subject.clock.shift(14 * 60 * 60 * 1000);
    subject.fresh(keyed(unrouted("acme"), 1, 2));
}

#[test]
fn settling_what_was_dropped_is_answered_and_changes_nothing() {
    let mut subject = fleeting();
    two_merchants(&subject);
    let owed = subject.owe(event("acme", ACME));
    let done = subject.settle(delivered(&owed, now(&subject)));
    let_history_end(&subject);
    subject.store().settle(resent(&done, now(&subject)));
    let answer = subject.notices.wait_for(|notices| match notices.last() {
        Some(Notice::Settled(delivery)) if delivery.status == Status::Canceled => Some(delivery.event),
        _ => None,
    });
    assert_eq!(answer, owed.event);
    subject.holds(|subject| {
        assert!(is_gone(subject, "acme", owed.event));
        assert!(subject.owed(ACME).is_empty() && subject.backlog().is_empty());
    });
}

#[test]
fn the_journal_keeps_to_its_bytes_and_a_dead_endpoint_pins_nothing() {
    const BYTES_MAX: u64 = 64 << 10;
    let mut subject = with(&Limits {
        segment_bytes: 8 << 10,
        retention_bytes_max: BYTES_MAX,
        retention_every_ms: 1_000_000,
        ..small()
    });
    two_merchants(&subject);
    let mut dead = Vec::new();
    for round in 0..20 {
        dead.push(subject.owe(event("globex", GLOBEX)));
        for _ in 0..20 {
            let owed = subject.owe(NewEvent { payload: Bytes::from(vec![round; 500]), ..event("acme", ACME) });
            subject.settle(delivered(&owed, now(&subject)));
        }
        subject.retain();
        assert!(subject.store().figures().journal_bytes <= BYTES_MAX, "round {round}");
    }
    subject.holds(|subject| {
        let waiting: Vec<EventId> = dead.iter().map(|delivery| delivery.event).collect();
        assert_eq!(subject.owed_ids(GLOBEX), waiting);
        let kept = subject.history(&everything("acme")).len();
        assert!((20..300).contains(&kept), "the newest history is there, the oldest is not: {kept}");
    });
}

#[test]
fn more_owed_than_there_is_room_for_is_kept_all_the_same() {
    let mut subject = with(&Limits {
        segment_bytes: 8 << 10,
        retention_bytes_max: 32 << 10,
        retention_every_ms: 1_000_000,
        ..small()
    });
    two_merchants(&subject);
    let mut owed = Vec::new();
    for _ in 0..10 {
        let new = || NewEvent { payload: Bytes::from(vec![1; 600]), ..event("acme", ACME) };
        owed.extend(subject.fresh_all((0..30).map(|_| new())));
        subject.retain();
    }
    subject.holds(|subject| assert_eq!(subject.owed_ids(ACME), owed));
}

#[test]
fn dropping_while_events_come_and_go_loses_nothing() {
    let mut subject =
        with(&Limits { segment_bytes: 16 << 10, retention_bytes_max: 64 << 10, retention_every_ms: 1, ..small() });
    two_merchants(&subject);
    let mut kept: Vec<Delivery> = Vec::new();
    for ending in [Ending::Crashed, Ending::Bereft, Ending::Crashed, Ending::Closed, Ending::Crashed] {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let (subject, done) = (&subject, &done);
            let reader = scope.spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    let ids: Vec<EventId> = subject.history(&everything("acme")).iter().map(|item| item.id).collect();
                    for id in ids {
                        subject.store().dossier(&name("acme"), id).expect("readable, or gone as a whole");
                    }
                    subject.owed(ACME);
                }
            });
            for n in 0..150_u64 {
                let owed = subject.owe(NewEvent { payload: Bytes::from(vec![2; 400]), ..event("acme", ACME) });
                match n % 5 {
                    0 => kept.push(subject.settle(retried(&owed, now(subject)))),
                    _ => drop(subject.settle(delivered(&owed, now(subject)))),
                }
            }
            // Deliveries in hand name places that their events have left.
            for delivery in &mut kept {
                assert_eq!(subject.store().event(delivery).expect("it is owed").id, delivery.event);
                *delivery = subject.settle(retried(delivery, now(subject)));
            }
            for delivery in kept.drain(..kept.len() / 2) {
                subject.settle(delivered(&delivery, now(subject)));
            }
            done.store(true, Ordering::SeqCst);
            reader.join().expect("reading goes on");
        });
        subject.end(ending);
        let mut expected: Vec<EventId> = kept.iter().map(|delivery| delivery.event).collect();
        expected.sort_unstable();
        let mut owed = subject.owed_ids(ACME);
        owed.sort_unstable();
        assert_eq!(owed, expected);
        for delivery in &kept {
            let dossier = subject.dossier(&name("acme"), delivery.event);
            let numbers: Vec<u32> = dossier.attempts.iter().map(|attempt| attempt.number).collect();
            assert_eq!(numbers, (1..=delivery.attempts).collect::<Vec<_>>(), "no attempt is forgotten");
        }
        assert_eq!(subject.backlog()[0].waiting, kept.len() as u64);
    }
}

#[test]
fn random_programs_agree_with_the_model_where_history_ends() {
    crate::programs::agree_with_the_model(fleeting, true);
}

/// A clock that breaks in the hands of the thread that drops what is past its time, once it is wound up.
struct Broken(AtomicBool);

impl Clock for Broken {
    fn now(&self) -> Timestamp {
        let is_retention = thread::current().name() == Some("retention");
        assert!(!is_retention || !self.0.load(Ordering::SeqCst), "planted");
        SystemClock.now()
    }

    fn instant(&self) -> Instant {
        SystemClock.instant()
    }
}

#[test]
fn retention_that_panics_ends_the_process() {
    let dir = scratch();
    let (tell, told) = mpsc::channel();
    let clock = Arc::new(Broken(AtomicBool::new(false)));
    let around = Surroundings {
        clock: clock.clone(),
        entropy: Arc::new(TestEntropy::seeded(1)),
        sink: Arc::new(|_| {}),
        fatal: Arc::new(move |error| drop(tell.send(error.to_string()))),
        probes: Probes::default(),
    };
    let limits = Limits { retention_every_ms: 5, ..small() };
    let store = EmbeddedStore::open(dir.path(), limits, around).expect("the store opens");
    clock.0.store(true, Ordering::SeqCst);
    let why = told.recv_timeout(Duration::from_secs(60)).expect("it is told");
    assert_eq!(why, "index: the retention thread panicked");
    assert!(matches!(store.accept(event("acme", ACME)).wait(), Err(Refusal::Stopped)), "nothing more is taken");
}
