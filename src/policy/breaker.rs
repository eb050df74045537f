//! Whether an endpoint is worth an attempt: closed, open, probing.
//!
//! Never reads a clock or throws dice: the moment and the chance are arguments. What it holds back waits and
//! uses up no attempt.

use crate::model::{Outcome, Timestamp};

/// The fraction by which a wait is made shorter or longer, so that endpoints that failed together are not
/// probed together.
const JITTER: f64 = 0.2;

/// When a breaker opens and closes. The difference between the two counts is the hysteresis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// So many failures in a row open it; 0: nothing does.
    pub failures_to_open: u32,
    /// So many successes in a row, one probe at a time, close it.
    pub successes_to_close: u32,
    /// How long it stays open before the first probe.
    pub wait_ms: u64,
    /// Each probe that fails doubles the wait, up to here.
    pub wait_ms_max: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { failures_to_open: 10, successes_to_close: 2, wait_ms: 5_000, wait_ms_max: 60_000 }
    }
}

/// One endpoint's breaker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Breaker {
    state: State,
    /// The last wait. It is forgotten only after as many successes as closed the breaker, so that an
    /// endpoint that flaps is probed more and more rarely.
    wait_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed { failures: u32, successes: u32 },
    Open,
    Probing { successes: u32 },
}

impl Default for State {
    fn default() -> State {
        State::Closed { failures: 0, successes: 0 }
    }
}

impl Breaker {
    /// One that is probed before it is trusted.
    pub fn doubtful() -> Breaker {
        Breaker { state: State::Probing { successes: 0 }, wait_ms: 0 }
    }

    /// Hears how an attempt ended. `Some`: it has opened, and is to be woken at that moment.
    pub fn after(&mut self, limits: &Limits, now: Timestamp, outcome: &Outcome, chance: f64) -> Option<Timestamp> {
        if outcome.error().is_none() {
            self.succeeded(limits);
            return None;
        }
        match &mut self.state {
            // Attempts begun before it opened tell nothing new.
            State::Open => None,
            State::Probing { .. } if limits.failures_to_open == 0 => {
                self.state = State::default();
                None
            }
            State::Probing { .. } => Some(self.open(limits, now, outcome, chance)),
            State::Closed { failures, successes } => {
                *failures = failures.saturating_add(1);
                *successes = 0;
                let reason = *failures >= limits.failures_to_open || asked_ms(outcome) > 0;
                (reason && limits.failures_to_open > 0).then(|| self.open(limits, now, outcome, chance))
            }
        }
    }

    /// The wait is over: one attempt shows whether the endpoint is back.
    pub fn wake(&mut self) {
        if self.state == State::Open {
            self.state = State::Probing { successes: 0 };
        }
    }

    /// Whether an attempt may begin while `in_flight` others are under way.
    pub fn admits(&self, in_flight: usize) -> bool {
        match self.state {
            State::Closed { .. } => true,
            State::Probing { .. } => in_flight == 0,
            State::Open => false,
        }
    }

    /// Whether it is neither open nor probing.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    fn succeeded(&mut self, limits: &Limits) {
        match &mut self.state {
            State::Closed { failures, successes } => {
                *failures = 0;
                *successes = successes.saturating_add(1);
                if *successes >= limits.successes_to_close {
                    self.wait_ms = 0;
                }
            }
            State::Probing { successes } => {
                *successes += 1;
                if *successes >= limits.successes_to_close {
                    self.state = State::default();
                }
            }
            State::Open => {}
        }
    }

    fn open(&mut self, limits: &Limits, now: Timestamp, outcome: &Outcome, chance: f64) -> Timestamp {
        self.state = State::Open;
        let least_ms = limits.wait_ms.min(limits.wait_ms_max);
        self.wait_ms = self.wait_ms.saturating_mul(2).clamp(least_ms, limits.wait_ms_max);
        let varied_ms = (self.wait_ms as f64 * (1.0 + JITTER * (2.0 * chance - 1.0))).round() as u64;
        now.plus_ms(varied_ms.max(asked_ms(outcome).min(limits.wait_ms_max)))
    }
}

/// How long a receiver that is too busy for all of us asks to be left alone (RFC 6585, 4; RFC 9110, 15.6.4).
fn asked_ms(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Failure { status: Some(429 | 503), retry_after_ms: Some(asked_ms), .. } => *asked_ms,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ErrorCode;

    const NOW: Timestamp = Timestamp::from_ms(1_700_000_000_000);
    const GOOD: Outcome = Outcome::Success { status: 200 };
    const BAD: Outcome = Outcome::failed(ErrorCode::Timeout);

    fn limits() -> Limits {
        Limits { failures_to_open: 3, successes_to_close: 2, wait_ms: 1_000, wait_ms_max: 5_000 }
    }

    /// A breaker after these outcomes, woken whenever it opens, and the waits until then.
    fn lived(outcomes: &[Outcome]) -> (Breaker, Vec<u64>) {
        let (mut breaker, mut waits) = (Breaker::default(), Vec::new());
        for outcome in outcomes {
            if let Some(until) = breaker.after(&limits(), NOW, outcome, 0.5) {
                assert!(!breaker.admits(0), "an open breaker admits nothing");
                waits.push(until.since_ms(NOW));
                breaker.wake();
            }
        }
        (breaker, waits)
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_them_does_not() {
        assert_eq!(lived(&[BAD, BAD, BAD]).1, [1_000]);
        assert_eq!(lived(&[BAD, BAD, GOOD, BAD, BAD]).1, [0; 0]);
    }

    #[test]
    fn it_closes_only_after_successes_in_a_row_one_at_a_time() {
        let (probing, _) = lived(&[BAD, BAD, BAD, GOOD]);
        assert!(!probing.is_closed());
        assert!(probing.admits(0) && !probing.admits(1));
        let (closed, _) = lived(&[BAD, BAD, BAD, GOOD, GOOD]);
        assert!(closed.is_closed() && closed.admits(7));
    }

    #[test]
    fn each_failed_probe_doubles_the_wait_up_to_the_limit() {
        assert_eq!(lived(&[BAD; 7]).1, [1_000, 2_000, 4_000, 5_000, 5_000]);
    }

    #[test]
    fn an_endpoint_that_flaps_waits_longer_and_one_that_stays_well_is_forgiven() {
        let flapping = [BAD, BAD, BAD, GOOD, GOOD, BAD, BAD, BAD];
        assert_eq!(lived(&flapping).1, [1_000, 2_000]);
        let healed = [BAD, BAD, BAD, GOOD, GOOD, GOOD, GOOD, BAD, BAD, BAD];
        assert_eq!(lived(&healed).1, [1_000, 1_000]);
    }

    #[test]
    fn what_was_begun_before_it_opened_neither_lengthens_nor_ends_the_wait() {
        let mut breaker = Breaker::default();
        for _ in 0..3 {
            breaker.after(&limits(), NOW, &BAD, 0.5);
        }
        let before = breaker.clone();
        assert_eq!(breaker.after(&limits(), NOW, &BAD, 0.5), None);
        assert_eq!(breaker.after(&limits(), NOW, &GOOD, 0.5), None);
        assert_eq!(breaker, before);
    }

    #[test]
    fn one_in_doubt_is_probed_first_and_opens_at_once() {
        let mut breaker = Breaker::doubtful();
        assert!(breaker.admits(0) && !breaker.admits(1) && !breaker.is_closed());
        assert_eq!(breaker.after(&limits(), NOW, &BAD, 0.5), Some(NOW.plus_ms(1_000)));
        let mut breaker = Breaker::doubtful();
        assert!((0..2).all(|_| breaker.after(&limits(), NOW, &GOOD, 0.5).is_none()));
        assert!(breaker.is_closed());
    }

    #[test]
    fn a_receiver_that_asks_for_time_gets_it_at_once_within_the_limit() {
        let busy = |status, ms| Outcome::of_status(status, Some(ms));
        assert_eq!(lived(&[busy(429, 3_000)]).1, [3_000]);
        assert_eq!(lived(&[busy(503, 3_600_000)]).1, [5_000]);
        assert_eq!(lived(&[busy(429, 1)]).1, [1_000]);
        assert_eq!(lived(&[busy(500, 3_000)]).1, [0; 0]);
    }

    #[test]
    fn chance_spreads_the_probes() {
        let wait = |chance| {
            let mut breaker = Breaker::default();
            let opened = (0..3).find_map(|_| breaker.after(&limits(), NOW, &BAD, chance));
            opened.map(|until| until.since_ms(NOW))
        };
        assert_eq!([wait(0.0), wait(0.5), wait(1.0)], [Some(800), Some(1_000), Some(1_200)]);
    }

    #[test]
    fn no_failures_to_open_means_never() {
        let limits = Limits { failures_to_open: 0, ..limits() };
        let mut breaker = Breaker::default();
        assert!((0..100).all(|_| breaker.after(&limits, NOW, &BAD, 0.5).is_none()));
        assert!(breaker.admits(9));
        let mut doubtful = Breaker::doubtful();
        assert_eq!(doubtful.after(&limits, NOW, &BAD, 0.5), None);
        assert!(doubtful.admits(9));
    }
}
