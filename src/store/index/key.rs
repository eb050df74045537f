//! The index's key layout, drawn. One tree; the first byte says what a key is.
//!
//! Never holds anything that the journal does not: the index can be made anew from it.
//!
//! ```text
//! d  endpoint:8 due:8 event:16                      a block of the outbox, by its first    → Owed, many
//! e  endpoint:8                                     an endpoint                            → EndpointV2
//! h  merchant 0 type:1 status:1 first:16            a block of history                     → postings
//! k  key:8                                          a key's digest                         → KeyV1
//! m  merchant                                       a merchant                             → MerchantV2
//! n  endpoint:8                                     how many deliveries are owed           → Waiting
//! o  kind:1 id                                      the owner of an account or card        → merchant
//! q  merchant                                       its last sequence                      → u64
//! w                                                 how far the journal is indexed         → Watermark
//! ```
//!
//! All numbers big-endian, so that the order of keys is the order of numbers; merchant ids hold no zero byte. Above
//! `outbox` each delivery that is owed has such a key of its own. Producers' keys and resources are no keys here: see
//! `names`.

use crate::model::{EndpointId, EventId, EventType, MerchantId, OwnerKind, Status, Timestamp};
use crate::store::journal::codec::owner_code;

pub(crate) const WATERMARK: &[u8] = b"w";
pub(crate) const OWED: u8 = b'd';
pub(crate) const OWNERS: u8 = b'o';
pub(crate) const HISTORY: u8 = b'h';
pub(crate) const ENDPOINTS: u8 = b'e';
pub(crate) const KEYS: u8 = b'k';
pub(crate) const MERCHANTS: u8 = b'm';
pub(crate) const WAITING: u8 = b'n';
pub(crate) const SEQUENCES: u8 = b'q';

pub(crate) fn owed(endpoint: EndpointId, due: Timestamp, event: EventId) -> Vec<u8> {
    let mut key = Vec::with_capacity(33);
    key.push(OWED);
    key.extend_from_slice(&endpoint.0.to_be_bytes());
    key.extend_from_slice(&ordered(due).to_be_bytes());
    key.extend_from_slice(&event.as_u128().to_be_bytes());
    key
}

/// The end of an endpoint's stretch of the outbox, exclusive.
pub(crate) fn owed_end(endpoint: EndpointId) -> Vec<u8> {
    let mut key = owed(endpoint, Timestamp::MAX, EventId::MAX);
    key.push(0);
    key
}

/// The due time and event of an `owed` key.
pub(crate) fn owed_parts(key: &[u8]) -> Option<(Timestamp, EventId)> {
    let due = u64::from_be_bytes(key.get(9..17)?.try_into().ok()?);
    let event = u128::from_be_bytes(key.get(17..33)?.try_into().ok()?);
    Some((Timestamp::from_ms((due ^ SIGN) as i64), EventId::from_u128(event)))
}

pub(crate) fn endpoint(id: EndpointId) -> Vec<u8> {
    numbered(ENDPOINTS, id.0)
}

pub(crate) fn waiting(id: EndpointId) -> Vec<u8> {
    numbered(WAITING, id.0)
}

pub(crate) fn key(id: u64) -> Vec<u8> {
    numbered(KEYS, id)
}

/// The number in an `endpoint`, `waiting` or `key` key.
pub(crate) fn number(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(1..9)?.try_into().ok()?))
}

pub(crate) fn merchant(id: &MerchantId) -> Vec<u8> {
    named(MERCHANTS, id)
}

pub(crate) fn sequence(id: &MerchantId) -> Vec<u8> {
    named(SEQUENCES, id)
}

/// The merchant in a `merchant` or `sequence` key.
pub(crate) fn name(key: &[u8]) -> Option<MerchantId> {
    std::str::from_utf8(key.get(1..)?).ok()?.parse().ok()
}

pub(crate) fn owner(kind: OwnerKind, id: &str) -> Vec<u8> {
    let mut key = vec![OWNERS, owner_code(kind)];
    key.extend_from_slice(id.as_bytes());
    key
}

/// One ordered list of events: those of a merchant with a type and a status.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Run {
    pub(crate) merchant: MerchantId,
    pub(crate) event_type: EventType,
    pub(crate) status: Status,
}

impl Run {
    /// What every key of the run begins with.
    pub(crate) fn prefix(&self) -> Vec<u8> {
        let mut key = Vec::with_capacity(self.merchant.as_str().len() + 20);
        key.push(HISTORY);
        key.extend_from_slice(self.merchant.as_str().as_bytes());
        key.push(0);
        key.push(self.event_type.code());
        key.push(self.status.code());
        key
    }
}

/// The key of the block that begins with `first` in the run of `prefix`.
pub(crate) fn block(prefix: &[u8], first: EventId) -> Vec<u8> {
    let mut key = prefix.to_vec();
    key.extend_from_slice(&first.as_u128().to_be_bytes());
    key
}

/// The first id of a block, where the key belongs to the run of `prefix`.
pub(crate) fn block_first(prefix: &[u8], key: &[u8]) -> Option<EventId> {
    let first = key.strip_prefix(prefix)?;
    Some(EventId::from_u128(u128::from_be_bytes(first.try_into().ok()?)))
}

const SIGN: u64 = 1 << 63;

/// A time as a number whose unsigned order is the order of times.
fn ordered(at: Timestamp) -> u64 {
    (at.as_ms() as u64) ^ SIGN
}

fn numbered(kind: u8, number: u64) -> Vec<u8> {
    let mut key = vec![kind];
    key.extend_from_slice(&number.to_be_bytes());
    key
}

fn named(kind: u8, id: &MerchantId) -> Vec<u8> {
    let mut key = vec![kind];
    key.extend_from_slice(id.as_str().as_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owed_keys_sort_by_due_then_event_and_give_both_back() {
        let endpoint = EndpointId(7);
        let key = |ms, n| owed(endpoint, Timestamp::from_ms(ms), EventId::from_u128(n));
        assert!(key(-5, 9) < key(0, 1));
        assert!(key(0, 1) < key(0, 2));
        assert!(key(0, 2) < key(1, 0));
        assert!(key(i64::MAX, u128::MAX) < owed_end(endpoint));
        assert!(owed_end(endpoint) < owed(EndpointId(8), Timestamp::from_ms(i64::MIN), EventId::MIN));
        assert_eq!(owed_parts(&key(-5, 9)), Some((Timestamp::from_ms(-5), EventId::from_u128(9))));
    }
}
