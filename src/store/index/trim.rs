//! Taking out of the history what stood in segments that were dropped.
//!
//! Nobody sees it any more when this runs: readers leave out what stands in a dropped segment. Never touches an entry
//! whose record is kept.

use std::collections::BTreeMap;

use super::key::{self, Run};
use super::tree::Write;
use super::{Entry, Index, after, posting, value};
use crate::model::{EventId, EventType, MerchantId, Status};
use crate::store::StoreError;

/// An event whose record stood in a dropped segment. It may be kept elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct Dropped {
    pub(crate) id: EventId,
    pub(crate) merchant: MerchantId,
    pub(crate) event_type: EventType,
}

/// Looks at runs and blocks after which whoever else writes has its turn.
const LOOKS_MAX: usize = 2048;

/// The smallest and the greatest id of a stretch.
#[derive(Clone, Copy)]
struct Ids {
    first: EventId,
    last: EventId,
}

impl Index {
    /// Removes the entries that point before segment `first`, for these events. All that was applied before the segments
    /// were dropped must have been flushed.
    pub(crate) fn trim(&self, dropped: &[Dropped], first: u32) -> Result<(), StoreError> {
        let mut stretches: BTreeMap<(&MerchantId, EventType), Ids> = BTreeMap::new();
        for event in dropped {
            let ids = stretches.entry((&event.merchant, event.event_type));
            let ids = ids.or_insert(Ids { first: event.id, last: event.id });
            *ids = Ids { first: ids.first.min(event.id), last: ids.last.max(event.id) };
        }
        let mut writes = Vec::new();
        let mut turn = Some(self.writers.wait());
        let mut looks = 0;
        for ((merchant, event_type), ids) in stretches {
            for status in Status::ALL {
                let run = Run { merchant: merchant.clone(), event_type, status };
                looks += 1;
                for (key, entries) in self.blocks(&run, ids)? {
                    looks += 1;
                    writes.extend(trimmed(key, entries, first));
                }
            }
            if looks >= LOOKS_MAX {
                self.tree.apply(writes.drain(..))?;
                drop(turn.take());
                turn = Some(self.writers.wait());
                looks = 0;
            }
        }
        self.tree.apply(writes)
    }

    /// The blocks of a run that may hold events between two ids.
    fn blocks(&self, run: &Run, ids: Ids) -> Result<Vec<(Vec<u8>, posting::Entries)>, StoreError> {
        let prefix = run.prefix();
        let from = self.block_of(&prefix, ids.first)?.map_or_else(|| prefix.clone(), |(key, _)| key);
        self.tree.range(&from, &after(&key::block(&prefix, ids.last))).map(decoded).collect()
    }
}

fn decoded(block: Result<super::Pair, StoreError>) -> Result<(Vec<u8>, posting::Entries), StoreError> {
    let (key, bytes) = block?;
    let entries = posting::decode(&bytes).ok_or_else(|| value::damaged("a block of history is torn"))?;
    Ok((key, entries))
}

/// What takes out of a block the entries that point before segment `first`, where there are any.
fn trimmed(key: Vec<u8>, entries: posting::Entries, first: u32) -> Option<Write> {
    let before = entries.len();
    let kept: posting::Entries = entries.into_iter().filter(|(_, entry)| is_kept(entry, first)).collect();
    (kept.len() < before).then(|| (key, (!kept.is_empty()).then(|| posting::encode(&kept))))
}

fn is_kept(entry: &Entry, first: u32) -> bool {
    entry.location.segment() >= first
}
