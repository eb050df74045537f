//! The door to the receivers: one parcel out, one attempt back.
//!
//! Never decides what a failure means for the schedule, never follows a redirect, never decompresses.

mod answer;
mod certificate;
mod client;
mod dial;
mod link;
mod meter;
mod pool;
mod request;
mod resolver;
mod tls;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use crate::model::{Attempt, Endpoint, EventId, EventType, Timestamp};

pub use client::{HyperTransport, Limits, Settings, SetupFault};
pub use request::{Headline, USER_AGENT_TEXT, shown_headers};
pub use resolver::{Answers, DnsResolver, Lookup, LookupFault, Resolver, ResolverLimits};

/// One attempt to be made.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// Where to, and with which secrets, as of now.
    pub endpoint: Arc<Endpoint>,
    /// The event's id: `webhook-id`.
    pub event: EventId,
    /// `X-Webhook-Event`.
    pub event_type: EventType,
    /// `X-Webhook-Attempt`, 1 for the first.
    pub number: u32,
    /// `X-Webhook-Sequence`.
    pub sequence: u64,
    /// Passed on where the producer gave one.
    pub traceparent: Option<Arc<str>>,
    /// Exactly the bytes to send.
    pub payload: Bytes,
}

/// Why an attempt could not be made: this host is at fault, and nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OwnFault {
    /// None of the name servers answers, not even about the root.
    #[error("no name server answers")]
    NameServers,
    /// This host has no route to the internet, or its firewall forbids it.
    #[error("this host has no route")]
    NoRoute,
    /// This host has no sockets, ports or memory left for a connection.
    #[error("this host has no sockets left")]
    NoSockets,
}

/// An attempt under way.
pub type Sending<'a> = Pin<Box<dyn Future<Output = Result<Attempt, OwnFault>> + Send + 'a>>;

/// Makes attempts. Dropping the future abandons the attempt and closes its connection.
pub trait Transport: Send + Sync {
    /// Makes one attempt under one absolute deadline from now to the response head.
    fn send(&self, parcel: Parcel) -> Sending<'_>;

    /// Until when the receiver's certificate is valid, as seen in the last handshake with this URL. `None` where
    /// there was none.
    fn certificate_not_after(&self, _endpoint: &Endpoint) -> Option<Timestamp> {
        None
    }
}
