//! The door to the disk, in the words of the domain: accept, settle, change; due, page, read.
//!
//! Two implementations behind one trait and one conformance suite: `embedded` (journal and sled) and
//! `memory`. Never decides what is delivered when, never retries a failed write.

mod admission;
mod carry;
mod commit;
mod damage;
pub mod embedded;
pub mod export;
mod index;
mod journal;
mod known;
pub mod memory;
mod query;
mod reads;
pub mod rebuild;
mod recovery;
mod retention;
mod standstill;
pub mod verify;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::model::{
    Attempt, Delivery, Digest, DueKey, Endpoint, EndpointId, ErrorCode, Event, EventId, EventType, Key, KeyId,
    Location, Merchant, MerchantId, OwnerKind, Status, Timestamp,
};

pub use reads::Reads;

/// An event that a producer hands in, already routed.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Whose it is. Where the catalog no longer has the merchant, the event is kept as skipped.
    pub merchant: MerchantId,
    /// Its kind.
    pub event_type: EventType,
    /// The resource it speaks of, at most 255 bytes.
    pub resource_id: Option<Arc<str>>,
    /// W3C trace context, at most 255 bytes.
    pub traceparent: Option<Arc<str>>,
    /// When the platform says that it happened.
    pub occurred_at: Option<Timestamp>,
    /// Exactly the bytes to deliver.
    pub payload: Bytes,
    /// The producer's name for it, where it gave one.
    pub idempotency: Option<Idempotency>,
    /// To whom it is owed; one at most, because the history has one line per event. Empty: kept as
    /// skipped. Endpoints that no longer exist are left out.
    pub endpoints: Vec<EndpointId>,
}

/// What makes handing in an event twice harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// SHA-256 of the producer's key, per merchant.
    pub key: Digest,
    /// SHA-256 of everything that must be the same the second time.
    pub content: Digest,
}

/// What became of a `NewEvent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// Stored, durably.
    Fresh {
        /// Its id.
        id: EventId,
        /// Its place among the merchant's events.
        sequence: u64,
    },
    /// The same key and content were stored before, durably, as this event.
    Duplicate {
        /// The first event's id.
        id: EventId,
        /// The first event's sequence.
        sequence: u64,
    },
    /// The key was used before with other content. Nothing was stored.
    Conflict,
}

/// Why the store did not take a write. Nothing was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// More is waiting for the disk than the limit allows.
    #[error("more events are waiting for the disk than the limit allows")]
    Overloaded,
    /// Free disk space is under the floor.
    #[error("free disk space is under the configured floor")]
    DiskFull,
    /// What belongs together is more than a record holds: it will not be taken the next time either.
    #[error("a list of changes is longer than a record can be")]
    TooLarge,
    /// What came first with the event's idempotency key is damaged: whether it is the same cannot be told.
    #[error("what came first with this idempotency key cannot be read")]
    Unreadable,
    /// What tells whether an idempotency key is known is damaged and being made anew.
    #[error("the index of idempotency keys is being mended")]
    Mending,
    /// The store is shutting down, or has failed.
    #[error("the store is shutting down")]
    Stopped,
}

/// A delivery's step from one state to the next, with the attempt that caused it where one did.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// The delivery as it was. Its status may be a final one: that is a resend. Who resends a skipped
    /// event makes one up, with the dossier's `location`.
    pub delivery: Delivery,
    /// The attempt, where there was one. `None`: canceled, moved or resent.
    pub attempt: Option<Attempt>,
    /// The new status.
    pub status: Status,
    /// When this was decided; where it was delivered, when the head of the answer came: `delivered_at`.
    pub at: Timestamp,
    /// The new due time; read only where `status` is a waiting one.
    pub due: Timestamp,
    /// The new `attempts_before`.
    pub attempts_before: u32,
}

impl Settlement {
    /// Whether somebody waits for it: who resends is answered once it is durable.
    fn is_awaited(&self) -> bool {
        self.attempt.is_none() && self.status.is_waiting()
    }
}

/// A change of what is configured. A list of changes is applied whole or not at all.
#[derive(Clone, Debug)]
pub enum Change {
    /// Sets a merchant.
    PutMerchant(Merchant),
    /// Removes a merchant. Its endpoints and keys are removed by changes of their own.
    DeleteMerchant(MerchantId),
    /// Sets an endpoint.
    PutEndpoint(Endpoint),
    /// Removes an endpoint; its waiting deliveries stay in the outbox until they are canceled.
    DeleteEndpoint(EndpointId),
    /// Adds a key.
    PutKey(Key),
    /// Revokes a key.
    DeleteKey(KeyId),
    /// Sets the owner of an account or card; the id has at most 255 bytes.
    PutOwner(OwnerKind, Arc<str>, MerchantId),
    /// Forgets the owner of an account or card.
    DeleteOwner(OwnerKind, Arc<str>),
}

/// What the store tells the engine, from its own thread, once it is durable.
#[derive(Clone, Debug)]
pub enum Notice {
    /// A delivery is owed.
    Accepted(Delivery),
    /// A settlement is recorded. The delivery in its new state; its status may be final.
    Settled(Delivery),
}

/// Where the store sends its notices. May block: that is back-pressure on acceptance.
pub type NoticeSink = Arc<dyn Fn(Notice) + Send + Sync>;

/// All that is configured, as read at the start.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// Every merchant.
    pub merchants: Vec<Merchant>,
    /// Every endpoint that is not deleted.
    pub endpoints: Vec<Endpoint>,
    /// Every key that is not revoked.
    pub keys: Vec<Key>,
    /// Since when retries are paused for everybody.
    pub retries_paused_at: Option<Timestamp>,
}

/// An endpoint to which deliveries are owed. It may be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Its owner.
    pub merchant: MerchantId,
    /// How many deliveries are owed to it.
    pub waiting: u64,
}

/// A stretch of one endpoint's outbox.
#[derive(Clone, Debug)]
pub struct DuePage {
    /// In the order of their keys, payloads not loaded.
    pub deliveries: Vec<Delivery>,
    /// Whether the outbox may hold more for this endpoint after these.
    pub more: bool,
    /// Every record up to here was seen; none after it was.
    pub as_of: Location,
}

/// Which part of a merchant's history is asked for.
#[derive(Clone, Debug)]
pub struct HistoryQuery {
    /// Whose history.
    pub merchant: MerchantId,
    /// Any of these; empty means every status.
    pub statuses: Vec<Status>,
    /// Any of these; empty means every type.
    pub event_types: Vec<EventType>,
    /// Only events of this resource.
    pub resource_id: Option<String>,
    /// The smallest id wanted.
    pub first: EventId,
    /// The greatest id wanted.
    pub last: EventId,
    /// Newest first?
    pub descending: bool,
    /// At most so many items.
    pub limit: usize,
}

/// One line of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryItem {
    /// The event's id, which also says when it was accepted.
    pub id: EventId,
    /// Its place among the merchant's events.
    pub sequence: u64,
    /// Its kind.
    pub event_type: EventType,
    /// The resource it speaks of.
    pub resource_id: Option<Arc<str>>,
    /// How far it has come.
    pub status: Status,
    /// Attempts finished.
    pub attempts: u32,
    /// When it was delivered, where that is its status.
    pub delivered_at: Option<Timestamp>,
    /// The earliest moment of the next attempt, where one is owed.
    pub next_attempt_at: Option<Timestamp>,
    /// The newest finished attempt.
    pub last_attempt: Option<AttemptSummary>,
    /// Whether it has failed because it was due for too long, rather than by its last attempt.
    pub expired: bool,
    /// A record of it cannot be read any more. What stands here is what its other records say; a sequence of 0 and no
    /// attempt mean that none does.
    pub damaged: bool,
}

/// The line of the history about an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptSummary {
    /// When it began.
    pub at: Timestamp,
    /// The status, where a head came.
    pub status_code: Option<u16>,
    /// Why it failed, where it did.
    pub error: Option<ErrorCode>,
    /// How long it took.
    pub duration_ms: u32,
}

/// A stretch of a merchant's history.
#[derive(Clone, Debug, Default)]
pub struct HistoryPage {
    /// In the order asked for.
    pub items: Vec<HistoryItem>,
    /// Whether more follow in that order.
    pub more: bool,
}

/// Everything about one event.
#[derive(Clone, Debug)]
pub struct Dossier {
    /// The event as it was accepted, payload included.
    pub event: Event,
    /// Where it stands in the journal.
    pub location: Location,
    /// Its line in the history.
    pub item: HistoryItem,
    /// Every finished attempt that is still kept, first one first.
    pub attempts: Vec<Attempt>,
    /// The delivery in its present state, whatever its status; `None` where it was skipped. In a final
    /// status nothing follows from `written`, `due` and `attempts_before`, and they may be anything.
    pub delivery: Option<Delivery>,
}

/// A read that could not be answered: the disk failed or what it holds is damaged.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("{context}: {source}")]
    Io {
        /// What was being done.
        context: String,
        /// The refusal.
        source: std::io::Error,
    },
    /// The bytes are not what was written; the text says where and what to do.
    #[error("{0}")]
    Corrupt(String),
    /// The index refused; the text says what sled said.
    #[error("index: {0}")]
    Index(String),
}

impl StoreError {
    /// Whether it is what the disk holds that is at fault, and reading it again will not help.
    pub fn is_damage(&self) -> bool {
        match self {
            StoreError::Corrupt(_) => true,
            StoreError::Io { source, .. } => {
                source.kind() == std::io::ErrorKind::UnexpectedEof
                    || source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
            }
            StoreError::Index(_) => false,
        }
    }
}

/// Figures for metrics and health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreFigures {
    /// Deliveries owed.
    pub waiting: u64,
    /// Bytes of journal on disk.
    pub journal_bytes: u64,
    /// Bytes free on the disk.
    pub free_bytes: u64,
    /// Writes waiting for the next commit.
    pub queued: u64,
    /// Index changes not yet in sled.
    pub unindexed: u64,
    /// Producers' keys and resources in memory only.
    pub loose_names: u64,
}

/// The durable memory of the product.
///
/// Order that every implementation keeps: a record's `Notice` carries its location as
/// `Delivery::written`; `due` says in `as_of` up to which location it saw. Whoever holds both can tell
/// whether a page already contains what a notice tells.
///
/// Every read but `due`, which says itself how far it saw, contains each write whose receipt resolved or
/// whose notice was sent before it began. A notice is sent before its receipt resolves.
///
/// A new delivery is due at the clock's time of its acceptance. The id may say a later time, where the
/// clock went back; nothing waits for that.
pub trait Store: Send + Sync {
    /// Takes an event. The receipt resolves once it is durable; its deliveries arrive as notices.
    fn accept(&self, event: NewEvent) -> Receipt<Acceptance>;
    /// Takes a settlement. It becomes durable with the next commit; a notice says so.
    fn settle(&self, settlement: Settlement);
    /// Takes changes. The receipt resolves once they are durable.
    fn change(&self, changes: Vec<Change>) -> Receipt<()>;
    /// Notes since when retries are paused for everybody, or that they are not. The receipt resolves once that is durable.
    fn pause_retries(&self, since: Option<Timestamp>) -> Receipt<()>;
    /// All that is configured.
    fn catalog(&self) -> Result<Catalog, StoreError>;
    /// Every endpoint to which something is owed.
    fn backlog(&self) -> Result<Vec<Backlog>, StoreError>;
    /// What is owed to `endpoint` at keys from `from` on, at most `limit`.
    fn due(&self, endpoint: EndpointId, from: DueKey, limit: usize) -> Result<DuePage, StoreError>;
    /// A page of history in O(limit).
    fn page(&self, query: &HistoryQuery) -> Result<HistoryPage, StoreError>;
    /// Everything about one event of one merchant.
    fn dossier(&self, merchant: &MerchantId, id: EventId) -> Result<Option<Dossier>, StoreError>;
    /// The event of a delivery, payload checked. A delivery in hand may name a place that its event has left
    /// since; the event is found all the same as long as an attempt is owed.
    fn event(&self, delivery: &Delivery) -> Result<Event, StoreError>;
    /// Who owns an account or card.
    fn owner(&self, kind: OwnerKind, id: &str) -> Result<Option<MerchantId>, StoreError>;
    /// Figures for metrics and health.
    fn figures(&self) -> StoreFigures;
    /// Writes out everything and stops. Later writes are refused.
    fn close(&self);
}

/// A promise of an answer once the write is durable.
#[derive(Debug)]
pub struct Receipt<T>(oneshot::Receiver<Result<T, Refusal>>);

/// The other end of a `Receipt`.
pub type Answer<T> = oneshot::Sender<Result<T, Refusal>>;

impl<T> Receipt<T> {
    /// A receipt and the end that answers it.
    pub fn pending() -> (Answer<T>, Receipt<T>) {
        let (answer, receipt) = oneshot::channel();
        (answer, Receipt(receipt))
    }

    /// A receipt that is already answered.
    pub fn ready(result: Result<T, Refusal>) -> Receipt<T> {
        let (answer, receipt) = Receipt::pending();
        let _ = answer.send(result);
        receipt
    }

    /// Waits on this thread; for callers outside the runtime.
    pub fn wait(self) -> Result<T, Refusal> {
        self.0.blocking_recv().unwrap_or(Err(Refusal::Stopped))
    }
}

impl<T> Future for Receipt<T> {
    type Output = Result<T, Refusal>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|answer| answer.unwrap_or(Err(Refusal::Stopped)))
    }
}
