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
//!    held endpoint is empty.
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
//!    flight for each endpoint, for each merchant and in all.
//! 7. **No call looks at every endpoint, merchant or delivery.** One timer for each endpoint; every call
//!    costs the logarithm of what is in memory, plus what it itself moves.

mod queue;
#[cfg(test)]
mod tests;
mod turns;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::model::{
    Delivery, DisabledReason, DueKey, EndpointId, ErrorCode, EventId, Location, MerchantId, Outcome, Timestamp, Verdict,
};
use crate::policy::retry::Schedule;

use queue::{Queue, Weight};
use turns::Turns;

/// How much a shard does at once and keeps in memory. A limit of 0 counts as 1, save for the payloads'.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Attempts in flight in all.
    pub in_flight_max: usize,
    /// Attempts in flight for one merchant.
    pub in_flight_per_merchant_max: usize,
    /// Attempts in flight for one endpoint.
    pub in_flight_per_endpoint_max: usize,
    /// Deliveries that settle at once; past it nothing leaves until the store catches up. It is also how
    /// many attempts a crash can repeat, beside those in flight.
    pub settling_max: usize,
    /// Waiting deliveries of one endpoint in memory.
    pub window_per_endpoint_max: usize,
    /// Waiting deliveries in memory in all. Each endpoint may have one beyond it.
    pub window_max: usize,
    /// Bytes of payload kept in memory with waiting deliveries; the others' are read from disk.
    pub payload_bytes_max: usize,
    /// Pages outstanding.
    pub refills_max: usize,
    /// Deliveries of one page.
    pub page_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            in_flight_max: 2048,
            in_flight_per_merchant_max: 32,
            in_flight_per_endpoint_max: 8,
            settling_max: 16_384,
            window_per_endpoint_max: 256,
            window_max: 100_000,
            payload_bytes_max: 64 << 20,
            refills_max: 4,
            page_max: 128,
        }
    }
}

/// Whether an endpoint's deliveries leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// They leave.
    Open,
    /// They wait, and no attempt is used up: paused or disabled.
    Held,
    /// They are canceled: deleted. Forgotten once nothing is owed to it.
    Closed,
}

/// What the shard wants done.
#[derive(Clone, Debug)]
pub enum Action {
    /// Make an attempt, then call `settle`. Permits are taken already.
    Attempt(Delivery),
    /// Record this delivery as canceled. `confirm` says that it is.
    Cancel(Delivery),
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
}

/// One shard: a set of endpoints and all that is owed to them.
#[derive(Debug)]
pub struct Shard {
    limits: Limits,
    schedule: Schedule,
    queues: BTreeMap<EndpointId, Queue>,
    turns: Turns,
    /// When to look at an endpoint again: one entry for each that is open and waits for a moment.
    timers: BTreeSet<(Timestamp, EndpointId)>,
    /// The first due time of each open endpoint with something in its window.
    fronts: BTreeSet<(Timestamp, EndpointId)>,
    /// Endpoints that want a page, and closed ones with something to cancel: first come, first served.
    wanted: VecDeque<EndpointId>,
    canceling: VecDeque<EndpointId>,
    totals: Weight,
}

impl Shard {
    /// A shard that knows no endpoint yet.
    pub fn new(limits: Limits, schedule: Schedule) -> Shard {
        let limits = Limits {
            in_flight_max: limits.in_flight_max.max(1),
            in_flight_per_merchant_max: limits.in_flight_per_merchant_max.max(1),
            in_flight_per_endpoint_max: limits.in_flight_per_endpoint_max.max(1),
            settling_max: limits.settling_max.max(1),
            window_per_endpoint_max: limits.window_per_endpoint_max.max(1),
            window_max: limits.window_max.max(1),
            payload_bytes_max: limits.payload_bytes_max,
            refills_max: limits.refills_max.max(1),
            page_max: limits.page_max.max(1),
        };
        Shard {
            turns: Turns::new(limits.in_flight_per_merchant_max),
            limits,
            schedule,
            queues: BTreeMap::new(),
            timers: BTreeSet::new(),
            fronts: BTreeSet::new(),
            wanted: VecDeque::new(),
            canceling: VecDeque::new(),
            totals: Weight::default(),
        }
    }

    /// Makes an endpoint known, or only sets the gate of one that is. With `backlog` the outbox may hold
    /// deliveries for it that the shard has not been told of, as after a restart. To be called before
    /// anything can be accepted for the endpoint.
    pub fn open(&mut self, endpoint: EndpointId, merchant: MerchantId, gate: Gate, backlog: bool) {
        let queue = self.queues.entry(endpoint).or_insert_with(|| {
            self.turns.enter(&merchant);
            Queue::new(merchant.clone(), gate, backlog)
        });
        assert!(queue.merchant == merchant, "an endpoint never changes its owner");
        queue.gate = gate;
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
        self.promote(now);
        self.poll_refill().or_else(|| self.poll_attempt(now)).or_else(|| self.poll_cancel())
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
        let delivery = queue.finish(event);
        self.turns.finish(&queue.merchant);
        let attempts = delivery.attempts.saturating_add(1);
        let failures = attempts.saturating_sub(delivery.attempts_before);
        let verdict = match self.schedule.verdict(now, failures, outcome, chance) {
            Verdict::RetryAt(_) | Verdict::Failed if queue.gate == Gate::Closed => Verdict::Canceled,
            verdict => verdict,
        };
        let gone = outcome.error() == Some(ErrorCode::Gone) && queue.gate != Gate::Closed;
        if gone {
            queue.gate = Gate::Held;
        }
        self.arrange(endpoint);
        Settled { delivery, verdict, attempts, disable: gone.then_some(DisabledReason::Gone) }
    }

    /// The attempt could not be made: nothing was sent, and the delivery waits as it did before.
    pub fn give_back(&mut self, endpoint: EndpointId, event: EventId) {
        let queue = self.queues.get_mut(&endpoint).expect("an endpoint is known while an attempt is in flight");
        let delivery = queue.finish(event);
        self.turns.finish(&queue.merchant);
        self.confirm(delivery);
    }

    /// The store has recorded a change of a delivery that settles; `delivery` is its new state, which may
    /// be a final one. Whoever recalled or held a delivery and then leaves it alone confirms its old state.
    pub fn confirm(&mut self, mut delivery: Delivery) {
        let endpoint = delivery.endpoint;
        self.fit(&mut delivery);
        let queue = self.queues.get_mut(&endpoint).expect("an endpoint is known while a delivery settles");
        queue.confirm(delivery);
        self.arrange(endpoint);
    }

    /// The page that was asked for.
    pub fn refill(&mut self, endpoint: EndpointId, page: Page) {
        self.queues.get_mut(&endpoint).expect("an endpoint is known while a page is outstanding").refill(page);
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
            queue.hold(delivery.event);
        }
        self.arrange(delivery.endpoint);
        recall
    }

    /// The next moment at which `poll` may have something to do without an input before.
    pub fn next_wake(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// The smallest due time of what waits in memory for open endpoints.
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
        }
    }

    /// Lists every endpoint whose timer has run out: for a turn, for a page, or both.
    fn promote(&mut self, now: Timestamp) {
        while let Some(&(at, endpoint)) = self.timers.first()
            && at <= now
        {
            let queue = self.queues.get_mut(&endpoint).expect("a timer belongs to a known endpoint");
            if attempt_at(queue, &self.limits).is_some_and(|due| due <= now) {
                queue.places.ready = true;
                self.turns.ready(&queue.merchant, endpoint);
            }
            if page_at(queue, &self.limits, self.totals.windowed).is_some_and(|due| due <= now) {
                queue.places.wanted = true;
                self.wanted.push_back(endpoint);
            }
            self.arrange(endpoint);
            assert!(self.timers.first() != Some(&(at, endpoint)), "a timer that has run out is not set again");
        }
    }

    fn poll_refill(&mut self) -> Option<Action> {
        while self.totals.refills < self.limits.refills_max {
            let endpoint = self.wanted.pop_front()?;
            let Some(queue) = self.queues.get_mut(&endpoint) else { continue };
            queue.places.wanted = false;
            let limit = page_room(queue, &self.limits, self.totals.windowed);
            let wanted = queue.gate != Gate::Held && limit > 0 && queue.page_due().is_some();
            let from = wanted.then(|| queue.ask());
            self.arrange(endpoint);
            if let Some(from) = from {
                return Some(Action::Refill { endpoint, from, limit });
            }
        }
        None
    }

    fn poll_attempt(&mut self, now: Timestamp) -> Option<Action> {
        if self.totals.in_flight >= self.limits.in_flight_max || self.totals.settling >= self.limits.settling_max {
            return None;
        }
        while let Some((merchant, endpoint)) = self.turns.next() {
            let Some(queue) = self.queues.get_mut(&endpoint) else { continue };
            queue.places.ready = false;
            // It was listed when it had something due; since then it may have been held or emptied.
            let due = attempt_at(queue, &self.limits).is_some_and(|due| due <= now);
            let delivery = if due { queue.start() } else { None };
            if delivery.is_some() {
                self.turns.start(&merchant);
            }
            self.arrange(endpoint);
            if let Some(delivery) = delivery {
                assert!(self.totals.in_flight <= self.limits.in_flight_max, "attempts in flight stay in their limit");
                return Some(Action::Attempt(delivery));
            }
        }
        None
    }

    fn poll_cancel(&mut self) -> Option<Action> {
        while self.totals.settling < self.limits.settling_max {
            let endpoint = self.canceling.pop_front()?;
            let Some(queue) = self.queues.get_mut(&endpoint) else { continue };
            queue.places.canceling = false;
            let delivery = if wants_cancel(queue, &self.limits) { queue.cancel() } else { None };
            self.arrange(endpoint);
            if let Some(delivery) = delivery {
                return Some(Action::Cancel(delivery));
            }
        }
        None
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
            Queue::new(delivery.merchant.clone(), Gate::Closed, false)
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

        let open = queue.gate == Gate::Open;
        let front = queue.first_due().filter(|_| open);
        move_entry(&mut self.fronts, endpoint, &mut queue.places.front, front);
        let attempt = attempt_at(queue, &self.limits);
        let page = page_at(queue, &self.limits, self.totals.windowed);
        let timer = attempt.into_iter().chain(page).min().filter(|_| open);
        move_entry(&mut self.timers, endpoint, &mut queue.places.timer, timer);

        if queue.gate != Gate::Closed {
            return;
        }
        if page.is_some() {
            queue.places.wanted = true;
            self.wanted.push_back(endpoint);
        }
        if wants_cancel(queue, &self.limits) && !queue.places.canceling {
            queue.places.canceling = true;
            self.canceling.push_back(endpoint);
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
    }
}

/// When the endpoint's next delivery may leave; `None` where it waits for something else than time.
fn attempt_at(queue: &Queue, limits: &Limits) -> Option<Timestamp> {
    let free = queue.weight().in_flight < limits.in_flight_per_endpoint_max;
    queue.first_due().filter(|_| queue.gate == Gate::Open && free && !queue.places.ready)
}

/// When the endpoint's next page is needed; `None` where the window is not low, or nothing is on disk.
/// A closed endpoint needs it at once.
fn page_at(queue: &Queue, limits: &Limits, windowed: usize) -> Option<Timestamp> {
    let low = limits.page_max.min(limits.window_per_endpoint_max).div_ceil(4);
    let wanted = queue.gate != Gate::Held
        && !queue.places.wanted
        && queue.weight().windowed < low
        && page_room(queue, limits, windowed) > 0;
    queue.page_due().filter(|_| wanted)
}

/// How many deliveries a page may bring: what the window has room for.
fn page_room(queue: &Queue, limits: &Limits, windowed: usize) -> usize {
    window_room(queue, limits, windowed).saturating_sub(queue.weight().windowed).min(limits.page_max)
}

/// How long the window may be: at least one delivery, so that no endpoint starves for another's window;
/// but none for a held endpoint, which may be held for months.
fn window_room(queue: &Queue, limits: &Limits, windowed: usize) -> usize {
    if queue.gate == Gate::Held {
        return 0;
    }
    let others = windowed - queue.places.counted.windowed;
    limits.window_max.saturating_sub(others).clamp(1, limits.window_per_endpoint_max)
}

/// A deletion is paced: a million deliveries are not handed to the store at once.
fn wants_cancel(queue: &Queue, limits: &Limits) -> bool {
    let weight = queue.weight();
    let settling_max = limits.in_flight_per_merchant_max.saturating_mul(4);
    queue.gate == Gate::Closed && weight.windowed > 0 && weight.settling < settling_max
}

/// Moves an endpoint's one entry in an ordered set.
fn move_entry(
    set: &mut BTreeSet<(Timestamp, EndpointId)>,
    endpoint: EndpointId,
    entry: &mut Option<Timestamp>,
    to: Option<Timestamp>,
) {
    if *entry == to {
        return;
    }
    if let Some(at) = entry.take() {
        set.remove(&(at, endpoint));
    }
    if let Some(at) = to {
        set.insert((at, endpoint));
    }
    *entry = to;
}
