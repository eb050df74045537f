//! Steps of a delivery: retries, ends and resends, in the outbox and in the history.
//!
//! Never asks why a step is taken: any step is legal here.

use posthaste::model::{Delivery, ErrorCode, Location, Status};
use posthaste::store::{Change, HistoryItem, HistoryQuery, Notice, Settlement};

use crate::samples::{
    ACME, GLOBEX, canceled, delivered, event, everything, failed, made_up, merchant, moved, name, resent, retried,
    two_merchants, unrouted,
};
use crate::subject::{BEGINNING, Subject, delivery_of};

pub(crate) fn a_retry_moves_the_delivery_to_its_new_time(subject: &mut Subject) {
    two_merchants(subject);
    let first = subject.owe(event("acme", ACME));
    let second = subject.owe(event("acme", ACME));
    let later = BEGINNING.plus_ms(5_000);
    let settled = subject.settle(retried(&first, later));

    assert_eq!((settled.status, settled.due, settled.attempts), (Status::Retrying, later, 1));
    assert_eq!((settled.event, settled.endpoint, &settled.merchant), (first.event, ACME, &first.merchant));
    assert_eq!((settled.location, settled.sequence), (first.location, first.sequence));
    assert!(settled.written > second.written, "a later record has a greater location");
    assert_eq!(settled.last_attempt, Some(settled.written), "this record holds the attempt");
    assert!(settled.payload.is_none(), "payloads are read when they are needed");
    subject.holds(|subject| {
        assert_eq!(subject.owed_ids(ACME), [second.event, first.event], "it went behind the other one, once");
        let owed = &subject.owed(ACME)[1];
        assert_eq!((owed.key(), owed.attempts, owed.status), (settled.key(), 1, Status::Retrying));
        assert_eq!((owed.location, owed.written), (first.location, settled.written));
        assert_eq!((owed.last_attempt, owed.attempts_before), (Some(settled.written), 0));
        let line = line(subject, &first);
        assert_eq!((line.status, line.attempts, line.next_attempt_at), (Status::Retrying, 1, Some(later)));
        let last = line.last_attempt.expect("there was an attempt");
        assert_eq!((last.at, last.status_code), (BEGINNING, Some(503)));
        assert_eq!((last.error, last.duration_ms), (Some(ErrorCode::HttpStatus), 40));
    });
}

pub(crate) fn a_delivery_may_be_moved_without_an_attempt(subject: &mut Subject) {
    two_merchants(subject);
    let waiting = subject.settle(retried(&subject.owe(event("acme", ACME)), BEGINNING.plus_ms(60_000)));
    let settled = subject.settle(moved(&waiting, BEGINNING.plus_ms(1)));
    assert_eq!((settled.status, settled.due), (Status::Retrying, BEGINNING.plus_ms(1)));
    assert_eq!((settled.attempts, settled.last_attempt), (1, waiting.last_attempt), "its attempts stay as they were");
    assert!(settled.written > waiting.written);
    subject.holds(|subject| {
        let owed = subject.owed(ACME);
        assert_eq!(owed.len(), 1);
        assert_eq!((owed[0].due, owed[0].written), (settled.due, settled.written));
        assert_eq!((owed[0].attempts, owed[0].last_attempt), (1, waiting.last_attempt));
        let line = line(subject, &settled);
        assert_eq!((line.next_attempt_at, line.attempts), (Some(settled.due), 1));
        assert_eq!(line.last_attempt.expect("there was an attempt").status_code, Some(503));
    });
}

pub(crate) fn a_delivery_that_stays_at_its_time_is_still_owed_once(subject: &mut Subject) {
    two_merchants(subject);
    let first = subject.owe(event("acme", ACME));
    let settled = subject.settle(retried(&first, first.due));
    subject.holds(|subject| {
        let owed = subject.owed(ACME);
        assert_eq!(owed.len(), 1);
        assert_eq!((owed[0].written, owed[0].attempts), (settled.written, 1));
        assert_eq!(subject.store().figures().waiting, 1);
    });
}

pub(crate) fn a_final_status_leaves_the_outbox_and_shows_in_the_history_alone(subject: &mut Subject) {
    two_merchants(subject);
    let at = BEGINNING.plus_ms(77);
    let ends: [fn(&Delivery) -> Settlement; 3] =
        [|delivery| delivered(delivery, BEGINNING.plus_ms(77)), |delivery| failed(delivery), |d| canceled(d)];
    for (status, end) in [Status::Delivered, Status::Failed, Status::Canceled].into_iter().zip(ends) {
        for retried_before in [false, true] {
            let mut delivery = subject.owe(event("acme", ACME));
            if retried_before {
                delivery = subject.settle(retried(&delivery, BEGINNING.plus_ms(9)));
            }
            let settled = subject.settle(end(&delivery));
            assert_eq!(settled.status, status);
            subject.holds(|subject| {
                assert!(subject.owed(ACME).is_empty() && subject.backlog().is_empty(), "{status}");
                assert_eq!(subject.store().figures().waiting, 0);
                assert_eq!(statuses_that_list(subject, &settled), [status], "under its new status and no other");
                let line = line(subject, &settled);
                assert_eq!(line.next_attempt_at, None, "{status}");
                assert_eq!(line.delivered_at, (status == Status::Delivered).then_some(at));
                let attempts = u32::from(retried_before) + u32::from(status != Status::Canceled);
                assert_eq!((line.attempts, settled.attempts), (attempts, attempts), "{status}");
                assert_eq!(line.last_attempt.is_some(), attempts > 0, "{status}");
            });
        }
    }
}

pub(crate) fn a_resend_is_owed_again_whatever_the_status_was(subject: &mut Subject) {
    two_merchants(subject);
    let ends: [fn(&Delivery) -> Settlement; 3] =
        [|delivery| delivered(delivery, BEGINNING.plus_ms(3)), |delivery| failed(delivery), |d| canceled(d)];
    for end in ends {
        let ended = subject.settle(end(&subject.settle(retried(&subject.owe(event("acme", ACME)), BEGINNING))));
        let due = BEGINNING.plus_ms(1_000);
        let settled = subject.settle(resent(&ended, due));
        assert_eq!((settled.status, settled.due), (Status::Pending, due));
        assert_eq!((settled.attempts, settled.attempts_before), (ended.attempts, ended.attempts), "numbers go on");
        assert_eq!((settled.location, settled.last_attempt), (ended.location, ended.last_attempt));
        subject.holds(|subject| {
            let owed = subject.owed(ACME);
            assert_eq!(owed.len(), 1, "after {}", ended.status);
            assert_eq!((owed[0].event, owed[0].due, owed[0].written), (ended.event, due, settled.written));
            assert_eq!((owed[0].attempts, owed[0].attempts_before), (ended.attempts, ended.attempts));
            assert_eq!((owed[0].location, owed[0].last_attempt), (ended.location, ended.last_attempt));
            assert_eq!(statuses_that_list(subject, &settled), [Status::Pending]);
            assert_eq!(line(subject, &settled).next_attempt_at, Some(due));
        });
        let again = subject.settle(failed(&settled));
        assert_eq!(again.attempts, ended.attempts + 1);
        subject.holds(|subject| {
            assert!(subject.owed(ACME).is_empty());
            assert_eq!(statuses_that_list(subject, &again), [Status::Failed]);
            let dossier = subject.dossier(&again.merchant, again.event);
            let numbers: Vec<u32> = dossier.attempts.iter().map(|attempt| attempt.number).collect();
            assert_eq!(numbers, (1..=again.attempts).collect::<Vec<_>>());
        });
    }
}

pub(crate) fn a_resend_of_a_skipped_event_is_owed(subject: &mut Subject) {
    two_merchants(subject);
    let (id, _) = subject.fresh(unrouted("acme"));
    let skipped = made_up(&subject.dossier(&name("acme"), id), ACME);
    let due = BEGINNING.plus_ms(10);
    let settled = subject.settle(resent(&skipped, due));
    assert_eq!((settled.status, settled.due, settled.attempts), (Status::Pending, due, 0));
    assert!(settled.location > Location::ZERO && settled.written > settled.location, "the store knows where it stands");
    subject.holds(|subject| {
        let owed = subject.owed(ACME);
        assert_eq!(owed.len(), 1);
        assert_eq!((owed[0].location, owed[0].written), (settled.location, settled.written));
        let event = subject.store().event(&owed[0]).expect("it stands there");
        assert_eq!((event.id, event.payload), (id, unrouted("acme").payload));
        assert_eq!(statuses_that_list(subject, &settled), [Status::Pending]);
        assert_eq!(subject.backlog()[0].waiting, 1);
        let delivery = subject.dossier(&name("acme"), id).delivery.expect("it has one now");
        assert_eq!((delivery.written, delivery.location), (settled.written, settled.location));
    });
    let done = subject.settle(delivered(&settled, due));
    subject.holds(|subject| {
        assert!(subject.owed(ACME).is_empty());
        assert_eq!(statuses_that_list(subject, &done), [Status::Delivered]);
    });
}

pub(crate) fn the_newest_delivery_is_the_one_that_counts(subject: &mut Subject) {
    two_merchants(subject);
    let (first_at, second_at) = (BEGINNING.plus_ms(100), BEGINNING.plus_ms(900));
    let once = subject.settle(delivered(&subject.owe(event("acme", ACME)), first_at));
    let resend = subject.settle(resent(&once, BEGINNING.plus_ms(500)));
    subject.holds(|subject| {
        let line = line(subject, &resend);
        assert_eq!((line.status, line.delivered_at), (Status::Pending, None), "it is not delivered now");
    });
    let twice = subject.settle(delivered(&resend, second_at));
    subject.holds(|subject| assert_eq!(line(subject, &twice).delivered_at, Some(second_at)));
    let lost = subject.settle(failed(&subject.settle(resent(&twice, second_at))));
    subject.holds(|subject| {
        let line = line(subject, &lost);
        assert_eq!((line.status, line.delivered_at), (Status::Failed, None));
        assert_eq!(line.last_attempt.expect("there were attempts").error, Some(ErrorCode::Timeout));
    });
}

pub(crate) fn deliveries_of_a_deleted_endpoint_stay_owed_until_they_are_canceled(subject: &mut Subject) {
    two_merchants(subject);
    let kept = subject.owe(event("globex", GLOBEX));
    let orphans: Vec<Delivery> = (0..3).map(|_| subject.owe(event("acme", ACME))).collect();
    subject.change([Change::DeleteEndpoint(ACME)]);
    subject.holds(|subject| {
        assert_eq!(subject.owed(ACME).len(), 3);
        let backlog = subject.backlog();
        assert_eq!((backlog.len(), backlog[0].endpoint, backlog[0].waiting), (2, ACME, 3));
        assert_eq!(backlog[0].merchant, name("acme"));
    });
    for orphan in &orphans {
        subject.settle(canceled(orphan));
    }
    subject.holds(|subject| {
        assert!(subject.owed(ACME).is_empty());
        assert_eq!(subject.owed_ids(GLOBEX), [kept.event]);
        assert!(subject.history(&everything("acme")).iter().all(|item| item.status == Status::Canceled));
    });
}

pub(crate) fn every_record_has_a_greater_location_than_the_one_before(subject: &mut Subject) {
    two_merchants(subject);
    for round in 0..10 {
        let delivery = subject.owe(event("acme", ACME));
        let delivery = subject.settle(retried(&delivery, BEGINNING.plus_ms(round)));
        subject.change([Change::PutMerchant(merchant("initech"))]);
        subject.settle(delivered(&delivery, BEGINNING));
        subject.holds(|subject| assert!(subject.owed(ACME).is_empty()));
    }
    let notices = subject.notices.all();
    assert_eq!(notices.len(), 30);
    for pair in notices.windows(2) {
        assert!(delivery_of(&pair[0]).written < delivery_of(&pair[1]).written);
    }
    let settled = |notice: &&Notice| matches!(notice, Notice::Settled(_));
    assert!(notices.iter().filter(settled).all(|notice| delivery_of(notice).payload.is_none()));
}

fn line(subject: &Subject, delivery: &Delivery) -> HistoryItem {
    let merchant = delivery.merchant.as_str();
    let query = HistoryQuery { first: delivery.event, last: delivery.event, ..everything(merchant) };
    let [item] = &subject.page(&query).items[..] else { panic!("one line for {}", delivery.event) };
    assert_eq!(*item, subject.dossier(&delivery.merchant, delivery.event).item, "the dossier shows the same line");
    item.clone()
}

fn statuses_that_list(subject: &Subject, delivery: &Delivery) -> Vec<Status> {
    let lists = |status: &Status| {
        let query = HistoryQuery { statuses: vec![*status], ..everything(delivery.merchant.as_str()) };
        subject.history(&query).iter().filter(|item| item.id == delivery.event).count()
    };
    let found: Vec<Status> = Status::ALL.into_iter().filter(|status| lists(status) > 0).collect();
    assert!(found.iter().all(|status| lists(status) == 1), "{found:?}: listed once");
    found
}
