//! `store export`: everything that a store holds, one JSON object a line.
//!
//! Never writes a secret or a key's digest: those are of use only to whoever should not have them.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use metrics::Counter;
use serde::Serialize;
use serde_json::value::RawValue;

use super::damage::Damage;
use super::embedded::{Limits, OpenFault, Probes};
use super::index::{Index, key, value};
use super::journal::{Journal, Segments};
use super::recovery::{Recovered, recover, take};
use super::{Dossier, HistoryItem, HistoryQuery, StoreError};
use crate::clock::Clock;
use crate::model::{Attempt, EventId, EventType, MerchantId, Role};

/// Events read in one go.
const PAGE: usize = 250;

/// Why an export ended early.
#[derive(Debug, thiserror::Error)]
pub enum ExportFault {
    /// The store could not be opened.
    #[error(transparent)]
    Open(#[from] OpenFault),
    /// What it holds could not be read.
    #[error(transparent)]
    Read(#[from] StoreError),
    /// Whoever reads the export went away, or the disk is full.
    #[error("writing the export: {0}")]
    Write(#[from] io::Error),
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Events.
    pub events: u64,
    /// Of these, events of which a record is damaged.
    pub damaged: u64,
    /// Lines in all.
    pub lines: u64,
}

/// One line.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Line {
    Merchant {
        id: String,
        name: Option<String>,
        created_at: String,
        paused_at: Option<String>,
    },
    Endpoint {
        id: u64,
        merchant_id: String,
        url: String,
        event_types: Vec<&'static str>,
        secret_set: bool,
        state: String,
        created_at: String,
        updated_at: String,
    },
    Key {
        id: u64,
        role: &'static str,
        merchant_id: Option<String>,
        created_at: String,
    },
    Owner {
        of: &'static str,
        id: String,
        merchant_id: String,
    },
    Sequence {
        merchant_id: String,
        last: u64,
    },
    Event(Box<EventLine>),
}

#[derive(Serialize)]
struct EventLine {
    id: String,
    merchant_id: String,
    sequence: u64,
    event_type: &'static str,
    resource_id: Option<String>,
    traceparent: Option<String>,
    occurred_at: Option<String>,
    created_at: String,
    status: &'static str,
    endpoint: Option<u64>,
    delivered_at: Option<String>,
    next_attempt_at: Option<String>,
    /// The payload as it is, where it is JSON on one line; otherwise in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    attempts: Vec<AttemptLine>,
    /// A record of it cannot be read any more: the payload and the attempts are missing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    damaged: bool,
}

#[derive(Serialize)]
struct AttemptLine {
    number: u32,
    started_at: String,
    duration_ms: u32,
    status_code: Option<u16>,
    error_code: Option<&'static str>,
}

/// Writes everything that the store in `dir` holds. No other process may be using it.
pub fn export(dir: &Path, limits: &Limits, clock: &dyn Clock, out: &mut dyn Write) -> Result<Exported, ExportFault> {
    let _lock = take(dir)?;
    let Recovered { journal, index, .. } = recover(dir, limits, clock, &Probes::default(), || Box::new(|| false))?;
    let damage = Damage::new(Counter::noop());
    let segments = Journal::segments(&journal);
    let mut export = Export { index: &index, segments, damage, out, done: Exported::default() };
    export.catalog()?;
    export.owners()?;
    let mut sequences: Vec<_> = super::query::sequences(&index)?.into_iter().collect();
    sequences.sort_unstable();
    for (merchant, last) in sequences {
        export.line(&Line::Sequence { merchant_id: merchant.to_string(), last })?;
        export.events(&merchant)?;
    }
    export.out.flush()?;
    let done = export.done;
    index.checkpoint()?;
    Ok(done)
}

struct Export<'a> {
    index: &'a Index,
    segments: Arc<Segments>,
    damage: Damage,
    out: &'a mut dyn Write,
    done: Exported,
}

impl Export<'_> {
    fn line(&mut self, line: &Line) -> Result<(), ExportFault> {
        serde_json::to_writer(&mut *self.out, line).map_err(io::Error::from)?;
        self.out.write_all(b"\n")?;
        self.done.lines += 1;
        Ok(())
    }

    fn catalog(&mut self) -> Result<(), ExportFault> {
        let catalog = super::query::catalog(self.index)?;
        for merchant in catalog.merchants {
            self.line(&Line::Merchant {
                id: merchant.id.to_string(),
                name: merchant.name.as_deref().map(str::to_owned),
                created_at: merchant.created_at.to_string(),
                paused_at: merchant.paused_at.map(|at| at.to_string()),
            })?;
        }
        for endpoint in catalog.endpoints {
            let types = EventType::ALL.into_iter().filter(|event_type| endpoint.event_types.contains(*event_type));
            self.line(&Line::Endpoint {
                id: endpoint.id.0,
                merchant_id: endpoint.merchant.to_string(),
                url: endpoint.url.to_string(),
                event_types: types.map(EventType::as_str).collect(),
                secret_set: endpoint.secret.is_some(),
                state: format!("{:?}", endpoint.state).to_lowercase(),
                created_at: endpoint.created_at.to_string(),
                updated_at: endpoint.updated_at.to_string(),
            })?;
        }
        for key in catalog.keys {
            let (role, merchant) = match &key.role {
                Role::Merchant(id) => ("merchant", Some(id.to_string())),
                Role::Producer => ("producer", None),
                Role::Operator => ("operator", None),
            };
            let created_at = key.created_at.to_string();
            self.line(&Line::Key { id: key.id.0, role, merchant_id: merchant, created_at })?;
        }
        Ok(())
    }

    fn owners(&mut self) -> Result<(), ExportFault> {
        let mut from = vec![key::OWNERS];
        loop {
            let stretch = self.index.stretch(&from, &[key::OWNERS + 1], PAGE)?;
            for (place, bytes) in &stretch.pairs {
                let of = if place.get(1) == Some(&0) { "account" } else { "card" };
                let id = String::from_utf8_lossy(place.get(2..).unwrap_or_default()).into_owned();
                self.line(&Line::Owner { of, id, merchant_id: value::decode(bytes)? })?;
            }
            let Some((last, _)) = stretch.pairs.last().filter(|_| stretch.more) else { return Ok(()) };
            from = [last, [0].as_slice()].concat();
        }
    }

    fn events(&mut self, merchant: &MerchantId) -> Result<(), ExportFault> {
        let mut query = HistoryQuery {
            merchant: merchant.clone(),
            statuses: Vec::new(),
            event_types: Vec::new(),
            resource_id: None,
            first: EventId::MIN,
            last: EventId::MAX,
            descending: false,
            limit: PAGE,
        };
        loop {
            let page = super::query::page(self.index, &self.segments, &self.damage, &query)?;
            for item in &page.items {
                let line = match super::query::dossier(self.index, &self.segments, merchant, item.id) {
                    Err(error) if error.is_damage() => {
                        self.done.damaged += 1;
                        what_is_left(merchant, item)
                    }
                    dossier => event_line(dossier?.ok_or_else(|| value::damaged("a line of history leads nowhere"))?),
                };
                self.line(&Line::Event(Box::new(line)))?;
                self.done.events += 1;
            }
            let Some(last) = page.items.last().filter(|_| page.more) else { return Ok(()) };
            query.first = last.id.after();
        }
    }
}

fn event_line(dossier: Dossier) -> EventLine {
    let Dossier { event, item, attempts, delivery, .. } = dossier;
    let (payload, payload_base64) = shown(&event.payload);
    EventLine {
        id: event.id.to_string(),
        merchant_id: event.merchant.to_string(),
        sequence: event.sequence,
        event_type: event.event_type.as_str(),
        resource_id: event.resource_id.as_deref().map(str::to_owned),
        traceparent: event.traceparent.as_deref().map(str::to_owned),
        occurred_at: event.occurred_at.map(|at| at.to_string()),
        created_at: event.id.accepted_at().to_string(),
        status: item.status.as_str(),
        endpoint: delivery.map(|delivery| delivery.endpoint.0),
        delivered_at: item.delivered_at.map(|at| at.to_string()),
        next_attempt_at: item.next_attempt_at.map(|at| at.to_string()),
        payload,
        payload_base64,
        attempts: attempts.iter().map(attempt_line).collect(),
        damaged: false,
    }
}

/// An event of which a record is damaged.
fn what_is_left(merchant: &MerchantId, item: &HistoryItem) -> EventLine {
    EventLine {
        id: item.id.to_string(),
        merchant_id: merchant.to_string(),
        sequence: item.sequence,
        event_type: item.event_type.as_str(),
        resource_id: item.resource_id.as_deref().map(str::to_owned),
        traceparent: None,
        occurred_at: None,
        created_at: item.id.accepted_at().to_string(),
        status: item.status.as_str(),
        endpoint: None,
        delivered_at: item.delivered_at.map(|at| at.to_string()),
        next_attempt_at: item.next_attempt_at.map(|at| at.to_string()),
        payload: None,
        payload_base64: None,
        attempts: Vec::new(),
        damaged: true,
    }
}

fn attempt_line(attempt: &Attempt) -> AttemptLine {
    AttemptLine {
        number: attempt.number,
        started_at: attempt.started_at.to_string(),
        duration_ms: attempt.duration_ms,
        status_code: attempt.outcome.status(),
        error_code: attempt.outcome.error().map(crate::model::ErrorCode::as_str),
    }
}

fn shown(payload: &Bytes) -> (Option<Box<RawValue>>, Option<String>) {
    let text = std::str::from_utf8(payload).ok().filter(|text| !text.contains(['\n', '\r']));
    match text.and_then(|text| serde_json::from_str(text).ok()) {
        Some(raw) => (Some(raw), None),
        None => (None, Some(BASE64.encode(payload))),
    }
}
