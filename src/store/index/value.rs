//! What stands in the index's values, other than blocks: in those of the outbox, what is said of each delivery.
//!
//! Every value begins with the version of its layout. The index is rebuilt rather than upgraded, so only
//! the present version is read.

use bincode::{Decode, Encode};

use crate::model::{Delivery, EndpointId, EventId, EventType, Location, MerchantId, Status, Timestamp};
use crate::store::StoreError;
use crate::store::journal::codec;

const VERSION: u8 = 6;

/// A delivery that is owed; endpoint, due time and event stand in its key.
#[derive(Encode, Decode)]
pub(crate) struct Owed {
    location: u64,
    /// How far behind its event the record stands that wrote it last: 0, a byte, for what was never tried.
    written_behind: u64,
    last_attempt: u64,
    attempts: u32,
    attempts_before: u32,
    status: u8,
    event_type: u8,
    resource: u64,
    sequence: u64,
    merchant: String,
}

impl Owed {
    /// Where its event stands.
    pub(crate) fn location(&self) -> Location {
        Location(self.location)
    }

    pub(crate) fn of(delivery: &Delivery) -> Owed {
        Owed {
            location: delivery.location.0,
            written_behind: delivery.written.0.wrapping_sub(delivery.location.0),
            last_attempt: delivery.last_attempt.map_or(0, |l| l.0),
            attempts: delivery.attempts,
            attempts_before: delivery.attempts_before,
            status: delivery.status.code(),
            event_type: delivery.event_type.code(),
            resource: delivery.resource,
            sequence: delivery.sequence,
            merchant: delivery.merchant.as_str().to_owned(),
        }
    }

    pub(crate) fn into_delivery(self, endpoint: EndpointId, due: Timestamp, event: EventId) -> Option<Delivery> {
        Some(Delivery {
            event,
            endpoint,
            merchant: self.merchant.parse().ok()?,
            event_type: EventType::from_code(self.event_type)?,
            resource: self.resource,
            sequence: self.sequence,
            location: Location(self.location),
            written: Location(self.location.wrapping_add(self.written_behind)),
            last_attempt: (self.last_attempt != 0).then_some(Location(self.last_attempt)),
            attempts: self.attempts,
            attempts_before: self.attempts_before,
            status: Status::from_code(self.status)?,
            due,
            payload: None,
            traceparent: None,
        })
    }
}

/// How many deliveries are owed to an endpoint, as of a location: a record up to it is counted already.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Waiting {
    pub(crate) merchant: String,
    pub(crate) count: i64,
    pub(crate) as_of: u64,
}

impl Waiting {
    pub(crate) fn merchant(&self) -> Option<MerchantId> {
        self.merchant.parse().ok()
    }
}

/// How far the journal is indexed: the next record to apply, and what continues from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Watermark {
    pub(crate) next: u64,
    pub(crate) number: u64,
    pub(crate) last_event: u128,
}

/// A value's bytes.
pub(crate) fn encode<T: Encode>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    codec::encode_into(&mut bytes, value);
    bytes.insert(0, VERSION);
    bytes
}

/// A value from its bytes.
pub(crate) fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, StoreError> {
    match bytes.split_first() {
        Some((&VERSION, body)) => codec::decode(body).map_err(|error| damaged(&error.to_string())),
        Some((version, _)) => Err(damaged(&format!("a value has version {version}"))),
        None => Err(damaged("a value is empty")),
    }
}

/// The index disagrees with itself.
pub(crate) fn damaged(what: &str) -> StoreError {
    StoreError::Index(format!("{what}; stop the product and make the index anew with `posthaste store rebuild`"))
}
