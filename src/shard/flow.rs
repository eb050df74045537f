//! How fast one endpoint's deliveries leave: breaker, pace, rate, and rest after faults of our own.
//!
//! Never knows a delivery. Its moments are steady ones: they never go back, whatever the wall clock does.

use crate::model::{Outcome, Terms, Timestamp};
use crate::policy::breaker::Breaker;
use crate::policy::failing::{Streak, Turn};
use crate::policy::pacing::{Bucket, Pace};

use super::{Limits, Policy};

/// The steady clock of a shard: as fast as the wall clock, and never back. A wait that was set before the
/// wall clock went back must not last for as long as it went.
#[derive(Debug, Default)]
pub(super) struct Steady {
    last: Timestamp,
    /// How far the wall clock has gone back so far.
    behind_ms: u64,
}

impl Steady {
    pub(super) fn at(&mut self, now: Timestamp) -> Timestamp {
        self.behind_ms = self.behind_ms.saturating_add(self.last.since_ms(now));
        self.last = now;
        now.plus_ms(self.behind_ms)
    }

    /// When the wall clock will show a steady moment, if it does not jump.
    pub(super) fn wall(&self, steady: Timestamp) -> Timestamp {
        Timestamp::from_ms(steady.as_ms().saturating_sub_unsigned(self.behind_ms))
    }
}

/// One endpoint's.
#[derive(Debug, Default)]
pub(super) struct Flow {
    pub(super) terms: Terms,
    breaker: Breaker,
    pace: Pace,
    bucket: Bucket,
    /// When the rate lets the next one leave.
    paced_until: Option<Timestamp>,
    streak: Streak,
    /// The last wait after a fault of our own.
    fault_wait_ms: u64,
    /// Nothing leaves before this steady moment.
    pub(super) hold: Option<Timestamp>,
}

impl Flow {
    pub(super) fn new(terms: Terms) -> Flow {
        // What was failing for long is not trusted anew because this process is young.
        let breaker = if terms.failing_since.is_some() { Breaker::doubtful() } else { Breaker::default() };
        Flow { breaker, streak: Streak::since(terms.failing_since), terms, ..Flow::default() }
    }

    /// Somebody changed the endpoint: whatever it did before, it is tried anew, beginning with one attempt.
    pub(super) fn restart(&mut self, terms: Terms) {
        // The rate goes on: a change must not be a way round it.
        let (bucket, paced_until) = (self.bucket, self.paced_until);
        *self = Flow { bucket, paced_until, hold: paced_until, ..Flow::new(terms) };
    }

    /// Whether one more attempt may begin beside `in_flight` others.
    pub(super) fn admits(&self, in_flight: usize, limits: &Limits) -> bool {
        let earned = if limits.adaptive { self.pace.room() } else { usize::MAX };
        let room = earned.min(limits.in_flight_per_endpoint_max);
        self.hold.is_none() && in_flight < room && self.breaker.admits(in_flight)
    }

    /// Whether it has not failed so often that it is left alone, or only probed.
    pub(super) fn is_trusted(&self) -> bool {
        self.breaker.is_closed()
    }

    /// An attempt begins.
    pub(super) fn started(&mut self, steady: Timestamp, policy: &Policy) {
        let rate = self.terms.rate.into_iter().chain(policy.rate_max).min();
        if let Some(free) = rate.and_then(|rate| self.bucket.take(steady, rate)) {
            self.paced_until = Some(free);
            self.rest_until(free);
        }
    }

    /// An attempt has ended. What that means for the endpoint's standing.
    pub(super) fn ended(
        &mut self,
        now: Timestamp,
        steady: Timestamp,
        took: (Timestamp, usize),
        outcome: &Outcome,
        chance: f64,
        policy: &Policy,
    ) -> Option<Turn> {
        let (started, in_flight_max) = took;
        self.fault_wait_ms = 0;
        if let Some(until) = self.breaker.after(&policy.breaker, steady, outcome, chance) {
            self.rest_until(until);
        }
        if outcome.error().is_some() {
            self.pace.failed();
            return self.streak.failed(&policy.failing, now);
        }
        self.pace.succeeded(steady.since_ms(started), policy.slow_ms, in_flight_max);
        // What was recorded may be what the streak before this one was, told late.
        let recorded = self.terms.failing_since.take();
        self.streak.succeeded().or(recorded.map(|_| Turn::Recovered))
    }

    /// An attempt could not be made, and not for anything that the endpoint did.
    pub(super) fn faulted(&mut self, steady: Timestamp, policy: &Policy) {
        let least_ms = policy.fault_wait_ms.min(policy.fault_wait_ms_max);
        self.fault_wait_ms = self.fault_wait_ms.saturating_mul(2).clamp(least_ms, policy.fault_wait_ms_max);
        self.rest_until(steady.plus_ms(self.fault_wait_ms));
    }

    /// The hold has run out.
    pub(super) fn wake(&mut self) {
        self.hold = None;
        self.breaker.wake();
    }

    fn rest_until(&mut self, until: Timestamp) {
        self.hold = self.hold.max(Some(until));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steady_clock_never_goes_back() {
        let mut steady = Steady::default();
        let at = Timestamp::from_ms;
        assert_eq!(steady.at(at(10_000)), at(10_000));
        assert_eq!(steady.at(at(4_000)), at(10_000), "the wall clock went back by six seconds");
        assert_eq!(steady.at(at(5_000)), at(11_000));
        assert_eq!(steady.wall(at(12_000)), at(6_000));
        assert_eq!(steady.at(at(60_000)), at(66_000), "and forward as it likes");
    }
}
