//! Names of things: merchants by the operator's own names, endpoints by number, events by UUIDv7.
//!
//! Never makes up randomness or reads a clock: both are arguments.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::Timestamp;

/// A text that is not an id of the kind asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidId;

/// The operator's name for a merchant: 1 to 64 of `A-Z a-z 0-9 _ -`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MerchantId(Arc<str>);

impl MerchantId {
    /// The longest merchant id in bytes.
    pub const LEN_MAX: usize = 64;

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MerchantId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<MerchantId, InvalidId> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if text.is_empty() || text.len() > Self::LEN_MAX || !text.bytes().all(legal) {
            return Err(InvalidId);
        }
        Ok(MerchantId(text.into()))
    }
}

impl fmt::Display for MerchantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MerchantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An endpoint's number, given out once and never again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(pub u64);

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ep_{}", self.0)
    }
}

/// Where a record stands in the journal. Later records compare greater. Opaque to all but the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location(pub u64);

impl Location {
    /// Before every record.
    pub const ZERO: Location = Location(0);
}

/// A UUIDv7 (RFC 9562): 48 bits of milliseconds, then version, variant and 74 free bits.
/// Shown as `evt_` and 26 digits of Crockford base32, which sorts as the number does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(u128);

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const PREFIX: &str = "evt_";
const DIGITS: usize = 26;

impl EventId {
    /// Smaller than every id that is given out.
    pub const MIN: EventId = EventId(0);
    /// Greater than every id that is given out.
    pub const MAX: EventId = EventId(u128::MAX);

    /// The id that follows `last`: of the moment `now`, and greater than `last` even when the clock
    /// stood still or went back. `random` fills the free bits.
    #[must_use]
    pub fn next(last: EventId, now: Timestamp, random: u128) -> EventId {
        let ms = u128::try_from(now.as_ms()).unwrap_or(0) & 0xffff_ffff_ffff;
        let fresh =
            (ms << 80) | (0x7 << 76) | ((random >> 64 & 0xfff) << 64) | (0b10 << 62) | (random & 0x3fff_ffff_ffff_ffff);
        if fresh > last.0 {
            return EventId(fresh);
        }
        EventId(last.successor())
    }

    /// The smallest id of the moment `at`.
    pub fn floor(at: Timestamp) -> EventId {
        EventId((u128::try_from(at.as_ms()).unwrap_or(0) & 0xffff_ffff_ffff) << 80)
    }

    /// When the event was accepted, as the id says it.
    pub fn accepted_at(self) -> Timestamp {
        Timestamp::from_ms(i64::try_from(self.0 >> 80).unwrap_or(i64::MAX))
    }

    /// The id as a number.
    pub const fn as_u128(self) -> u128 {
        self.0
    }

    /// From the number.
    pub const fn from_u128(number: u128) -> EventId {
        EventId(number)
    }

    /// The greatest number below this one.
    #[must_use]
    pub const fn before(self) -> EventId {
        EventId(self.0.saturating_sub(1))
    }

    /// The smallest number above this one.
    #[must_use]
    pub const fn after(self) -> EventId {
        EventId(self.0.saturating_add(1))
    }

    /// The next number that is still a UUIDv7: the free bits count up, over version and variant.
    fn successor(self) -> u128 {
        let low = self.0 & 0x3fff_ffff_ffff_ffff;
        let middle = self.0 >> 64 & 0xfff;
        let ms = self.0 >> 80;
        let free = ((ms << 12 | middle) << 62 | low) + 1;
        let low = free & 0x3fff_ffff_ffff_ffff;
        let middle = free >> 62 & 0xfff;
        let ms = free >> 74;
        (ms << 80) | (0x7 << 76) | (middle << 64) | (0b10 << 62) | low
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; DIGITS];
        for (i, digit) in text.iter_mut().enumerate() {
            let shift = 5 * (DIGITS - 1 - i);
            *digit = ALPHABET[(self.0 >> shift & 31) as usize];
        }
        f.write_str(PREFIX)?;
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for EventId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<EventId, InvalidId> {
        let digits = text.strip_prefix(PREFIX).ok_or(InvalidId)?.as_bytes();
        if digits.len() != DIGITS || digits[0] > b'7' {
            return Err(InvalidId);
        }
        let mut number = 0u128;
        for digit in digits {
            let value = ALPHABET.iter().position(|a| a == digit).ok_or(InvalidId)?;
            number = number << 5 | value as u128;
        }
        Ok(EventId(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow_even_when_the_clock_goes_back() {
        let mut last = EventId::MIN;
        for (ms, random) in [(5_000, u128::MAX), (5_000, 0), (4_000, 7), (4_000, u128::MAX), (6_000, 1)] {
            let id = EventId::next(last, Timestamp::from_ms(ms), random);
            assert!(id > last);
            assert_eq!(id.as_u128() >> 76 & 0xf, 7, "version");
            assert_eq!(id.as_u128() >> 62 & 0b11, 0b10, "variant");
            last = id;
        }
        assert_eq!(last.accepted_at(), Timestamp::from_ms(6_000));
    }

    #[test]
    fn text_round_trips_and_sorts_like_the_number() {
        let a = EventId::next(EventId::MIN, Timestamp::from_ms(1_700_000_000_000), 42);
        let b = EventId::next(a, Timestamp::from_ms(1_700_000_000_000), 0);
        assert_eq!(a.to_string().len(), 30);
        assert_eq!(a.to_string().parse(), Ok(a));
        assert!(a.to_string() < b.to_string());
        assert!(!a.to_string().contains('.'), "Standard Webhooks forbids dots in ids");
        for bad in ["", "evt_", "evt_zzzzzzzzzzzzzzzzzzzzzzzzzz", "evt_0123", "msg_01234567890123456789012345"] {
            assert_eq!(bad.parse::<EventId>(), Err(InvalidId), "{bad}");
        }
    }

    #[test]
    fn merchant_ids_are_plain_words() {
        assert!("acme-1_B".parse::<MerchantId>().is_ok());
        for bad in ["", "a b", "a/b", "é", "a.b", &"x".repeat(65)] {
            assert!(bad.parse::<MerchantId>().is_err(), "{bad}");
        }
    }
}
