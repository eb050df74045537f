//! Since when nothing but failure came from an endpoint, and when that is enough to switch it off.
//!
//! Never switches anything off itself, never counts failures that are our own fault.

use crate::model::Timestamp;

/// When failing is shown, and when it ends in switching off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Nothing but failures for so long, and it is shown and recorded.
    pub shown_after_ms: u64,
    /// Nothing but failures for so long, and the endpoint is disabled; 0: never.
    pub disable_after_ms: u64,
    /// Only if two of the failures lay at least so far apart within twice that time: single failures far
    /// apart, as at an endpoint that hardly gets any events, are no proof. 0: any failures are.
    pub spread_ms: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        const HOUR_MS: u64 = 3_600_000;
        Limits { shown_after_ms: HOUR_MS, disable_after_ms: 5 * 24 * HOUR_MS, spread_ms: 12 * HOUR_MS }
    }
}

/// What an outcome changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It has been failing since then: to be recorded and shown.
    Failing(Timestamp),
    /// It is well again, and was shown as failing.
    Recovered,
    /// It has failed for too long.
    TooLong,
}

/// Failures since the last success.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Streak {
    run: Option<Run>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    first: Timestamp,
    /// Where the span began in which the failures are looked at for being spread.
    anchor: Timestamp,
    spread: bool,
    shown: bool,
}

impl Streak {
    /// A streak as recorded before a restart.
    pub fn since(first: Option<Timestamp>) -> Streak {
        Streak { run: first.map(|first| Run { first, anchor: first, spread: false, shown: true }) }
    }

    /// Hears that an attempt failed.
    pub fn failed(&mut self, limits: &Limits, now: Timestamp) -> Option<Turn> {
        let run = self.run.get_or_insert(Run { first: now, anchor: now, spread: false, shown: false });
        let within_ms = now.since_ms(run.anchor);
        if limits.spread_ms == 0 {
            run.spread = true;
        } else if within_ms > limits.spread_ms.saturating_mul(2) {
            run.anchor = now;
        } else if within_ms >= limits.spread_ms {
            run.spread = true;
        }
        let lasted_ms = now.since_ms(run.first);
        if run.spread && limits.disable_after_ms > 0 && lasted_ms >= limits.disable_after_ms {
            return Some(Turn::TooLong);
        }
        if run.shown || lasted_ms < limits.shown_after_ms {
            return None;
        }
        run.shown = true;
        Some(Turn::Failing(run.first))
    }

    /// Hears that an attempt succeeded.
    pub fn succeeded(&mut self) -> Option<Turn> {
        self.run.take().filter(|run| run.shown).map(|_| Turn::Recovered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_ms(1_700_000_000_000);

    fn hours(n: u64) -> Timestamp {
        START.plus_ms(n * 3_600_000)
    }

    /// What failures at these hours change.
    fn turns(at: impl IntoIterator<Item = u64>) -> Vec<Turn> {
        let mut streak = Streak::default();
        at.into_iter().filter_map(|hour| streak.failed(&Limits::default(), hours(hour))).collect()
    }

    #[test]
    fn five_days_of_nothing_but_failures_are_too_long() {
        assert_eq!(turns(0..120), [Turn::Failing(START)]);
        assert_eq!(turns(0..=120), [Turn::Failing(START), Turn::TooLong]);
    }

    #[test]
    fn failures_that_are_not_spread_are_no_proof() {
        assert_eq!(turns([0, 1, 2, 120, 121]), [Turn::Failing(START)], "an hour of failures, and one five days later");
        assert_eq!(turns([0, 120, 132]), [Turn::Failing(START), Turn::TooLong]);
        assert_eq!(turns([0, 100, 200]), [Turn::Failing(START)]);
    }

    #[test]
    fn a_success_forgives_everything() {
        let mut streak = Streak::default();
        for hour in 0..119 {
            streak.failed(&Limits::default(), hours(hour));
        }
        assert_eq!(streak.succeeded(), Some(Turn::Recovered));
        assert_eq!(streak.succeeded(), None);
        assert_eq!(streak.failed(&Limits::default(), hours(120)), None);
    }

    #[test]
    fn a_short_bad_spell_is_not_worth_a_record() {
        let mut streak = Streak::default();
        assert_eq!(streak.failed(&Limits::default(), START), None);
        assert_eq!(streak.failed(&Limits::default(), START.plus_ms(3_599_999)), None);
        assert_eq!(streak.succeeded(), None);
    }

    #[test]
    fn a_recorded_streak_goes_on_after_a_restart() {
        let mut streak = Streak::since(Some(START));
        assert_eq!(streak.failed(&Limits::default(), hours(110)), None, "shown already");
        assert_eq!(streak.failed(&Limits::default(), hours(122)), Some(Turn::TooLong));
        assert_eq!(Streak::since(Some(START)).succeeded(), Some(Turn::Recovered));
    }

    #[test]
    fn never_is_an_option() {
        let limits = Limits { disable_after_ms: 0, ..Limits::default() };
        let mut streak = Streak::default();
        let last = (0..10_000).filter_map(|hour| streak.failed(&limits, hours(hour))).last();
        assert_eq!(last, Some(Turn::Failing(START)));
    }
}
