//! A mention: the record at a location speaks of a name.
//!
//! Never holds the name itself, only 64 bits of it: what the record says is what counts.

use std::collections::BTreeSet;
use std::fmt;

use crate::model::{EventId, EventType, Location, MerchantId, fnv1a, fnv1a_on};

/// Bytes of a mention.
pub(super) const MENTION_LEN: usize = 32;

/// What records are found by: a producer's key, or a resource and a type of event. Two may share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name(pub(super) u64);

impl Name {
    /// Of a producer's key.
    pub(crate) fn key(merchant: &MerchantId, digest: u128) -> Name {
        Name::of(merchant, b'k', &digest.to_be_bytes())
    }

    /// Of a resource, by its `resource_hash`, in events of one type.
    pub(crate) fn resource(merchant: &MerchantId, event_type: EventType, resource: u64) -> Name {
        Name::of(merchant, event_type.code(), &resource.to_be_bytes())
    }

    fn of(merchant: &MerchantId, kind: u8, bytes: &[u8]) -> Name {
        let hash = fnv1a_on(fnv1a(merchant.as_str()), &[0, kind]);
        Name(fnv1a_on(hash, bytes))
    }
}

/// Name 8 · event 16 · location 8, all big-endian: ordered by name, then event, then location.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mention(pub(super) [u8; MENTION_LEN]);

/// Mentions in order.
pub(super) type Mentions = BTreeSet<Mention>;

impl Mention {
    pub(crate) fn new(name: Name, event: EventId, location: Location) -> Mention {
        let mut bytes = [0; MENTION_LEN];
        bytes[..8].copy_from_slice(&name.0.to_be_bytes());
        bytes[8..24].copy_from_slice(&event.as_u128().to_be_bytes());
        bytes[24..].copy_from_slice(&location.0.to_be_bytes());
        Mention(bytes)
    }

    pub(crate) fn name(&self) -> Name {
        Name(self.number(0))
    }

    pub(crate) fn event(&self) -> EventId {
        EventId::from_u128(u128::from(self.number(8)) << 64 | u128::from(self.number(16)))
    }

    pub(crate) fn location(&self) -> Location {
        Location(self.number(24))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn number(&self, from: usize) -> u64 {
        u64::from_be_bytes(self.0[from..from + 8].try_into().expect("eight of 32 bytes"))
    }
}

impl fmt::Debug for Mention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x} {} at {}", self.name().0, self.event(), self.location().0)
    }
}

/// Mentions that are asked for: those of a name with events between two ids, both inclusive, in one direction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) name: Name,
    pub(crate) first: EventId,
    pub(crate) last: EventId,
    pub(crate) descending: bool,
    pub(crate) limit: usize,
}

impl Wanted {
    pub(super) fn low(&self) -> Mention {
        Mention::new(self.name, self.first, Location(0))
    }

    pub(super) fn high(&self) -> Mention {
        Mention::new(self.name, self.last, Location(u64::MAX))
    }

    /// The first of these, in the direction asked for, that are wanted and not more than are still missing from `found`.
    pub(super) fn take(&self, ordered: impl DoubleEndedIterator<Item = Mention>, found: &mut Vec<Mention>) {
        let (low, high) = (self.low(), self.high());
        let left = self.limit.saturating_sub(found.len());
        let wanted = ordered.filter(|mention| (&low..=&high).contains(&mention));
        if self.descending {
            found.extend(wanted.rev().take(left));
        } else {
            found.extend(wanted.take(left));
        }
    }
}
