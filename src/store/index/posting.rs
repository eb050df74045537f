//! Blocks of history: the events of one run, by id, many to a value.
//!
//! Never interprets what an entry points to.
//!
//! ```text
//! offset  size
//!      0     1  version 2
//!      1     n  entries, ascending by id, each as what it differs in from the one before it, the first from zeros:
//!               moment of the id, the rest of it 10, location, last attempt, endpoint (0 none), when
//! ```
//!
//! Numbers are LEB128, those that may go back folded to positive ones (0, -1, 1, -2, …). The moment is the upper 48 bits of
//! an id. The last attempt is 0 for none, or 1 and how far it stands behind the event. `when`, told from the moment, is the
//! due time while an attempt is owed, and the time of the final state afterwards. A block holds the ids from its key's
//! `first` up to the next block's. Of some 18 bytes each, there are so many in a page of sled that pages cost little memory.

use crate::model::{EndpointId, EventId, Location, Timestamp};

const VERSION: u8 = 2;

/// Entries in a block.
const BLOCK_ENTRIES_MAX: usize = 320;

/// Bytes of a block, about. sled puts up to 16 values on a page, a few more for a moment, and never syncs a page of more
/// than 128 KiB.
const BLOCK_BYTES_MAX: usize = 6 << 10;

/// Bytes that the first entry of a block may have beside what it would have behind another.
const FIRST_BYTES: usize = 40;

/// The low bits of an id, which are chance.
const REST_BITS: u32 = 80;
const REST_LEN: usize = 10;

/// One event in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) location: Location,
    pub(crate) last_attempt: Option<Location>,
    pub(crate) endpoint: Option<EndpointId>,
    pub(crate) when: Timestamp,
}

/// Events of a run, ascending by id.
pub(crate) type Entries = Vec<(EventId, Entry)>;

/// What an entry is told from.
#[derive(Clone, Copy, Default)]
struct Before {
    moment: u64,
    location: u64,
    endpoint: u64,
}

impl Before {
    fn of((id, entry): &(EventId, Entry)) -> Before {
        let endpoint = entry.endpoint.map_or(0, |endpoint| endpoint.0);
        Before { moment: moment(*id), location: entry.location.0, endpoint }
    }

    fn encode(&self, id: EventId, entry: &Entry, bytes: &mut Vec<u8>) {
        let now = Before::of(&(id, *entry));
        put(bytes, now.moment.wrapping_sub(self.moment));
        bytes.extend_from_slice(&id.as_u128().to_be_bytes()[16 - REST_LEN..]);
        put(bytes, folded(now.location.wrapping_sub(self.location)));
        match entry.last_attempt {
            None => put(bytes, 0),
            Some(last) => {
                put(bytes, 1);
                put(bytes, folded(last.0.wrapping_sub(now.location)));
            }
        }
        put(bytes, folded(now.endpoint.wrapping_sub(self.endpoint)));
        put(bytes, folded((entry.when.as_ms() as u64).wrapping_sub(now.moment)));
    }

    fn decode(&self, bytes: &mut &[u8]) -> Option<(EventId, Entry)> {
        let moment = self.moment.wrapping_add(take(bytes)?);
        let (rest, behind) = bytes.split_at_checked(REST_LEN)?;
        *bytes = behind;
        let rest = rest.iter().fold(0, |rest: u128, byte| rest << 8 | u128::from(*byte));
        let location = self.location.wrapping_add(unfolded(take(bytes)?));
        let last_attempt = match take(bytes)? {
            0 => None,
            1 => Some(Location(location.wrapping_add(unfolded(take(bytes)?)))),
            _ => return None,
        };
        let endpoint = self.endpoint.wrapping_add(unfolded(take(bytes)?));
        let when = moment.wrapping_add(unfolded(take(bytes)?));
        let entry = Entry {
            location: Location(location),
            last_attempt,
            endpoint: (endpoint != 0).then_some(EndpointId(endpoint)),
            when: Timestamp::from_ms(when as i64),
        };
        Some((EventId::from_u128(u128::from(moment) << REST_BITS | rest), entry))
    }
}

/// A block's entries, or `None` where the bytes are not one.
pub(crate) fn decode(bytes: &[u8]) -> Option<Entries> {
    let (&VERSION, mut rest) = bytes.split_first()? else { return None };
    let (mut entries, mut before) = (Entries::new(), Before::default());
    while !rest.is_empty() {
        let entry = before.decode(&mut rest)?;
        before = Before::of(&entry);
        entries.push(entry);
    }
    Some(entries)
}

/// A block's bytes.
pub(crate) fn encode(entries: &[(EventId, Entry)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FIRST_BYTES + entries.len() * 20);
    bytes.push(VERSION);
    let mut before = Before::default();
    for entry in entries {
        before.encode(entry.0, &entry.1, &mut bytes);
        before = Before::of(entry);
    }
    bytes
}

/// How many of these entries fill a block.
pub(crate) fn room(entries: &[(EventId, Entry)]) -> usize {
    let (mut longest, mut bytes) = (1, Vec::new());
    for pair in entries.windows(2) {
        bytes.clear();
        Before::of(&pair[0]).encode(pair[1].0, &pair[1].1, &mut bytes);
        longest = longest.max(bytes.len());
    }
    ((BLOCK_BYTES_MAX - FIRST_BYTES) / longest).clamp(1, BLOCK_ENTRIES_MAX)
}

fn moment(id: EventId) -> u64 {
    (id.as_u128() >> REST_BITS) as u64
}

/// A difference as a number that is small where it is near zero.
fn folded(difference: u64) -> u64 {
    (difference << 1) ^ ((difference as i64 >> 63) as u64)
}

fn unfolded(number: u64) -> u64 {
    (number >> 1) ^ (number & 1).wrapping_neg()
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(n: u64) -> Entry {
        Entry { location: Location(n), last_attempt: None, endpoint: Some(EndpointId(n)), when: Timestamp::from_ms(-1) }
    }

    fn id(n: u128) -> EventId {
        EventId::from_u128(n)
    }

    /// As a second of a busy merchant leaves them.
    fn usual(count: u64) -> Entries {
        let one = |n: u64| {
            let at = 1_700_000_000_000 + n / 5;
            let rest = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let entry = Entry {
                location: Location::at(7, u32::try_from(n * 700).expect("small")),
                last_attempt: n
                    .is_multiple_of(3)
                    .then_some(Location::at(7, u32::try_from(n * 700 + 90_000).expect("small"))),
                endpoint: Some(EndpointId(12)),
                when: Timestamp::from_ms(i64::try_from(at).expect("a time") + 30),
            };
            (id(u128::from(at) << REST_BITS | u128::from(rest)), entry)
        };
        let mut entries: Entries = (0..count).map(one).collect();
        entries.sort_unstable_by_key(|(id, _)| *id);
        entries
    }

    #[test]
    fn blocks_round_trip() {
        let mut entries =
            vec![(id(0), entry(0)), (id(1), entry(9)), (id(2 << 90), entry(7)), (id(u128::MAX), entry(u64::MAX))];
        entries[1].1.last_attempt = Some(Location(3));
        entries[2].1.last_attempt = Some(Location(u64::MAX));
        entries[2].1.when = Timestamp::MAX;
        assert_eq!(decode(&encode(&entries)), {
            // No endpoint has the number 0.
            entries[0].1.endpoint = None;
            Some(entries)
        });
        assert_eq!(decode(&encode(&usual(300))), Some(usual(300)));
        assert_eq!(decode(&encode(&[])), Some(Vec::new()));
        assert_eq!(decode(&[]), None);
    }

    #[test]
    fn a_block_that_is_torn_is_none() {
        let bytes = encode(&usual(20));
        let whole: Vec<usize> = (1..=20).map(|count| encode(&usual(20)[..count]).len()).collect();
        for len in 2..bytes.len() {
            assert_eq!(decode(&bytes[..len]).is_some(), whole.contains(&len), "{len} bytes");
        }
        assert_eq!(decode(&[&[VERSION + 1], &bytes[1..]].concat()), None);
        assert_eq!(decode(&[&[VERSION], &[0xff; 40][..]].concat()), None, "a number without an end");
    }

    #[test]
    fn a_block_of_usual_entries_is_full_and_one_of_any_is_short() {
        let entries = usual(1_000);
        assert!(room(&entries) >= 250, "{}", room(&entries));
        let wild: Entries =
            (0..1_000).map(|n: u64| (id(u128::from(n) << 100), entry(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)))).collect();
        for entries in [entries, wild, usual(1), Vec::new()] {
            let fits = encode(&entries[..room(&entries).min(entries.len())]).len();
            assert!(fits <= BLOCK_BYTES_MAX + FIRST_BYTES, "{fits} bytes");
        }
    }
}
