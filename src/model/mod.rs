//! The nouns: plain data and its legal transitions.
//!
//! Never here: async, IO, clocks, chance, serialisation formats.

mod attempt;
mod delivery;
mod endpoint;
mod event;
mod id;
mod key;
mod time;

pub use attempt::{Attempt, ErrorCode, Outcome, Phases, Response, Sent, Verdict};
pub use delivery::{Delivery, DueKey, Status};
pub use endpoint::{
    DisabledReason, Endpoint, EndpointState, EventTypes, Leave, OldSecret, Ordering, Secret, Standing, Terms,
};
pub use event::{Event, EventType, OwnerKind, fnv1a, fnv1a_on, resource_hash};
pub use id::{EndpointId, EventId, InvalidId, Location, MerchantId};
pub use key::{Digest, Key, KeyId, Merchant, Role};
pub use time::Timestamp;
