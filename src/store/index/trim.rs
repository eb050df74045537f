//! Taking out of the history what stood in segments that were dropped.
//!
//! Nobody sees it any more when this runs: readers leave out what stands in a dropped segment. Never touches an entry
//! whose record is kept, never looks for each event of a resource by itself: what is left of these is swept up.

use std::collections::{BTreeMap, HashMap};

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
    /// 0 where it speaks of none.
    pub(crate) resource: u64,
}

/// Events of one resource that are worth a look at its run; what is rarer is left to the sweep.
const OWN_MIN: usize = 8;

/// Looks at runs and blocks after which whoever else writes has its turn.
const LOOKS_MAX: usize = 2048;

/// The smallest and the greatest id of a stretch, and how many there are.
#[derive(Clone, Copy)]
struct Ids {
    first: EventId,
    last: EventId,
    count: usize,
}

impl Ids {
    fn none(id: EventId) -> Ids {
        Ids { first: id, last: id, count: 0 }
    }

    fn add(&mut self, id: EventId) {
        *self = Ids { first: self.first.min(id), last: self.last.max(id), count: self.count + 1 };
    }
}

impl Index {
    /// Removes the entries that point before segment `first`, for these events: all of the merchants' runs, and those
    /// of resources with many. All that was applied before the segments were dropped must have been flushed.
    pub(crate) fn trim(&self, dropped: &[Dropped], first: u32) -> Result<(), StoreError> {
        let mut stretches: BTreeMap<(&MerchantId, EventType), Ids> = BTreeMap::new();
        let mut own: HashMap<(&MerchantId, EventType, u64), Ids> = HashMap::new();
        for event in dropped {
            stretches.entry((&event.merchant, event.event_type)).or_insert(Ids::none(event.id)).add(event.id);
            let resource = own.entry((&event.merchant, event.event_type, event.resource));
            resource.or_insert(Ids::none(event.id)).add(event.id);
        }
        let whole = stretches.into_iter().map(|((merchant, event_type), ids)| (merchant, event_type, 0, ids));
        let own = own.into_iter().map(|((merchant, event_type, resource), ids)| (merchant, event_type, resource, ids));
        let own = own.filter(|(_, _, resource, ids)| *resource != 0 && ids.count >= OWN_MIN);
        let mut writes = Vec::new();
        let mut turn = Some(self.writers.wait());
        let mut looks = 0;
        for (merchant, event_type, resource, ids) in whole.chain(own) {
            for status in Status::ALL {
                let run = Run { merchant: merchant.clone(), resource, event_type, status };
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

    /// Removes the entries that point before segment `first` from the next so many blocks of history, whichever they
    /// are; `from` moves on, and from the last one back to the first.
    pub(crate) fn sweep(&self, from: &mut Vec<u8>, first: u32, blocks_max: usize) -> Result<(), StoreError> {
        let mut left = blocks_max;
        while left > 0 {
            let looks = left.min(LOOKS_MAX);
            let (mut writes, mut seen, mut last) = (Vec::new(), 0, None);
            let _turn = self.writers.wait();
            for block in self.tree.range(from, &[key::HISTORY + 1]).take(looks) {
                let (key, entries) = decoded(block)?;
                (seen, last) = (seen + 1, Some(after(&key)));
                writes.extend(trimmed(key, entries, first));
            }
            self.tree.apply(writes)?;
            let Some(next) = last.filter(|_| seen == looks) else {
                *from = vec![key::HISTORY];
                return Ok(());
            };
            *from = next;
            left -= looks;
        }
        Ok(())
    }

    /// The blocks of a run that may hold events between two ids.
    fn blocks(&self, run: &Run, ids: Ids) -> Result<Vec<(Vec<u8>, posting::Entries)>, StoreError> {
        let prefix = run.prefix();
        let from = self.block_of(&prefix, ids.first)?.map_or_else(|| prefix.clone(), |(key, _)| key);
        self.tree.range(&from, &after(&key::block(&prefix, ids.last))).map(decoded).collect()
    }
}

impl Dropped {
    /// Where the blocks of its resource begin.
    pub(crate) fn place(&self) -> Vec<u8> {
        let Dropped { merchant, event_type, resource, .. } = self;
        let run =
            Run { merchant: merchant.clone(), resource: *resource, event_type: *event_type, status: Status::Delivered };
        run.prefix()
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
