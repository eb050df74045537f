//! An hour in which no receiver is there, and what comes after: with the limits and the policy of the product, a
//! store that is never slow, and many endpoints.
//!
//! Never checks what the seeds check at every step: only what is seen from outside, before, during and after.

use std::collections::{BTreeMap, BTreeSet};

use posthaste::model::{
    Delivery, DueKey, EndpointId, ErrorCode, EventId, EventType, Location, MerchantId, Ordering, Outcome, Status,
    Terms, Timestamp, Verdict, resource_hash,
};
use posthaste::shard::{Action, Gate, Limits, Page, Policy, Shard};

use crate::dice::Dice;

const BEGINNING: Timestamp = Timestamp::from_ms(1_700_000_000_000);
const ENDPOINTS: u64 = 100;
/// Each endpoint gets one event in so long, one after the other.
const EVENT_EVERY_MS: u64 = 4_000;
/// Receivers are there before, and are gone until `UP_MS`.
const DOWN_MS: u64 = 60_000;
const UP_MS: u64 = DOWN_MS + 3_600_000;
/// No event comes after this.
const LAST_MS: u64 = UP_MS + 600_000;
/// By then every wait of the schedule is over.
const END_MS: u64 = LAST_MS + 4 * 86_400_000;
/// Cards of each endpoint; every fourth event is of none.
const CARDS: u64 = 5;

enum Happening {
    Submit(EndpointId),
    Answer(Delivery, Outcome),
    Wake,
}

/// Everything there is.
struct World {
    ordering: Ordering,
    shard: Shard,
    dice: Dice,
    agenda: BTreeMap<(u64, u64), Happening>,
    booked: u64,
    clock_ms: u64,
    wake_ms: Option<u64>,
    owed: BTreeMap<EndpointId, BTreeMap<DueKey, Delivery>>,
    records: u64,
    sequences: BTreeMap<EndpointId, u64>,
    /// When attempts began.
    begun_ms: Vec<u64>,
    /// Resource and sequence of what arrived, in the order of arrival.
    arrived: BTreeMap<EndpointId, Vec<(u64, u64)>>,
}

#[test]
fn after_an_hour_without_receivers_all_arrives_in_order_and_nobody_is_run_over() {
    for (seed, ordering) in (0..).zip(Ordering::ALL) {
        let mut world = World::new(seed, ordering);
        world.live();
        world.all_has_arrived();
        world.order_was_kept();
        world.nobody_was_knocked_up();
        world.nobody_was_run_over();
    }
}

impl World {
    fn new(seed: u64, ordering: Ordering) -> World {
        let mut world = World {
            ordering,
            shard: Shard::new(Limits::default(), Policy::default()),
            dice: Dice::seeded(seed),
            agenda: BTreeMap::new(),
            booked: 0,
            clock_ms: 0,
            wake_ms: None,
            owed: BTreeMap::new(),
            records: 0,
            sequences: BTreeMap::new(),
            begun_ms: Vec::new(),
            arrived: BTreeMap::new(),
        };
        for endpoint in (1..=ENDPOINTS).map(EndpointId) {
            world.shard.open(endpoint, merchant(endpoint), Gate::Open, false, Terms { ordering, ..Terms::default() });
            let in_ms = world.dice.below(EVENT_EVERY_MS);
            world.book(in_ms, Happening::Submit(endpoint));
        }
        world
    }

    fn live(&mut self) {
        while let Some((&(at_ms, booked), _)) = self.agenda.first_key_value().filter(|((at_ms, _), _)| *at_ms <= END_MS)
        {
            self.clock_ms = at_ms;
            match self.agenda.remove(&(at_ms, booked)).expect("it was the first") {
                Happening::Submit(endpoint) => self.submit(endpoint),
                Happening::Answer(delivery, outcome) => self.answer(&delivery, &outcome),
                Happening::Wake => self.wake_ms = None,
            }
            self.act();
        }
    }

    fn now(&self) -> Timestamp {
        BEGINNING.plus_ms(self.clock_ms)
    }

    fn book(&mut self, in_ms: u64, happening: Happening) {
        self.booked += 1;
        self.agenda.insert((self.clock_ms + in_ms, self.booked), happening);
    }

    fn submit(&mut self, endpoint: EndpointId) {
        if self.clock_ms < LAST_MS {
            self.book(EVENT_EVERY_MS, Happening::Submit(endpoint));
        }
        let sequence = self.sequences.entry(endpoint).or_default();
        *sequence += 1;
        let sequence = *sequence;
        let card = self.dice.below(CARDS).to_string();
        let resource = resource_hash(Some(card.as_str()).filter(|_| !self.dice.one_in(4)));
        let written = self.record();
        let delivery = Delivery {
            event: EventId::from_u128(EventId::floor(self.now()).as_u128() + u128::from(self.records)),
            endpoint,
            merchant: merchant(endpoint),
            event_type: EventType::CardState,
            resource,
            sequence,
            location: written,
            written,
            last_attempt: None,
            attempts: 0,
            attempts_before: 0,
            status: Status::Pending,
            due: self.now(),
            payload: None,
            traceparent: None,
        };
        self.owe(delivery.clone());
        self.shard.accept(delivery);
    }

    fn act(&mut self) {
        let now = self.now();
        while let Some(action) = self.shard.poll(now) {
            match action {
                Action::Attempt(delivery) => self.attempt(delivery),
                Action::Move(delivery, due) => self.changed(Delivery { due, ..delivery.clone() }, &delivery),
                Action::Refill { endpoint, from, limit } => {
                    let mut owed = self.owed.get(&endpoint).into_iter().flat_map(|owed| owed.range(from..));
                    let deliveries = owed.by_ref().take(limit).map(|(_, delivery)| delivery.clone()).collect();
                    let (more, as_of) = (owed.next().is_some(), Location(self.records));
                    self.shard.refill(endpoint, Page { deliveries, more, as_of });
                }
                Action::Cancel(_) | Action::Expire(_) => panic!("nothing is deleted, and nothing waits for weeks"),
            }
        }
        let Some(wake) = self.shard.next_wake() else { return };
        let at_ms = wake.since_ms(BEGINNING);
        if self.wake_ms.is_none_or(|booked_ms| at_ms < booked_ms) {
            self.wake_ms = Some(at_ms);
            self.book(at_ms - self.clock_ms, Happening::Wake);
        }
    }

    fn attempt(&mut self, delivery: Delivery) {
        self.begun_ms.push(self.clock_ms);
        let is_down = (DOWN_MS..UP_MS).contains(&self.clock_ms);
        let (in_ms, outcome) = match is_down {
            true => (self.dice.between(1, 10), Outcome::failed(ErrorCode::ConnectRefused)),
            false => (self.dice.between(200, 400), Outcome::Success { status: 200 }),
        };
        self.book(in_ms, Happening::Answer(delivery, outcome));
    }

    fn answer(&mut self, delivery: &Delivery, outcome: &Outcome) {
        let (now, chance) = (self.now(), self.dice.unit());
        let settled = self.shard.settle(now, delivery.endpoint, delivery.event, outcome, chance);
        assert_eq!(settled.disable, None, "an hour is no reason");
        let (status, due) = match settled.verdict {
            Verdict::Delivered => (Status::Delivered, delivery.due),
            Verdict::RetryAt(due) => (Status::Retrying, due),
            verdict => panic!("{verdict:?} after an hour"),
        };
        if status == Status::Delivered {
            self.arrived.entry(delivery.endpoint).or_default().push((delivery.resource, delivery.sequence));
        }
        let before = &settled.delivery;
        self.changed(Delivery { status, due, attempts: settled.attempts, ..before.clone() }, before);
    }

    /// A change is recorded, and the shard told.
    fn changed(&mut self, after: Delivery, before: &Delivery) {
        let written = self.record();
        let after = Delivery { written, ..after };
        self.owed.entry(before.endpoint).or_default().remove(&before.key());
        if after.status.is_waiting() {
            self.owe(after.clone());
        }
        self.shard.confirm(after);
    }

    fn owe(&mut self, delivery: Delivery) {
        self.owed.entry(delivery.endpoint).or_default().insert(delivery.key(), delivery);
    }

    fn record(&mut self) -> Location {
        self.records += 1;
        Location(self.records)
    }

    fn all_has_arrived(&self) {
        assert!(self.owed.values().all(BTreeMap::is_empty), "something is still owed");
        for (endpoint, sequence) in &self.sequences {
            let arrived: BTreeSet<u64> = self.arrived[endpoint].iter().map(|(_, sequence)| *sequence).collect();
            assert_eq!(arrived.len() as u64, *sequence, "{endpoint} got each once");
            assert_eq!(self.arrived[endpoint].len() as u64, *sequence, "{endpoint} got each once");
        }
    }

    fn order_was_kept(&self) {
        let mut out_of_order = 0;
        for arrived in self.arrived.values() {
            let mut last: BTreeMap<u64, u64> = BTreeMap::new();
            for (resource, sequence) in arrived.iter().filter(|(resource, _)| *resource != 0) {
                let before = last.insert(*resource, *sequence).unwrap_or(0);
                out_of_order += u64::from(before > *sequence);
            }
        }
        let free = self.ordering == Ordering::Free;
        assert!(free == (out_of_order > 0), "{out_of_order} were overtaken, and the order was {:?}", self.ordering);
    }

    /// While nobody is there, each endpoint is tried about once a minute.
    fn nobody_was_knocked_up(&self) {
        let during = self.begun_ms.iter().filter(|begun_ms| (DOWN_MS..UP_MS).contains(begun_ms)).count() as u64;
        let each = during / ENDPOINTS;
        println!("{each} attempts at each of {ENDPOINTS} endpoints in the hour");
        assert!((60..100).contains(&each), "{each} attempts in an hour");
    }

    /// From the recovery on until the backlog is gone: the busiest second against the mean of all of them.
    fn nobody_was_run_over(&self) {
        let mut seconds: BTreeMap<u64, u64> = BTreeMap::new();
        for begun_ms in self.begun_ms.iter().filter(|begun_ms| **begun_ms >= UP_MS) {
            *seconds.entry((begun_ms - UP_MS) / 1_000).or_default() += 1;
        }
        // As soon as there are no more attempts than events come, the backlog is gone.
        let usual = 2 * ENDPOINTS * 1_000 / EVENT_EVERY_MS;
        let last = seconds.iter().filter(|(_, attempts)| **attempts > usual).map(|(second, _)| *second).max();
        let last = last.expect("there is a backlog");
        let all: u64 = seconds.range(..=last).map(|(_, attempts)| attempts).sum();
        let (mean, peak) = (all / (last + 1), seconds.range(..=last).map(|(_, attempts)| *attempts).max());
        let peak = peak.expect("there are seconds");
        println!("{all} attempts within {last} s of the recovery: {mean} in a second, at most {peak}");
        assert!(peak <= 2 * mean, "{peak} attempts in a second, {mean} in the mean");
    }
}

fn merchant(endpoint: EndpointId) -> MerchantId {
    format!("m{}", endpoint.0).parse().expect("a legal id")
}
