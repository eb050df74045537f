//! The promises, checked at every step from outside: what the shard was told, what it did, what is recorded.
//!
//! Never looks into the shard, and never helps it: the oracle only panics, with the name of the promise first.

use std::collections::{BTreeMap, BTreeSet};

use posthaste::model::{
    Delivery, DisabledReason, DueKey, EndpointId, ErrorCode, EventId, MerchantId, Ordering, Outcome, Status, Timestamp,
    Verdict,
};
use posthaste::policy::retry::Schedule;
use posthaste::shard::{Gate, Limits, Page, Recall, Settled};

use crate::care::{Care, terms};
use crate::outbox::{Outbox, payload};
use crate::plan::Plan;
use crate::seen::Seen;

/// What the shard must know and have under way, by what it was told and said.
pub(crate) struct Oracle {
    pub(super) limits: Limits,
    pub(super) schedule: Schedule,
    pub(crate) care: Care,
    merchants: usize,
    pub(super) lines: BTreeMap<EndpointId, Line>,
    pub(super) seats: BTreeMap<MerchantId, Seat>,
    tallies: BTreeMap<EventId, Tally>,
    /// Whose last recorded change is a final one.
    ended: BTreeSet<EventId>,
    pub(super) in_flight: usize,
    pub(super) settling: usize,
    pub(super) refills: usize,
    /// The latest moment that the clock ever showed.
    peak: Timestamp,
    pub(crate) seen: Seen,
}

/// One endpoint.
pub(super) struct Line {
    pub(super) merchant: MerchantId,
    /// As the shard was told last, or set itself.
    pub(super) gate: Gate,
    pub(super) busy: BTreeMap<EventId, Busy>,
    /// Waits, and the shard was told so.
    pub(super) waiting: BTreeSet<DueKey>,
    /// Whether a page is outstanding.
    pub(super) page: bool,
    pub(super) in_flight: usize,
    /// Turns of its merchant since it could have had one.
    waited: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Busy {
    InFlight,
    Settling,
}

/// One merchant.
#[derive(Default)]
pub(super) struct Seat {
    pub(super) in_flight: usize,
    /// Turns of others since it could have had one.
    waited: usize,
}

/// One event.
#[derive(Default)]
struct Tally {
    /// Whether this life's shard heard of its acceptance, or was told that there is a backlog.
    told: bool,
    /// `attempts_before` of the schedule that the other two figures are of.
    schedule: u32,
    begun: u32,
    /// Attempts that may be repeated: cut off by a crash, or never made.
    excused: u32,
}

impl Line {
    pub(super) fn settling(&self) -> usize {
        self.busy.len() - self.in_flight
    }
}

impl Oracle {
    pub(crate) fn new(plan: &Plan) -> Oracle {
        Oracle {
            limits: plan.limits.clone(),
            schedule: plan.policy.schedule.clone(),
            care: Care::new(plan.policy.clone(), plan.care, plan.every.jump_ms.is_some()),
            merchants: plan.merchants,
            lines: BTreeMap::new(),
            seats: BTreeMap::new(),
            tallies: BTreeMap::new(),
            ended: BTreeSet::new(),
            in_flight: 0,
            settling: 0,
            refills: 0,
            peak: Timestamp::ZERO,
            seen: Seen::default(),
        }
    }

    /// The shard hears of an endpoint or of its gate.
    pub(crate) fn opened(&mut self, outbox: &Outbox, endpoint: EndpointId, gate: Gate, backlog: bool) {
        let merchant = &outbox.catalog[&endpoint].merchant;
        let before = std::mem::replace(&mut self.line(endpoint, merchant).gate, gate);
        if !before.leaves() && gate.leaves() {
            self.care.reopened(endpoint);
        }
        self.seen.ajar += u64::from(gate == Gate::Ajar);
        for key in outbox.waiting_of(endpoint).filter(|_| backlog) {
            self.tallies.entry(key.1).or_default().told = true;
            self.line(endpoint, merchant).waiting.insert(key);
        }
    }

    /// The shard hears of an acceptance.
    pub(crate) fn accepted(&mut self, delivery: &Delivery) {
        self.tallies.entry(delivery.event).or_default().told = true;
        let line = self.line(delivery.endpoint, &delivery.merchant);
        if line.busy.contains_key(&delivery.event) {
            self.seen.overtaken += 1;
        } else {
            line.waiting.insert(delivery.key());
        }
    }

    /// The shard hears of a recorded change, or of a delivery that is left alone after all.
    pub(crate) fn confirmed(&mut self, delivery: &Delivery) {
        let told = self.tallies.entry(delivery.event).or_default().told;
        let line = self.line(delivery.endpoint, &delivery.merchant);
        line.busy.remove(&delivery.event);
        if delivery.status.is_waiting() && told {
            line.waiting.insert(delivery.key());
        }
        self.settling -= 1;
    }

    /// The store has committed a change of this delivery.
    pub(crate) fn recorded(&mut self, delivery: &Delivery) {
        self.tallies.entry(delivery.event).or_default();
        if delivery.status.is_waiting() {
            self.ended.remove(&delivery.event);
        } else {
            self.ended.insert(delivery.event);
        }
    }

    /// The shard wants an attempt made.
    pub(crate) fn attempted(&mut self, outbox: &Outbox, delivery: &Delivery, now: Timestamp) {
        as_recorded(outbox, delivery);
        assert!(delivery.status.is_waiting(), "nothing twice: {} is {}", delivery.event, delivery.status);
        assert!(now >= delivery.due, "nothing early: {} is due at {:?}, not {now:?}", delivery.event, delivery.due);
        let line = self.lines.get(&delivery.endpoint).expect("gate: an attempt for an endpoint that is not known");
        let may_leave = line.gate == Gate::Open || (line.gate == Gate::Ajar && !is_retry(delivery));
        assert!(may_leave, "gate: an attempt of {} while {:?}", delivery.event, line.gate);
        let elsewhere = self.lines.values().any(|line| line.busy.get(&delivery.event) == Some(&Busy::InFlight));
        let busy = elsewhere || line.busy.contains_key(&delivery.event);
        assert!(!busy, "nothing twice: {} is under way already", delivery.event);
        // First attempts and retries take turns. What came lately may leave before what waits on disk, and
        // at an ordered endpoint one waits for another.
        let is_first = delivery.attempts == 0;
        let in_order = !self.care.on && (!is_first || self.limits.window_per_endpoint_max < 4);
        let spared = |key: &DueKey| line.gate == Gate::Ajar && is_retry(&outbox.deliveries[&key.1]);
        let same = |key: &&DueKey| (outbox.deliveries[&key.1].attempts == 0) == is_first && !spared(key);
        let first = line.waiting.iter().find(same).copied().unwrap_or(delivery.key());
        let in_turn = line.page || !in_order || delivery.key() <= first;
        assert!(in_turn, "order: {:?} left before {first:?}", delivery.key());
        assert!(self.settling < self.limits.settling_max, "limits: {} settle and more is begun", self.settling);
        self.take_turn(delivery, now);
        self.count_attempt(delivery);
        let line = self.line(delivery.endpoint, &delivery.merchant);
        line.waiting.remove(&delivery.key());
        line.busy.insert(delivery.event, Busy::InFlight);
        line.in_flight += 1;
        let of_endpoint = line.in_flight;
        let seat = self.seats.entry(delivery.merchant.clone()).or_default();
        seat.in_flight += 1;
        let of_merchant = seat.in_flight;
        self.in_flight += 1;
        let limits = &self.limits;
        assert!(of_endpoint <= limits.in_flight_per_endpoint_max, "limits: {of_endpoint} of an endpoint in flight");
        assert!(of_merchant <= limits.in_flight_per_merchant_max, "limits: {of_merchant} of a merchant in flight");
        assert!(self.in_flight <= limits.in_flight_max, "limits: {} in flight", self.in_flight);
    }

    /// An attempt was never made.
    pub(crate) fn given_back(&mut self, delivery: &Delivery) {
        self.seen.given_back += 1;
        let tally = self.tallies.entry(delivery.event).or_default();
        tally.excused += 1;
        let told = tally.told;
        self.landed(delivery.endpoint, &delivery.merchant);
        let line = self.line(delivery.endpoint, &delivery.merchant);
        line.busy.remove(&delivery.event);
        if told {
            line.waiting.insert(delivery.key());
        }
    }

    /// An attempt has ended, and this is what the shard makes of it.
    pub(crate) fn settled(&mut self, outbox: &Outbox, settled: &Settled, outcome: &Outcome, now: Timestamp) {
        let delivery = &settled.delivery;
        as_recorded(outbox, delivery);
        assert!(
            settled.attempts == delivery.attempts + 1,
            "attempts: {} follows {}",
            settled.attempts,
            delivery.attempts
        );
        let gate = self.lines[&delivery.endpoint].gate;
        self.judge(settled, outcome, gate, now);
        let gone = outcome.error() == Some(ErrorCode::Gone) && gate != Gate::Closed;
        self.seen.gone_too_late += u64::from(outcome.error() == Some(ErrorCode::Gone) && gate == Gate::Closed);
        let failing = self.care.on && settled.disable == Some(DisabledReason::Failing);
        let disable = gone.then_some(DisabledReason::Gone);
        let right = settled.disable == disable || failing;
        assert!(right, "gone: {:?} after {outcome:?} while {gate:?}", settled.disable);
        self.seen.failing += u64::from(failing);
        self.landed(delivery.endpoint, &delivery.merchant);
        self.settling += 1;
        let line = self.line(delivery.endpoint, &delivery.merchant);
        line.busy.insert(delivery.event, Busy::Settling);
        if gone || failing {
            line.gate = Gate::Held;
            self.seen.gone += u64::from(gone);
        }
    }

    /// The shard wants this recorded as canceled.
    pub(crate) fn canceled(&mut self, outbox: &Outbox, delivery: &Delivery) {
        as_recorded(outbox, delivery);
        assert!(delivery.status.is_waiting(), "nothing twice: {} is canceled, was {}", delivery.event, delivery.status);
        assert!(self.settling < self.limits.settling_max, "limits: {} settle and more is canceled", self.settling);
        let settling_max = self.cancels_max();
        let line = self.line(delivery.endpoint, &delivery.merchant);
        assert!(line.gate == Gate::Closed, "gate: {} is canceled while {:?}", delivery.event, line.gate);
        assert!(
            line.settling() < settling_max,
            "limits: {} of {} are canceled at once",
            line.settling(),
            delivery.endpoint
        );
        self.seen.canceled += 1;
        self.taken(delivery);
    }

    /// The shard wants this recorded as failed, though nobody tried.
    pub(crate) fn expired(&mut self, outbox: &Outbox, delivery: &Delivery, now: Timestamp) {
        as_recorded(outbox, delivery);
        self.care.expired(delivery, now);
        self.seen.expired += 1;
        self.taken(delivery);
    }

    /// The shard wants this to be due later.
    pub(crate) fn moved(&mut self, outbox: &Outbox, delivery: &Delivery, due: Timestamp) {
        as_recorded(outbox, delivery);
        assert!(due >= delivery.due, "sequence: {} is moved forward", delivery.event);
        self.seen.moved += 1;
        self.taken(delivery);
    }

    /// Somebody asks for a delivery in order to move it.
    pub(crate) fn recalled(&mut self, outbox: &Outbox, endpoint: EndpointId, event: EventId, recall: &Recall) {
        let busy = self.lines.get(&endpoint).and_then(|line| line.busy.get(&event).copied());
        let told = match recall {
            Recall::InFlight => Some(Busy::InFlight),
            Recall::Settling => Some(Busy::Settling),
            Recall::Waiting(_) | Recall::Unknown => None,
        };
        assert!(busy == told, "recall: {event} is {busy:?} here, and {recall:?} there");
        match recall {
            Recall::InFlight | Recall::Settling => self.seen.recalls_refused += 1,
            Recall::Waiting(delivery) => {
                as_recorded(outbox, delivery);
                assert!(delivery.event == event, "recall: {} for {event}", delivery.event);
                self.seen.recalled += 1;
                self.taken(delivery);
            }
            Recall::Unknown => {}
        }
    }

    /// A delivery that was in no place of the shard counts as settling from here on.
    pub(crate) fn held(&mut self, delivery: &Delivery) {
        self.seen.held += 1;
        self.taken(delivery);
    }

    /// The shard wants a page.
    pub(crate) fn page_asked(&mut self, endpoint: EndpointId, from: DueKey, limit: usize) {
        let (page_max, window_max) = (self.limits.page_max, self.limits.window_per_endpoint_max);
        assert!((1..=page_max.min(window_max)).contains(&limit), "limits: a page of {limit}");
        let line = self.lines.get_mut(&endpoint).expect("pages: one for an endpoint that is not known");
        assert!(!line.page, "pages: two outstanding for {endpoint}");
        let surveyed = terms(endpoint, self.care.on).ordering == Ordering::Resource;
        let expires = self.care.is_overdue(from.0, self.peak) || surveyed;
        assert!(line.gate != Gate::Held || expires, "gate: a page for {endpoint}, which is held");
        // A clock that went back may find the page listed already. An ordered endpoint is looked at as a whole.
        let due = from.0 <= self.peak || line.gate == Gate::Closed || self.care.on;
        assert!(due, "pages: one from {from:?}, which is not due");
        line.page = true;
        self.refills += 1;
        assert!(self.refills <= self.limits.refills_max, "limits: {} pages outstanding", self.refills);
    }

    /// The page has come (`Some`), or will not.
    pub(crate) fn page_came(&mut self, outbox: &Outbox, endpoint: EndpointId, page: Option<&Page>) {
        let line = self.lines.get_mut(&endpoint).expect("only what was asked for comes");
        line.page = false;
        self.refills -= 1;
        let Some(page) = page else {
            self.seen.pages_failed += 1;
            return;
        };
        self.seen.pages += 1;
        self.seen.pages_with_more += u64::from(page.more);
        let outdated = page.deliveries.iter().any(|d| outbox.deliveries[&d.event].written != d.written);
        self.seen.pages_outdated += u64::from(outdated);
    }

    /// The process is gone: what is owed is what was accepted and has not ended, exactly.
    pub(crate) fn crashed(&mut self, outbox: &Outbox) {
        self.seen.crashes += 1;
        self.books_agree(outbox);
        for line in std::mem::take(&mut self.lines).into_values() {
            for event in line.busy.into_keys() {
                let known = &outbox.deliveries[&event];
                let tally = self.tallies.entry(event).or_default();
                // Begun, and no record says how it ended: it will be repeated.
                if tally.schedule == known.attempts_before && known.status.is_waiting() {
                    tally.excused = tally.begun.saturating_sub(known.attempts - known.attempts_before);
                    self.seen.repeated += u64::from(tally.excused > 0);
                }
            }
        }
        self.care.crashed();
        self.seats.clear();
        self.tallies.values_mut().for_each(|tally| tally.told = false);
        (self.in_flight, self.settling, self.refills) = (0, 0, 0);
    }

    /// Double entry: the outbox holds what was accepted and has not ended; no more, no less.
    pub(crate) fn books_agree(&self, outbox: &Outbox) {
        let mut owed: BTreeSet<EventId> =
            self.tallies.keys().copied().filter(|event| !self.ended.contains(event)).collect();
        for (endpoint, key) in outbox.waiting() {
            let delivery = &outbox.deliveries[&key.1];
            assert!((delivery.endpoint, delivery.key()) == (endpoint, key), "books: {} is not at {key:?}", key.1);
            assert!(owed.remove(&key.1), "books: {} is in the outbox and not owed", key.1);
        }
        assert!(owed.is_empty(), "books: owed and not in the outbox: {owed:?}");
    }

    /// As the shard was told last, or set itself.
    pub(crate) fn gate_of(&self, endpoint: EndpointId) -> Gate {
        self.lines.get(&endpoint).map_or(Gate::Closed, |line| line.gate)
    }

    /// Whether a delivery waits because retries wait for the gate. At an ordered endpoint others may wait for it.
    pub(super) fn is_spared(&self, outbox: &Outbox, endpoint: EndpointId, event: EventId) -> bool {
        let ordered = terms(endpoint, self.care.on).ordering == Ordering::Resource;
        let spared = ordered || is_retry(&outbox.deliveries[&event]);
        spared && self.gate_of(endpoint) == Gate::Ajar
    }

    pub(crate) fn is_held(&self, endpoint: EndpointId) -> bool {
        self.lines.get(&endpoint).is_some_and(|line| line.gate == Gate::Held)
    }

    /// The endpoints with an attempt in flight or a page outstanding.
    pub(crate) fn under_way(&self) -> Vec<EndpointId> {
        self.lines.iter().filter(|(_, line)| line.page || line.in_flight > 0).map(|(id, _)| *id).collect()
    }

    /// The shard is asked at `now`.
    pub(crate) fn look(&mut self, now: Timestamp) {
        self.peak = self.peak.max(now);
    }

    /// Whether the endpoint's next attempt needs nothing but permits and a turn. Conservative: what is on
    /// disk only while pages are short is left out.
    pub(super) fn can_leave(&self, line: &Line, now: Timestamp) -> bool {
        !self.care.on
            && line.gate == Gate::Open
            && self.can_be_seen(line)
            && line.in_flight < self.limits.in_flight_per_endpoint_max
            && line.waiting.first().is_some_and(|(due, _)| *due <= now)
    }

    /// A deletion is paced: no more is canceled while so many of the endpoint settle.
    pub(super) fn cancels_max(&self) -> usize {
        self.limits.in_flight_per_merchant_max * 4
    }

    /// Whether the shard has, or would have asked for, the first of what waits.
    pub(super) fn can_be_seen(&self, line: &Line) -> bool {
        !line.page && self.refills < self.limits.refills_max
    }

    pub(super) fn merchant_has_permits(&self, merchant: &MerchantId) -> bool {
        self.seats.get(merchant).is_none_or(|seat| seat.in_flight < self.limits.in_flight_per_merchant_max)
    }

    /// A merchant that could have had a turn waits at most one turn of every other merchant, and within a
    /// merchant an endpoint at most one of every other endpoint.
    fn take_turn(&mut self, delivery: &Delivery, now: Timestamp) {
        let (endpoints, mut merchants) = self.able(now);
        merchants.remove(&delivery.merchant);
        for (merchant, seat) in &mut self.seats {
            seat.waited = if merchants.contains(merchant) { seat.waited + 1 } else { 0 };
            assert!(seat.waited < self.merchants, "fairness: {merchant} has waited {} turns", seat.waited);
            self.seen.turns_awaited += u64::from(seat.waited > 0);
        }
        let siblings = self.lines.values().filter(|line| line.merchant == delivery.merchant).count();
        for (endpoint, line) in self.lines.iter_mut().filter(|(_, line)| line.merchant == delivery.merchant) {
            let passed_over = endpoints.contains(endpoint) && *endpoint != delivery.endpoint;
            line.waited = if passed_over { line.waited + 1 } else { 0 };
            assert!(line.waited < siblings, "fairness: {endpoint} has waited {} of its merchant's turns", line.waited);
        }
    }

    /// Whoever cannot have a turn at this moment has lost its place: it was paused, or the clock went back.
    pub(super) fn lose_places(&mut self, now: Timestamp) {
        let (endpoints, merchants) = self.able(now);
        self.seats.iter_mut().filter(|(id, _)| !merchants.contains(id)).for_each(|(_, seat)| seat.waited = 0);
        self.lines.iter_mut().filter(|(id, _)| !endpoints.contains(id)).for_each(|(_, line)| line.waited = 0);
    }

    /// The endpoints that could have a turn now, and the merchants.
    fn able(&self, now: Timestamp) -> (BTreeSet<EndpointId>, BTreeSet<MerchantId>) {
        let lines = || self.lines.iter().filter(|(_, line)| self.can_leave(line, now));
        let merchants = lines().map(|(_, line)| &line.merchant).filter(|merchant| self.merchant_has_permits(merchant));
        (lines().map(|(id, _)| *id).collect(), merchants.cloned().collect())
    }

    fn count_attempt(&mut self, delivery: &Delivery) {
        self.seen.attempts += 1;
        let tally = self.tallies.entry(delivery.event).or_default();
        if tally.schedule != delivery.attempts_before {
            *tally = Tally { told: tally.told, schedule: delivery.attempts_before, begun: 0, excused: 0 };
        }
        tally.begun += 1;
        let begun_max = self.schedule.delays_ms.len() as u32 + 1 + tally.excused;
        assert!(tally.begun <= begun_max, "attempts: {} of {}, {begun_max} at most", tally.begun, delivery.event);
    }

    /// Whether the verdict is one that this outcome may have: planned wait and jitter, `Retry-After` up to
    /// its bound and never in place of the plan, an end when the schedule is used up.
    fn judge(&mut self, settled: &Settled, outcome: &Outcome, gate: Gate, now: Timestamp) {
        let failures = (settled.attempts - settled.delivery.attempts_before) as usize;
        let Outcome::Failure { status, retry_after_ms, .. } = *outcome else {
            self.seen.delivered += 1;
            assert!(settled.verdict == Verdict::Delivered, "verdict: {:?} after a success", settled.verdict);
            return;
        };
        if gate == Gate::Closed {
            assert!(settled.verdict == Verdict::Canceled, "verdict: {:?} for a closed endpoint", settled.verdict);
            return;
        }
        let Some(&delay_ms) = self.schedule.delays_ms.get(failures - 1) else {
            self.seen.failed += 1;
            assert!(settled.verdict == Verdict::Failed, "verdict: {:?} after failure {failures}", settled.verdict);
            return;
        };
        let Verdict::RetryAt(due) = settled.verdict else {
            panic!("verdict: {:?} after failure {failures}", settled.verdict);
        };
        self.seen.retries += 1;
        let heard_ms = if matches!(status, Some(429 | 503)) { retry_after_ms.unwrap_or(0) } else { 0 };
        let asked_ms = heard_ms.min(self.schedule.retry_after_ms_max);
        self.seen.clamped += u64::from(heard_ms > asked_ms);
        let spread_ms = (delay_ms as f64 * self.schedule.jitter).ceil() as u64;
        let least_ms = delay_ms.saturating_sub(spread_ms).max(asked_ms);
        let most_ms = (delay_ms + spread_ms).max(asked_ms);
        let wait_ms = due.since_ms(now);
        assert!(wait_ms >= least_ms, "nothing early: back in {wait_ms} ms, not {least_ms}, after {outcome:?}");
        assert!(wait_ms <= most_ms, "nothing late: back in {wait_ms} ms, not {most_ms}, after {outcome:?}");
    }

    fn landed(&mut self, endpoint: EndpointId, merchant: &MerchantId) {
        let line = self.line(endpoint, merchant);
        line.in_flight -= 1;
        self.in_flight -= 1;
        self.seats.get_mut(merchant).expect("an attempt that ends had begun").in_flight -= 1;
    }

    fn taken(&mut self, delivery: &Delivery) {
        self.settling += 1;
        let line = self.line(delivery.endpoint, &delivery.merchant);
        line.waiting.remove(&delivery.key());
        let before = line.busy.insert(delivery.event, Busy::Settling);
        assert!(before.is_none(), "nothing twice: {} was under way already", delivery.event);
    }

    fn line(&mut self, endpoint: EndpointId, merchant: &MerchantId) -> &mut Line {
        self.seats.entry(merchant.clone()).or_default();
        // What the shard is told of an endpoint that it does not know belongs to a deleted one.
        self.lines.entry(endpoint).or_insert_with(|| Line {
            merchant: merchant.clone(),
            gate: Gate::Closed,
            busy: BTreeMap::new(),
            waiting: BTreeSet::new(),
            page: false,
            in_flight: 0,
            waited: 0,
        })
    }
}

/// Whether a delivery has failed in its present schedule.
fn is_retry(delivery: &Delivery) -> bool {
    delivery.attempts > delivery.attempts_before
}

/// What the shard hands out is the delivery as it is recorded, with the payload that is its own or none.
fn as_recorded(outbox: &Outbox, delivery: &Delivery) {
    let event = delivery.event;
    let known = outbox.deliveries.get(&event).unwrap_or_else(|| panic!("as recorded: {event} was never accepted"));
    let facts = |d: &Delivery| {
        let owner = (d.event, d.endpoint, d.merchant.clone(), d.event_type, d.resource, d.sequence);
        let state: (Status, Timestamp, u32, u32) = (d.status, d.due, d.attempts, d.attempts_before);
        (owner, state, d.location, d.written, d.last_attempt)
    };
    assert!(facts(delivery) == facts(known), "as recorded: {delivery:?} is {known:?}");
    let own = delivery.payload.as_ref().is_none_or(|bytes| *bytes == payload(delivery.sequence));
    assert!(own, "as recorded: {event} has the payload of another");
}
