//! What a journal record means for the index: the same code for live records and for replay.
//!
//! Applying a record twice leaves the same index as once, as long as every later record follows.

use super::key::{self, Run};
use super::names::{Mention, Name};
use super::overlay::Overlay;
use super::posting::Entry;
use super::tree::Write;
use super::value::{self, Owed};
use crate::model::{Delivery, EndpointId, EventId, Location, Status, Timestamp, resource_hash};
use crate::store::Change;
use crate::store::journal::carried::{CarriedV1, KeptV1, KnownKeyV1};
use crate::store::journal::codec::{self, AcceptedV1, ChangeV1, EndpointV2, KeyV1, MerchantV2, SettledV1, Undecodable};
use crate::store::journal::{Kind, Record};

/// An event was accepted at `location`.
pub(crate) fn accepted(overlay: &mut Overlay, location: Location, meta: &AcceptedV1) -> Result<(), Undecodable> {
    let id = EventId::from_u128(meta.id);
    let merchant = meta.merchant()?;
    overlay.put(key::sequence(&merchant), value::encode(&meta.sequence));
    note(overlay, mentions(location, meta, true)?);
    let run = Run {
        merchant: merchant.clone(),
        event_type: meta.event_type()?,
        status: if meta.endpoints.is_empty() { Status::Skipped } else { Status::Pending },
    };
    let entry = Entry {
        location,
        last_attempt: None,
        endpoint: meta.endpoints.first().copied().map(EndpointId),
        when: Timestamp::from_ms(meta.accepted_at),
    };
    overlay.post(run, id, entry, false);
    for delivery in owed_by(meta, location)? {
        overlay.count(delivery.endpoint, &merchant, location, 1);
        let key = key::owed(delivery.endpoint, delivery.due, id);
        overlay.put_new(key, value::encode(&Owed::of(&delivery)));
    }
    Ok(())
}

/// An event that was copied forward to `location`, with the state of its delivery. `born`: the index does not
/// know it, because what stood before was dropped.
pub(crate) fn carried(
    overlay: &mut Overlay,
    location: Location,
    meta: &CarriedV1,
    born: bool,
) -> Result<(), Undecodable> {
    let id = EventId::from_u128(meta.accepted.id);
    let run =
        Run { merchant: meta.accepted.merchant()?, event_type: meta.accepted.event_type()?, status: meta.status()? };
    let entry = Entry {
        location,
        last_attempt: meta.last_attempt.map(Location),
        endpoint: meta.endpoint.map(EndpointId),
        when: Timestamp::from_ms(meta.when),
    };
    note(overlay, carried_mentions(location, meta)?);
    overlay.post(run, id, entry, true);
    if let Some(delivery) = meta.owed(location)? {
        overlay.put(key::owed(delivery.endpoint, delivery.due, id), value::encode(&Owed::of(&delivery)));
        if born {
            overlay.count(delivery.endpoint, &delivery.merchant, location, 1);
        }
    }
    Ok(())
}

/// Takes an event out of the place where it stands before it is put to where a copy says that it does: some
/// records between are lost.
pub(crate) fn forgotten(
    overlay: &mut Overlay,
    location: Location,
    meta: &CarriedV1,
    status: Status,
    entry: &Entry,
) -> Result<(), Undecodable> {
    let id = EventId::from_u128(meta.accepted.id);
    let run = Run { merchant: meta.accepted.merchant()?, event_type: meta.accepted.event_type()?, status };
    if let Some(endpoint) = entry.endpoint.filter(|_| status.is_waiting()) {
        overlay.remove(key::owed(endpoint, entry.when, id));
        overlay.count(endpoint, &run.merchant, location, -1);
    }
    overlay.unpost(run, id);
    Ok(())
}

/// What outlives the segments that were dropped, beside events, kept at `location`.
pub(crate) fn kept(overlay: &mut Overlay, location: Location, meta: &KeptV1) -> Result<(), Undecodable> {
    for (merchant, sequence) in &meta.sequences {
        overlay.put(key::sequence(&codec::merchant(merchant)?), value::encode(sequence));
    }
    note(overlay, kept_mentions(location, meta)?);
    changed(overlay, &changes_of(meta.changes.clone())?);
    Ok(())
}

/// The deliveries that the event accepted at `location` is owed as, payloads not set.
pub(crate) fn owed_by(meta: &AcceptedV1, location: Location) -> Result<Vec<Delivery>, Undecodable> {
    let id = EventId::from_u128(meta.id);
    let delivery = |endpoint: &u64| {
        Ok(Delivery {
            event: id,
            endpoint: EndpointId(*endpoint),
            merchant: meta.merchant()?,
            event_type: meta.event_type()?,
            resource: resource_hash(meta.resource_id.as_deref()),
            sequence: meta.sequence,
            location,
            written: location,
            last_attempt: None,
            attempts: 0,
            attempts_before: 0,
            status: Status::Pending,
            // Nothing waits for a clock that went back to catch up with the ids.
            due: Timestamp::from_ms(meta.accepted_at),
            payload: None,
            traceparent: None,
        })
    };
    meta.endpoints.iter().map(delivery).collect()
}

/// A delivery was settled by the record at `location`; the delivery in its new state.
pub(crate) fn settled(overlay: &mut Overlay, location: Location, meta: &SettledV1) -> Result<Delivery, Undecodable> {
    let (old, new) = meta.statuses()?;
    let delivery = meta.delivery(location)?;
    if old.is_waiting() {
        overlay.remove(key::owed(delivery.endpoint, Timestamp::from_ms(meta.old_due), delivery.event));
        overlay.count(delivery.endpoint, &delivery.merchant, location, -1);
    }
    if new.is_waiting() {
        let key = key::owed(delivery.endpoint, delivery.due, delivery.event);
        overlay.put(key, value::encode(&Owed::of(&delivery)));
        overlay.count(delivery.endpoint, &delivery.merchant, location, 1);
    }
    let run = |status| Run { merchant: delivery.merchant.clone(), event_type: delivery.event_type, status };
    if old != new {
        overlay.unpost(run(old), delivery.event);
    }
    let entry = Entry {
        location: delivery.location,
        last_attempt: delivery.last_attempt,
        endpoint: Some(delivery.endpoint),
        when: if new.is_waiting() { delivery.due } else { Timestamp::from_ms(meta.at) },
    };
    overlay.post(run(new), delivery.event, entry, old == new);
    Ok(delivery)
}

/// Configuration changed.
pub(crate) fn changed(overlay: &mut Overlay, changes: &[Change]) {
    for change in changes {
        match place(change) {
            (key, Some(value)) => overlay.put(key, value),
            (key, None) => overlay.remove(key),
        }
    }
}

/// The place of the index that a change sets, or clears.
pub(crate) fn place(change: &Change) -> Write {
    match change {
        Change::PutMerchant(merchant) => (key::merchant(&merchant.id), Some(value::encode(&MerchantV2::of(merchant)))),
        Change::DeleteMerchant(id) => (key::merchant(id), None),
        Change::PutEndpoint(endpoint) => (key::endpoint(endpoint.id), Some(value::encode(&EndpointV2::of(endpoint)))),
        Change::DeleteEndpoint(id) => (key::endpoint(*id), None),
        Change::PutKey(key) => (key::key(key.id.0), Some(value::encode(&KeyV1::of(key)))),
        Change::DeleteKey(id) => (key::key(id.0), None),
        Change::PutOwner(kind, id, merchant) => {
            (key::owner(*kind, id), Some(value::encode(&merchant.as_str().to_owned())))
        }
        Change::DeleteOwner(kind, id) => (key::owner(*kind, id), None),
    }
}

/// The changes that a record holds.
pub(crate) fn changes_of(bodies: Vec<ChangeV1>) -> Result<Vec<Change>, Undecodable> {
    bodies.into_iter().map(ChangeV1::into_change).collect()
}

/// The names of which a record of an event speaks, of a producer's key where that is `keyed`.
fn mentions(location: Location, meta: &AcceptedV1, keyed: bool) -> Result<Vec<Mention>, Undecodable> {
    let (merchant, id) = (meta.merchant()?, EventId::from_u128(meta.id));
    let key = meta.idempotency.filter(|_| keyed).map(|(digest, _)| Name::key(&merchant, digest));
    let resource = match resource_hash(meta.resource_id.as_deref()) {
        0 => None,
        hash => Some(Name::resource(&merchant, meta.event_type()?, hash)),
    };
    Ok(key.into_iter().chain(resource).map(|name| Mention::new(name, id, location)).collect())
}

/// A copy does not say its producer's key again: where that counts, it is kept by itself.
fn carried_mentions(location: Location, meta: &CarriedV1) -> Result<Vec<Mention>, Undecodable> {
    mentions(location, &meta.accepted, false)
}

fn kept_mentions(location: Location, meta: &KeptV1) -> Result<Vec<Mention>, Undecodable> {
    let mention = |known: &KnownKeyV1| {
        let name = Name::key(&codec::merchant(&known.merchant)?, known.key);
        Ok(Mention::new(name, EventId::from_u128(known.event), location))
    };
    meta.keys.iter().map(mention).collect()
}

/// The names of which a record speaks.
pub(crate) fn mentions_of(location: Location, record: &Record) -> Result<Vec<Mention>, Undecodable> {
    match record.header.kind {
        Kind::Accepted => mentions(location, &codec::decode(&record.meta)?, true),
        Kind::Carried => carried_mentions(location, &codec::decode(&record.meta)?),
        Kind::Kept => kept_mentions(location, &codec::decode(&record.payload)?),
        _ => Ok(Vec::new()),
    }
}

fn note(overlay: &mut Overlay, mentions: Vec<Mention>) {
    mentions.into_iter().for_each(|mention| overlay.note(mention));
}
