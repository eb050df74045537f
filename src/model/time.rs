//! A point in wall-clock time and its arithmetic, which saturates.
//!
//! Never reads a clock: every `Timestamp` is handed in.

use std::fmt;
use std::ops::RangeInclusive;

/// Milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The Unix epoch: earlier than every moment that the product will meet.
    pub const ZERO: Timestamp = Timestamp(0);
    /// Later than every moment that the product will meet.
    pub const MAX: Timestamp = Timestamp(i64::MAX);

    /// From milliseconds since the Unix epoch.
    pub const fn from_ms(ms: i64) -> Timestamp {
        Timestamp(ms)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_ms(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down.
    pub const fn as_s(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// This moment and `ms` milliseconds more.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Timestamp {
        Timestamp(self.0.saturating_add_unsigned(ms))
    }

    /// The moment so many milliseconds earlier.
    #[must_use]
    pub fn minus_ms(self, ms: u64) -> Timestamp {
        Timestamp(self.0.saturating_sub_unsigned(ms))
    }

    /// Milliseconds from `earlier` to this moment; 0 if `earlier` is not earlier.
    pub fn since_ms(self, earlier: Timestamp) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }

    /// From RFC 3339 text with any offset, rounded down. `None` where it is not that, or not of the years 0000 to 9999.
    pub fn parse(text: &str) -> Option<Timestamp> {
        Timestamp::read(text).map(|(whole, _)| whole)
    }

    /// [`Timestamp::parse`], rounded up: the first millisecond that is not before it.
    pub fn parse_up(text: &str) -> Option<Timestamp> {
        Timestamp::read(text).map(|(whole, is_exact)| if is_exact { whole } else { whole.plus_ms(1) })
    }

    /// Rounded down, and whether nothing was lost by that.
    fn read(text: &str) -> Option<(Timestamp, bool)> {
        let ns = text.parse::<jiff::Timestamp>().ok()?.as_nanosecond();
        let ms = i64::try_from(ns.div_euclid(NS_PER_MS)).ok()?;
        SHOWN_MS.contains(&ms).then_some((Timestamp(ms), ns.rem_euclid(NS_PER_MS) == 0))
    }
}

const NS_PER_MS: i128 = 1_000_000;

/// What RFC 3339 can show: the years 0000 to 9999, but for the last hours, which some offset moves into 10000.
const SHOWN_MS: RangeInclusive<i64> = -62_167_219_200_000..=253_402_207_200_000;

/// RFC 3339, UTC, always three digits of milliseconds. What is too far off is shown as far as it goes.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clamped = self.0.clamp(*SHOWN_MS.start(), *SHOWN_MS.end());
        let moment = jiff::Timestamp::from_millisecond(clamped).map_err(|_| fmt::Error)?;
        write!(f, "{moment:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_milliseconds_always() {
        assert_eq!(Timestamp::from_ms(1_700_000_000_000).to_string(), "2023-11-14T22:13:20.000Z");
        assert_eq!(Timestamp::from_ms(1_700_000_000_001).to_string(), "2023-11-14T22:13:20.001Z");
        assert_eq!(Timestamp::from_ms(-1).to_string(), "1969-12-31T23:59:59.999Z");
        assert!(Timestamp::MAX.to_string().starts_with("9999-"));
        assert!(Timestamp::from_ms(i64::MIN).to_string().starts_with("0000-"));
    }

    #[test]
    fn reads_what_it_prints_and_other_offsets() {
        let moment = Timestamp::from_ms(1_700_000_000_123);
        assert_eq!(Timestamp::parse(&moment.to_string()), Some(moment));
        assert_eq!(Timestamp::parse("2023-11-14T23:13:20.123+01:00"), Some(moment));
        for text in ["yesterday", "-000001-12-31T23:59:59Z", "9999-12-31T23:59:59Z"] {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }

    #[test]
    fn parts_of_a_millisecond_are_rounded() {
        for (text, down, up) in [
            ("1970-01-01T00:00:00.0005Z", 0, 1),
            ("1970-01-01T00:00:00.001Z", 1, 1),
            ("1970-01-01T00:00:00.001000001Z", 1, 2),
            ("1969-12-31T23:59:59.9999Z", -1, 0),
        ] {
            let parsed = (Timestamp::parse(text), Timestamp::parse_up(text));
            assert_eq!(parsed, (Some(Timestamp(down)), Some(Timestamp(up))), "{text}");
        }
        assert_eq!(Timestamp::parse_up("yesterday"), None);
    }

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Timestamp::MAX.plus_ms(1), Timestamp::MAX);
        assert_eq!(Timestamp::from_ms(5).since_ms(Timestamp::from_ms(9)), 0);
    }
}
