//! How a merchant's endpoint has fared hour by hour over the last day: attempts, failures, answer times; and since when
//! nothing has succeeded.
//!
//! Never outlives the process, and says since when it counts. Never grows with events: one record per merchant.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::{MerchantId, Timestamp};

/// Hours that are kept.
pub const HOURS: usize = 24;

const HOUR_MS: i64 = 3_600_000;

/// Merchants that are counted. Further ones are not until others have been quiet for a day: about 1.5 KiB each.
pub const MERCHANTS_MAX: usize = 10_000;

/// Upper ends of the classes of answer times, in milliseconds; one more class for all above.
const BOUNDS_MS: [u32; 14] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 60_000];

/// One hour of one merchant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hour {
    /// Attempts that were answered 2xx.
    pub succeeded: u32,
    /// All other attempts.
    pub failed: u32,
    took: [u32; BOUNDS_MS.len() + 1],
}

impl Hour {
    /// Attempts.
    pub fn attempts(&self) -> u32 {
        self.succeeded.saturating_add(self.failed)
    }

    /// The time within which this part of the attempts ended, read off their classes. `None` where there were none.
    pub fn took_ms(&self, part: f64) -> Option<u32> {
        let wanted = (f64::from(self.attempts()) * part).ceil().max(1.0);
        let mut before = 0.0;
        for (class, count) in self.took.iter().enumerate().filter(|(_, count)| **count > 0) {
            let count = f64::from(*count);
            if before + count >= wanted {
                let from = class.checked_sub(1).map_or(0, |below| BOUNDS_MS[below]);
                let to = BOUNDS_MS.get(class).copied().unwrap_or(from);
                return Some(from + (f64::from(to - from) * (wanted - before) / count).round() as u32);
            }
            before += count;
        }
        None
    }

    fn add(&mut self, other: &Hour) {
        self.succeeded = self.succeeded.saturating_add(other.succeeded);
        self.failed = self.failed.saturating_add(other.failed);
        for (mine, others) in self.took.iter_mut().zip(other.took) {
            *mine = mine.saturating_add(others);
        }
    }
}

/// The last day of one merchant.
#[derive(Clone, Debug)]
pub struct Day {
    /// Each hour with its beginning, oldest first, the present one last.
    pub hours: Vec<(Timestamp, Hour)>,
    /// All of them together.
    pub whole: Hour,
    /// Nothing before this moment was counted.
    pub since: Timestamp,
}

/// Counts.
pub struct Pulse {
    since: Timestamp,
    merchants: Mutex<HashMap<MerchantId, Record>>,
}

#[derive(Default)]
struct Record {
    hours: VecDeque<(i64, Hour)>,
    /// When the first attempt after the last success failed; `None` after a success.
    failing_since: Option<Timestamp>,
}

impl Pulse {
    /// Nothing is counted yet.
    pub fn new(now: Timestamp) -> Pulse {
        Pulse { since: now, merchants: Mutex::default() }
    }

    /// An attempt has ended.
    pub fn beat(&self, merchant: &MerchantId, now: Timestamp, is_success: bool, took_ms: u32) {
        let hour = hour_of(now);
        let mut merchants = self.merchants();
        if !merchants.contains_key(merchant) {
            if merchants.len() >= MERCHANTS_MAX {
                merchants.retain(|_, record| record.hours.back().is_some_and(|(last, _)| *last > hour - HOURS as i64));
            }
            if merchants.len() >= MERCHANTS_MAX {
                return;
            }
            merchants.insert(merchant.clone(), Record::default());
        }
        let record = merchants.get_mut(merchant).expect("it is there or was just put there");
        record.failing_since = if is_success { None } else { record.failing_since.or(Some(now)) };
        let hours = &mut record.hours;
        // A clock that went back counts into the last hour.
        if hours.back().is_none_or(|(last, _)| *last < hour) {
            hours.push_back((hour, Hour::default()));
        }
        while hours.front().is_some_and(|(first, _)| *first <= hour - HOURS as i64) && hours.len() > 1 {
            hours.pop_front();
        }
        let (_, last) = hours.back_mut().expect("the present hour is there");
        let count = if is_success { &mut last.succeeded } else { &mut last.failed };
        *count = count.saturating_add(1);
        let class = BOUNDS_MS.partition_point(|bound| *bound < took_ms);
        last.took[class] = last.took[class].saturating_add(1);
    }

    /// The last day.
    pub fn day(&self, merchant: &MerchantId, now: Timestamp) -> Day {
        let last = hour_of(now);
        let merchants = self.merchants();
        let known = merchants.get(merchant);
        let find =
            |hour: i64| known.and_then(|record| record.hours.iter().find(|(at, _)| *at == hour)).map(|(_, hour)| *hour);
        let hours: Vec<(Timestamp, Hour)> = (last - HOURS as i64 + 1..=last)
            .map(|hour| (Timestamp::from_ms(hour * HOUR_MS), find(hour).unwrap_or_default()))
            .collect();
        let mut whole = Hour::default();
        hours.iter().for_each(|(_, hour)| whole.add(hour));
        Day { hours, whole, since: self.since }
    }

    /// When the first attempt after the last success failed. `None`: the last one succeeded, or none was counted.
    pub fn failing_since(&self, merchant: &MerchantId) -> Option<Timestamp> {
        self.merchants().get(merchant)?.failing_since
    }

    /// Nothing before this moment was counted.
    pub fn since(&self) -> Timestamp {
        self.since
    }

    fn merchants(&self) -> MutexGuard<'_, HashMap<MerchantId, Record>> {
        // A count that a panic left out is of no consequence.
        self.merchants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hour_of(at: Timestamp) -> i64 {
    at.as_ms().div_euclid(HOUR_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_ms(1_700_000_000_000);

    fn acme() -> MerchantId {
        "acme".parse().unwrap()
    }

    #[test]
    fn a_day_has_its_hours_and_no_others() {
        let pulse = Pulse::new(NOW);
        pulse.beat(&acme(), NOW, true, 7);
        pulse.beat(&acme(), NOW.plus_ms(HOUR_MS as u64), false, 7);
        pulse.beat(&"globex".parse().unwrap(), NOW, true, 7);
        let day = pulse.day(&acme(), NOW.plus_ms(HOUR_MS as u64));
        assert_eq!(day.hours.len(), HOURS);
        assert_eq!((day.whole.succeeded, day.whole.failed), (1, 1));
        assert_eq!(day.hours[HOURS - 1].1.failed, 1);
        let later = NOW.plus_ms(24 * HOUR_MS as u64);
        assert_eq!(pulse.day(&acme(), later).whole.attempts(), 1, "the first hour has gone by");
        pulse.beat(&acme(), later.plus_ms(24 * HOUR_MS as u64), true, 7);
        assert_eq!(pulse.merchants()[&acme()].hours.len(), 1, "nothing older is kept");
    }

    #[test]
    fn failing_begins_with_the_first_failure_and_ends_with_a_success() {
        let pulse = Pulse::new(NOW);
        let beat = |ms, is_success| pulse.beat(&acme(), NOW.plus_ms(ms), is_success, 7);
        assert_eq!(pulse.failing_since(&acme()), None);
        beat(1, false);
        beat(2, false);
        assert_eq!(pulse.failing_since(&acme()), Some(NOW.plus_ms(1)));
        beat(3, true);
        assert_eq!(pulse.failing_since(&acme()), None);
        beat(4, false);
        assert_eq!(pulse.failing_since(&acme()), Some(NOW.plus_ms(4)));
    }

    #[test]
    fn times_are_read_off_their_classes() {
        let pulse = Pulse::new(NOW);
        assert_eq!(pulse.day(&acme(), NOW).whole.took_ms(0.5), None);
        for took_ms in [0, 15, 15, 150] {
            pulse.beat(&acme(), NOW, true, took_ms);
        }
        let whole = pulse.day(&acme(), NOW).whole;
        let within = |part, low, high| {
            let took_ms = whole.took_ms(part).unwrap();
            assert!((low..=high).contains(&took_ms), "{part}: {took_ms}");
        };
        within(0.01, 0, 1);
        within(0.5, 10, 20);
        within(0.95, 100, 200);
        pulse.beat(&acme(), NOW, true, u32::MAX);
        assert_eq!(pulse.day(&acme(), NOW).whole.took_ms(1.0), Some(60_000), "the last class has no end");
    }
}
