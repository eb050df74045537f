//! Reading: what is configured, what is owed, what happened.
//!
//! Never writes; every answer is the overlay over sled, with bodies from the journal.

use std::collections::HashMap;

use bytes::Bytes;

use super::carry::{accepted_of, chain, expect};
use super::damage::Damage;
use super::embedded::index_fault;
use super::index::key::{self, Run};
use super::index::value::{self, Owed};
use super::index::{Entry, Index};
use super::journal::codec::{self, AcceptedV1, AttemptV1, EndpointV2, KeyV1, MerchantV2, SettledV1};
use super::journal::{Kind, Segments};
use super::{AttemptSummary, Catalog, Dossier, DuePage, HistoryItem, HistoryPage, HistoryQuery, StoreError};
use crate::model::{
    Attempt, Delivery, DueKey, EndpointId, Event, EventId, EventType, Location, MerchantId, OwnerKind, Status,
    Timestamp, resource_hash,
};

/// How often a look that met a change in between is taken again.
const LOOKS_MAX: usize = 8;

/// No limit.
const ALL: usize = usize::MAX - 1;

/// All that is configured, seen at one moment.
pub(super) fn catalog(index: &Index) -> Result<Catalog, StoreError> {
    let kinds =
        [[key::MERCHANTS, key::MERCHANTS + 1], [key::ENDPOINTS, key::ENDPOINTS + 1], [key::KEYS, key::KEYS + 1]];
    let ranges = [0, 1, 2].map(|kind: usize| (&kinds[kind][..1], &kinds[kind][1..]));
    let [merchants, endpoints, keys] = index.stretches(ranges, ALL)?;
    let merchants = merchants
        .pairs
        .iter()
        .map(|(_, bytes)| value::decode::<MerchantV2>(bytes)?.into_merchant().map_err(index_fault));
    let endpoints = endpoints
        .pairs
        .iter()
        .map(|(_, bytes)| value::decode::<EndpointV2>(bytes)?.into_endpoint().map_err(index_fault));
    let keys = keys.pairs.iter().map(|(_, bytes)| value::decode::<KeyV1>(bytes)?.into_key().map_err(index_fault));
    Ok(Catalog {
        merchants: merchants.collect::<Result<_, _>>()?,
        endpoints: endpoints.collect::<Result<_, _>>()?,
        keys: keys.collect::<Result<_, _>>()?,
        retries_paused_at: None,
    })
}

/// The last sequence of every merchant that ever had an event.
pub(super) fn sequences(index: &Index) -> Result<HashMap<MerchantId, u64>, StoreError> {
    let stretch = index.stretch(&[key::SEQUENCES], &[key::SEQUENCES + 1], ALL)?;
    let sequences = stretch.pairs.iter().map(|(key, bytes)| {
        let merchant = key::name(key).ok_or_else(|| value::damaged("a sequence has a bad merchant"))?;
        Ok((merchant, value::decode(bytes)?))
    });
    sequences.collect()
}

/// Who owns an account or card.
pub(super) fn owner(index: &Index, kind: OwnerKind, id: &str) -> Result<Option<MerchantId>, StoreError> {
    let Some(bytes) = index.get(&key::owner(kind, id))? else { return Ok(None) };
    let name: String = value::decode(&bytes)?;
    name.parse().map(Some).map_err(|_| value::damaged("an owner has a bad merchant"))
}

/// What is owed to an endpoint.
pub(super) fn due(index: &Index, endpoint: EndpointId, from: DueKey, limit: usize) -> Result<DuePage, StoreError> {
    let stretch = index.stretch(&key::owed(endpoint, from.0, from.1), &key::owed_end(endpoint), limit)?;
    let deliveries = stretch.pairs.iter().map(|(key, bytes)| {
        let (due, event) = key::owed_parts(key).ok_or_else(|| value::damaged("an outbox key is torn"))?;
        let delivery = value::decode::<Owed>(bytes)?.into_delivery(endpoint, due, event);
        delivery.ok_or_else(|| value::damaged("an outbox entry is torn"))
    });
    Ok(DuePage { deliveries: deliveries.collect::<Result<_, StoreError>>()?, more: stretch.more, as_of: stretch.as_of })
}

/// A page of history: a merge of at most types × statuses ordered runs.
/// An event of which a record is damaged keeps its line.
pub(super) fn page(
    index: &Index,
    segments: &Segments,
    damage: &Damage,
    query: &HistoryQuery,
) -> Result<HistoryPage, StoreError> {
    let runs = runs(&query.merchant, &query.event_types, &query.statuses);
    let resource = resource_hash(query.resource_id.as_deref());
    let (mut first, mut last) = (query.first, query.last);
    let mut page = HistoryPage::default();
    if query.limit == 0 {
        return Ok(page);
    }
    let mut looks = 0;
    'look: while !page.more && first <= last {
        // What stood before it when the look began was not copied forward. What is dropped later may have been.
        let kept_from = segments.first();
        let mut found = match resource {
            0 => index.events(&runs, first, last, query.descending, query.limit + 1)?,
            _ => index.events_of(resource, &runs, (first, last), query.descending, query.limit + 1)?,
        };
        found.sort_unstable_by_key(|(_, id, _)| *id);
        if query.descending {
            found.reverse();
        }
        let ended = found.len() <= query.limit;
        // Beyond these, a run that was read up to its limit may hold some that are missing here.
        found.truncate(query.limit + 1);
        for (run, id, entry) in found {
            if entry.location.segment() < kept_from {
                (first, last) = if query.descending { (first, id.before()) } else { (id.after(), last) };
                continue;
            }
            let item = match item(segments, &runs[run], id, &entry) {
                // Dropped or copied forward after the look: looking again tells which.
                Err(_) if !segments.keeps(entry.location) && looks < LOOKS_MAX => {
                    looks += 1;
                    continue 'look;
                }
                Err(error) if error.is_damage() => {
                    damage.met(id, &error);
                    remains(segments, &runs[run], id, &entry)
                }
                item => item?,
            };
            // Two resources may share a hash; only the one asked for is shown.
            let is_other = item.resource_id.as_deref() != query.resource_id.as_deref() && !item.damaged;
            if query.resource_id.is_none() || !is_other {
                page.more = page.items.len() == query.limit;
                if page.more {
                    break;
                }
                page.items.push(item);
            }
            (first, last) = if query.descending { (first, id.before()) } else { (id.after(), last) };
        }
        if ended {
            break;
        }
    }
    Ok(page)
}

/// Everything about one event.
pub(super) fn dossier(
    index: &Index,
    segments: &Segments,
    merchant: &MerchantId,
    id: EventId,
) -> Result<Option<Dossier>, StoreError> {
    let runs = runs(merchant, &[], &[]);
    for _ in 0..LOOKS_MAX {
        // As in a page.
        let kept_from = segments.first();
        let found = index.events(&runs, id, id, true, 1)?;
        let found = found.into_iter().find(|(_, _, entry)| entry.location.segment() >= kept_from);
        let Some((run, _, entry)) = found else { return Ok(None) };
        let read = read(segments, &runs[run], id, &entry);
        let (item, event, attempts) = match read {
            // Dropped or copied forward after the look.
            Err(_) if !segments.keeps(entry.location) => continue,
            read => read?,
        };
        let delivery = match entry.endpoint {
            None => None,
            Some(endpoint) if item.status.is_waiting() => match index.get(&key::owed(endpoint, entry.when, id))? {
                Some(bytes) => value::decode::<Owed>(&bytes)?.into_delivery(endpoint, entry.when, id),
                // Settled between the two looks.
                None => continue,
            },
            Some(endpoint) => Some(settled(&event, &item, endpoint, &entry)),
        };
        return Ok(Some(Dossier { event, location: entry.location, item, attempts, delivery }));
    }
    Err(StoreError::Index(format!("{id} changes faster than it can be read")))
}

/// What the journal holds of an event.
fn read(
    segments: &Segments,
    run: &Run,
    id: EventId,
    entry: &Entry,
) -> Result<(HistoryItem, Event, Vec<Attempt>), StoreError> {
    let item = item(segments, run, id, entry)?;
    let event = event(segments, entry.location)?;
    Ok((item, event, attempts(segments, entry.last_attempt)?))
}

/// The event of a delivery: where the delivery says that it stands, or where it was copied to since.
pub(super) fn event_of(index: &Index, segments: &Segments, delivery: &Delivery) -> Result<Event, StoreError> {
    let mut location = delivery.location;
    for _ in 0..LOOKS_MAX {
        let read = if segments.keeps(location) { event(segments, location) } else { Err(gone(location)) };
        match read {
            Err(_) if !segments.keeps(location) => {}
            read => return read,
        }
        match index.find(&delivery.merchant, delivery.event_type, delivery.event)? {
            Some((_, entry)) => location = entry.location,
            None => break,
        }
    }
    Err(gone(location))
}

fn gone(location: Location) -> StoreError {
    StoreError::Corrupt(format!(
        "the event at byte {} of segment {} was dropped",
        location.offset(),
        location.segment()
    ))
}

/// The event that stands at a location.
fn event(segments: &Segments, location: Location) -> Result<Event, StoreError> {
    let record = segments.read(location)?;
    expect(&record.header, Kind::is_event, location)?;
    let meta = accepted_of(record.header.kind, &record.meta)?;
    // A copy of its own, so that a payload kept in memory does not keep its record's meta with it.
    meta.into_event(Bytes::copy_from_slice(&record.payload)).map_err(index_fault)
}

/// The state of a delivery to which nothing is owed any more.
fn settled(event: &Event, item: &HistoryItem, endpoint: EndpointId, entry: &Entry) -> Delivery {
    Delivery {
        written: entry.last_attempt.unwrap_or(entry.location),
        last_attempt: entry.last_attempt,
        attempts: item.attempts,
        attempts_before: item.attempts,
        status: item.status,
        ..Delivery::first(event, endpoint, entry.location, entry.when)
    }
}

/// Every attempt that is kept, first one first.
fn attempts(segments: &Segments, newest: Option<Location>) -> Result<Vec<Attempt>, StoreError> {
    let records = chain(segments, newest)?.into_iter();
    let attempts = records.filter_map(|(meta, response)| Some(meta.attempt?.into_attempt(&response)));
    attempts.collect::<Result<_, _>>().map_err(index_fault)
}

/// One line of history.
fn item(segments: &Segments, run: &Run, id: EventId, entry: &Entry) -> Result<HistoryItem, StoreError> {
    let accepted = accepted_at(segments, entry.location)?;
    let last = entry.last_attempt.map(|location| settled_at(segments, location)).transpose()?;
    line(run, id, entry, Some(&accepted), last.as_ref())
}

/// The line of an event of which a record is damaged.
fn remains(segments: &Segments, run: &Run, id: EventId, entry: &Entry) -> HistoryItem {
    let accepted = accepted_at(segments, entry.location).ok();
    let last = entry.last_attempt.and_then(|location| settled_at(segments, location).ok());
    let known = line(run, id, entry, accepted.as_ref(), last.as_ref());
    let known = known.or_else(|_| line(run, id, entry, accepted.as_ref(), None));
    HistoryItem { damaged: true, ..known.expect("only what is said of an attempt may make no sense") }
}

fn accepted_at(segments: &Segments, location: Location) -> Result<AcceptedV1, StoreError> {
    let (header, bytes) = segments.read_meta(location)?;
    expect(&header, Kind::is_event, location)?;
    accepted_of(header.kind, &bytes)
}

fn settled_at(segments: &Segments, location: Location) -> Result<SettledV1, StoreError> {
    let (header, bytes) = segments.read_meta(location)?;
    expect(&header, Kind::is_attempt, location)?;
    codec::decode(&bytes).map_err(index_fault)
}

/// What index and records say of an event together.
fn line(
    run: &Run,
    id: EventId,
    entry: &Entry,
    accepted: Option<&AcceptedV1>,
    last: Option<&SettledV1>,
) -> Result<HistoryItem, StoreError> {
    let summary = |attempt: &AttemptV1| {
        let (status_code, error, duration_ms) = attempt.summary().map_err(index_fault)?;
        Ok::<_, StoreError>(AttemptSummary { at: attempt.started_at(), status_code, error, duration_ms })
    };
    // Where the newest attempt did not end it, nothing did but time.
    let ended_by_attempt = match last {
        Some(meta) => {
            let (_, status) = meta.statuses().map_err(index_fault)?;
            status == Status::Failed && Timestamp::from_ms(meta.at) == entry.when
        }
        None => false,
    };
    let sequence = accepted.map(|meta| meta.sequence).or_else(|| last.map(|meta| meta.sequence));
    Ok(HistoryItem {
        id,
        sequence: sequence.unwrap_or(0),
        event_type: run.event_type,
        resource_id: accepted.and_then(|meta| meta.resource_id.as_deref()).map(Into::into),
        status: run.status,
        attempts: last.map_or(0, |meta| meta.attempts),
        delivered_at: (run.status == Status::Delivered).then_some(entry.when),
        next_attempt_at: run.status.is_waiting().then_some(entry.when),
        last_attempt: last.and_then(|meta| meta.attempt.as_ref()).map(summary).transpose()?,
        expired: run.status == Status::Failed && !ended_by_attempt,
        damaged: false,
    })
}

fn runs(merchant: &MerchantId, types: &[EventType], statuses: &[Status]) -> Vec<Run> {
    let types = if types.is_empty() { &EventType::ALL[..] } else { types };
    let statuses = if statuses.is_empty() { &Status::ALL[..] } else { statuses };
    let mut runs: Vec<Run> = types
        .iter()
        .flat_map(|event_type| {
            statuses.iter().map(|status| Run { merchant: merchant.clone(), event_type: *event_type, status: *status })
        })
        .collect();
    runs.sort_unstable();
    runs.dedup();
    runs
}
