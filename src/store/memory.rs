//! The store in memory: the contract in ordered maps behind one lock, as plain as it can be said.
//!
//! The embedded store is tested against it, and the engine's simulation runs on it. Never touches a disk,
//! never forgets an event unless told to, never meant for production: what it holds ends with the process.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use super::{
    Acceptance, AttemptSummary, Backlog, Catalog, Change, Dossier, DuePage, HistoryItem, HistoryPage, HistoryQuery,
    Idempotency, NewEvent, Notice, NoticeSink, Receipt, Refusal, Settlement, Store, StoreError, StoreFigures,
};
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::model::{
    Attempt, Delivery, Digest, DueKey, Endpoint, EndpointId, Event, EventId, Key, KeyId, Location, Merchant,
    MerchantId, OwnerKind, Status, Timestamp,
};

/// How long a producer's key is remembered.
const IDEMPOTENCY_MS: u64 = 24 * 60 * 60 * 1000;

/// A store that holds everything in memory.
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    sink: NoticeSink,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    closed: bool,
    /// The newest record. Every accept, settlement and list of changes is one.
    newest_record: Location,
    newest_event: Option<EventId>,
    merchants: BTreeMap<MerchantId, Merchant>,
    endpoints: BTreeMap<EndpointId, Endpoint>,
    keys: BTreeMap<KeyId, Key>,
    owners: BTreeMap<(OwnerKind, Arc<str>), MerchantId>,
    /// The sequence given out last; outlives its merchant.
    sequences: BTreeMap<MerchantId, u64>,
    remembered: BTreeMap<(MerchantId, Digest), Remembered>,
    events: BTreeMap<(MerchantId, EventId), Kept>,
    locations: BTreeMap<Location, (MerchantId, EventId)>,
    /// What is owed: exactly the deliveries whose status is a waiting one.
    outbox: BTreeMap<(EndpointId, Timestamp, EventId), MerchantId>,
    /// What is recorded but not yet told, in the order of the records.
    untold: VecDeque<Untold>,
    retries_paused_at: Option<Timestamp>,
    /// Whether a thread is telling.
    telling: bool,
}

/// The first event that came with a producer's key.
struct Remembered {
    content: Digest,
    id: EventId,
    sequence: u64,
    at: Timestamp,
}

/// An event and what became of it.
struct Kept {
    event: Event,
    location: Location,
    attempts: Vec<Attempt>,
    delivery: Option<Delivery>,
    delivered_at: Option<Timestamp>,
    /// What the newest attempt led to, and when.
    attempted: Option<(Status, Timestamp)>,
    settled_at: Timestamp,
}

/// What is to be said of one write: first its notice, then its receipt.
struct Untold {
    notice: Option<Notice>,
    resolve: Box<dyn FnOnce() + Send>,
}

impl MemoryStore {
    /// An empty store that sends its notices to `sink`.
    ///
    /// Notices are sent on the threads that write, one at a time, outside the lock: the sink may read
    /// and write this store, but must not wait for a receipt of it.
    pub fn new(clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>, sink: NoticeSink) -> MemoryStore {
        MemoryStore { clock, entropy, sink, state: Mutex::default() }
    }

    /// Forgets an event to which nothing is owed, as retention does on a disk.
    pub fn forget(&self, merchant: &MerchantId, id: EventId) {
        let mut state = self.lock();
        let Some(kept) = state.events.remove(&(merchant.clone(), id)) else { return };
        assert!(!kept.status().is_waiting(), "what is owed is never forgotten");
        state.locations.remove(&kept.location);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a store in which an assertion failed is not used any more")
    }

    /// Applies `record` at once and answers once its notice is sent.
    fn write<T: Send + 'static>(&self, record: impl FnOnce(&mut State) -> (Option<Notice>, T)) -> Receipt<T> {
        let (answer, receipt) = Receipt::pending();
        {
            let mut state = self.lock();
            if state.closed {
                return Receipt::ready(Err(Refusal::Stopped));
            }
            let (notice, result) = record(&mut state);
            let resolve = Box::new(move || {
                // Whoever handed it in may have stopped waiting.
                let _ = answer.send(Ok(result));
            });
            state.untold.push_back(Untold { notice, resolve });
            if state.telling {
                return receipt;
            }
            state.telling = true;
        }
        self.tell();
        receipt
    }

    /// Tells what is untold until nothing is. One thread at a time does this, which keeps the order.
    fn tell(&self) {
        loop {
            let untold = {
                let mut state = self.lock();
                let Some(untold) = state.untold.pop_front() else {
                    state.telling = false;
                    return;
                };
                untold
            };
            if let Some(notice) = untold.notice {
                (self.sink)(notice);
            }
            (untold.resolve)();
        }
    }
}

impl Store for MemoryStore {
    fn accept(&self, event: NewEvent) -> Receipt<Acceptance> {
        assert!(event.endpoints.len() <= 1, "the history has one line per event, so one endpoint at most is owed it");
        self.write(|state| state.accept(event, self.clock.now(), self.entropy.number()))
    }

    fn settle(&self, settlement: Settlement) {
        // Nobody waits for a settlement: its notice is the answer.
        drop(self.write(|state| (Some(state.settle(settlement)), ())));
    }

    fn change(&self, changes: Vec<Change>) -> Receipt<()> {
        self.write(|state| {
            state.next_record();
            changes.into_iter().for_each(|change| state.change(change));
            (None, ())
        })
    }

    fn pause_retries(&self, since: Option<Timestamp>) -> Receipt<()> {
        self.write(move |state| {
            state.retries_paused_at = since;
            (None, ())
        })
    }

    fn catalog(&self) -> Result<Catalog, StoreError> {
        let state = self.lock();
        Ok(Catalog {
            merchants: state.merchants.values().cloned().collect(),
            endpoints: state.endpoints.values().cloned().collect(),
            keys: state.keys.values().cloned().collect(),
            retries_paused_at: state.retries_paused_at,
        })
    }

    fn backlog(&self) -> Result<Vec<Backlog>, StoreError> {
        let mut backlog: Vec<Backlog> = Vec::new();
        for ((endpoint, _, _), merchant) in &self.lock().outbox {
            match backlog.last_mut().filter(|last| last.endpoint == *endpoint) {
                Some(last) => last.waiting += 1,
                None => backlog.push(Backlog { endpoint: *endpoint, merchant: merchant.clone(), waiting: 1 }),
            }
        }
        Ok(backlog)
    }

    fn due(&self, endpoint: EndpointId, from: DueKey, limit: usize) -> Result<DuePage, StoreError> {
        let state = self.lock();
        let keys = (endpoint, from.0, from.1)..=(endpoint, Timestamp::MAX, EventId::MAX);
        let mut owed = state.outbox.range(keys).map(|((_, _, event), merchant)| state.owed(merchant, *event));
        let deliveries = owed.by_ref().take(limit).collect();
        Ok(DuePage { deliveries, more: owed.next().is_some(), as_of: state.newest_record })
    }

    fn page(&self, query: &HistoryQuery) -> Result<HistoryPage, StoreError> {
        if query.first > query.last {
            return Ok(HistoryPage::default());
        }
        let state = self.lock();
        let ids = (query.merchant.clone(), query.first)..=(query.merchant.clone(), query.last);
        let wanted = state.events.range(ids).map(|(_, kept)| kept).filter(|kept| kept.is_wanted(query));
        let mut ordered: Box<dyn Iterator<Item = &Kept>> =
            if query.descending { Box::new(wanted.rev()) } else { Box::new(wanted) };
        let items = ordered.by_ref().take(query.limit).map(Kept::item).collect();
        Ok(HistoryPage { items, more: ordered.next().is_some() })
    }

    fn dossier(&self, merchant: &MerchantId, id: EventId) -> Result<Option<Dossier>, StoreError> {
        Ok(self.lock().events.get(&(merchant.clone(), id)).map(|kept| Dossier {
            event: kept.event.clone(),
            location: kept.location,
            item: kept.item(),
            attempts: kept.attempts.clone(),
            delivery: kept.delivery.clone(),
        }))
    }

    fn event(&self, delivery: &Delivery) -> Result<Event, StoreError> {
        let (state, location) = (self.lock(), delivery.location);
        let kept = state.locations.get(&location).and_then(|name| state.events.get(name));
        kept.map(|kept| kept.event.clone())
            .ok_or_else(|| StoreError::Corrupt(format!("no event stands at location {}", location.0)))
    }

    fn owner(&self, kind: OwnerKind, id: &str) -> Result<Option<MerchantId>, StoreError> {
        Ok(self.lock().owners.get(&(kind, id.into())).cloned())
    }

    /// Without a disk there is no journal, no index, and never a lack of room.
    fn figures(&self) -> StoreFigures {
        let state = self.lock();
        StoreFigures {
            waiting: state.outbox.len() as u64,
            journal_bytes: 0,
            free_bytes: u64::MAX,
            queued: state.untold.len() as u64,
            unindexed: 0,
            loose_names: 0,
        }
    }

    fn close(&self) {
        self.lock().closed = true;
    }
}

impl State {
    fn next_record(&mut self) -> Location {
        self.newest_record.0 += 1;
        self.newest_record
    }

    fn accept(&mut self, new: NewEvent, now: Timestamp, random: u128) -> (Option<Notice>, Acceptance) {
        if let Some(earlier) = new.idempotency.and_then(|idempotency| self.earlier(&new.merchant, idempotency, now)) {
            return (None, earlier);
        }
        let id = EventId::next(self.newest_event.unwrap_or(EventId::MIN), now, random);
        self.newest_event = Some(id);
        let sequence = self.sequences.get(&new.merchant).map_or(1, |last| last + 1);
        self.sequences.insert(new.merchant.clone(), sequence);
        if let Some(Idempotency { key, content }) = new.idempotency {
            self.remembered.insert((new.merchant.clone(), key), Remembered { content, id, sequence, at: now });
        }
        let location = self.next_record();
        let addressee = new.endpoints.iter().copied().find(|endpoint| self.endpoints.contains_key(endpoint));
        let event = Event {
            id,
            merchant: new.merchant,
            sequence,
            event_type: new.event_type,
            resource_id: new.resource_id,
            traceparent: new.traceparent,
            occurred_at: new.occurred_at,
            payload: new.payload,
        };
        let delivery = addressee
            .filter(|_| self.merchants.contains_key(&event.merchant))
            // Due by the clock and not by the id, which runs ahead of a clock that went back: nothing waits for it.
            .map(|endpoint| Delivery::first(&event, endpoint, location, now));
        let notice = delivery.clone().map(|delivery| {
            Notice::Accepted(Delivery {
                payload: Some(event.payload.clone()),
                traceparent: event.traceparent.clone(),
                ..delivery
            })
        });
        if let Some(owed) = &delivery {
            self.outbox.insert((owed.endpoint, owed.due, id), event.merchant.clone());
        }
        let name = (event.merchant.clone(), id);
        self.locations.insert(location, name.clone());
        self.events.insert(name, Kept::new(event, location, delivery));
        (notice, Acceptance::Fresh { id, sequence })
    }

    /// What the producer's key stands for, where it was used within the last day.
    fn earlier(&self, merchant: &MerchantId, asked: Idempotency, now: Timestamp) -> Option<Acceptance> {
        let first = self.remembered.get(&(merchant.clone(), asked.key))?;
        if now.since_ms(first.at) >= IDEMPOTENCY_MS {
            return None;
        }
        Some(if first.content == asked.content {
            Acceptance::Duplicate { id: first.id, sequence: first.sequence }
        } else {
            Acceptance::Conflict
        })
    }

    fn settle(&mut self, settlement: Settlement) -> Notice {
        let Settlement { delivery: before, attempt, status, at, due, attempts_before } = settlement;
        let written = self.next_record();
        let kept = self.events.get_mut(&(before.merchant.clone(), before.event));
        let kept = kept.expect("only what was accepted is settled, and nothing accepted is forgotten");
        if let Some(known) = &kept.delivery {
            self.outbox.remove(&(known.endpoint, known.due, known.event));
        }
        let after = Delivery {
            location: kept.location,
            written,
            last_attempt: if attempt.is_some() { Some(written) } else { before.last_attempt },
            attempts: attempt.as_ref().map_or(before.attempts, |attempt| attempt.number),
            attempts_before,
            status,
            due: if status.is_waiting() { due } else { before.due },
            payload: None,
            traceparent: None,
            ..before
        };
        if status.is_waiting() {
            self.outbox.insert((after.endpoint, after.due, after.event), after.merchant.clone());
        }
        if status == Status::Delivered {
            kept.delivered_at = Some(at);
        }
        if attempt.is_some() {
            kept.attempted = Some((status, at));
        }
        kept.settled_at = at;
        kept.attempts.extend(attempt);
        kept.delivery = Some(after.clone());
        Notice::Settled(after)
    }

    fn change(&mut self, change: Change) {
        match change {
            Change::PutMerchant(merchant) => drop(self.merchants.insert(merchant.id.clone(), merchant)),
            Change::DeleteMerchant(id) => drop(self.merchants.remove(&id)),
            Change::PutEndpoint(endpoint) => drop(self.endpoints.insert(endpoint.id, endpoint)),
            Change::DeleteEndpoint(id) => drop(self.endpoints.remove(&id)),
            Change::PutKey(key) => drop(self.keys.insert(key.id, key)),
            Change::DeleteKey(id) => drop(self.keys.remove(&id)),
            Change::PutOwner(kind, id, merchant) => drop(self.owners.insert((kind, id), merchant)),
            Change::DeleteOwner(kind, id) => drop(self.owners.remove(&(kind, id))),
        }
    }

    fn owed(&self, merchant: &MerchantId, event: EventId) -> Delivery {
        let kept = self.events.get(&(merchant.clone(), event));
        kept.and_then(|kept| kept.delivery.clone()).expect("the outbox names only events that have a delivery")
    }
}

impl Kept {
    fn new(event: Event, location: Location, delivery: Option<Delivery>) -> Kept {
        let settled_at = Timestamp::ZERO;
        Kept { event, location, attempts: Vec::new(), delivery, delivered_at: None, attempted: None, settled_at }
    }

    fn status(&self) -> Status {
        self.delivery.as_ref().map_or(Status::Skipped, |delivery| delivery.status)
    }

    fn is_wanted(&self, query: &HistoryQuery) -> bool {
        (query.statuses.is_empty() || query.statuses.contains(&self.status()))
            && (query.event_types.is_empty() || query.event_types.contains(&self.event.event_type))
            && (query.resource_id.is_none() || query.resource_id.as_deref() == self.event.resource_id.as_deref())
    }

    fn item(&self) -> HistoryItem {
        let waiting = self.delivery.as_ref().filter(|delivery| delivery.status.is_waiting());
        HistoryItem {
            id: self.event.id,
            sequence: self.event.sequence,
            event_type: self.event.event_type,
            resource_id: self.event.resource_id.clone(),
            status: self.status(),
            attempts: self.delivery.as_ref().map_or(0, |delivery| delivery.attempts),
            delivered_at: self.delivered_at.filter(|_| self.status() == Status::Delivered),
            next_attempt_at: waiting.map(|delivery| delivery.due),
            last_attempt: self.attempts.last().map(summary),
            expired: self.status() == Status::Failed && self.attempted != Some((Status::Failed, self.settled_at)),
            damaged: false,
        }
    }
}

fn summary(attempt: &Attempt) -> AttemptSummary {
    AttemptSummary {
        at: attempt.started_at,
        status_code: attempt.outcome.status(),
        error: attempt.outcome.error(),
        duration_ms: attempt.duration_ms,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use bytes::Bytes;

    use super::*;
    use crate::clock::SystemClock;
    use crate::entropy::SystemEntropy;
    use crate::model::{EndpointState, EventType, EventTypes, Ordering};

    #[test]
    fn a_sink_may_read_and_write_and_hears_of_its_own_writes_afterwards() {
        let store: Arc<OnceLock<MemoryStore>> = Arc::default();
        let heard: Arc<Mutex<Vec<(Status, usize)>>> = Arc::default();
        let (inside, log) = (store.clone(), heard.clone());
        let sink: NoticeSink = Arc::new(move |notice| {
            let store = inside.get().expect("a notice comes from a store");
            let (Notice::Accepted(delivery) | Notice::Settled(delivery)) = notice;
            if delivery.status == Status::Pending {
                store.settle(Settlement {
                    attempt: None,
                    status: Status::Canceled,
                    at: delivery.due,
                    due: delivery.due,
                    attempts_before: 0,
                    delivery: delivery.clone(),
                });
            }
            let owed = store.backlog().expect("memory is readable").len();
            log.lock().expect("the sink does not panic").push((delivery.status, owed));
        });
        let store = store.get_or_init(|| MemoryStore::new(Arc::new(SystemClock), Arc::new(SystemEntropy), sink));
        let merchant: MerchantId = "acme".parse().expect("a legal id");
        let put = store.change(vec![
            Change::PutMerchant(Merchant {
                id: merchant.clone(),
                name: None,
                created_at: Timestamp::ZERO,
                paused_at: None,
            }),
            Change::PutEndpoint(Endpoint {
                id: EndpointId(1),
                merchant: merchant.clone(),
                url: "https://acme.example/".into(),
                event_types: EventTypes::EVERY,
                secret: None,
                old_secrets: Vec::new(),
                state: EndpointState::Active,
                ordering: Ordering::Free,
                rate: None,
                failing_since: None,
                created_at: Timestamp::ZERO,
                updated_at: Timestamp::ZERO,
            }),
        ]);
        assert_eq!(put.wait(), Ok(()));
        let accepted = store.accept(NewEvent {
            merchant,
            event_type: EventType::CardState,
            resource_id: None,
            traceparent: None,
            occurred_at: None,
            payload: Bytes::new(),
            idempotency: None,
            endpoints: vec![EndpointId(1)],
        });
        assert!(accepted.wait().is_ok());
        let heard = heard.lock().expect("the sink does not panic");
        assert_eq!(*heard, [(Status::Pending, 0), (Status::Canceled, 0)], "in order, each seeing what is recorded");
    }
}
