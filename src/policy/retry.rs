//! What follows an outcome: delivered, once more at some moment, or failed.
//!
//! Never reads a clock or throws dice: the end of the attempt and the chance are arguments.

use jiff::civil::DateTime;
use jiff::fmt::strtime::BrokenDownTime;
use jiff::tz::TimeZone;

use crate::model::{Outcome, Timestamp, Verdict};

/// How long a delivery waits after each failure, and how often it is tried.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// The wait after the first failure, after the second, and so on. One more failure than there are
    /// waits, and the delivery has failed.
    pub delays_ms: Vec<u64>,
    /// The fraction by which a wait may be shorter or longer, so that deliveries that failed together
    /// do not return together; 0 to 1.
    pub jitter: f64,
    /// The longest wait that a receiver may ask for with `Retry-After`. It never shortens a planned wait.
    pub retry_after_ms_max: u64,
}

impl Default for Schedule {
    /// 5 s, 5 m, 30 m, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h: ten attempts in about 75 hours.
    fn default() -> Schedule {
        const MINUTE_MS: u64 = 60_000;
        const HOUR_MS: u64 = 60 * MINUTE_MS;
        Schedule {
            delays_ms: vec![
                5_000,
                5 * MINUTE_MS,
                30 * MINUTE_MS,
                2 * HOUR_MS,
                5 * HOUR_MS,
                10 * HOUR_MS,
                14 * HOUR_MS,
                20 * HOUR_MS,
                24 * HOUR_MS,
            ],
            jitter: 0.20,
            retry_after_ms_max: 24 * HOUR_MS,
        }
    }
}

impl Schedule {
    /// What follows an attempt that ended at `now` and was number `attempts` of the current schedule,
    /// the first being 1. `chance` is 0 to 1 and decides where in the jitter's range the wait falls.
    pub fn verdict(&self, now: Timestamp, attempts: u32, outcome: &Outcome, chance: f64) -> Verdict {
        assert!(attempts >= 1, "an attempt that ended is counted");
        assert!((0.0..=1.0).contains(&chance), "chance is a fraction of one");
        let Outcome::Failure { status, retry_after_ms, .. } = *outcome else {
            return Verdict::Delivered;
        };
        let Some(&delay_ms) = usize::try_from(attempts - 1).ok().and_then(|n| self.delays_ms.get(n)) else {
            return Verdict::Failed;
        };
        let planned_ms = (delay_ms as f64 * (1.0 + self.jitter * (2.0 * chance - 1.0))).round() as u64;
        // RFC 9110, 10.2.3 and RFC 6585, 4: only these two statuses say when to come back.
        let asked_ms = retry_after_ms.filter(|_| matches!(status, Some(429 | 503))).unwrap_or(0);
        Verdict::RetryAt(now.plus_ms(asked_ms.min(self.retry_after_ms_max).max(planned_ms)))
    }
}

/// The milliseconds from `now` that a `Retry-After` value asks for (RFC 9110, 10.2.3): a number of
/// seconds, or one of the three date formats of 5.6.7. A date that has passed asks for nothing, which
/// is `Some(0)`. `None` where the value is neither.
pub fn parse_retry_after(value: &str, now: Timestamp) -> Option<u64> {
    let value = value.trim_matches([' ', '\t']);
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than fit are still a number; the schedule bounds it.
        return Some(value.parse::<u64>().unwrap_or(u64::MAX).saturating_mul(1000));
    }
    let moment = TimeZone::UTC.to_timestamp(http_date(value)?).ok()?;
    Some(Timestamp::from_ms(moment.as_millisecond()).since_ms(now))
}

/// The moment that an HTTP date names, in UTC. A day of the week that is not that date's is no date.
fn http_date(value: &str) -> Option<DateTime> {
    // The parser skips spaces of its own accord where the grammar has exactly one.
    if value.len() > 40 || !value.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
        return None;
    }
    ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"]
        .into_iter()
        .find_map(|format| BrokenDownTime::parse(format, value).ok()?.to_datetime().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ErrorCode;

    const NOW: Timestamp = Timestamp::from_ms(1_700_000_000_000); // Tue, 14 Nov 2023 22:13:20 GMT
    const DAY_MS: u64 = 86_400_000;

    fn refused(status: u16, retry_after_ms: Option<u64>) -> Outcome {
        Outcome::of_status(status, retry_after_ms)
    }

    #[test]
    fn each_failure_waits_longer_and_the_tenth_is_the_last() {
        let waits_ms =
            [5_000, 300_000, 1_800_000, 7_200_000, 18_000_000, 36_000_000, 50_400_000, 72_000_000, 86_400_000];
        let schedule = Schedule::default();
        for (n, wait_ms) in (1..).zip(waits_ms) {
            let check = |chance: f64, expect_ms: u64| {
                let verdict = schedule.verdict(NOW, n, &Outcome::failed(ErrorCode::Timeout), chance);
                assert_eq!(verdict, Verdict::RetryAt(NOW.plus_ms(expect_ms)), "failure {n}, chance {chance}");
            };
            check(0.0, wait_ms * 8 / 10);
            check(0.5, wait_ms);
            check(1.0, wait_ms * 12 / 10);
        }
        for n in [10, 11, u32::MAX] {
            assert_eq!(schedule.verdict(NOW, n, &refused(500, None), 0.5), Verdict::Failed, "failure {n}");
        }
    }

    #[test]
    fn success_is_delivered_whenever_it_comes() {
        for n in [1, 9, 10, 11] {
            assert_eq!(Schedule::default().verdict(NOW, n, &refused(204, None), 0.5), Verdict::Delivered);
        }
    }

    #[test]
    fn retry_after_is_heard_on_429_and_503_between_the_plan_and_a_day() {
        let check = |n: u32, status: u16, asked_ms: Option<u64>, expect_ms: u64| {
            let verdict = Schedule::default().verdict(NOW, n, &refused(status, asked_ms), 0.5);
            assert_eq!(verdict, Verdict::RetryAt(NOW.plus_ms(expect_ms)), "{n} {status} {asked_ms:?}");
        };
        check(1, 429, None, 5_000);
        check(1, 429, Some(0), 5_000);
        check(1, 429, Some(4_999), 5_000);
        check(1, 429, Some(60_000), 60_000);
        check(1, 503, Some(60_000), 60_000);
        check(1, 503, Some(DAY_MS + 1), DAY_MS);
        check(1, 503, Some(u64::MAX), DAY_MS);
        check(1, 500, Some(60_000), 5_000);
        check(1, 410, Some(60_000), 5_000);
        let longest = Schedule::default().verdict(NOW, 9, &refused(503, Some(DAY_MS)), 1.0);
        assert_eq!(longest, Verdict::RetryAt(NOW.plus_ms(DAY_MS * 12 / 10)), "a planned wait is never shortened");
    }

    #[test]
    fn an_empty_schedule_tries_once() {
        let schedule = Schedule { delays_ms: Vec::new(), ..Schedule::default() };
        assert_eq!(schedule.verdict(NOW, 1, &refused(500, None), 0.5), Verdict::Failed);
        assert_eq!(schedule.verdict(NOW, 1, &refused(200, None), 0.5), Verdict::Delivered);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let check = |value: &str, expect: Option<u64>| assert_eq!(parse_retry_after(value, NOW), expect, "{value:?}");
        check("0", Some(0));
        check("120", Some(120_000));
        check(" 120\t", Some(120_000));
        check("99999999999999999999999", Some(u64::MAX));
        check("Tue, 14 Nov 2023 22:13:30 GMT", Some(10_000));
        check("Tuesday, 14-Nov-23 22:13:30 GMT", Some(10_000));
        check("Tue Nov 14 22:13:30 2023", Some(10_000));
        check("Wed Nov  1 22:13:30 2023", Some(0));
        check("Sun, 06 Nov 1994 08:49:37 GMT", Some(0));
        check("Thu, 14 Nov 2999 22:13:20 GMT", Some(30_799_612_800_000));
    }

    #[test]
    fn anything_else_is_no_retry_after() {
        for junk in [
            "",
            " ",
            "-1",
            "+1",
            "1.5",
            "1e400",
            "1e3",
            "0x10",
            "soon",
            "120 seconds",
            "١٢",
            "Tue, 14 Nov 2023 22:13:30 +0100",
            "Tue, 14 Nov 2023 22:13:30 PST",
            "Mon, 14 Nov 2023 22:13:30 GMT",
            "Tue, 31 Feb 2023 22:13:30 GMT",
            "Tue, 14 Nov 2023 25:13:30 GMT",
            "2023-11-14T22:13:30Z",
            "Tue, 14 Nov 2023\t22:13:30 GMT",
            "Tue, 14 Nov 2023 22:13:30 GMT, and more words after it",
            "NaN",
            "inf",
        ] {
            assert_eq!(parse_retry_after(junk, NOW), None, "{junk:?}");
        }
    }
}
