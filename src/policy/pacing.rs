//! How many attempts at a time an endpoint gets, and how many a second.
//!
//! Never reads a clock: the moment is an argument. Never grants more than it is asked about.

use std::num::NonZeroU32;

use crate::model::Timestamp;

/// An answer later than this is good but not fast: it earns no more room. Half of the default deadline.
pub const SLOW_MS: u64 = 5_000;

/// How much may leave within one timer tick, in microseconds of the rate; timers are no finer than this.
const BURST_US: u64 = 10_000;

/// The attempts that an endpoint gets at a time: from 1 upwards while its answers are good and fast, half
/// as many after each failure. Doubling up to where it last failed, by steps beyond.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pace {
    room: usize,
    /// Half of the room at the last failure.
    calm: usize,
    /// Good answers since the last step.
    good: usize,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { room: 1, calm: usize::MAX, good: 0 }
    }
}

impl Pace {
    /// Hears that an attempt succeeded after `duration_ms`. `room_max` bounds the growth.
    pub fn succeeded(&mut self, duration_ms: u64, slow_ms: u64, room_max: usize) {
        if duration_ms > slow_ms {
            self.good = 0;
            return;
        }
        self.good += 1;
        if self.room < self.calm || self.good >= self.room {
            self.room = self.room.saturating_add(1).min(room_max.max(1));
            self.good = 0;
        }
    }

    /// Hears that an attempt failed.
    pub fn failed(&mut self) {
        self.room = (self.room / 2).max(1);
        self.calm = self.room;
        self.good = 0;
    }

    /// Attempts at a time.
    pub fn room(&self) -> usize {
        self.room
    }
}

/// A rate limit as a token bucket: the moment, in microseconds, from which the next token is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    next_us: u64,
}

impl Bucket {
    /// Takes a token at `now`, with `per_second` of them. `Some`: the next one is there at that moment.
    pub fn take(&mut self, now: Timestamp, per_second: NonZeroU32) -> Option<Timestamp> {
        let now_us = u64::try_from(now.as_ms()).unwrap_or(0).saturating_mul(1_000);
        // Rounded up, so that the rate is never exceeded.
        let step_us = 1_000_000_u64.div_ceil(u64::from(per_second.get()));
        self.next_us = self.next_us.max(now_us).saturating_add(step_us);
        let free_us = self.next_us.saturating_sub(BURST_US.max(step_us).saturating_sub(step_us));
        (free_us > now_us).then(|| Timestamp::from_ms(i64::try_from(free_us.div_ceil(1_000)).unwrap_or(i64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 8;
    const NOW: Timestamp = Timestamp::from_ms(1_700_000_000_000);

    fn rooms(answers: &str) -> Vec<usize> {
        let mut pace = Pace::default();
        let step = |answer: char| {
            match answer {
                'g' => pace.succeeded(10, SLOW_MS, MAX),
                's' => pace.succeeded(SLOW_MS + 1, SLOW_MS, MAX),
                _ => pace.failed(),
            }
            pace.room()
        };
        answers.chars().map(step).collect()
    }

    #[test]
    fn it_starts_at_one_and_grows_with_each_good_answer_to_the_limit() {
        assert_eq!(Pace::default().room(), 1);
        assert_eq!(rooms("ggggggggg"), [2, 3, 4, 5, 6, 7, 8, 8, 8]);
    }

    #[test]
    fn a_failure_halves_it_and_the_way_back_is_slower_beyond_the_half() {
        assert_eq!(rooms("gggggggx"), [2, 3, 4, 5, 6, 7, 8, 4]);
        assert_eq!(rooms("gggggggxggggg")[7..], [4, 4, 4, 4, 5, 5]);
        assert_eq!(rooms("xxx"), [1, 1, 1]);
    }

    #[test]
    fn slow_answers_earn_nothing() {
        assert_eq!(rooms("ggsss"), [2, 3, 3, 3, 3]);
    }

    #[test]
    fn a_limit_of_nothing_still_leaves_one() {
        let mut pace = Pace::default();
        pace.succeeded(1, SLOW_MS, 0);
        assert_eq!(pace.room(), 1);
    }

    /// Tokens taken within a second by one who always comes when the bucket said.
    fn taken_within_a_second(per_second: u32) -> u32 {
        let (mut bucket, mut now, mut taken) = (Bucket::default(), NOW, 0);
        while now < NOW.plus_ms(1_000) {
            taken += 1;
            now = bucket.take(now, NonZeroU32::new(per_second).unwrap()).unwrap_or(now);
        }
        taken
    }

    #[test]
    fn a_bucket_gives_its_rate_and_hardly_more() {
        for per_second in [1, 2, 3, 7, 10, 100, 999, 1_000, 5_000, 10_000] {
            let taken = taken_within_a_second(per_second);
            let most = per_second + per_second / 100 + 1;
            assert!((per_second..=most).contains(&taken), "{taken} of {per_second}");
        }
    }

    #[test]
    fn rest_is_not_saved_up() {
        let mut bucket = Bucket::default();
        let two = NonZeroU32::new(2).unwrap();
        assert_eq!(bucket.take(NOW, two), Some(NOW.plus_ms(500)));
        let later = NOW.plus_ms(60_000);
        assert_eq!(bucket.take(later, two), Some(later.plus_ms(500)));
    }
}
