//! A delivery: one event owed to one endpoint.
//!
//! Never knows how it is stored or sent.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;

use super::{EndpointId, Event, EventId, EventType, InvalidId, Location, MerchantId, Timestamp, resource_hash};

/// How far an event has come, as the merchant sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// Accepted; the first attempt is not finished.
    Pending,
    /// At least one attempt failed and another will follow.
    Retrying,
    /// The merchant answered 2xx.
    Delivered,
    /// The schedule is exhausted.
    Failed,
    /// The config was deleted while it waited.
    Canceled,
    /// No config, or its type was not selected, when it was accepted.
    Skipped,
}

impl Status {
    /// All statuses. The position is the code on disk.
    pub const ALL: [Status; 6] =
        [Status::Pending, Status::Retrying, Status::Delivered, Status::Failed, Status::Canceled, Status::Skipped];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Status::Pending => "pending",
            Status::Retrying => "retrying",
            Status::Delivered => "delivered",
            Status::Failed => "failed",
            Status::Canceled => "canceled",
            Status::Skipped => "skipped",
        }
    }

    /// Whether an attempt is still owed.
    pub const fn is_waiting(self) -> bool {
        matches!(self, Status::Pending | Status::Retrying)
    }

    /// The number on disk.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// From the number on disk.
    pub fn from_code(code: u8) -> Option<Status> {
        Status::ALL.get(usize::from(code)).copied()
    }
}

impl FromStr for Status {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Status, InvalidId> {
        Status::ALL.into_iter().find(|s| s.as_str() == text).ok_or(InvalidId)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The order in which one endpoint's deliveries leave: by due time, then by age.
pub type DueKey = (Timestamp, EventId);

/// One event owed to one endpoint, and how far it has come.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The event.
    pub event: EventId,
    /// To whom it is owed.
    pub endpoint: EndpointId,
    /// The endpoint's owner.
    pub merchant: MerchantId,
    /// The event's kind.
    pub event_type: EventType,
    /// `resource_hash` of the event's resource id.
    pub resource: u64,
    /// The event's place among its merchant's events.
    pub sequence: u64,
    /// Where the event stands in the journal.
    pub location: Location,
    /// The record that put the delivery into this state; later states have greater ones.
    pub written: Location,
    /// The newest finished attempt, where there is one.
    pub last_attempt: Option<Location>,
    /// Attempts finished so far, over all schedules.
    pub attempts: u32,
    /// Attempts finished before the current schedule began: a resend begins a new one.
    pub attempts_before: u32,
    /// `Pending` or `Retrying`.
    pub status: Status,
    /// The earliest moment of the next attempt.
    pub due: Timestamp,
    /// The payload, where it is still in memory; otherwise it is read at `location`.
    pub payload: Option<Bytes>,
    /// The producer's trace context; only where `payload` is in memory.
    pub traceparent: Option<Arc<str>>,
}

impl Delivery {
    /// As it begins: the event that stands at `location` is owed to an endpoint from `due` on, and nothing was tried.
    pub fn first(event: &Event, endpoint: EndpointId, location: Location, due: Timestamp) -> Delivery {
        Delivery {
            event: event.id,
            endpoint,
            merchant: event.merchant.clone(),
            event_type: event.event_type,
            resource: resource_hash(event.resource_id.as_deref()),
            sequence: event.sequence,
            location,
            written: location,
            last_attempt: None,
            attempts: 0,
            attempts_before: 0,
            status: Status::Pending,
            due,
            payload: None,
            traceparent: None,
        }
    }

    /// Its place in the endpoint's queue.
    pub fn key(&self) -> DueKey {
        (self.due, self.event)
    }

    /// Bytes of payload in memory.
    pub fn payload_len(&self) -> usize {
        self.payload.as_ref().map_or(0, Bytes::len)
    }

    /// Leaves the payload to the disk.
    pub fn strip(&mut self) {
        self.payload = None;
        self.traceparent = None;
    }
}
