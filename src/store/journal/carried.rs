//! What stands inside the records that outlive their segment: one frozen struct per kind, in bincode.
//!
//! Never edited once released, like every body; see `codec`.

use bincode::{Decode, Encode};

use super::codec::{AcceptedV1, ChangeV1, Undecodable};
use crate::model::{Delivery, EndpointId, EventId, Location, Status, Timestamp, resource_hash};

/// Meta of an event that was copied forward, with the state of its delivery; the payload follows raw.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct CarriedV1 {
    pub(crate) accepted: AcceptedV1,
    /// Where the event stood before.
    pub(crate) from: u64,
    pub(crate) carried_at: i64,
    /// None: it is owed to nobody and never was.
    pub(crate) endpoint: Option<u64>,
    pub(crate) status: u8,
    /// The due time while an attempt is owed, and the time of the final state afterwards.
    pub(crate) when: i64,
    pub(crate) written: u64,
    pub(crate) last_attempt: Option<u64>,
    pub(crate) attempts: u32,
    pub(crate) attempts_before: u32,
}

impl CarriedV1 {
    pub(crate) fn status(&self) -> Result<Status, Undecodable> {
        Status::from_code(self.status).ok_or_else(|| Undecodable("unknown status".to_owned()))
    }

    /// The delivery that is owed, where one is; the record stands at `location`.
    pub(crate) fn owed(&self, location: Location) -> Result<Option<Delivery>, Undecodable> {
        let status = self.status()?;
        let Some(endpoint) = self.endpoint.filter(|_| status.is_waiting()) else { return Ok(None) };
        Ok(Some(Delivery {
            event: EventId::from_u128(self.accepted.id),
            endpoint: EndpointId(endpoint),
            merchant: self.accepted.merchant()?,
            event_type: self.accepted.event_type()?,
            resource: resource_hash(self.accepted.resource_id.as_deref()),
            sequence: self.accepted.sequence,
            location,
            written: Location(self.written),
            last_attempt: self.last_attempt.map(Location),
            attempts: self.attempts,
            attempts_before: self.attempts_before,
            status,
            due: Timestamp::from_ms(self.when),
            payload: None,
            traceparent: None,
        }))
    }
}

/// Body of a record that keeps what stood in segments about to be dropped and still counts.
#[derive(Clone, Debug, Default, Encode, Decode)]
pub(crate) struct KeptV1 {
    pub(crate) kept_at: i64,
    /// The newest id given out: the next one must be greater.
    pub(crate) last_event: u128,
    /// The last sequence of merchants whose newest event is dropped.
    pub(crate) sequences: Vec<(String, u64)>,
    /// Producers' keys whose time has not passed.
    pub(crate) keys: Vec<KnownKeyV1>,
    /// What is configured, as it stands.
    pub(crate) changes: Vec<ChangeV1>,
}

impl KeptV1 {
    /// Entries in it.
    pub(crate) fn entries(&self) -> usize {
        self.sequences.len() + self.keys.len() + self.changes.len()
    }
}

/// A producer's key and the event that came with it first.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct KnownKeyV1 {
    pub(crate) merchant: String,
    pub(crate) key: u128,
    pub(crate) content: u128,
    pub(crate) event: u128,
    pub(crate) sequence: u64,
    pub(crate) accepted_at: i64,
}
