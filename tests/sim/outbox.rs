//! The store as the shard can see it: records in order, what is owed by due time, notices that come late.
//!
//! Never forgets what is committed, and forgets all else in a crash. Never fails by itself: the world decides
//! what is slow or cannot be read.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use posthaste::model::{
    Delivery, DueKey, EndpointId, EventId, EventType, Location, MerchantId, Status, Timestamp, resource_hash,
};
use posthaste::shard::{Gate, Page};

use crate::dice::Dice;

/// What the events speak of, by turns.
const RESOURCES: [Option<&str>; 5] = [Some("card"), None, Some("card"), Some("account"), Some("card")];

/// What is handed in to be recorded.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    Accept { endpoint: EndpointId },
    Settle(Settlement),
}

/// A delivery's step.
#[derive(Clone, Debug)]
pub(crate) struct Settlement {
    pub(crate) delivery: Delivery,
    pub(crate) status: Status,
    pub(crate) due: Timestamp,
    pub(crate) attempts: u32,
    pub(crate) attempts_before: u32,
    pub(crate) attempted: bool,
}

/// What the shard is told of a record.
#[derive(Clone, Debug)]
pub(crate) enum Notice {
    Accepted(Delivery),
    Settled(Delivery),
}

/// An endpoint as it is configured.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) merchant: MerchantId,
    pub(crate) gate: Gate,
}

/// The store.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Every endpoint that ever was.
    pub(crate) catalog: BTreeMap<EndpointId, Entry>,
    /// Every delivery, as the newest record of it says.
    pub(crate) deliveries: BTreeMap<EventId, Delivery>,
    /// In the order of acceptance.
    pub(crate) events: Vec<EventId>,
    /// Exactly the waiting ones.
    due: BTreeMap<EndpointId, BTreeSet<DueKey>>,
    writes: VecDeque<Write>,
    notices: VecDeque<Notice>,
    newest_record: Location,
    newest_event: Option<EventId>,
}

impl Outbox {
    pub(crate) fn submit(&mut self, write: Write) {
        self.writes.push_back(write);
    }

    /// Commits the write that waits longest. The delivery as it is then; `None` where nothing waits, or
    /// where the endpoint is gone and nothing is owed.
    pub(crate) fn commit(&mut self, now: Timestamp, dice: &mut Dice) -> Option<Notice> {
        let notice = match self.writes.pop_front()? {
            Write::Accept { endpoint } => self.accept(endpoint, now, dice)?,
            Write::Settle(settlement) => Notice::Settled(self.settle(settlement)),
        };
        self.notices.push_back(notice.clone());
        Some(notice)
    }

    pub(crate) fn is_written(&self) -> bool {
        self.writes.is_empty()
    }

    pub(crate) fn is_told(&self) -> bool {
        self.notices.is_empty()
    }

    /// Whether a change of this event at another endpoint waits to be committed.
    pub(crate) fn is_moving_elsewhere(&self, event: EventId, endpoint: EndpointId) -> bool {
        let elsewhere = |delivery: &Delivery| delivery.event == event && delivery.endpoint != endpoint;
        self.writes.iter().any(|write| matches!(write, Write::Settle(settlement) if elsewhere(&settlement.delivery)))
    }

    /// The notice that waits longest.
    pub(crate) fn tell(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// What is owed to `endpoint` from `from` on, as of now.
    pub(crate) fn page(&self, endpoint: EndpointId, from: DueKey, limit: usize) -> Page {
        let mut keys = self.due.get(&endpoint).into_iter().flat_map(|keys| keys.range(from..));
        let deliveries = keys.by_ref().take(limit).map(|(_, event)| self.deliveries[event].clone()).collect();
        Page { deliveries, more: keys.next().is_some(), as_of: self.newest_record }
    }

    /// Everything that is owed.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (EndpointId, DueKey)> {
        self.due.iter().flat_map(|(endpoint, keys)| keys.iter().map(|key| (*endpoint, *key)))
    }

    pub(crate) fn waiting_of(&self, endpoint: EndpointId) -> impl Iterator<Item = DueKey> {
        self.due.get(&endpoint).into_iter().flatten().copied()
    }

    pub(crate) fn owes(&self, endpoint: EndpointId) -> bool {
        self.due.get(&endpoint).is_some_and(|keys| !keys.is_empty())
    }

    /// What is not committed is lost, and who was not told will never be.
    pub(crate) fn crash(&mut self) {
        self.writes.clear();
        self.notices.clear();
    }

    fn next_record(&mut self) -> Location {
        self.newest_record.0 += 1;
        self.newest_record
    }

    fn accept(&mut self, endpoint: EndpointId, now: Timestamp, dice: &mut Dice) -> Option<Notice> {
        let entry = self.catalog.get(&endpoint).filter(|entry| entry.gate != Gate::Closed)?;
        let merchant = entry.merchant.clone();
        let random = u128::from(dice.number()) << 64 | u128::from(dice.number());
        let event = EventId::next(self.newest_event.unwrap_or(EventId::MIN), now, random);
        self.newest_event = Some(event);
        let location = self.next_record();
        let sequence = self.events.len() as u64 + 1;
        let delivery = Delivery {
            event,
            endpoint,
            merchant,
            event_type: EventType::CardState,
            resource: resource_hash(RESOURCES[sequence as usize % RESOURCES.len()]),
            sequence,
            location,
            written: location,
            last_attempt: None,
            attempts: 0,
            attempts_before: 0,
            status: Status::Pending,
            due: now,
            payload: None,
            traceparent: None,
        };
        self.events.push(event);
        self.deliveries.insert(event, delivery.clone());
        self.due.entry(endpoint).or_default().insert(delivery.key());
        Some(Notice::Accepted(Delivery { payload: Some(payload(sequence)), ..delivery }))
    }

    fn settle(&mut self, settlement: Settlement) -> Delivery {
        let Settlement { delivery: before, status, due, attempts, attempts_before, attempted } = settlement;
        let known = self.deliveries.get(&before.event).expect("only what was accepted is settled");
        let (known_at, known_key) = (known.endpoint, known.key());
        self.due.entry(known_at).or_default().remove(&known_key);
        let written = self.next_record();
        let after = Delivery {
            written,
            last_attempt: if attempted { Some(written) } else { before.last_attempt },
            attempts,
            attempts_before,
            status,
            due: if status.is_waiting() { due } else { before.due },
            payload: None,
            traceparent: None,
            ..before
        };
        if status.is_waiting() {
            self.due.entry(after.endpoint).or_default().insert(after.key());
        }
        self.deliveries.insert(after.event, after.clone());
        after
    }
}

/// The payload of the event with this number: anyone can tell whether it is the right one.
pub(crate) fn payload(sequence: u64) -> Bytes {
    Bytes::from(sequence.to_string().repeat((sequence % 97) as usize))
}
