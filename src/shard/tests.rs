//! One shard by hand: gates, bounds, pages that race with records, recalls, deletion, limits.
//!
//! Never random: what follows from many steps in any order is for the simulation to find.

use bytes::Bytes;

use crate::model::{EventType, Status, resource_hash};
use crate::policy::breaker;

use super::*;

const A: EndpointId = EndpointId(1);
const B: EndpointId = EndpointId(2);

fn at(ms: i64) -> Timestamp {
    Timestamp::from_ms(ms)
}

fn event(number: u128) -> EventId {
    EventId::from_u128(number)
}

fn merchant(name: &str) -> MerchantId {
    name.parse().unwrap()
}

/// Event `number`, recorded as number `number`, due at `due_ms`.
fn delivery(endpoint: EndpointId, number: u64, due_ms: i64) -> Delivery {
    Delivery {
        event: event(number.into()),
        endpoint,
        merchant: merchant("acme"),
        event_type: EventType::CardState,
        resource: resource_hash(None),
        sequence: number,
        location: Location(number),
        written: Location(number),
        last_attempt: None,
        attempts: 0,
        attempts_before: 0,
        status: Status::Pending,
        due: at(due_ms),
        payload: None,
        traceparent: None,
    }
}

fn with_status(status: Status, delivery: &Delivery) -> Delivery {
    Delivery { status, written: Location(delivery.written.0 + 1_000), ..delivery.clone() }
}

fn page(deliveries: &[Delivery], more: bool) -> Page {
    Page { deliveries: deliveries.to_vec(), more, as_of: Location(u64::MAX) }
}

/// Attempts at a time from the beginning.
fn ample() -> Limits {
    Limits { adaptive: false, ..Limits::default() }
}

/// No rule that holds an endpoint's deliveries back.
fn plain() -> Policy {
    let breaker = breaker::Limits { failures_to_open: 0, ..breaker::Limits::default() };
    Policy { breaker, overdue_ms_max: 0, ..Policy::default() }
}

fn small() -> Limits {
    Limits { window_per_endpoint_max: 2, page_max: 2, ..ample() }
}

/// A shard that knows endpoint `A`, open and with nothing owed.
fn shard(limits: Limits) -> Shard {
    let mut shard = Shard::new(limits, plain());
    shard.open(A, merchant("acme"), Gate::Open, false, Terms::default());
    shard
}

/// A shard that has asked for endpoint `A`'s backlog.
fn asking(limits: Limits) -> Shard {
    let mut shard = Shard::new(limits, plain());
    shard.open(A, merchant("acme"), Gate::Open, true, Terms::default());
    assert!(matches!(shard.poll(at(100)), Some(Action::Refill { endpoint: A, .. })));
    shard
}

/// All that is wanted at a moment: attempts and cancellations by event number, pages by where they begin.
fn wanted(shard: &mut Shard, now_ms: i64) -> Vec<String> {
    let actions = std::iter::from_fn(|| shard.poll(at(now_ms)));
    let name = |action| match action {
        Action::Attempt(delivery) => format!("attempt {}", delivery.sequence),
        Action::Cancel(delivery) => format!("cancel {}", delivery.sequence),
        Action::Expire(delivery) => format!("expire {}", delivery.sequence),
        Action::Move(delivery, due) => format!("move {} to {}", delivery.sequence, due.as_ms()),
        Action::Refill { from: (due, event), limit, .. } => {
            format!("page of {limit} from {} {}", due.as_ms(), event.as_u128())
        }
    };
    actions.map(name).collect()
}

fn gate(shard: &mut Shard, gate: Gate) {
    shard.open(A, merchant("acme"), gate, false, Terms::default());
}

fn succeed(shard: &mut Shard, number: u64) -> Settled {
    shard.settle(at(200), A, event(number.into()), &Outcome::Success { status: 200 }, 0.5)
}

fn fail(shard: &mut Shard, number: u64, status: u16) -> Settled {
    shard.settle(at(200), A, event(number.into()), &Outcome::of_status(status, None), 0.5)
}

#[test]
fn a_held_endpoint_keeps_nothing_in_memory_and_goes_on_where_it_was() {
    let mut shard = shard(ample());
    shard.accept(delivery(A, 1, 10));
    gate(&mut shard, Gate::Held);
    shard.accept(delivery(A, 2, 20));
    assert_eq!(wanted(&mut shard, 100), [""; 0]);
    assert_eq!((shard.next_wake(), shard.oldest_due(), shard.figures().windowed), (None, None, 0));
    gate(&mut shard, Gate::Open);
    assert_eq!(wanted(&mut shard, 100), ["page of 128 from 10 1"]);
    shard.refill(A, page(&[delivery(A, 1, 10), delivery(A, 2, 20)], false));
    assert_eq!(wanted(&mut shard, 100), ["attempt 1", "attempt 2"]);
}

#[test]
fn nothing_leaves_before_it_is_due_not_even_when_the_clock_goes_back() {
    let mut shard = shard(Limits { in_flight_max: 1, ..ample() });
    shard.accept(delivery(A, 1, 50));
    shard.accept(delivery(A, 2, 60));
    assert_eq!((wanted(&mut shard, 49), shard.next_wake()), (vec![], Some(at(50))));
    assert_eq!(wanted(&mut shard, 60), ["attempt 1"]);
    succeed(&mut shard, 1);
    assert_eq!((wanted(&mut shard, 59), shard.next_wake()), (vec![], Some(at(60))));
    assert_eq!(wanted(&mut shard, 60), ["attempt 2"]);
}

#[test]
fn what_overflows_comes_back_in_pages_and_in_order() {
    let mut shard = shard(small());
    for number in [3, 1, 5, 4, 2] {
        shard.accept(delivery(A, number, number as i64));
    }
    assert_eq!(shard.figures().windowed, 2);
    assert_eq!(wanted(&mut shard, 100), ["attempt 1", "attempt 2", "page of 2 from 3 3"]);
    shard.refill(A, page(&[delivery(A, 3, 3), delivery(A, 4, 4)], true));
    assert_eq!(wanted(&mut shard, 100), ["attempt 3", "attempt 4", "page of 2 from 4 5"]);
    shard.refill(A, page(&[delivery(A, 5, 5)], false));
    assert_eq!(wanted(&mut shard, 100), ["attempt 5"]);
}

#[test]
fn a_page_is_not_asked_for_before_its_first_delivery_is_due() {
    let mut shard = shard(small());
    for number in [1, 2, 3] {
        shard.accept(delivery(A, number, number as i64 * 1_000));
    }
    assert_eq!(wanted(&mut shard, 2_000), ["attempt 1", "attempt 2"]);
    assert_eq!(shard.next_wake(), Some(at(3_000)));
    assert_eq!(wanted(&mut shard, 3_000), ["page of 2 from 3000 3"]);
}

#[test]
fn an_old_page_does_not_undo_what_was_recorded_after_it_was_read() {
    let mut shard = asking(ample());
    let (done, moved) = (delivery(A, 1, 10), delivery(A, 2, 20));
    for known in [&done, &moved] {
        assert!(matches!(shard.hold(known), Recall::Unknown));
    }
    shard.confirm(with_status(Status::Canceled, &done));
    shard.confirm(Delivery { due: at(90), ..with_status(Status::Pending, &moved) });
    shard.accept(delivery(A, 4, 40));
    shard.refill(A, page(&[done, moved, delivery(A, 3, 30)], false));
    assert_eq!(wanted(&mut shard, 100), ["attempt 3", "attempt 4", "attempt 2"]);
}

#[test]
fn an_old_page_does_not_bring_back_what_is_in_flight_or_settles() {
    let mut shard = asking(ample());
    let deliveries = [1, 2].map(|number| delivery(A, number, 10));
    shard.accept(deliveries[0].clone());
    shard.accept(deliveries[1].clone());
    assert_eq!(wanted(&mut shard, 100), ["attempt 1", "attempt 2"]);
    succeed(&mut shard, 2);
    shard.refill(A, page(&deliveries, false));
    assert_eq!(wanted(&mut shard, 100), [""; 0]);
}

#[test]
fn a_page_does_not_speak_for_what_overflowed_while_it_was_outstanding() {
    let mut shard = asking(small());
    for number in [1, 2, 3, 4] {
        shard.accept(delivery(A, number, number as i64));
    }
    // Read before any of them was recorded.
    shard.refill(A, page(&[], false));
    assert_eq!(wanted(&mut shard, 100), ["attempt 1", "attempt 2", "page of 2 from 3 3"]);
}

#[test]
fn a_page_that_fails_is_asked_for_again_from_the_smallest_key_that_left_memory() {
    let limits = Limits { window_per_endpoint_max: 5, page_max: 5, in_flight_per_endpoint_max: 4, ..ample() };
    let mut shard = shard(limits);
    for number in 1..=7 {
        shard.accept(delivery(A, number, number as i64));
    }
    let expect = ["attempt 1", "attempt 2", "attempt 3", "attempt 4", "page of 4 from 6 6"];
    assert_eq!(wanted(&mut shard, 100), expect);
    // 5 still waits in memory, and leaves it while the page is outstanding.
    gate(&mut shard, Gate::Held);
    shard.refill_failed(A);
    gate(&mut shard, Gate::Open);
    assert_eq!(wanted(&mut shard, 100), ["page of 5 from 5 5"]);
}

#[test]
fn a_recall_takes_out_what_waits_and_nothing_else() {
    let mut shard = shard(Limits { in_flight_max: 1, ..ample() });
    shard.accept(delivery(A, 1, 10));
    shard.accept(delivery(A, 2, 20));
    assert_eq!(wanted(&mut shard, 100), ["attempt 1"]);
    assert!(matches!(shard.recall(A, event(1)), Recall::InFlight));
    let Settled { delivery: one, .. } = succeed(&mut shard, 1);
    assert!(matches!(shard.hold(&one), Recall::Settling));
    assert!(matches!(shard.recall(A, event(2)), Recall::Waiting(Delivery { sequence: 2, .. })));
    assert!(matches!(shard.recall(A, event(2)), Recall::Settling), "recalled already");
    assert!(matches!(shard.recall(A, event(3)), Recall::Unknown));
    assert!(matches!(shard.recall(B, event(1)), Recall::Unknown), "an endpoint that is not known");
    assert_eq!(wanted(&mut shard, 100), [""; 0]);
    shard.confirm(Delivery { due: at(90), ..delivery(A, 2, 20) });
    assert_eq!((wanted(&mut shard, 89), wanted(&mut shard, 90)), (vec![], vec!["attempt 2".to_owned()]));
}

#[test]
fn what_is_held_before_its_acceptance_is_told_is_not_there_twice() {
    let mut shard = shard(ample());
    assert!(matches!(shard.hold(&delivery(A, 1, 10)), Recall::Unknown));
    shard.accept(delivery(A, 1, 10));
    assert_eq!((wanted(&mut shard, 100), shard.figures().settling), (vec![], 1));
    shard.confirm(Delivery { due: at(50), ..delivery(A, 1, 10) });
    assert_eq!(wanted(&mut shard, 100), ["attempt 1"]);
}

#[test]
fn a_resend_begins_a_new_schedule() {
    let mut shard = shard(ample());
    let again = Delivery { attempts: 10, attempts_before: 10, status: Status::Retrying, ..delivery(A, 1, 10) };
    assert!(matches!(shard.hold(&with_status(Status::Failed, &again)), Recall::Unknown));
    shard.confirm(again);
    assert_eq!(wanted(&mut shard, 100), ["attempt 1"]);
    let settled = fail(&mut shard, 1, 500);
    assert_eq!((settled.attempts, settled.verdict), (11, Verdict::RetryAt(at(200 + 5_000))));
}

#[test]
fn deletion_cancels_what_waits_and_what_fails_and_then_forgets() {
    let mut shard = shard(Limits { in_flight_max: 2, ..ample() });
    for number in 1..=3 {
        shard.accept(delivery(A, number, number as i64));
    }
    assert_eq!(wanted(&mut shard, 100), ["attempt 1", "attempt 2"]);
    gate(&mut shard, Gate::Closed);
    assert_eq!((wanted(&mut shard, 100), shard.next_wake()), (vec!["cancel 3".to_owned()], None));
    assert_eq!(succeed(&mut shard, 1).verdict, Verdict::Delivered, "it had left already");
    let settled = fail(&mut shard, 2, 410);
    assert_eq!((settled.verdict, settled.disable), (Verdict::Canceled, None));
    for number in 1..=3 {
        assert_eq!(shard.figures().endpoints, 1, "something is owed to it until all is recorded");
        shard.confirm(with_status(Status::Canceled, &delivery(A, number, number as i64)));
    }
    assert_eq!(shard.figures(), Figures::default());
}

#[test]
fn deletion_reaches_what_is_on_disk_before_it_is_due_and_is_paced() {
    let mut shard = Shard::new(Limits { in_flight_per_merchant_max: 1, ..small() }, plain());
    shard.open(A, merchant("acme"), Gate::Closed, true, Terms::default());
    assert_eq!(wanted(&mut shard, 0), ["page of 2 from 0 0"]);
    let owed: Vec<Delivery> = (1..=6).map(|number| delivery(A, number, 1_000_000)).collect();
    shard.refill(A, page(&owed[..2], true));
    assert_eq!(wanted(&mut shard, 0), ["cancel 1", "cancel 2", "page of 2 from 1000000 3"]);
    shard.refill(A, page(&owed[2..4], true));
    assert_eq!(wanted(&mut shard, 0), ["cancel 3", "cancel 4", "page of 2 from 1000000 5"]);
    shard.refill(A, page(&owed[4..], false));
    assert_eq!(wanted(&mut shard, 0), [""; 0], "four settle for each permit of the merchant");
    shard.confirm(with_status(Status::Canceled, &owed[0]));
    assert_eq!(wanted(&mut shard, 0), ["cancel 5"]);
}

#[test]
fn an_acceptance_that_the_deletion_overtook_is_canceled() {
    let mut shard = shard(ample());
    gate(&mut shard, Gate::Closed);
    assert_eq!(shard.figures().endpoints, 0);
    shard.accept(delivery(A, 1, 10));
    assert_eq!(wanted(&mut shard, 0), ["cancel 1"]);
    shard.confirm(with_status(Status::Canceled, &delivery(A, 1, 10)));
    assert_eq!(shard.figures(), Figures::default());
}

#[test]
fn gone_holds_the_endpoint_and_the_delivery_is_still_owed() {
    let mut shard = shard(Limits { in_flight_max: 1, ..ample() });
    shard.accept(delivery(A, 1, 10));
    shard.accept(delivery(A, 2, 20));
    assert_eq!(wanted(&mut shard, 100), ["attempt 1"]);
    let settled = fail(&mut shard, 1, 410);
    assert_eq!(settled.disable, Some(DisabledReason::Gone));
    let Verdict::RetryAt(due) = settled.verdict else { panic!("{:?}", settled.verdict) };
    shard.confirm(Delivery { due, attempts: 1, ..with_status(Status::Retrying, &settled.delivery) });
    assert_eq!((wanted(&mut shard, 1_000_000), shard.figures().windowed), (vec![], 0));
    gate(&mut shard, Gate::Open);
    assert_eq!(wanted(&mut shard, 1_000_000), ["page of 128 from 20 2"]);
}

#[test]
fn what_is_given_back_waits_as_before_and_its_permits_are_free() {
    let mut shard = shard(Limits { in_flight_max: 1, ..ample() });
    shard.accept(delivery(A, 1, 10));
    assert_eq!(wanted(&mut shard, 100), ["attempt 1"]);
    shard.give_back(A, event(1));
    assert_eq!((shard.figures().in_flight, shard.figures().settling, shard.figures().windowed), (0, 0, 1));
    assert_eq!(wanted(&mut shard, 100), ["attempt 1"]);
    assert_eq!(succeed(&mut shard, 1).attempts, 1, "nothing was sent the first time");
}

#[test]
fn each_limit_holds_by_itself() {
    let check = |limits: Limits, expect: &[&str]| {
        let mut shard = Shard::new(limits.clone(), plain());
        for (number, (endpoint, name)) in (1..).zip([(1, "acme"), (1, "acme"), (2, "acme"), (3, "globex")]) {
            shard.open(EndpointId(endpoint), merchant(name), Gate::Open, false, Terms::default());
            let one = delivery(EndpointId(endpoint), number, number as i64);
            shard.accept(Delivery { merchant: merchant(name), ..one });
        }
        assert_eq!(wanted(&mut shard, 100), expect, "{limits:?}");
    };
    let limits = ample();
    check(limits.clone(), &["attempt 1", "attempt 4", "attempt 3", "attempt 2"]);
    check(Limits { in_flight_max: 2, ..limits.clone() }, &["attempt 1", "attempt 4"]);
    check(Limits { in_flight_per_endpoint_max: 1, ..limits.clone() }, &["attempt 1", "attempt 4", "attempt 3"]);
    check(Limits { in_flight_per_merchant_max: 1, ..limits.clone() }, &["attempt 1", "attempt 4"]);
    check(Limits { in_flight_max: 0, ..limits }, &["attempt 1"]);
}

#[test]
fn nothing_leaves_while_too_much_settles() {
    let mut shard = shard(Limits { settling_max: 1, ..ample() });
    shard.accept(delivery(A, 1, 10));
    assert_eq!(wanted(&mut shard, 100), ["attempt 1"]);
    succeed(&mut shard, 1);
    shard.accept(delivery(A, 2, 20));
    assert_eq!(wanted(&mut shard, 100), [""; 0]);
    shard.confirm(with_status(Status::Delivered, &delivery(A, 1, 10)));
    assert_eq!(wanted(&mut shard, 100), ["attempt 2"]);
}

#[test]
fn payloads_stay_in_memory_up_to_their_bound_and_leave_with_their_delivery() {
    let mut shard = shard(Limits { payload_bytes_max: 5, ..ample() });
    for number in [1, 2, 3] {
        shard.accept(Delivery { payload: Some(Bytes::from_static(b"abc")), ..delivery(A, number, number as i64) });
        assert_eq!(shard.figures().payload_bytes, 3);
    }
    let kept = |action| matches!(action, Some(Action::Attempt(Delivery { payload: Some(_), .. })));
    assert!(kept(shard.poll(at(100))));
    assert_eq!(shard.figures().payload_bytes, 0);
    assert!(!kept(shard.poll(at(100))), "it is read from the disk");
}

#[test]
#[should_panic(expected = "only what was settled, canceled or recalled is confirmed, and once")]
fn a_change_is_confirmed_once() {
    let mut shard = shard(ample());
    shard.accept(delivery(A, 1, 10));
    assert_eq!(wanted(&mut shard, 100), ["attempt 1"]);
    let retry = Delivery { due: at(5_000), ..fail(&mut shard, 1, 500).delivery };
    shard.confirm(retry.clone());
    shard.confirm(retry);
}

#[test]
#[should_panic(expected = "a page has seen every record that was told before it was asked for")]
fn a_page_older_than_what_was_told_before_it_is_a_fault_of_the_store() {
    let mut shard = shard(small());
    for number in [1, 2, 3] {
        shard.accept(delivery(A, number, number as i64));
    }
    assert_eq!(wanted(&mut shard, 100), ["attempt 1", "attempt 2", "page of 2 from 3 3"]);
    shard.refill(A, Page { as_of: Location(2), ..page(&[], false) });
}

#[test]
fn an_endpoint_has_leisure_when_nothing_is_due_and_one_more_attempt_could_begin() {
    let mut shard = shard(Limits { in_flight_per_endpoint_max: 1, ..ample() });
    assert!(!shard.has_leisure(at(100), B), "it is not known");
    assert!(shard.has_leisure(at(100), A));
    shard.accept(delivery(A, 1, 10));
    assert!(shard.has_leisure(at(9), A) && !shard.has_leisure(at(10), A));
    assert_eq!(wanted(&mut shard, 100), ["attempt 1"]);
    assert!(!shard.has_leisure(at(100), A), "its one attempt at a time is under way");
    let settled = succeed(&mut shard, 1);
    shard.confirm(with_status(Status::Delivered, &settled.delivery));
    assert!(shard.has_leisure(at(100), A));
    gate(&mut shard, Gate::Held);
    assert!(!shard.has_leisure(at(100), A));
    gate(&mut shard, Gate::Open);
    shard.accept(delivery(A, 2, 20));
    gate(&mut shard, Gate::Held);
    gate(&mut shard, Gate::Open);
    assert!(!shard.has_leisure(at(100), A), "it is owed something on disk");
}

#[test]
fn an_endpoint_that_was_failing_before_the_restart_is_probed_before_it_is_trusted() {
    let mut shard = Shard::new(ample(), Policy { breaker: breaker::Limits::default(), ..plain() });
    let terms = Terms { failing_since: Some(at(0)), ..Terms::default() };
    shard.open(A, merchant("acme"), Gate::Open, false, terms);
    (1..=3).for_each(|number| shard.accept(delivery(A, number, 10)));
    assert_eq!(wanted(&mut shard, 100), ["attempt 1"]);
    fail(&mut shard, 1, 500);
    assert_eq!(wanted(&mut shard, 5_000), [""; 0], "one failure is enough: it is left alone again");
    assert_eq!(wanted(&mut shard, 5_200), ["attempt 2"]);
}

#[test]
fn a_success_takes_back_that_an_endpoint_is_failing_however_late_that_was_told() {
    let mut shard = shard(ample());
    (1..=3).for_each(|number| shard.accept(delivery(A, number, 10)));
    assert_eq!(wanted(&mut shard, 100).len(), 3);
    assert_eq!(succeed(&mut shard, 1).failing, None);
    let late = Terms { failing_since: Some(at(0)), ..Terms::default() };
    shard.open(A, merchant("acme"), Gate::Open, false, late);
    assert_eq!(succeed(&mut shard, 2).failing, Some(None));
    assert_eq!(succeed(&mut shard, 3).failing, None, "once");
}

#[test]
fn changing_an_endpoint_is_no_way_round_its_rate() {
    let mut shard = shard(ample());
    let terms =
        |changed_ms| Terms { rate: std::num::NonZeroU32::new(1), changed_at: at(changed_ms), ..Terms::default() };
    shard.open(A, merchant("acme"), Gate::Open, false, terms(1));
    (1..=3).for_each(|number| shard.accept(delivery(A, number, 10)));
    assert_eq!(wanted(&mut shard, 100), ["attempt 1"]);
    shard.open(A, merchant("acme"), Gate::Open, false, terms(2));
    assert_eq!(wanted(&mut shard, 101), [""; 0]);
    assert_eq!(wanted(&mut shard, 1_100), ["attempt 2"]);
}

/// A delivery after its first attempt has failed.
fn retry(number: u64, due_ms: i64) -> Delivery {
    Delivery { attempts: 1, ..with_status(Status::Retrying, &delivery(A, number, due_ms)) }
}

#[test]
fn where_retries_wait_for_the_gate_first_attempts_leave_and_what_is_sent_by_hand() {
    let mut shard = shard(ample());
    gate(&mut shard, Gate::Ajar);
    (1..=2).for_each(|number| shard.accept(delivery(A, number, 10)));
    assert_eq!(wanted(&mut shard, 100), ["attempt 1", "attempt 2"]);
    for number in 1..=2 {
        fail(&mut shard, number, 500);
        shard.confirm(retry(number, 300));
    }
    assert_eq!(wanted(&mut shard, 1_000), [""; 0]);
    assert_eq!((shard.next_wake(), shard.figures().windowed), (None, 0), "they are left to the disk");
    assert!(matches!(shard.hold(&retry(2, 300)), Recall::Unknown));
    shard.confirm(Delivery { attempts_before: 1, due: at(1_000), ..retry(2, 300) });
    assert_eq!(wanted(&mut shard, 1_000), ["attempt 2"]);
    gate(&mut shard, Gate::Open);
    assert_eq!(wanted(&mut shard, 1_000), ["page of 128 from 0 0"]);
    shard.refill(A, page(&[retry(1, 300)], false));
    assert_eq!(wanted(&mut shard, 1_000), ["attempt 1"]);
}

#[test]
fn a_page_that_was_asked_for_without_retries_does_not_hide_them_once_they_may_leave() {
    let mut shard = Shard::new(small(), plain());
    shard.open(A, merchant("acme"), Gate::Ajar, true, Terms::default());
    assert_eq!(wanted(&mut shard, 100), ["page of 2 from 0 0"]);
    shard.refill(A, page(&[retry(1, 10), retry(2, 20)], true));
    assert_eq!(wanted(&mut shard, 100), ["page of 2 from 20 3"], "it looks on for first attempts");
    gate(&mut shard, Gate::Open);
    shard.refill(A, page(&[delivery(A, 3, 30)], false));
    assert_eq!(wanted(&mut shard, 100), ["page of 2 from 0 0"]);
    shard.refill(A, page(&[retry(1, 10), retry(2, 20)], true));
    assert_eq!(wanted(&mut shard, 100)[..2], ["attempt 1", "attempt 2"]);
}

#[test]
fn an_ordered_endpoint_has_leisure_only_while_nothing_is_under_way() {
    for (ordering, expect) in [(crate::model::Ordering::Free, true), (crate::model::Ordering::Resource, false)] {
        let mut shard = Shard::new(ample(), plain());
        shard.open(A, merchant("acme"), Gate::Open, false, Terms { ordering, ..Terms::default() });
        assert!(shard.has_leisure(at(100), A));
        shard.accept(delivery(A, 1, 10));
        assert_eq!(wanted(&mut shard, 100), ["attempt 1"]);
        assert_eq!(shard.has_leisure(at(100), A), expect, "in flight, {ordering:?}");
        succeed(&mut shard, 1);
        assert_eq!(shard.has_leisure(at(200), A), expect, "settling, {ordering:?}");
        shard.confirm(with_status(Status::Delivered, &delivery(A, 1, 10)));
        assert!(shard.has_leisure(at(200), A));
    }
}
