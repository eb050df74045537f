//! What is simulated: the shard, behind a seam at which bugs can be planted.
//!
//! Never adds anything to the shard.

use posthaste::model::{Delivery, EndpointId, EventId, MerchantId, Outcome, Timestamp};
use posthaste::policy::retry::Schedule;
use posthaste::shard::{Action, Figures, Gate, Limits, Page, Recall, Settled, Shard};

use crate::mutant::{Bug, Mutant};

/// A shard, or one with a bug. Each call is the shard's of the same name.
pub(crate) trait Subject {
    fn open(&mut self, endpoint: EndpointId, merchant: MerchantId, gate: Gate, backlog: bool);
    fn accept(&mut self, delivery: Delivery);
    fn poll(&mut self, now: Timestamp) -> Option<Action>;
    fn settle(
        &mut self,
        now: Timestamp,
        endpoint: EndpointId,
        event: EventId,
        outcome: &Outcome,
        chance: f64,
    ) -> Settled;
    fn give_back(&mut self, endpoint: EndpointId, event: EventId);
    fn confirm(&mut self, delivery: Delivery);
    fn refill(&mut self, endpoint: EndpointId, page: Page);
    fn refill_failed(&mut self, endpoint: EndpointId);
    fn recall(&mut self, endpoint: EndpointId, event: EventId) -> Recall;
    fn hold(&mut self, delivery: &Delivery) -> Recall;
    fn next_wake(&self) -> Option<Timestamp>;
    fn oldest_due(&self) -> Option<Timestamp>;
    fn figures(&self) -> Figures;
}

/// The shard of one life of the process.
pub(crate) fn begin(bug: Option<Bug>, life: u32, limits: &Limits, schedule: &Schedule) -> Box<dyn Subject> {
    match bug {
        None => Box::new(Shard::new(limits.clone(), schedule.clone())),
        Some(bug) => Box::new(Mutant::new(bug, life, limits, schedule)),
    }
}

impl Subject for Shard {
    fn open(&mut self, endpoint: EndpointId, merchant: MerchantId, gate: Gate, backlog: bool) {
        Shard::open(self, endpoint, merchant, gate, backlog);
    }

    fn accept(&mut self, delivery: Delivery) {
        Shard::accept(self, delivery);
    }

    fn poll(&mut self, now: Timestamp) -> Option<Action> {
        Shard::poll(self, now)
    }

    fn settle(
        &mut self,
        now: Timestamp,
        endpoint: EndpointId,
        event: EventId,
        outcome: &Outcome,
        chance: f64,
    ) -> Settled {
        Shard::settle(self, now, endpoint, event, outcome, chance)
    }

    fn give_back(&mut self, endpoint: EndpointId, event: EventId) {
        Shard::give_back(self, endpoint, event);
    }

    fn confirm(&mut self, delivery: Delivery) {
        Shard::confirm(self, delivery);
    }

    fn refill(&mut self, endpoint: EndpointId, page: Page) {
        Shard::refill(self, endpoint, page);
    }

    fn refill_failed(&mut self, endpoint: EndpointId) {
        Shard::refill_failed(self, endpoint);
    }

    fn recall(&mut self, endpoint: EndpointId, event: EventId) -> Recall {
        Shard::recall(self, endpoint, event)
    }

    fn hold(&mut self, delivery: &Delivery) -> Recall {
        Shard::hold(self, delivery)
    }

    fn next_wake(&self) -> Option<Timestamp> {
        Shard::next_wake(self)
    }

    fn oldest_due(&self) -> Option<Timestamp> {
        Shard::oldest_due(self)
    }

    fn figures(&self) -> Figures {
        Shard::figures(self)
    }
}
