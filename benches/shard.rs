//! What the shard costs in nanoseconds: one step is one delivery accepted, polled, settled and confirmed.
//!
//! Never touches a disk or a network: pages are made up on the spot. Run it with `cargo bench --bench shard`.

use std::hint::black_box;

use bytes::Bytes;
use posthaste::clock::{Clock, SystemClock};
use posthaste::model::{
    Delivery, EndpointId, EventId, EventType, Location, MerchantId, Outcome, Status, Terms, Timestamp, resource_hash,
};
use posthaste::shard::{Action, Gate, Limits, Page, Policy, Shard};

/// Short rounds, so that most are not interrupted; the figures are the best and the median of them.
const ROUNDS: usize = 31;
/// Steps of a round.
const STEPS: u64 = 10_000;
/// Deliveries accepted before the shard is polled: what one group commit brings.
const BATCH: u64 = 100;
/// Later than everything is due.
const NOW: Timestamp = Timestamp::from_ms(1_700_000_000_000);

fn main() {
    println!("{:>48} {:>8} {:>10} {:>10} {:>14}", "", "best ns", "median ns", "steps/s", "per page read");
    for endpoints in [1, 1_000, 100_000] {
        let mut course = Course::new(endpoints, 0);
        course.show(&format!("endpoints {endpoints}, fresh"), Course::fresh);
    }
    for (endpoints, each) in [(1, 1_000_000), (1_000, 1_000), (100_000, 10)] {
        let mut course = Course::new(endpoints, each);
        course.show(&format!("endpoints {endpoints}, with {each} on disk each"), Course::backlog);
    }
}

/// A shard and what it is given.
struct Course {
    shard: Shard,
    merchants: Vec<MerchantId>,
    payload: Bytes,
    /// Deliveries of each endpoint on disk at the beginning.
    each: u64,
    accepted: u64,
    pages: u64,
    paged: u64,
}

impl Course {
    fn new(endpoints: u64, each: u64) -> Course {
        let merchants: Vec<MerchantId> =
            (0..endpoints).map(|n| format!("merchant-{n}").parse().expect("a legal id")).collect();
        let mut shard = Shard::new(Limits::default(), Policy { overdue_ms_max: 0, ..Policy::default() });
        for (endpoint, merchant) in (0..).zip(&merchants) {
            shard.open(EndpointId(endpoint), merchant.clone(), Gate::Open, each > 0, Terms::default());
        }
        let payload = Bytes::from(vec![b'x'; 600]);
        Course { shard, merchants, payload, each, accepted: 0, pages: 0, paged: 0 }
    }

    fn show(&mut self, name: &str, round: fn(&mut Course)) {
        let clock = SystemClock;
        let mut timed = || {
            let begun = clock.instant();
            round(self);
            clock.instant().duration_since(begun).as_nanos() / u128::from(STEPS)
        };
        let mut rounds: Vec<u128> = (0..ROUNDS).map(|_| timed()).collect();
        rounds.sort_unstable();
        let (best_ns, median_ns) = (rounds[0], rounds[ROUNDS / 2]);
        let per_page = self.paged.checked_div(self.pages).map_or("-".to_owned(), |len| len.to_string());
        let per_s = 1_000_000_000 / best_ns.max(1);
        println!("{name:>48} {best_ns:>8} {median_ns:>10} {per_s:>10} {per_page:>14}");
    }

    /// Events come and leave at once, to every endpoint by turns.
    fn fresh(&mut self) {
        for _ in 0..STEPS / BATCH {
            for _ in 0..BATCH {
                self.accepted += 1;
                let one = self.delivery(EndpointId(self.accepted % self.merchants.len() as u64), self.accepted);
                self.shard.accept(Delivery { payload: Some(self.payload.clone()), ..one });
            }
            self.deliver(BATCH);
        }
    }

    /// All is on disk, as after a restart, and comes in pages.
    fn backlog(&mut self) {
        self.deliver(STEPS);
    }

    /// Delivers `steps` deliveries; every attempt succeeds.
    fn deliver(&mut self, steps: u64) {
        let outcome = Outcome::Success { status: 200 };
        let mut done = 0;
        while done < steps {
            let mut under_way = Vec::new();
            while done + (under_way.len() as u64) < steps
                && let Some(action) = self.shard.poll(NOW)
            {
                match action {
                    Action::Attempt(delivery) => under_way.push((delivery.endpoint, delivery.event)),
                    Action::Refill { endpoint, from, limit } => {
                        let page = self.page(endpoint, from, limit);
                        self.shard.refill(endpoint, page);
                    }
                    Action::Cancel(_) | Action::Expire(_) | Action::Move(..) => {
                        unreachable!("nothing is deleted, overdue or ordered")
                    }
                }
            }
            assert!(!under_way.is_empty(), "there is enough to do");
            done += under_way.len() as u64;
            for (endpoint, event) in under_way {
                let settled = black_box(self.shard.settle(NOW, endpoint, event, &outcome, 0.5));
                self.shard.confirm(Delivery { status: Status::Delivered, ..settled.delivery });
            }
        }
    }

    fn page(&mut self, endpoint: EndpointId, from: (Timestamp, EventId), limit: usize) -> Page {
        let first = u64::try_from(from.1.as_u128()).expect("small numbers").max(1);
        let last = self.each.min(first + limit as u64 - 1);
        let deliveries: Vec<Delivery> = (first..=last).map(|number| self.delivery(endpoint, number)).collect();
        self.pages += 1;
        self.paged += deliveries.len() as u64;
        Page { deliveries, more: last < self.each, as_of: Location(u64::MAX) }
    }

    fn delivery(&self, endpoint: EndpointId, number: u64) -> Delivery {
        Delivery {
            event: EventId::from_u128(number.into()),
            endpoint,
            merchant: self.merchants[endpoint.0 as usize].clone(),
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
}
