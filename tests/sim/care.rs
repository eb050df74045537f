//! The promises of the policy: an endpoint that fails is left alone, one that recovers is not run over, rates
//! and orders are kept, nothing is overdue, nothing is switched off early.
//!
//! Never looks into the shard: each rule is counted once more here, in the simplest way and on the safe side.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU32;

use posthaste::model::{Delivery, DisabledReason, EndpointId, Ordering, Outcome, Terms, Timestamp};
use posthaste::shard::{Gate, Policy, Settled};

use crate::outbox::Outbox;

/// What is counted of the endpoints of one life.
pub(crate) struct Care {
    pub(crate) policy: Policy,
    /// Whether it is to be counted at all; else no rule holds anything back.
    pub(crate) on: bool,
    /// Whether the wall clock jumps, so that rests may end early.
    jumps: bool,
    lines: BTreeMap<EndpointId, Line>,
}

#[derive(Default)]
struct Line {
    /// Failures in a row; the attempts that were under way when a rest began do not count.
    failures: u32,
    /// The earliest next attempt.
    rest_until_ms: u64,
    resting: bool,
    probing: bool,
    probes_good: u32,
    in_flight: usize,
    /// Attempts that it may have at a time, at most.
    room: usize,
    /// When attempts began, within the last second.
    begun_ms: VecDeque<u64>,
    first_failure: Option<Timestamp>,
}

impl Care {
    pub(crate) fn new(policy: Policy, on: bool, jumps: bool) -> Care {
        Care { policy, on, jumps, lines: BTreeMap::new() }
    }

    /// The shard is told that deliveries of the endpoint leave again, or for the first time.
    pub(crate) fn reopened(&mut self, endpoint: EndpointId) {
        let line = self.line(endpoint);
        let (in_flight, begun_ms) = (line.in_flight, std::mem::take(&mut line.begun_ms));
        *line = Line { in_flight, begun_ms, room: 1, ..Line::default() };
    }

    pub(crate) fn crashed(&mut self) {
        self.lines.clear();
    }

    /// An attempt begins.
    pub(crate) fn attempted(&mut self, outbox: &Outbox, delivery: &Delivery, clock_ms: u64) {
        if !self.on {
            return;
        }
        let terms = terms(delivery.endpoint, true);
        if terms.ordering == Ordering::Resource {
            self.follows_its_order(outbox, delivery);
        }
        let (jumps, probes) = (self.jumps, self.policy.breaker.successes_to_close);
        let line = self.line(delivery.endpoint);
        assert!(jumps || clock_ms >= line.rest_until_ms, "rest: {} is left alone and tried", delivery.endpoint);
        assert!(line.in_flight < line.room, "pace: {} has {} attempts at a time", delivery.endpoint, line.room);
        if line.resting {
            (line.resting, line.probing) = (false, line.probes_good < probes);
        }
        assert!(!line.probing || line.in_flight == 0, "pace: {} gets one probe at a time", delivery.endpoint);
        line.in_flight += 1;
        if let Some(rate) = terms.rate.filter(|_| !jumps) {
            line.begun_ms.push_back(clock_ms);
            while line.begun_ms.front().is_some_and(|begun| begun + 1_000 <= clock_ms) {
                line.begun_ms.pop_front();
            }
            let most = rate.get() as usize + 1;
            assert!(line.begun_ms.len() <= most, "rate: {} in a second, not {rate}", line.begun_ms.len());
        }
    }

    /// Nothing of the same resource that is owed comes before it.
    fn follows_its_order(&self, outbox: &Outbox, delivery: &Delivery) {
        if delivery.attempts_before > 0 || delivery.resource == 0 {
            return;
        }
        for (_, event) in outbox.waiting_of(delivery.endpoint) {
            let other = &outbox.deliveries[&event];
            let earlier = other.resource == delivery.resource && other.sequence < delivery.sequence;
            // Where the clock went back, what was accepted first may be due last.
            let excused = other.attempts_before > 0 || (self.jumps && other.attempts == 0);
            assert!(!earlier || excused, "sequence: {} overtakes {}", delivery.sequence, other.sequence);
        }
    }

    /// An attempt could not be made; `ours`: the host is at fault, and the endpoint is left alone.
    pub(crate) fn given_back(&mut self, endpoint: EndpointId, ours: bool, clock_ms: u64) {
        if !self.on {
            return;
        }
        let wait_ms = if ours { self.policy.fault_wait_ms } else { 0 };
        let line = self.line(endpoint);
        line.in_flight -= 1;
        line.rest_until_ms = line.rest_until_ms.max(clock_ms + wait_ms);
    }

    /// An attempt has ended.
    pub(crate) fn settled(&mut self, settled: &Settled, outcome: &Outcome, gate: Gate, now: Timestamp, clock_ms: u64) {
        if !self.on {
            return;
        }
        let policy = self.policy.clone();
        let endpoint = settled.delivery.endpoint;
        let line = self.line(endpoint);
        line.in_flight = line.in_flight.saturating_sub(1);
        if settled.disable == Some(DisabledReason::Failing) {
            let since = line.first_failure.expect("failing: disabled without a failure");
            let lasted_ms = now.since_ms(since);
            assert!(gate.leaves(), "failing: {endpoint} is disabled while {gate:?}");
            assert!(
                outcome.error().is_some()
                    && policy.failing.disable_after_ms > 0
                    && lasted_ms >= policy.failing.disable_after_ms,
                "failing: after {lasted_ms} ms"
            );
        }
        if outcome.error().is_none() {
            line.first_failure = None;
            line.room += 1;
            line.failures = 0;
            // One begun before the rest and ended after it may count as a probe.
            line.probes_good += 1;
            line.probing &= line.probes_good < policy.breaker.successes_to_close;
            return;
        }
        line.first_failure.get_or_insert(now);
        line.room = (line.room / 2).max(1);
        if line.resting {
            return;
        }
        line.failures += 1;
        if line.probing || line.failures >= policy.breaker.failures_to_open {
            (line.resting, line.probing, line.failures, line.probes_good) = (true, false, 0, 0);
            line.rest_until_ms = line.rest_until_ms.max(clock_ms + policy.breaker.wait_ms * 8 / 10);
        } else if matches!(outcome, Outcome::Failure { status: Some(429 | 503), retry_after_ms: Some(1..), .. }) {
            (line.resting, line.failures, line.probes_good) = (true, 0, 0);
            line.rest_until_ms = line.rest_until_ms.max(clock_ms + policy.breaker.wait_ms * 8 / 10);
        }
    }

    /// A delivery has failed without an attempt.
    pub(crate) fn expired(&self, delivery: &Delivery, now: Timestamp) {
        let overdue = self.is_overdue(delivery.due, now);
        assert!(overdue, "overdue: {} is due at {:?}, and it is {now:?}", delivery.event, delivery.due);
    }

    pub(crate) fn is_overdue(&self, due: Timestamp, now: Timestamp) -> bool {
        let most_ms = self.policy.overdue_ms_max;
        most_ms > 0 && now >= due.plus_ms(most_ms)
    }

    fn line(&mut self, endpoint: EndpointId) -> &mut Line {
        self.lines.entry(endpoint).or_insert_with(|| Line { room: 1, ..Line::default() })
    }
}

/// The terms of an endpoint: every other one is ordered, every third one has a rate.
pub(crate) fn terms(endpoint: EndpointId, care: bool) -> Terms {
    let every = |n| care && endpoint.0.is_multiple_of(n);
    Terms {
        ordering: if every(2) { Ordering::Resource } else { Ordering::Free },
        rate: NonZeroU32::new(2).filter(|_| every(3)),
        ..Terms::default()
    }
}
