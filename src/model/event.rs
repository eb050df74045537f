//! An event: what the platform said, immutable once accepted.
//!
//! Never parses or rewrites the payload: its bytes leave as they came.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;

use super::{EventId, InvalidId, MerchantId, Timestamp};

/// The four kinds of events, as the merchants' page lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventType {
    /// Transaction created, confirmed, cleared or its status changed on a card.
    CardTransaction,
    /// Account transaction created, confirmed, cleared or its status changed.
    AccountTransaction,
    /// Top-up received, confirmed or its status changed on an account.
    AccountTopup,
    /// Card created or its status changed.
    CardState,
}

impl EventType {
    /// All types, in the order of the merchants' page. The position is the code on disk.
    pub const ALL: [EventType; 4] =
        [EventType::CardTransaction, EventType::AccountTransaction, EventType::AccountTopup, EventType::CardState];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            EventType::CardTransaction => "card_transaction",
            EventType::AccountTransaction => "account_transaction",
            EventType::AccountTopup => "account_topup",
            EventType::CardState => "card_state",
        }
    }

    /// The number on disk.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// From the number on disk.
    pub fn from_code(code: u8) -> Option<EventType> {
        EventType::ALL.get(usize::from(code)).copied()
    }
}

impl FromStr for EventType {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<EventType, InvalidId> {
        EventType::ALL.into_iter().find(|t| t.as_str() == text).ok_or(InvalidId)
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an owner entry speaks of: the merchant owns this account or this card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OwnerKind {
    /// An account.
    Account,
    /// A card.
    Card,
}

impl OwnerKind {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            OwnerKind::Account => "account",
            OwnerKind::Card => "card",
        }
    }
}

impl FromStr for OwnerKind {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<OwnerKind, InvalidId> {
        [OwnerKind::Account, OwnerKind::Card].into_iter().find(|k| k.as_str() == text).ok_or(InvalidId)
    }
}

/// One event of one merchant.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its name, which also says when it was accepted.
    pub id: EventId,
    /// Whose event it is.
    pub merchant: MerchantId,
    /// Its place among the merchant's events: 1, 2, 3, … without gaps.
    pub sequence: u64,
    /// Its kind.
    pub event_type: EventType,
    /// The resource it speaks of, as the platform names it.
    pub resource_id: Option<Arc<str>>,
    /// W3C trace context of the producer, passed on as it came.
    pub traceparent: Option<Arc<str>>,
    /// When the platform says that it happened.
    pub occurred_at: Option<Timestamp>,
    /// Exactly the bytes that the merchant receives.
    pub payload: Bytes,
}

/// The 64-bit name under which events of one resource are found together; 0 means no resource.
pub fn resource_hash(resource_id: Option<&str>) -> u64 {
    resource_id.map_or(0, |text| fnv1a(text).max(1))
}

/// 64-bit FNV-1a, written out because `resource_hash` is part of the format on disk.
pub fn fnv1a(text: &str) -> u64 {
    fnv1a_on(0xcbf2_9ce4_8422_2325, text.as_bytes())
}

/// `fnv1a` of all that `hash` was made of with these bytes behind it.
pub fn fnv1a_on(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_codes_round_trip() {
        for event_type in EventType::ALL {
            assert_eq!(event_type.as_str().parse(), Ok(event_type));
            assert_eq!(EventType::from_code(event_type.code()), Some(event_type));
        }
        assert!("card".parse::<EventType>().is_err());
        assert_eq!(EventType::from_code(4), None);
    }

    #[test]
    fn the_resource_hash_never_changes() {
        assert_eq!(resource_hash(None), 0);
        assert_eq!(resource_hash(Some("a")), 0xaf63_dc4c_8601_ec8c);
    }
}
