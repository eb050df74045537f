//! One endpoint's queue: a window on what the outbox holds for it, and what is under way.
//!
//! Never knows the time, other endpoints, or whose turn it is.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Delivery, DueKey, EventId, Location, MerchantId, Ordering, Terms, Timestamp};

use super::flow::Flow;
use super::order::{Order, Precedence, is_parked};
use super::{Gate, Page, Recall};

/// Smaller than the key of every delivery.
const FIRST: DueKey = (Timestamp::ZERO, EventId::MIN);

/// What the shard's totals know of one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Weight {
    pub(super) in_flight: usize,
    pub(super) settling: usize,
    pub(super) windowed: usize,
    pub(super) payload_bytes: usize,
    pub(super) refills: usize,
    pub(super) resting: usize,
}

/// Where the queue stands in the shard's lists, so that it stands in each at most once.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) counted: Weight,
    pub(super) timer: Option<Timestamp>,
    pub(super) hold: Option<Timestamp>,
    pub(super) front: Option<Timestamp>,
    pub(super) ready: bool,
    pub(super) wanted: bool,
    /// Listed because it may have something to cancel, or something that is overdue.
    pub(super) ending: bool,
}

/// What becomes of the delivery whose turn it is.
#[derive(Debug)]
pub(super) enum Turn {
    /// It leaves.
    Attempt(Delivery),
    /// It has to be moved to this due time, behind the one that comes first.
    Move(Delivery, Timestamp),
}

/// A page that was asked for and has not come.
#[derive(Debug)]
struct Refill {
    from: DueKey,
    /// Whether it is one of a survey.
    survey: bool,
    /// The newest record heard of when it was asked for; the page has seen it.
    heard: Location,
    /// Keys from here on were dropped meanwhile, so the page does not speak for them.
    cap: Option<DueKey>,
    /// Recorded meanwhile: what the page says of these may be old.
    postponed: BTreeSet<EventId>,
}

/// One endpoint's deliveries.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) merchant: MerchantId,
    pub(super) gate: Gate,
    pub(super) places: Places,
    pub(super) flow: Flow,
    window: BTreeMap<DueKey, Delivery>,
    /// Accepted lately, at keys past the bound: they need not wait until a backlog of retries is paged in.
    fresh: BTreeMap<DueKey, Delivery>,
    /// The key of each event in the window and of each fresh one.
    keys: BTreeMap<EventId, DueKey>,
    /// Of those the keys that may leave: first attempts, and retries. They take turns where both are due.
    firsts: BTreeSet<DueKey>,
    retries: BTreeSet<DueKey>,
    retried_last: bool,
    /// Each attempt and the steady moment of its beginning.
    in_flight: BTreeMap<EventId, (Delivery, Timestamp)>,
    settling: BTreeSet<EventId>,
    /// Whatever the outbox holds under a smaller key is in memory; `None`: all of it is.
    bound: Option<DueKey>,
    refill: Option<Refill>,
    /// The newest record heard of.
    heard: Location,
    /// Where the last page began, and what it had seen.
    shown: Option<(DueKey, Location)>,
    payload_bytes: usize,
    /// Where deliveries must not overtake each other.
    order: Option<Order>,
    /// The whole outbox is being read, from here on, for what is out of its order there; nothing leaves.
    survey: Option<DueKey>,
    /// Held, and yet pages are read: something may be overdue.
    pub(super) expiring: bool,
}

impl Queue {
    pub(super) fn new(merchant: MerchantId, gate: Gate, backlog: bool, terms: Terms) -> Queue {
        let ordered = terms.ordering == Ordering::Resource;
        Queue {
            merchant,
            gate,
            places: Places::default(),
            flow: Flow::new(terms),
            window: BTreeMap::new(),
            fresh: BTreeMap::new(),
            keys: BTreeMap::new(),
            firsts: BTreeSet::new(),
            retries: BTreeSet::new(),
            retried_last: false,
            in_flight: BTreeMap::new(),
            settling: BTreeSet::new(),
            bound: backlog.then_some(FIRST),
            refill: None,
            heard: Location::ZERO,
            shown: None,
            payload_bytes: 0,
            order: ordered.then(Order::default),
            survey: (ordered && backlog).then_some(FIRST),
            expiring: false,
        }
    }

    /// Takes what somebody made of the endpoint.
    pub(super) fn change(&mut self, gate: Gate, terms: Terms) {
        let reopened = !self.gate.leaves() && gate.leaves();
        // What is canceled needs no order.
        let ordered = terms.ordering == Ordering::Resource && gate != Gate::Closed;
        let reordered = ordered != self.order.is_some();
        if reopened || terms.changed_at != self.flow.terms.changed_at {
            self.flow.restart(terms);
        } else {
            self.flow.terms = terms;
        }
        self.set_gate(gate);
        self.expiring = false;
        if reordered {
            self.reorder(ordered);
        }
    }

    /// Where retries begin to wait for the gate, they are left to the disk; where they no longer do, the outbox is read
    /// from its beginning.
    pub(super) fn set_gate(&mut self, gate: Gate) {
        let before = std::mem::replace(&mut self.gate, gate);
        if (before == Gate::Ajar) == (gate == Gate::Ajar) {
            return;
        }
        if gate == Gate::Ajar {
            let retries = self.window.iter().filter(|(_, delivery)| is_retry(delivery));
            for key in retries.map(|(key, _)| *key).collect::<Vec<_>>() {
                self.drop_from_memory(key);
            }
        } else if let Some(refill) = &mut self.refill {
            // The page was asked for when retries were to be left out: it speaks for nothing.
            refill.cap = Some(FIRST);
        } else {
            self.begin_again();
        }
    }

    /// Begins or ends to keep an order. What is in memory goes back to being on disk only, and what is there
    /// out of its order is looked for before anything leaves.
    fn reorder(&mut self, ordered: bool) {
        self.order = ordered.then(Order::default);
        self.shrink(0);
        if !ordered {
            self.survey = None;
            return;
        }
        if self.refill.is_none() {
            self.bound = Some(FIRST);
        }
        self.survey = Some(FIRST);
    }

    /// A delivery that the store has just recorded for the first time.
    pub(super) fn accept(&mut self, delivery: Delivery) {
        self.heard = self.heard.max(delivery.written);
        if self.contains(delivery.event) {
            return;
        }
        let key = delivery.key();
        let covered = self.shown.is_some_and(|(from, as_of)| key >= from && delivery.written <= as_of);
        assert!(
            !covered || self.refill.is_some() || !self.is_below_bound(key),
            "what a page has shown stays in memory until its acceptance is told: notices come in order"
        );
        self.admit(delivery);
    }

    /// A settlement is recorded; `delivery` is its new state.
    pub(super) fn confirm(&mut self, delivery: Delivery) {
        let settled = self.settling.remove(&delivery.event);
        assert!(settled, "only what was settled, canceled or recalled is confirmed, and once");
        self.heard = self.heard.max(delivery.written);
        if let Some(refill) = &mut self.refill {
            refill.postponed.insert(delivery.event);
        }
        let resource = delivery.resource;
        if let Some(order) = &mut self.order {
            // It may have been sent by hand, and be outside of all order from here on.
            order.forget(&delivery);
            if delivery.status.is_waiting() && is_parked(&delivery) {
                order.learn(&delivery);
            }
        }
        if delivery.status.is_waiting() {
            self.admit(delivery);
        }
        self.release(resource);
    }

    /// Takes the delivery whose turn it is, of those that are due at `now`.
    pub(super) fn start(&mut self, now: Timestamp, steady: Timestamp, parked_max: usize) -> Option<Turn> {
        loop {
            let key = self.turn(now, parked_max)?;
            let delivery = self.window.get(&key).or_else(|| self.fresh.get(&key)).expect("what may leave is in memory");
            let precedence = match &mut self.order {
                Some(order) => order.precedence(delivery),
                None => Precedence::First,
            };
            match precedence {
                Precedence::Blocked => {
                    self.firsts.remove(&key);
                    self.retries.remove(&key);
                }
                Precedence::Behind((due, _)) => {
                    let delivery = self.take(key);
                    self.settling.insert(delivery.event);
                    return Some(Turn::Move(delivery, due));
                }
                Precedence::First => {
                    self.retried_last = self.retries.contains(&key);
                    let delivery = self.take(key);
                    self.in_flight.insert(delivery.event, (delivery.clone(), steady));
                    return Some(Turn::Attempt(delivery));
                }
            }
        }
    }

    /// The attempt has ended: the delivery as it was before, and the steady moment when it began.
    pub(super) fn finish(&mut self, event: EventId) -> (Delivery, Timestamp) {
        let (delivery, started) = self.in_flight.remove(&event).expect("an attempt that ends was in flight");
        self.settling.insert(event);
        (delivery, started)
    }

    /// Takes the first delivery in memory to be ended without an attempt; only if it was due at `by`, where
    /// that is given.
    pub(super) fn end_first(&mut self, by: Option<Timestamp>) -> Option<Delivery> {
        let key = self.first_key()?;
        if by.is_some_and(|by| key.0 > by) {
            return None;
        }
        let delivery = self.take(key);
        self.settling.insert(delivery.event);
        Some(delivery)
    }

    /// Takes one delivery out of the window, whatever its place.
    pub(super) fn recall(&mut self, event: EventId) -> Recall {
        if self.in_flight.contains_key(&event) {
            return Recall::InFlight;
        }
        if self.settling.contains(&event) {
            return Recall::Settling;
        }
        let Some(key) = self.keys.get(&event).copied() else { return Recall::Unknown };
        let delivery = self.take(key);
        self.settling.insert(event);
        Recall::Waiting(delivery)
    }

    /// Counts a delivery that is not in memory as settling. Whatever comes after it waits until it is known
    /// what becomes of it.
    pub(super) fn hold(&mut self, delivery: &Delivery) {
        self.settling.insert(delivery.event);
        if let Some(order) = &mut self.order {
            order.learn(delivery);
        }
    }

    /// Asks for a page: from where. There is no other outstanding and the bound is known.
    pub(super) fn ask(&mut self) -> DueKey {
        let bound = self.bound.expect("a page is asked for only while something may be on disk");
        let from = self.survey.unwrap_or(bound);
        assert!(self.refill.is_none(), "an endpoint has one page outstanding at most");
        self.refill = Some(Refill {
            from,
            survey: self.survey.is_some(),
            heard: self.heard,
            cap: None,
            postponed: BTreeSet::new(),
        });
        from
    }

    /// The page has come.
    pub(super) fn refill(&mut self, page: Page) {
        let refill = self.refill.take().expect("a page answers a refill");
        assert!(page.as_of >= refill.heard, "a page has seen every record that was told before it was asked for");
        assert!(!page.more || !page.deliveries.is_empty(), "a page after which more follows holds something");
        let end = page.deliveries.iter().map(Delivery::key).max().filter(|_| page.more).map(after);
        if refill.survey || self.survey.is_some() {
            return self.surveyed(&refill, &page.deliveries, end);
        }
        self.shown = Some((refill.from, page.as_of));
        self.lower_bound_to(least(end, refill.cap));
        for mut delivery in page.deliveries {
            assert!(delivery.key() >= refill.from, "a page begins where it was asked to");
            let stale = refill.postponed.contains(&delivery.event) || self.contains(delivery.event);
            if !stale && self.is_below_bound(delivery.key()) && !self.leaves_out(&delivery) {
                delivery.strip();
                self.insert(delivery);
            }
        }
        while let Some((&key, _)) = self.fresh.first_key_value()
            && self.is_below_bound(key)
        {
            let delivery = self.fresh.remove(&key).expect("just seen");
            self.window.insert(key, delivery);
        }
    }

    /// A page of the survey, or one that a survey overtook: nothing of it enters the window.
    fn surveyed(&mut self, refill: &Refill, deliveries: &[Delivery], end: Option<DueKey>) {
        if let (Some(order), true) = (&mut self.order, self.survey == Some(refill.from) && refill.survey) {
            for delivery in deliveries.iter().filter(|delivery| !refill.postponed.contains(&delivery.event)) {
                if is_parked(delivery) {
                    order.learn(delivery);
                }
            }
            self.survey = end;
        }
        self.begin_again();
    }

    /// Leaves everything to the disk, to be read from the beginning.
    fn begin_again(&mut self) {
        self.bound = Some(FIRST);
        while let Some((&key, _)) = self.window.last_key_value() {
            self.drop_from_memory(key);
        }
    }

    /// The page will not come.
    pub(super) fn refill_failed(&mut self) {
        let refill = self.refill.take().expect("a page that failed was asked for");
        if refill.survey || self.survey.is_some() {
            return self.begin_again();
        }
        self.lower_bound_to(least(Some(refill.from), refill.cap));
    }

    /// Leaves at most `len_max` deliveries in memory: the latest ones go back to being on disk only.
    pub(super) fn shrink(&mut self, len_max: usize) {
        while self.fresh.len() > len_max / 4 {
            let (&key, _) = self.fresh.last_key_value().expect("too many are not none");
            self.drop_from_memory(key);
        }
        while self.keys.len() > len_max {
            let (&key, _) = self.window.last_key_value().expect("fresh ones alone are not too many");
            self.drop_from_memory(key);
            match &mut self.refill {
                Some(refill) => refill.cap = least(refill.cap, Some(key)),
                None => self.bound = least(self.bound, Some(key)),
            }
        }
        let in_order =
            self.refill.is_some() || self.window.last_key_value().is_none_or(|(k, _)| self.is_below_bound(*k));
        assert!(in_order, "while no page is outstanding the window ends before the bound");
        let found = self.window.len() + self.fresh.len();
        assert!(self.keys.len() == found, "every delivery in memory is found by its event");
    }

    /// When the first delivery in memory is due.
    pub(super) fn first_due(&self) -> Option<Timestamp> {
        self.first_key().map(|(due, _)| due)
    }

    /// When the first delivery that may leave is due.
    pub(super) fn next_due(&self, parked_max: usize) -> Option<Timestamp> {
        let first = self.firsts.first().filter(|key| self.may_begin(parked_max) && self.may_leave(key));
        let retry = self.retries.first().filter(|key| self.may_leave(key));
        first.into_iter().chain(retry).map(|(due, _)| *due).min()
    }

    /// Whether deliveries must not overtake each other.
    pub(super) fn is_ordered(&self) -> bool {
        self.order.is_some()
    }

    /// Whether nothing is under way.
    pub(super) fn is_quiet(&self) -> bool {
        self.in_flight.is_empty() && self.settling.is_empty()
    }

    /// Whether the whole outbox is to be read, and what is under way has to end first.
    pub(super) fn awaits_survey(&self) -> bool {
        self.survey.is_some() && !self.is_quiet()
    }

    /// Deliveries in the window, those past the bound not counted.
    pub(super) fn window_len(&self) -> usize {
        self.window.len()
    }

    /// The bound: before this moment nothing that is on disk only is due.
    pub(super) fn bound_due(&self) -> Option<Timestamp> {
        self.bound.map(|(due, _)| due)
    }

    /// When the next page is of use: the moment when the first delivery that is on disk only may be due, or
    /// at once for a survey. `None` while a page is outstanding.
    pub(super) fn page_due(&self) -> Option<Timestamp> {
        let due = if self.survey.is_some() { FIRST.0 } else { self.bound?.0 };
        (self.refill.is_none() && !self.awaits_survey()).then_some(due)
    }

    /// Whether nothing is owed, under way or expected.
    pub(super) fn is_empty(&self) -> bool {
        self.bound.is_none() && self.weight() == Weight::default()
    }

    pub(super) fn weight(&self) -> Weight {
        Weight {
            in_flight: self.in_flight.len(),
            settling: self.settling.len(),
            windowed: self.keys.len(),
            payload_bytes: self.payload_bytes,
            refills: usize::from(self.refill.is_some()),
            resting: usize::from(self.gate.leaves() && !self.flow.is_trusted()),
        }
    }

    /// Into the window, unless it will come with a later page. While a page is outstanding it may have
    /// been read before this record, so nothing is left to it.
    fn admit(&mut self, delivery: Delivery) {
        if self.leaves_out(&delivery) {
            return;
        }
        if self.refill.is_some() || self.is_below_bound(delivery.key()) {
            self.insert(delivery);
        } else if self.lets_pass(&delivery) {
            self.enlist(&delivery);
            self.fresh.insert(delivery.key(), delivery);
        }
    }

    /// Whether a delivery is left to the disk because it is a retry.
    fn leaves_out(&self, delivery: &Delivery) -> bool {
        self.gate == Gate::Ajar && is_retry(delivery)
    }

    /// Whether a delivery past the bound is to pass the retries that fill the window. It passes no first
    /// attempt that is there.
    fn lets_pass(&self, delivery: &Delivery) -> bool {
        let only_retries = self.firsts.len() == self.fresh.len();
        delivery.attempts == 0 && only_retries && self.order.is_none() && self.gate.leaves()
    }

    /// The key whose turn it is, of those that are due at `now`.
    fn turn(&self, now: Timestamp, parked_max: usize) -> Option<DueKey> {
        let is_due = |key: &DueKey| key.0 <= now && self.may_leave(key);
        let first = self.firsts.first().copied().filter(is_due).filter(|_| self.may_begin(parked_max));
        let retry = self.retries.first().copied().filter(is_due);
        if self.retried_last { first.or(retry) } else { retry.or(first) }
    }

    /// Whether a delivery may leave at all. At an ordered endpoint not while the one before it may still come
    /// with a page.
    fn may_leave(&self, key: &DueKey) -> bool {
        self.order.is_none() || (self.survey.is_none() && self.is_below_bound(*key))
    }

    /// Whether first attempts may leave: not while too many others have to be remembered, unless nothing else
    /// can be done that would make them fewer.
    fn may_begin(&self, parked_max: usize) -> bool {
        let busy = !(self.retries.is_empty() && self.is_quiet());
        self.order.as_ref().is_none_or(|order| order.parked() < parked_max || !busy)
    }

    /// Those that were blocked for one of this resource may come first now.
    fn release(&mut self, resource: u64) {
        let Some(order) = &mut self.order else { return };
        for key in order.release(resource) {
            // Unless somebody has taken it out meanwhile.
            let Some(delivery) = self.window.get(&key) else { continue };
            let lane = if is_first(delivery, true) { &mut self.firsts } else { &mut self.retries };
            lane.insert(key);
        }
    }

    /// Takes a delivery out of memory to be acted on.
    fn take(&mut self, key: DueKey) -> Delivery {
        self.remove(key).expect("what is taken is in memory")
    }

    fn drop_from_memory(&mut self, key: DueKey) {
        let delivery = self.take(key);
        if let Some(order) = &mut self.order {
            order.part_from(&delivery);
        }
    }

    fn first_key(&self) -> Option<DueKey> {
        let first = |map: &BTreeMap<DueKey, Delivery>| map.first_key_value().map(|(key, _)| *key);
        first(&self.window).into_iter().chain(first(&self.fresh)).min()
    }

    /// Sets the bound and forgets what lies past it.
    fn lower_bound_to(&mut self, bound: Option<DueKey>) {
        self.bound = bound;
        while let Some((&key, _)) = self.window.last_key_value()
            && !self.is_below_bound(key)
        {
            self.drop_from_memory(key);
        }
    }

    fn is_below_bound(&self, key: DueKey) -> bool {
        self.bound.is_none_or(|bound| key < bound)
    }

    fn contains(&self, event: EventId) -> bool {
        self.keys.contains_key(&event) || self.in_flight.contains_key(&event) || self.settling.contains(&event)
    }

    fn insert(&mut self, delivery: Delivery) {
        self.enlist(&delivery);
        if let Some(order) = &mut self.order {
            order.learn(&delivery);
        }
        self.window.insert(delivery.key(), delivery);
    }

    fn enlist(&mut self, delivery: &Delivery) {
        self.payload_bytes += delivery.payload_len();
        let before = self.keys.insert(delivery.event, delivery.key());
        assert!(before.is_none(), "a delivery is in one place only");
        let ordered = self.order.is_some();
        let lane = if is_first(delivery, ordered) { &mut self.firsts } else { &mut self.retries };
        lane.insert(delivery.key());
    }

    fn remove(&mut self, key: DueKey) -> Option<Delivery> {
        let delivery = self.window.remove(&key).or_else(|| self.fresh.remove(&key))?;
        self.keys.remove(&delivery.event);
        self.firsts.remove(&key);
        self.retries.remove(&key);
        self.payload_bytes -= delivery.payload_len();
        Some(delivery)
    }
}

/// Whether a delivery counts as a first attempt. One that was moved behind another has had its turn.
fn is_first(delivery: &Delivery, ordered: bool) -> bool {
    delivery.attempts == 0 && !(ordered && is_parked(delivery))
}

/// Whether a delivery has failed before. What is sent again by hand begins anew.
fn is_retry(delivery: &Delivery) -> bool {
    delivery.attempts > delivery.attempts_before
}

/// The key that follows `key` immediately.
fn after((due, event): DueKey) -> DueKey {
    (due, EventId::from_u128(event.as_u128().saturating_add(1)))
}

/// The smaller of two bounds, where `None` is past everything.
fn least(a: Option<DueKey>, b: Option<DueKey>) -> Option<DueKey> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
