//! Blocks of history: the events of one run, by id, many to a value.
//!
//! Never interprets what an entry points to.
//!
//! ```text
//! offset  size
//!      0     1  version 1
//!      1  48 n  entries, ascending by id, all numbers big-endian:
//!               id 16 · location 8 · last attempt 8 (0 none) · endpoint 8 (0 none) · when 8
//! ```
//!
//! `when` is the due time while an attempt is owed, and the time of the final state afterwards. A block
//! holds the ids from its key's `first` up to the next block's.

use crate::model::{EndpointId, EventId, Location, Timestamp};

const VERSION: u8 = 1;
const ENTRY_LEN: usize = 48;

/// Entries in a block: 6 KiB. sled puts up to 16 values on a page, a few more for a moment, and never syncs a page of more
/// than 128 KiB.
pub(crate) const BLOCK_ENTRIES_MAX: usize = 128;

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

/// A block's entries, or `None` where the bytes are not one.
pub(crate) fn decode(bytes: &[u8]) -> Option<Entries> {
    let (&VERSION, body) = bytes.split_first()? else { return None };
    if body.len() % ENTRY_LEN != 0 {
        return None;
    }
    body.chunks_exact(ENTRY_LEN).map(decode_entry).collect()
}

fn decode_entry(bytes: &[u8]) -> Option<(EventId, Entry)> {
    let number = |from: usize| Some(u64::from_be_bytes(bytes.get(from..from + 8)?.try_into().ok()?));
    let id = EventId::from_u128(u128::from_be_bytes(bytes.get(..16)?.try_into().ok()?));
    let (attempt, endpoint) = (number(24)?, number(32)?);
    Some((
        id,
        Entry {
            location: Location(number(16)?),
            last_attempt: (attempt != 0).then_some(Location(attempt)),
            endpoint: (endpoint != 0).then_some(EndpointId(endpoint)),
            when: Timestamp::from_ms(number(40)? as i64),
        },
    ))
}

/// A block's bytes.
pub(crate) fn encode(entries: &[(EventId, Entry)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + entries.len() * ENTRY_LEN);
    bytes.push(VERSION);
    for (id, entry) in entries {
        bytes.extend_from_slice(&id.as_u128().to_be_bytes());
        bytes.extend_from_slice(&entry.location.0.to_be_bytes());
        bytes.extend_from_slice(&entry.last_attempt.map_or(0, |l| l.0).to_be_bytes());
        bytes.extend_from_slice(&entry.endpoint.map_or(0, |e| e.0).to_be_bytes());
        bytes.extend_from_slice(&entry.when.as_ms().to_be_bytes());
    }
    bytes
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

    #[test]
    fn blocks_round_trip() {
        let mut entries = vec![(id(1), entry(9)), (id(u128::MAX), entry(7))];
        entries[1].1.last_attempt = Some(Location(3));
        assert_eq!(decode(&encode(&entries)), Some(entries));
        assert_eq!(decode(&[]), None);
        assert_eq!(decode(&[1, 2, 3]), None);
    }
}
