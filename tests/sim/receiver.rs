//! Receivers: what comes back for an attempt, and after how long.
//!
//! Never remembers anything: an answer follows from the habit, the time and the dice.

use posthaste::model::{ErrorCode, Outcome};

use crate::dice::Dice;

/// No attempt takes longer.
pub(crate) const DEADLINE_MS: u64 = 10_000;

/// How a receiver behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Habit {
    /// 2xx.
    Sound,
    /// Nobody listens, or an error status.
    Failing,
    /// Nothing comes until the deadline.
    Hanging,
    /// Sound and failing by turns.
    Flapping { turn_ms: u64 },
    /// 429 or 503, mostly with `Retry-After`.
    Busy,
    /// 410 now and then.
    Leaving,
    /// Any of these.
    Moody,
}

const HABITS: [Habit; 6] =
    [Habit::Sound, Habit::Failing, Habit::Hanging, Habit::Busy, Habit::Leaving, Habit::Flapping { turn_ms: 7_000 }];

/// One receiver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Receiver {
    habit: Habit,
    /// Goes on as before when the faults stop.
    pub(crate) stubborn: bool,
}

impl Receiver {
    pub(crate) fn random(dice: &mut Dice) -> Receiver {
        let habit = match dice.below(3) {
            0 => Habit::Sound,
            1 => Habit::Moody,
            _ => dice.pick(&HABITS),
        };
        // One that answers 410 is held by that, so it would never be done.
        let can_be_stubborn = matches!(habit, Habit::Failing | Habit::Hanging | Habit::Busy);
        Receiver { habit, stubborn: can_be_stubborn && dice.one_in(3) }
    }

    /// How long the attempt takes and how it ends.
    pub(crate) fn answer(&self, dice: &mut Dice, clock_ms: u64, mended: bool) -> (u64, Outcome) {
        let habit = if mended && !self.stubborn { Habit::Sound } else { self.habit };
        let duration_ms = match dice.below(8) {
            0 | 1 => dice.between(0, 1),
            2 => dice.between(300, DEADLINE_MS),
            _ => dice.between(2, 300),
        };
        answer_of(habit, dice, clock_ms, duration_ms)
    }
}

fn answer_of(habit: Habit, dice: &mut Dice, clock_ms: u64, duration_ms: u64) -> (u64, Outcome) {
    let outcome = match habit {
        Habit::Sound => Outcome::of_status(dice.pick(&[200, 201, 204, 299]), None),
        Habit::Failing => match dice.below(5) {
            0 => Outcome::failed(ErrorCode::ConnectRefused),
            1 => Outcome::failed(ErrorCode::Dns),
            2 => Outcome::of_status(302, None),
            3 => Outcome::of_status(404, None),
            // Only 429 and 503 are heard when they say when to come back.
            _ => Outcome::of_status(500, Some(3_600_000)),
        },
        Habit::Hanging => return (DEADLINE_MS, Outcome::failed(ErrorCode::Timeout)),
        Habit::Flapping { turn_ms } if (clock_ms / turn_ms).is_multiple_of(2) => {
            return answer_of(Habit::Sound, dice, clock_ms, duration_ms);
        }
        Habit::Flapping { .. } => return answer_of(Habit::Failing, dice, clock_ms, duration_ms),
        Habit::Busy => {
            let asked_ms = dice.pick(&[None, Some(0), Some(700), Some(45_000), Some(90_000_000), Some(u64::MAX)]);
            Outcome::of_status(dice.pick(&[429, 503]), asked_ms)
        }
        Habit::Leaving if dice.one_in(4) => Outcome::of_status(410, None),
        Habit::Leaving => return answer_of(Habit::Sound, dice, clock_ms, duration_ms),
        Habit::Moody => {
            let habit = if dice.one_in(2) { Habit::Sound } else { dice.pick(&HABITS) };
            return answer_of(habit, dice, clock_ms, duration_ms);
        }
    };
    (duration_ms, outcome)
}
