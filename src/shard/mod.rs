//! The deterministic heart: which delivery leaves next, what its outcome means, when to wake up.
//!
//! Never here: async, IO, a clock, chance, or an order that depends on hashing. The same calls give the
//! same answers.
//!
//! The outbox on disk is the truth; the shard keeps a window of it and learns of every record by
//! `accept` and `confirm`. What must hold:
//!
//! 1. **One place.** A delivery in memory is in the window, in flight, or settling (its outcome is known,
//!    or it is being canceled or moved, and the store has not yet confirmed it). `settle` frees the
//!    permits at once; only `confirm` lets the delivery go on.
//! 2. **The bound.** Every endpoint has a bound: whatever the outbox holds for it under a smaller key is
//!    in memory. What lies at or past the bound is on disk only, and comes in pages, each of which begins
//!    at the bound, once the window has run low and the bound is due. No bound: all is in memory.
//! 3. **Overflow goes to disk.** A window that grows past its limit drops its greatest keys and the bound
//!    falls to the smallest key dropped. Nothing is lost by it, because the disk has it. The window of a
//!    held endpoint is empty. Where retries wait for the gate, they are left to the disk, whatever their keys;
//!    once they may leave, the outbox is read from its beginning.
//! 4. **A page may be old when it comes.** It was read by another thread at some moment after it was
//!    asked for. Hence while a page is outstanding: what is accepted or confirmed enters the window
//!    whatever its key, because the page may have been read before it; what is confirmed is remembered,
//!    so that the page cannot bring back its former state; keys that overflow cut the page short. And
//!    whatever is in memory when the page comes is worth more than the page's word for it.
//! 5. **Notices come in the order of their records,** each after its record can be read. So an acceptance
//!    of something not in memory is news if its key is under the bound, and on disk if it is not, whether
//!    a page has already seen it or not; and a page has seen everything told before it was asked for,
//!    which is what `Page::as_of` is checked for.
//! 6. **A merchant delays only itself.** Merchants take turns, see `turns`; limits count attempts in
//!    flight for each endpoint, for each merchant and in all; an endpoint that fails is left alone, see
//!    `flow`.
//! 7. **No call looks at every endpoint, merchant or delivery.** One timer for each endpoint, or one hold;
//!    every call costs the logarithm of what is in memory, plus what it itself moves.
//! 8. **Fresh ones pass retries.** Of what is due, first attempts and retries take turns. A few deliveries
//!    accepted lately may be in memory though their keys are at or past the bound.
//! 9. **Nothing waits for ever.** What has been due for too long ends without an attempt, also while its
//!    endpoint is held.

mod flow;
mod limits;
mod order;
mod queue;
#[cfg(test)]
mod tests;
mod timing;
mod turns;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::model::{
    Delivery, DisabledReason, DueKey, EndpointId, ErrorCode, EventId, Location, MerchantId, Outcome, Terms, Timestamp,
    Verdict,
};
use crate::policy::failing;

use flow::Steady;
pub use limits::{Limits, Policy};
use queue::{Queue, Turn, Weight};
use timing::{
    attempt_at, expiry_at, has_room_to_end, is_shut, move_entry, page_at, page_room, wants_cancel, window_room,
};
use turns::Turns;

/// Whether an endpoint's deliveries leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// They leave.
    Open,
    /// First attempts leave; retries wait, and no attempt is used up.
    Ajar,
    /// They wait, and no attempt is used up: paused or disabled.
    Held,
    /// They are canceled: deleted. Forgotten once nothing is owed to it.
    Closed,
}

impl Gate {
    /// Whether anything leaves.
    pub fn leaves(self) -> bool {
        matches!(self, Gate::Open | Gate::Ajar)
    }
}

/// What the shard wants done.
#[derive(Clone, Debug)]
pub enum Action {
    /// Make an attempt, then call `settle`. Permits are taken already.
    Attempt(Delivery),
    /// Record this delivery as canceled. `confirm` says that it is.
    Cancel(Delivery),
    /// Record this delivery as failed, without an attempt: it has been due for too long.
    Expire(Delivery),
    /// Record that this delivery is due later, without an attempt: another one goes first.
    Move(Delivery, Timestamp),
    /// Read what the outbox holds for `endpoint` from the key `from` on, then call `refill` or
    /// `refill_failed`.
    Refill {
        /// Whose outbox.
        endpoint: EndpointId,
        /// The smallest key wanted.
        from: DueKey,
        /// At most so many deliveries.
        limit: usize,
    },
}

/// A stretch of one endpoint's outbox.
#[derive(Clone, Debug)]
pub struct Page {
    /// The first deliveries from the key asked for on.
    pub deliveries: Vec<Delivery>,
    /// Whether more may follow after these.
    pub more: bool,
    /// Every record up to here was seen; none after it was.
    pub as_of: Location,
}

/// What follows an attempt; to be recorded and then confirmed.
#[derive(Clone, Debug)]
pub struct Settled {
    /// The delivery as it was before the attempt.
    pub delivery: Delivery,
    /// What follows.
    pub verdict: Verdict,
    /// The attempts finished, this one included.
    pub attempts: u32,
    /// The endpoint is to be disabled for this. The shard holds it already.
    pub disable: Option<DisabledReason>,
    /// The endpoint's standing is to be recorded: since when it has been failing, or that it is well again.
    pub failing: Option<Option<Timestamp>>,
}

/// Where a delivery is that somebody wants to move.
#[derive(Clone, Debug)]
#[must_use]
pub enum Recall {
    /// An attempt is in flight. Nothing was done.
    InFlight,
    /// Its last change is not yet confirmed. Nothing was done.
    Settling,
    /// It was waiting. It is taken out and counts as settling until it is confirmed.
    Waiting(Delivery),
    /// It is not in memory.
    Unknown,
}

/// Figures for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Attempts in flight.
    pub in_flight: usize,
    /// Deliveries whose change is not yet confirmed.
    pub settling: usize,
    /// Deliveries that wait in memory.
    pub windowed: usize,
    /// Endpoints known, the closed ones included until nothing is owed to them.
    pub endpoints: usize,
    /// Bytes of payload kept with waiting deliveries.
    pub payload_bytes: usize,
    /// Pages outstanding.
    pub refills: usize,
    /// Open endpoints that failed until they were left alone, those that are probed included.
    pub resting: usize,
}

/// One shard: a set of endpoints and all that is owed to them.
#[derive(Debug)]
pub struct Shard {
    limits: Limits,
    policy: Policy,
    steady: Steady,
    queues: BTreeMap<EndpointId, Queue>,
    turns: Turns,
    /// When to look at an endpoint again: one entry for each that is open and waits for a moment.
    timers: BTreeSet<(Timestamp, EndpointId)>,
    /// When to look at an endpoint again that is left alone until then; steady moments.
    holds: BTreeSet<(Timestamp, EndpointId)>,
    /// The first due time of each open endpoint with something in its window. Not of one that failed until it was left
    /// alone: what waits for that says nothing of this process.
    fronts: BTreeSet<(Timestamp, EndpointId)>,
    /// Endpoints that want a page, and those with something to cancel or overdue: first come, first served.
    wanted: VecDeque<EndpointId>,
    ending: VecDeque<EndpointId>,
    totals: Weight,
}

impl Shard {
    /// A shard that knows no endpoint yet.
    pub fn new(limits: Limits, policy: Policy) -> Shard {
        let limits = limits.at_least_one();
        Shard {
            turns: Turns::new(limits.in_flight_per_merchant_max),
            limits,
            policy,
            steady: Steady::default(),
            queues: BTreeMap::new(),
            timers: BTreeSet::new(),
            holds: BTreeSet::new(),
            fronts: BTreeSet::new(),
            wanted: VecDeque::new(),
            ending: VecDeque::new(),
            totals: Weight::default(),
        }
    }

    /// Makes an endpoint known, or sets the gate and the terms of one that is. With `backlog` the outbox may
    /// hold deliveries for it that the shard has not been told of, as after a restart. To be called before
    /// anything can be accepted for the endpoint.
    pub fn open(&mut self, endpoint: EndpointId, merchant: MerchantId, gate: Gate, backlog: bool, terms: Terms) {
        let queue = self.queues.entry(endpoint).or_insert_with(|| {
            self.turns.enter(&merchant);
            Queue::new(merchant.clone(), gate, backlog, terms)
        });
        assert!(queue.merchant == merchant, "an endpoint never changes its owner");
        queue.change(gate, terms);
        self.arrange(endpoint);
    }

    /// Takes a delivery that the store has just recorded for the first time. One for an endpoint that is
    /// not known was overtaken by the endpoint's deletion, and will be canceled.
    pub fn accept(&mut self, mut delivery: Delivery) {
        assert!(delivery.status.is_waiting(), "what is accepted is owed");
        let endpoint = delivery.endpoint;
        self.fit(&mut delivery);
        self.queue_or_closed(&delivery).accept(delivery);
        self.arrange(endpoint);
    }

    /// The next thing to do now. `None`: nothing, until `next_wake` or the next input. Takes permits
    /// itself, so it is to be called until it says `None`.
    pub fn poll(&mut self, now: Timestamp) -> Option<Action> {
        let steady = self.steady.at(now);
        loop {
            self.wake(steady);
            self.promote(now);
            let action =
                self.poll_ending(now).or_else(|| self.poll_refill(now)).or_else(|| self.poll_attempt(now, steady));
            // A turn that came to nothing may have made room for something else.
            if action.is_some() || self.timers.first().is_none_or(|(at, _)| *at > now) {
                return action;
            }
        }
    }

    /// An attempt has ended at `now`. Frees its permits; the delivery settles until it is confirmed.
    /// `chance` is 0 to 1.
    pub fn settle(
        &mut self,
        now: Timestamp,
        endpoint: EndpointId,
        event: EventId,
        outcome: &Outcome,
        chance: f64,
    ) -> Settled {
        let queue = self.queues.get_mut(&endpoint).expect("an endpoint is known while an attempt is in flight");
        let steady = self.steady.at(now);
        let (delivery, started) = queue.finish(event);
        self.turns.finish(&queue.merchant);
        let attempts = delivery.attempts.saturating_add(1);
        let failures = attempts.saturating_sub(delivery.attempts_before);
        let verdict = match self.policy.schedule.verdict(now, failures, outcome, chance) {
            Verdict::RetryAt(_) | Verdict::Failed if queue.gate == Gate::Closed => Verdict::Canceled,
            verdict => verdict,
        };
        let took = (started, self.limits.in_flight_per_endpoint_max);
        let turn = queue.flow.ended(now, steady, took, outcome, chance, &self.policy);
        let (disable, failing) = match turn {
            _ if queue.gate == Gate::Closed => (None, None),
            _ if outcome.error() == Some(ErrorCode::Gone) => (Some(DisabledReason::Gone), None),
            Some(failing::Turn::TooLong) if queue.gate.leaves() => (Some(DisabledReason::Failing), None),
            Some(failing::Turn::Failing(since)) => (None, Some(Some(since))),
            Some(failing::Turn::Recovered) => (None, Some(None)),
            Some(failing::Turn::TooLong) | None => (None, None),
        };
        if disable.is_some() {
            queue.set_gate(Gate::Held);
        }
        self.arrange(endpoint);
        Settled { delivery, verdict, attempts, disable, failing }
    }

    /// The attempt could not be made for a fault of our own: nothing was sent. The delivery waits as it did
    /// before, and its endpoint for a while.
    pub fn excuse(&mut self, now: Timestamp, endpoint: EndpointId, event: EventId) {
        let queue = self.queues.get_mut(&endpoint).expect("an endpoint is known while an attempt is in flight");
        queue.flow.faulted(self.steady.at(now), &self.policy);
        self.give_back(endpoint, event);
    }

    /// The attempt could not be made: nothing was sent, and the delivery waits as it did before.
    pub fn give_back(&mut self, endpoint: EndpointId, event: EventId) {
        let queue = self.queues.get_mut(&endpoint).expect("an endpoint is known while an attempt is in flight");
        let (delivery, _) = queue.finish(event);
        self.turns.finish(&queue.merchant);
        self.confirm(delivery);
    }

    /// The store has recorded a change of a delivery that settles; `delivery` is its new state, which may
    /// be a final one. Whoever recalled a delivery that waited and then leaves it alone confirms its old state;
    /// what was held is always changed, since nothing may have been told of it yet, nor of what comes before it.
    pub fn confirm(&mut self, mut delivery: Delivery) {
        let endpoint = delivery.endpoint;
        self.fit(&mut delivery);
        let queue = self.queues.get_mut(&endpoint).expect("an endpoint is known while a delivery settles");
        queue.confirm(delivery);
        self.arrange(endpoint);
    }

    /// The page that was asked for.
    pub fn refill(&mut self, endpoint: EndpointId, page: Page) {
        let queue = self.queues.get_mut(&endpoint).expect("an endpoint is known while a page is outstanding");
        queue.refill(page);
        if queue.expiring && !queue.places.ending {
            // Whether it holds anything overdue is for the next poll to say.
            queue.places.ending = true;
            self.ending.push_back(endpoint);
        }
        self.arrange(endpoint);
    }

    /// The page could not be read. It is asked for again by the next `poll`, so the caller waits before
    /// it says so if waiting does any good.
    pub fn refill_failed(&mut self, endpoint: EndpointId) {
        self.queues.get_mut(&endpoint).expect("an endpoint is known while a page is outstanding").refill_failed();
        self.arrange(endpoint);
    }

    /// Takes a delivery that waits in memory out of its queue, to be moved: a resend, or a cancellation
    /// by hand. If it is `Unknown`, look it up and `hold` it.
    pub fn recall(&mut self, endpoint: EndpointId, event: EventId) -> Recall {
        let Some(queue) = self.queues.get_mut(&endpoint) else { return Recall::Unknown };
        let recall = queue.recall(event);
        self.arrange(endpoint);
        recall
    }

    /// `recall` for a delivery that the caller has looked up because it was `Unknown`. `Unknown` now
    /// means that it counts as settling until it is confirmed. Until this call its state could change, so
    /// what is settled next is its state as looked up after it, or before it where nothing was told of it since.
    pub fn hold(&mut self, delivery: &Delivery) -> Recall {
        let queue = self.queue_or_closed(delivery);
        let recall = queue.recall(delivery.event);
        if matches!(recall, Recall::Unknown) {
            queue.hold(delivery);
        }
        self.arrange(delivery.endpoint);
        recall
    }

    /// Whether one more attempt at an endpoint could begin at `now`, and none is waiting for it: the moment for what
    /// has time. At an ordered endpoint only while nothing is under way, so that what has time does not overtake itself.
    /// No promise: the next input may change it.
    pub fn has_leisure(&self, now: Timestamp, endpoint: EndpointId) -> bool {
        let Some(queue) = self.queues.get(&endpoint) else { return false };
        let due = queue.first_due().into_iter().chain(queue.bound_due()).min();
        queue.gate.leaves()
            && queue.flow.admits(queue.weight().in_flight, &self.limits)
            && (!queue.is_ordered() || queue.is_quiet())
            && self.totals.in_flight < self.limits.in_flight_max
            && due.is_none_or(|due| due > now)
    }

    /// The next moment at which `poll` may have something to do without an input before.
    pub fn next_wake(&self) -> Option<Timestamp> {
        let hold = self.holds.first().map(|(at, _)| self.steady.wall(*at));
        self.timers.first().map(|(at, _)| *at).into_iter().chain(hold).min()
    }

    /// The smallest due time of what waits in memory for open endpoints that are not left alone.
    pub fn oldest_due(&self) -> Option<Timestamp> {
        self.fronts.first().map(|(due, _)| *due)
    }

    /// Figures for metrics.
    pub fn figures(&self) -> Figures {
        Figures {
            in_flight: self.totals.in_flight,
            settling: self.totals.settling,
            windowed: self.totals.windowed,
            endpoints: self.queues.len(),
            payload_bytes: self.totals.payload_bytes,
            refills: self.totals.refills,
            resting: self.totals.resting,
        }
    }

    /// Lets every endpoint go on whose hold has run out.
    fn wake(&mut self, steady: Timestamp) {
        while let Some(&(at, endpoint)) = self.holds.first()
            && at <= steady
        {
            self.queues.get_mut(&endpoint).expect("a hold belongs to a known endpoint").flow.wake();
            self.arrange(endpoint);
        }
    }

    /// Lists every endpoint whose timer has run out: for a turn, for a page, for what is overdue.
    fn promote(&mut self, now: Timestamp) {
        let mut last = None;
        while let Some(&(at, endpoint)) = self.timers.first()
            && at <= now
        {
            let queue = self.queues.get_mut(&endpoint).expect("a timer belongs to a known endpoint");
            if attempt_at(queue, &self.limits).is_some_and(|due| due <= now) {
                queue.places.ready = true;
                self.turns.ready(&queue.merchant, endpoint);
            }
            if expiry_at(queue, &self.limits, &self.policy).is_some_and(|due| due <= now) {
                queue.expiring |= queue.gate == Gate::Held;
                queue.places.ending = true;
                self.ending.push_back(endpoint);
            }
            if page_at(queue, &self.limits, self.totals.windowed).is_some_and(|due| due <= now) {
                queue.places.wanted = true;
                self.wanted.push_back(endpoint);
            }
            // Others may have grown since it was arranged last. Then its window shrinks only here, and what left it may
            // be due at the same moment, once more.
            let again = last.replace((at, endpoint)) == Some((at, endpoint));
            self.arrange(endpoint);
            let is_set = self.timers.first() == Some(&(at, endpoint));
            assert!(!(again && is_set), "a timer that has run out is not set again and again");
        }
    }

    fn poll_refill(&mut self, now: Timestamp) -> Option<Action> {
        let overdue = self.overdue_by(now);
        while self.totals.refills < self.limits.refills_max {
            let endpoint = self.wanted.pop_front()?;
            let Some(queue) = self.queues.get_mut(&endpoint) else { continue };
            queue.places.wanted = false;
            // What was overdue in its window has been taken out of it by somebody else.
            queue.expiring &= queue.window_len() > 0 || queue.page_due().is_none_or(|due| due <= overdue);
            let limit = page_room(queue, &self.limits, self.totals.windowed);
            let wanted = !is_shut(queue) && limit > 0 && queue.page_due().is_some();
            let from = wanted.then(|| queue.ask());
            self.arrange(endpoint);
            if let Some(from) = from {
                return Some(Action::Refill { endpoint, from, limit });
            }
        }
        None
    }

    fn poll_attempt(&mut self, now: Timestamp, steady: Timestamp) -> Option<Action> {
        if self.totals.in_flight >= self.limits.in_flight_max || self.totals.settling >= self.limits.settling_max {
            return None;
        }
        while let Some((merchant, endpoint)) = self.turns.next() {
            let Some(queue) = self.queues.get_mut(&endpoint) else { continue };
            queue.places.ready = false;
            // It was listed when it had something due; since then it may have been held or emptied.
            let due = attempt_at(queue, &self.limits).is_some_and(|due| due <= now);
            let turn = if due { queue.start(now, steady, self.limits.parked_per_endpoint_max) } else { None };
            if matches!(turn, Some(Turn::Attempt(_))) {
                queue.flow.started(steady, &self.policy);
                self.turns.start(&merchant);
            }
            self.arrange(endpoint);
            match turn {
                Some(Turn::Attempt(delivery)) => {
                    assert!(self.totals.in_flight <= self.limits.in_flight_max, "attempts stay in their limit");
                    return Some(Action::Attempt(delivery));
                }
                Some(Turn::Move(delivery, due)) => return Some(Action::Move(delivery, due)),
                None => {}
            }
        }
        None
    }

    /// What ends without an attempt: canceled, or overdue.
    fn poll_ending(&mut self, now: Timestamp) -> Option<Action> {
        let overdue = self.overdue_by(now);
        while self.totals.settling < self.limits.settling_max {
            let endpoint = self.ending.pop_front()?;
            let Some(queue) = self.queues.get_mut(&endpoint) else { continue };
            queue.places.ending = false;
            let closed = queue.gate == Gate::Closed;
            let delivery = match closed {
                true if !wants_cancel(queue, &self.limits) => None,
                true => queue.end_first(None),
                // Listed as closed, and opened since.
                false if !has_room_to_end(queue, &self.limits) || self.policy.overdue_ms_max == 0 => None,
                false => queue.end_first(Some(overdue)),
            };
            // What may be overdue and is still on disk, its page will say.
            let next = queue.first_due().or(queue.bound_due());
            queue.expiring &= next.is_some_and(|due| due <= overdue);
            self.arrange(endpoint);
            if let Some(delivery) = delivery {
                return Some(if closed { Action::Cancel(delivery) } else { Action::Expire(delivery) });
            }
        }
        None
    }

    /// What was due by then, and still is at `now`, is overdue.
    fn overdue_by(&self, now: Timestamp) -> Timestamp {
        Timestamp::from_ms(now.as_ms().saturating_sub_unsigned(self.policy.overdue_ms_max))
    }

    /// Leaves the payload to the disk where memory has no room for it.
    fn fit(&self, delivery: &mut Delivery) {
        if self.totals.payload_bytes + delivery.payload_len() > self.limits.payload_bytes_max {
            delivery.strip();
        }
    }

    fn queue_or_closed(&mut self, delivery: &Delivery) -> &mut Queue {
        self.queues.entry(delivery.endpoint).or_insert_with(|| {
            self.turns.enter(&delivery.merchant);
            Queue::new(delivery.merchant.clone(), Gate::Closed, false, Terms::default())
        })
    }

    /// Brings an endpoint's window within its limits and its places in all lists up to date. To be called
    /// whenever its queue has changed.
    fn arrange(&mut self, endpoint: EndpointId) {
        let Some(queue) = self.queues.get_mut(&endpoint) else { return };
        queue.shrink(window_room(queue, &self.limits, self.totals.windowed));
        let weight = queue.weight();
        self.totals.replace(queue.places.counted, weight);
        queue.places.counted = weight;

        let open = queue.gate.leaves();
        let front = queue.first_due().filter(|_| open && queue.flow.is_trusted());
        move_entry(&mut self.fronts, endpoint, &mut queue.places.front, front);
        let hold = queue.flow.hold.filter(|_| open);
        move_entry(&mut self.holds, endpoint, &mut queue.places.hold, hold);
        let attempt = attempt_at(queue, &self.limits);
        let page = page_at(queue, &self.limits, self.totals.windowed);
        let expiry = expiry_at(queue, &self.limits, &self.policy);
        let timer = attempt.into_iter().chain(page).chain(expiry).min().filter(|_| queue.gate != Gate::Closed);
        move_entry(&mut self.timers, endpoint, &mut queue.places.timer, timer);

        if queue.gate != Gate::Closed {
            return;
        }
        if page.is_some() {
            queue.places.wanted = true;
            self.wanted.push_back(endpoint);
        }
        if wants_cancel(queue, &self.limits) && !queue.places.ending {
            queue.places.ending = true;
            self.ending.push_back(endpoint);
        }
        if queue.is_empty() {
            self.turns.leave(&queue.merchant);
            self.queues.remove(&endpoint);
        }
    }
}

impl Weight {
    fn replace(&mut self, before: Weight, after: Weight) {
        let swap = |total: &mut usize, before: usize, after: usize| {
            let rest = total.checked_sub(before).expect("a total is the sum of its parts");
            *total = rest + after;
        };
        swap(&mut self.in_flight, before.in_flight, after.in_flight);
        swap(&mut self.settling, before.settling, after.settling);
        swap(&mut self.windowed, before.windowed, after.windowed);
        swap(&mut self.payload_bytes, before.payload_bytes, after.payload_bytes);
        swap(&mut self.refills, before.refills, after.refills);
        swap(&mut self.resting, before.resting, after.resting);
    }
}
