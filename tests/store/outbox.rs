//! What is owed: its order, its pages, and what a page knows of the records.
//!
//! Never looks at the history.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use posthaste::model::{Delivery, DueKey, EndpointId, EventId, Location, Timestamp};
use posthaste::store::{Change, DuePage, Notice};

use crate::samples::{ACME, GLOBEX, canceled, delivered, endpoint, event, failed, moved, retried, two_merchants};
use crate::subject::{BEGINNING, FIRST_KEY, Subject, TestEntropy, after, delivery_of};

pub(crate) fn what_is_owed_is_ordered_by_due_time_and_then_by_age(subject: &mut Subject) {
    two_merchants(subject);
    let mut expected = Vec::new();
    for due_ms in [50, 10, 50, 90, 10, 0, 50, 2_000_000_000] {
        let delivery = subject.owe(event("acme", ACME));
        expected.push(subject.settle(retried(&delivery, BEGINNING.plus_ms(due_ms))).key());
    }
    expected.push(subject.settle(moved(&subject.owe(event("acme", ACME)), Timestamp::from_ms(1))).key());
    expected.sort_unstable();
    subject.holds(|subject| {
        let keys: Vec<DueKey> = subject.owed(ACME).iter().map(Delivery::key).collect();
        assert_eq!(keys, expected);
    });
}

pub(crate) fn a_page_begins_at_the_key_asked_for(subject: &mut Subject) {
    let keys = ten_owed(subject);
    subject.holds(|subject| {
        let check = |from: DueKey, expect: &[DueKey]| {
            let page = subject.due(ACME, from, 100);
            assert_eq!(page.deliveries.iter().map(Delivery::key).collect::<Vec<_>>(), expect, "from {from:?}");
        };
        check(FIRST_KEY, &keys);
        for (i, key) in keys.iter().enumerate() {
            check(*key, &keys[i..]);
            check((key.0, after(key.1)), &keys[i + 1..]);
        }
        check((keys[4].0, EventId::MIN), &keys[4..]);
        check((keys[4].0, EventId::MAX), &keys[6..]);
        check((keys[9].0.plus_ms(1), EventId::MIN), &[]);
        check((Timestamp::MAX, EventId::MAX), &[]);
    });
}

pub(crate) fn a_page_is_cut_at_its_limit_and_says_whether_more_follows(subject: &mut Subject) {
    let keys = ten_owed(subject);
    subject.holds(|subject| {
        for from in 0..keys.len() {
            for limit in 1..12 {
                let page = subject.due(ACME, keys[from], limit);
                let shown: Vec<DueKey> = page.deliveries.iter().map(Delivery::key).collect();
                assert_eq!(shown, keys[from..keys.len().min(from + limit)], "from {from}, at most {limit}");
                assert!(page.more || from + limit >= keys.len(), "from {from}, at most {limit}: more follows");
            }
        }
        assert!(!subject.due(ACME, FIRST_KEY, 11).more, "a page with room to spare is the last one");
    });
}

pub(crate) fn each_endpoint_has_an_outbox_of_its_own(subject: &mut Subject) {
    two_merchants(subject);
    let neighbours = [EndpointId(0), EndpointId(255), EndpointId(256), EndpointId(u64::MAX - 1), EndpointId(u64::MAX)];
    subject.change(neighbours.map(|id| Change::PutEndpoint(endpoint(id, "acme"))));
    let all = neighbours.into_iter().chain([ACME]);
    let mut expected: BTreeMap<EndpointId, Vec<EventId>> = BTreeMap::new();
    for _ in 0..4 {
        for id in all.clone() {
            expected.entry(id).or_default().push(subject.owe(event("acme", id)).event);
        }
    }
    expected.insert(GLOBEX, vec![subject.owe(event("globex", GLOBEX)).event]);
    subject.holds(|subject| {
        for (id, events) in &expected {
            assert_eq!(subject.owed_ids(*id), *events, "{id}");
        }
        assert!(subject.owed(EndpointId(3)).is_empty(), "an endpoint that never was is owed nothing");
    });
}

pub(crate) fn a_page_never_shows_a_record_newer_than_it_says(subject: &mut Subject) {
    two_merchants(subject);
    let done = AtomicBool::new(false);
    let pages: Vec<DuePage> = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut pages: Vec<DuePage> = Vec::new();
            while !done.load(Ordering::SeqCst) {
                let page = subject.store().due(ACME, FIRST_KEY, 10_000).expect("the outbox is readable");
                if pages.last().is_none_or(|last| last.as_of != page.as_of) {
                    pages.push(page);
                }
            }
            pages
        });
        let dice = TestEntropy::seeded(7);
        for _ in 0..200 {
            let delivery = subject.owe(event("acme", ACME));
            let delivery = match dice.below(4) {
                0 => continue,
                1 => subject.settle(delivered(&delivery, BEGINNING)),
                _ => subject.settle(retried(&delivery, BEGINNING.plus_ms(dice.below(1_000)))),
            };
            if delivery.status.is_waiting() && dice.below(2) == 0 {
                subject.settle(failed(&delivery));
            }
        }
        done.store(true, Ordering::SeqCst);
        reader.join().expect("the reader does not panic")
    });
    let notices = subject.notices.all();
    let mut newest = Location::ZERO;
    for page in pages.iter().chain([&subject.due(ACME, FIRST_KEY, 10_000)]) {
        assert!(page.as_of >= newest, "a later page does not know less");
        newest = page.as_of;
        let shown: Vec<_> = page.deliveries.iter().map(|delivery| (delivery.key(), delivery.written)).collect();
        assert_eq!(shown, owed_as_of(&notices, page.as_of), "exactly what was owed as of {:?}", page.as_of);
    }
}

/// What the notices up to a record say is owed, in its order, with the record that says so.
fn owed_as_of(notices: &[Notice], as_of: Location) -> Vec<(DueKey, Location)> {
    let known = notices.iter().map(delivery_of).filter(|delivery| delivery.written <= as_of);
    let newest: BTreeMap<EventId, &Delivery> = known.map(|delivery| (delivery.event, delivery)).collect();
    let waiting = newest.values().filter(|delivery| delivery.status.is_waiting());
    let mut owed: Vec<_> = waiting.map(|delivery| (delivery.key(), delivery.written)).collect();
    owed.sort_unstable();
    owed
}

pub(crate) fn paging_finds_what_does_not_move_exactly_once(subject: &mut Subject) {
    two_merchants(subject);
    let mut restless = Vec::new();
    let mut steady = Vec::new();
    for n in 0..60 {
        let delivery = subject.owe(event("acme", ACME));
        let delivery = subject.settle(moved(&delivery, BEGINNING.plus_ms(n * 10)));
        if n % 3 == 0 { restless.push(delivery) } else { steady.push(delivery.event) }
    }
    let dice = TestEntropy::seeded(3);
    let (mut from, mut seen) = (FIRST_KEY, Vec::new());
    loop {
        let page = subject.due(ACME, from, 7);
        seen.extend(page.deliveries.iter().map(|delivery| delivery.event));
        let Some(last) = page.deliveries.last().filter(|_| page.more) else { break };
        from = (last.due, after(last.event));
        let mover = restless.pop().expect("there are more restless ones than pages");
        match dice.below(3) {
            0 => drop(subject.settle(canceled(&mover))),
            1 => drop(subject.settle(retried(&mover, BEGINNING))),
            _ => drop(subject.settle(retried(&mover, BEGINNING.plus_ms(10_000)))),
        }
        subject.owe(event("acme", ACME));
    }
    seen.retain(|event| steady.contains(event));
    assert_eq!(seen, steady, "in their order, each of them once");
}

pub(crate) fn the_backlog_counts_what_a_full_scan_finds(subject: &mut Subject) {
    two_merchants(subject);
    let spare = EndpointId(9);
    subject.change([Change::PutEndpoint(endpoint(spare, "acme"))]);
    let dice = TestEntropy::seeded(11);
    let mut waiting: Vec<Delivery> = Vec::new();
    for round in 0..4 {
        for _ in 0..40 {
            let pick = usize::try_from(dice.below(waiting.len() as u64 + 1)).expect("small");
            let settled = match dice.below(5) {
                0 if pick < waiting.len() => subject.settle(delivered(&waiting.remove(pick), BEGINNING)),
                1 if pick < waiting.len() => subject.settle(canceled(&waiting.remove(pick))),
                2 if pick < waiting.len() => {
                    subject.settle(retried(&waiting.remove(pick), BEGINNING.plus_ms(dice.below(9))))
                }
                3 => subject.owe(event("globex", GLOBEX)),
                _ => subject.owe(event("acme", ACME)),
            };
            waiting.extend(settled.status.is_waiting().then_some(settled));
        }
        subject.holds(|subject| {
            let backlog = subject.backlog();
            let expected = [(ACME, "acme"), (GLOBEX, "globex")].map(|(id, merchant)| {
                (id, merchant, waiting.iter().filter(|delivery| delivery.endpoint == id).count())
            });
            let counted: Vec<_> =
                backlog.iter().map(|b| (b.endpoint, b.merchant.as_str(), b.waiting as usize)).collect();
            assert_eq!(counted, expected, "in round {round}; an endpoint that is owed nothing has no line");
            for line in &backlog {
                assert_eq!(subject.owed(line.endpoint).len() as u64, line.waiting, "{}", line.endpoint);
            }
            let sum: u64 = backlog.iter().map(|line| line.waiting).sum();
            assert_eq!(subject.store().figures().waiting, sum);
        });
    }
    for delivery in &waiting {
        subject.settle(failed(delivery));
    }
    subject.holds(|subject| assert!(subject.backlog().is_empty() && subject.store().figures().waiting == 0));
}

/// Ten deliveries owed to acme, two at each of five times: their keys in order.
fn ten_owed(subject: &Subject) -> Vec<DueKey> {
    two_merchants(subject);
    let mut keys: Vec<DueKey> = (0..10)
        .map(|n| {
            let delivery = subject.owe(event("acme", ACME));
            subject.owe(event("globex", GLOBEX));
            subject.settle(retried(&delivery, BEGINNING.plus_ms(n % 5 * 100))).key()
        })
        .collect();
    keys.sort_unstable();
    keys
}
