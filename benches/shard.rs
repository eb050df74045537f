//! What the shard costs in nanoseconds: one step is one delivery accepted, polled, settled and confirmed.
//!
//! Never touches a disk or a network: pages are made up on the spot. Run it with `cargo bench --bench shard`.

use std::hint::black_box;

use bytes::Bytes;
use posthaste::clock::{Clock, SystemClock};
use posthaste::model::{
    Delivery, EndpointId, EventId, EventType, Location, MerchantId, Outcome, Status, Terms, Timestamp,
    resource_hash,
};
use posthaste::shard::{Action, Gate, Limits, Page, Policy, Shard};

/// Each figure is the median of this many rounds.
const ROUNDS: usize = 5;
/// Steps of a round.
const STEPS: u64 = 300_000;
/// Deliveries accepted before the shard is polled: what one group commit brings.
const BATCH: u64 = 128;
/// Later than everything is due.
const NOW: Timestamp = Timestamp::from_ms(1_700_000_000_000);

fn main() {
    println!("{:>44} {:>14} {:>14}", "", "ns per step", "steps per s");
    for endpoints in [1, 1_000, 100_000] {
        show(&format!("{endpoints} endpoints, fresh"), || fresh(endpoints));
    }
    for (endpoints, each) in [(1, 1_000_000), (1_000, 1_000), (100_000, 10)] {
        show(&format!("{endpoints} endpoints, {each} waiting on disk each"), || backlog(endpoints, each));
    }
}

fn show(name: &str, round: impl Fn() -> u128) {
    let mut rounds: Vec<u128> = (0..ROUNDS).map(|_| round()).collect();
    rounds.sort_unstable();
    let step_ns = rounds[ROUNDS / 2] / u128::from(STEPS);
    println!("{name:>44} {step_ns:>14} {:>14}", 1_000_000_000 / step_ns.max(1));
}

/// Events come and leave at once, to every endpoint by turns.
fn fresh(endpoints: u64) -> u128 {
    let merchants = merchants(endpoints);
    let mut shard = open(&merchants, false);
    let payload = Bytes::from(vec![b'x'; 600]);
    let clock = SystemClock;
    let begun = clock.instant();
    let mut number = 0;
    while number < STEPS {
        for _ in 0..BATCH.min(STEPS - number) {
            number += 1;
            let endpoint = number % endpoints;
            let one = delivery(endpoint, number, &merchants[endpoint as usize]);
            shard.accept(Delivery { payload: Some(payload.clone()), ..one });
        }
        deliver(&mut shard, u64::MAX, |_, _, _| unreachable!("all is in memory"));
    }
    clock.instant().duration_since(begun).as_nanos()
}

/// All is on disk, as after a restart, and comes in pages.
fn backlog(endpoints: u64, each: u64) -> u128 {
    let merchants = merchants(endpoints);
    let mut shard = open(&merchants, true);
    let clock = SystemClock;
    let begun = clock.instant();
    deliver(&mut shard, STEPS, |endpoint, from, limit| {
        let first = u64::try_from(from.1.as_u128()).expect("small numbers").max(1);
        let last = each.min(first + limit as u64 - 1);
        let page = |number| delivery(endpoint.0, number, &merchants[endpoint.0 as usize]);
        Page { deliveries: (first..=last).map(page).collect(), more: last < each, as_of: Location(u64::MAX) }
    });
    clock.instant().duration_since(begun).as_nanos()
}

/// Delivers everything that is due, or `steps_max` of it; every attempt succeeds.
fn deliver(shard: &mut Shard, steps_max: u64, read: impl Fn(EndpointId, (Timestamp, EventId), usize) -> Page) {
    let outcome = Outcome::Success { status: 200 };
    let mut under_way = Vec::new();
    let mut steps = 0;
    while steps < steps_max {
        while let Some(action) = shard.poll(NOW) {
            match action {
                Action::Attempt(delivery) => under_way.push((delivery.endpoint, delivery.event)),
                Action::Refill { endpoint, from, limit } => shard.refill(endpoint, read(endpoint, from, limit)),
                Action::Cancel(_) | Action::Expire(_) | Action::Move(..) => unreachable!("nothing is deleted or late"),
            }
        }
        if under_way.is_empty() {
            return;
        }
        for (endpoint, event) in under_way.drain(..) {
            let settled = black_box(shard.settle(NOW, endpoint, event, &outcome, 0.5));
            shard.confirm(Delivery { status: Status::Delivered, ..settled.delivery });
            steps += 1;
        }
    }
}

fn merchants(endpoints: u64) -> Vec<MerchantId> {
    (0..endpoints).map(|n| format!("merchant-{n}").parse().expect("a legal id")).collect()
}

fn open(merchants: &[MerchantId], backlog: bool) -> Shard {
    let mut shard = Shard::new(Limits::default(), Policy { overdue_ms_max: 0, ..Policy::default() });
    for (endpoint, merchant) in (0..).zip(merchants) {
        shard.open(EndpointId(endpoint), merchant.clone(), Gate::Open, backlog, Terms::default());
    }
    shard
}

fn delivery(endpoint: u64, number: u64, merchant: &MerchantId) -> Delivery {
    Delivery {
        event: EventId::from_u128(number.into()),
        endpoint: EndpointId(endpoint),
        merchant: merchant.clone(),
        event_type: EventType::CardTransaction,
        resource: resource_hash(None),
        sequence: number,
        location: Location(number),
        written: Location(number),
        last_attempt: None,
        attempts: 0,
        attempts_before: 0,
        status: Status::Pending,
        due: Timestamp::from_ms(number as i64),
        payload: None,
        traceparent: None,
    }
}
