//! Taking out of the history what stood in segments that were dropped.
//!
//! Nobody sees it any more when this runs: readers leave out what stands in a dropped segment. Never touches
//! an entry whose record is kept.

use std::collections::{BTreeMap, HashMap};

use super::key::{self, Run};
use super::{Index, after, posting, value};
use crate::model::{EventId, EventType, MerchantId, Status};
use crate::store::StoreError;

/// An event whose record stood in a dropped segment. It may be kept elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct Dropped {
    pub(crate) id: EventId,
    pub(crate) merchant: MerchantId,
    pub(crate) event_type: EventType,
    /// 0 where it speaks of none.
    pub(crate) resource: u64,
}

/// The smallest and the greatest id of a stretch.
type Ids = (EventId, EventId);

impl Index {
    /// Removes every entry that points before segment `first`, for these events; how many there were. All that
    /// was applied before the segments were dropped must have been flushed.
    pub(crate) fn trim(&self, dropped: &[Dropped], first: u32) -> Result<usize, StoreError> {
        let mut stretches: BTreeMap<(&MerchantId, EventType), Ids> = BTreeMap::new();
        for event in dropped {
            widen(stretches.entry((&event.merchant, event.event_type)).or_insert((event.id, event.id)), event.id);
        }
        let resources: HashMap<EventId, u64> =
            dropped.iter().filter(|event| event.resource != 0).map(|event| (event.id, event.resource)).collect();
        let mut removed = 0;
        for ((merchant, event_type), ids) in stretches {
            for status in Status::ALL {
                let whole = Run { merchant: merchant.clone(), resource: 0, event_type, status };
                // The runs of the resources first: what is left of the whole run says which they are, also to
                // the next start.
                let mut own: BTreeMap<u64, Ids> = BTreeMap::new();
                for id in self.outdated(&whole, ids, first)? {
                    let Some(resource) = resources.get(&id) else { continue };
                    widen(own.entry(*resource).or_insert((id, id)), id);
                }
                for (resource, ids) in own {
                    self.trim_run(&Run { resource, ..whole.clone() }, ids, first)?;
                }
                removed += self.trim_run(&whole, ids, first)?;
            }
        }
        Ok(removed)
    }

    /// The events of a run between two ids whose records are dropped.
    fn outdated(&self, run: &Run, ids: Ids, first: u32) -> Result<Vec<EventId>, StoreError> {
        let mut found = Vec::new();
        for (_, entries) in self.blocks(run, ids)? {
            found.extend(entries.iter().filter(|(_, entry)| entry.location.segment() < first).map(|(id, _)| *id));
        }
        Ok(found)
    }

    fn trim_run(&self, run: &Run, ids: Ids, first: u32) -> Result<usize, StoreError> {
        let _writer = self.writer();
        let mut removed = 0;
        let mut writes = Vec::new();
        for (key, entries) in self.blocks(run, ids)? {
            let before = entries.len();
            let kept: Vec<_> = entries.into_iter().filter(|(_, entry)| entry.location.segment() >= first).collect();
            if kept.len() < before {
                removed += before - kept.len();
                writes.push((key, (!kept.is_empty()).then(|| posting::encode(&kept))));
            }
        }
        self.tree.apply(writes)?;
        Ok(removed)
    }

    /// The blocks of a run that may hold events between two ids.
    fn blocks(&self, run: &Run, (first, last): Ids) -> Result<Vec<(Vec<u8>, posting::Entries)>, StoreError> {
        let prefix = run.prefix();
        let from = self.block_of(&prefix, first)?.map_or_else(|| prefix.clone(), |(key, _)| key);
        let blocks = self.tree.range(&from, &after(&key::block(&prefix, last)));
        let decoded = blocks.map(|block| {
            let (key, bytes) = block?;
            let entries = posting::decode(&bytes).ok_or_else(|| value::damaged("a block of history is torn"))?;
            Ok((key, entries))
        });
        decoded.collect()
    }
}

fn widen(ids: &mut Ids, id: EventId) {
    *ids = (ids.0.min(id), ids.1.max(id));
}
