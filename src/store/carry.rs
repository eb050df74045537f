//! Copying forward what outlives its segment: an event that is still owed, with every attempt and the state of
//! its delivery, and what else counts.
//!
//! Loading may happen on any thread and be out of date; only the journal thread appends, and it checks again.

use bytes::Bytes;

use super::commit::{Committer, Staged};
use super::embedded::index_fault;
use super::index::value::{self, Owed};
use super::index::{Entry, Index, apply, key};
use super::journal::carried::{CarriedV1, KeptV1};
use super::journal::codec::{self, AcceptedV1, SettledV1};
use super::journal::{Header, Kind, Segments};
use super::{Answer, Change, Settlement, StoreError};
use crate::model::{Delivery, EventId, Location, Status};

/// An event with all that is kept of it, as of a look at the index.
pub(super) struct Bundle {
    accepted: AcceptedV1,
    payload: Bytes,
    status: Status,
    entry: Entry,
    /// Where an attempt is owed: the index's own words for it.
    owed: Option<Vec<u8>>,
    /// First one first.
    attempts: Vec<(SettledV1, Bytes)>,
}

impl Bundle {
    /// Loads the rest of an event. `None` where it has changed since the look that found it.
    pub(super) fn load(
        index: &Index,
        segments: &Segments,
        accepted: AcceptedV1,
        payload: Bytes,
        (status, entry): (Status, Entry),
    ) -> Result<Option<Bundle>, StoreError> {
        let owed = match entry.endpoint.filter(|_| status.is_waiting()) {
            None => None,
            Some(endpoint) => {
                let found = index.get(&key::owed(endpoint, entry.when, EventId::from_u128(accepted.id)))?;
                let Some(bytes) = found else { return Ok(None) };
                Some(bytes)
            }
        };
        let attempts = chain(segments, entry.last_attempt)?;
        Ok(Some(Bundle { accepted, payload, status, entry, owed, attempts }))
    }

    pub(super) fn bytes(&self) -> usize {
        self.payload.len() + self.attempts.iter().map(|(_, body)| 256 + body.len()).sum::<usize>()
    }

    fn id(&self) -> EventId {
        EventId::from_u128(self.accepted.id)
    }

    fn owed_delivery(&self) -> Result<Option<Delivery>, StoreError> {
        let Some((bytes, endpoint)) = self.owed.as_ref().zip(self.entry.endpoint) else { return Ok(None) };
        Ok(value::decode::<Owed>(bytes)?.into_delivery(endpoint, self.entry.when, self.id()))
    }

    /// Whether the delivery still waits in exactly the state that was loaded.
    fn is_current(&self, index: &Index) -> Result<bool, StoreError> {
        let Some((owed, endpoint)) = self.owed.as_ref().zip(self.entry.endpoint) else { return Ok(false) };
        Ok(index.get(&key::owed(endpoint, self.entry.when, self.id()))?.as_ref() == Some(owed))
    }
}

/// The records of every attempt that is kept, first one first: from the newest back to where some are lost.
pub(super) fn chain(segments: &Segments, newest: Option<Location>) -> Result<Vec<(SettledV1, Bytes)>, StoreError> {
    let mut attempts = Vec::new();
    let mut next = newest;
    while let Some(location) = next {
        let record = match segments.read(location) {
            Err(_) if segments.is_lost(location) => break,
            record => record?,
        };
        if record.header.kind == Kind::Lost {
            break;
        }
        expect(&record.header, Kind::is_attempt, location)?;
        let meta: SettledV1 = codec::decode(&record.meta).map_err(index_fault)?;
        next = meta.last_attempt.map(Location);
        attempts.push((meta, record.payload));
    }
    attempts.reverse();
    Ok(attempts)
}

/// The record at a location is of the kind that whatever points to it says.
pub(super) fn expect(header: &Header, wanted: fn(Kind) -> bool, location: Location) -> Result<(), StoreError> {
    if wanted(header.kind) && header.is_understood() {
        return Ok(());
    }
    Err(StoreError::Corrupt(format!(
        "the record at byte {} of segment {} is not of the kind that points to it",
        location.offset(),
        location.segment()
    )))
}

impl Committer {
    /// Copies forward what still counts of what was loaded, durably.
    pub(super) fn carry(&mut self, bundles: Vec<Bundle>, kept: KeptV1) -> Result<(), StoreError> {
        // Only between commits does the index say what the journal says.
        self.commit()?;
        for bundle in bundles {
            if bundle.is_current(&self.index)? {
                self.append_bundle(&bundle)?;
            } else {
                self.carry_anew(&bundle.accepted)?;
            }
        }
        self.append_kept(kept)?;
        self.commit()
    }

    /// The event changed after it was loaded: takes it as it is now, where it is still owed.
    fn carry_anew(&mut self, accepted: &AcceptedV1) -> Result<(), StoreError> {
        let (merchant, id) = (accepted.merchant().map_err(index_fault)?, EventId::from_u128(accepted.id));
        let event_type = accepted.event_type().map_err(index_fault)?;
        let found = self.index.find(&merchant, event_type, id)?;
        match found {
            Some((status, entry)) if status.is_waiting() && entry.location.segment() < self.condemned => {
                self.carry_found(status, entry).map(drop)
            }
            _ => Ok(()),
        }
    }

    fn carry_found(&mut self, status: Status, entry: Entry) -> Result<(Location, Option<Location>), StoreError> {
        let segments = self.journal.segments();
        let record = segments.read(entry.location)?;
        let accepted = accepted_of(record.header.kind, &record.meta)?;
        let bundle = Bundle::load(&self.index, &segments, accepted, record.payload, (status, entry))?;
        let bundle = bundle.ok_or_else(|| value::damaged("history and outbox disagree"))?;
        self.append_bundle(&bundle)
    }

    /// Appends an event after its attempts, so that none of them stands in an earlier segment; where the event
    /// stands, and its newest attempt.
    fn append_bundle(&mut self, bundle: &Bundle) -> Result<(Location, Option<Location>), StoreError> {
        let mut last_attempt = None;
        for (meta, body) in &bundle.attempts {
            let meta = SettledV1 { last_attempt: last_attempt.map(|location: Location| location.0), ..meta.clone() };
            codec::encode_into(&mut self.batch.meta, &meta);
            last_attempt = Some(self.journal.append(Kind::CarriedAttempt, &self.batch.meta, body));
        }
        let owed = bundle.owed_delivery()?;
        let attempts = bundle.attempts.last().map_or(0, |(meta, _)| meta.attempts);
        let meta = CarriedV1 {
            accepted: bundle.accepted.clone(),
            from: bundle.entry.location.0,
            carried_at: self.clock.now().as_ms(),
            endpoint: bundle.entry.endpoint.map(|endpoint| endpoint.0),
            status: bundle.status.code(),
            when: bundle.entry.when.as_ms(),
            written: owed.as_ref().map_or(bundle.entry.location.0, |delivery| delivery.written.0),
            last_attempt: last_attempt.map(|location| location.0),
            attempts: owed.as_ref().map_or(attempts, |delivery| delivery.attempts),
            attempts_before: owed.as_ref().map_or(attempts, |delivery| delivery.attempts_before),
        };
        codec::encode_into(&mut self.batch.meta, &meta);
        let location = self.journal.append(Kind::Carried, &self.batch.meta, &bundle.payload);
        self.batch.staged.push(Staged::Carried { location, meta: Box::new(meta) });
        Ok((location, last_attempt))
    }

    fn append_kept(&mut self, kept: KeptV1) -> Result<(), StoreError> {
        let mut changes = Vec::new();
        for change in kept.changes {
            let decoded = apply::changes_of(vec![change.clone()]).map_err(index_fault)?;
            if stands(&self.index, &decoded)? {
                changes.push(change);
            }
        }
        let is_last = |(merchant, sequence): &(String, u64)| {
            let last = codec::merchant(merchant).ok().and_then(|merchant| self.sequences.get(&merchant));
            last == Some(sequence)
        };
        let kept = KeptV1 {
            kept_at: self.clock.now().as_ms(),
            last_event: self.last_event.as_u128(),
            sequences: kept.sequences.into_iter().filter(is_last).collect(),
            keys: kept.keys,
            changes,
        };
        codec::encode_into(&mut self.batch.body, &kept);
        let location = self.journal.append(Kind::Kept, &[], &self.batch.body);
        self.batch.staged.push(Staged::Kept { location, meta: Box::new(kept) });
        Ok(())
    }

    /// Says that nothing before segment `first` counts any more. What counts was copied forward.
    pub(super) fn keep_from(&mut self, first: u32) -> Result<(), StoreError> {
        self.commit()?;
        let grown = self.journal.keep_from(first, self.clock.now());
        let grown = grown.map_err(|source| StoreError::Io { context: "making a segment".into(), source })?;
        self.admission.journal_grew(grown);
        let mut overlay = self.index.overlay_mut();
        overlay.advance(self.watermark());
        Ok(())
    }

    /// From now on what stands before segment `first` is about to be dropped: who settles such a delivery
    /// takes it along.
    pub(super) fn condemn(&mut self, first: u32, answer: Answer<()>) -> Result<(), StoreError> {
        self.commit()?;
        self.condemned = self.condemned.max(first);
        let _ = answer.send(Ok(()));
        Ok(())
    }

    /// The settlement with the delivery where it stands now. `None`: the event was dropped.
    pub(super) fn locate(&mut self, settlement: Settlement) -> Result<Result<Settlement, Delivery>, StoreError> {
        let delivery = &settlement.delivery;
        if delivery.location.segment() >= self.condemned {
            return Ok(Ok(settlement));
        }
        self.commit()?;
        let found = self.index.find(&delivery.merchant, delivery.event_type, delivery.event)?;
        let moved = match found {
            Some((_, entry)) if entry.location.segment() >= self.condemned => (entry.location, entry.last_attempt),
            Some((status, entry)) if self.journal.segments().keeps(entry.location) => {
                self.carry_found(status, entry)?
            }
            _ => return Ok(Err(vanished(settlement))),
        };
        let (location, last_attempt) = moved;
        Ok(Ok(Settlement { delivery: Delivery { location, last_attempt, ..settlement.delivery }, ..settlement }))
    }
}

/// What is told of a delivery whose event was dropped: nothing follows for it.
fn vanished(settlement: Settlement) -> Delivery {
    let status = if settlement.status.is_waiting() { Status::Canceled } else { settlement.status };
    Delivery { status, payload: None, traceparent: None, ..settlement.delivery }
}

/// The event's own part of a record in which an event stands.
pub(super) fn accepted_of(kind: Kind, meta: &[u8]) -> Result<AcceptedV1, StoreError> {
    match kind {
        Kind::Carried => Ok(codec::decode::<CarriedV1>(meta).map_err(index_fault)?.accepted),
        _ => codec::decode(meta).map_err(index_fault),
    }
}

/// Whether what the changes set is still so.
pub(super) fn stands(index: &Index, changes: &[Change]) -> Result<bool, StoreError> {
    for change in changes {
        let (key, value) = apply::place(change);
        if value.is_none() || index.get(&key)? != value {
            return Ok(false);
        }
    }
    Ok(true)
}
