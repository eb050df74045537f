//! Durations and sizes as people write them: `"30s"`, `"256KiB"`.
//!
//! Never takes a number without its unit.

use serde::{Deserialize, Deserializer, de::Error};

const DURATIONS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZES: [(&str, u64); 5] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

/// A duration as milliseconds.
pub(super) fn ms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    parse_ms(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// A list of durations as milliseconds.
pub(super) fn many_ms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u64>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| parse_ms(text)).collect::<Result<_, _>>().map_err(D::Error::custom)
}

/// A size as bytes.
pub(super) fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    parse_bytes(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// Milliseconds in the largest unit that fits.
pub(super) fn show_ms(ms: u64) -> String {
    show(ms, &DURATIONS)
}

/// Bytes in the largest unit that fits.
pub(super) fn show_bytes(bytes: u64) -> String {
    show(bytes, &SIZES)
}

fn parse_ms(text: &str) -> Result<u64, String> {
    parse(text, &DURATIONS)
        .ok_or_else(|| format!("{text:?} is no duration: write a whole number and ms, s, m, h or d, such as \"30s\""))
}

fn parse_bytes(text: &str) -> Result<usize, String> {
    let size = parse(text, &SIZES).and_then(|size| usize::try_from(size).ok());
    size.ok_or_else(|| {
        format!("{text:?} is no size: write a whole number and B, KiB, MiB, GiB or TiB, such as \"64MiB\"")
    })
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn show(value: u64, units: &[(&str, u64)]) -> String {
    let fitting = units.iter().rev().find(|(_, factor)| value > 0 && value.is_multiple_of(*factor));
    let (unit, factor) = fitting.unwrap_or(&units[0]);
    format!("{}{unit}", value / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_need_their_unit() {
        for (text, expect) in [("250ms", 250), ("30s", 30_000), ("5m", 300_000), ("24h", 86_400_000), ("0s", 0)] {
            assert_eq!(parse_ms(text), Ok(expect), "{text}");
        }
        for (text, expect) in [("1B", 1), ("16KiB", 16_384), ("1TiB", 1 << 40)] {
            assert_eq!(parse_bytes(text), Ok(expect), "{text}");
        }
        for bad in [
            "",
            "30",
            "s",
            "30 s",
            "-1s",
            "+1s",
            "1.5s",
            "30S",
            "1w",
            "30sec",
            "99999999999999999999s",
            "9999999999999999d",
        ] {
            assert!(parse_ms(bad).is_err(), "{bad}");
        }
        for bad in ["", "64", "MiB", "64MB", "64mib", "64 MiB", "18446744073709551615TiB"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn values_are_shown_as_they_are_written() {
        for (ms, expect) in [(0, "0ms"), (250, "250ms"), (30_000, "30s"), (90_000, "90s"), (86_400_000, "1d")] {
            assert_eq!(show_ms(ms), expect);
        }
        assert_eq!(show_bytes(256 << 10), "256KiB");
        assert_eq!(show_bytes(1000), "1000B");
    }
}
