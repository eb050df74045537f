//! What the journal holds and sled does not yet: net changes by generation, names, and the counts of what is owed.
//!
//! A change that is made and undone within one generation never reaches sled. Never touches the disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::key::{self, Run};
use super::names::{Loose, Mention};
use super::posting::Entry;
use super::value::{self, Waiting, Watermark};
use crate::model::{EndpointId, EventId, Location, MerchantId};

/// A net change of one place. `value` is `None` where it is to be removed.
#[derive(Clone, Debug)]
pub(crate) struct Slot<V> {
    pub(crate) value: Option<V>,
    /// Neither sled nor an older generation knows the place, so that undoing it leaves nothing to write.
    born: bool,
}

/// Everything that changed between two watermarks.
#[derive(Debug)]
pub(crate) struct Generation {
    pub(crate) number: u64,
    pub(crate) plain: BTreeMap<Vec<u8>, Slot<Vec<u8>>>,
    pub(crate) runs: BTreeMap<Run, BTreeMap<EventId, Slot<Entry>>>,
    /// Endpoints whose count of owed deliveries changed, with the count at the end of the generation.
    pub(crate) counts: Vec<(EndpointId, Waiting)>,
    pub(crate) watermark: Watermark,
    /// The watermark of the generation before.
    begun: Watermark,
    touched: BTreeSet<EndpointId>,
    changes: usize,
}

impl Generation {
    fn new(number: u64, watermark: Watermark) -> Generation {
        Generation {
            number,
            plain: BTreeMap::new(),
            runs: BTreeMap::new(),
            counts: Vec::new(),
            watermark,
            begun: watermark,
            touched: BTreeSet::new(),
            changes: 0,
        }
    }
}

/// How many deliveries are owed to an endpoint.
#[derive(Clone, Debug)]
struct Count {
    merchant: MerchantId,
    waiting: i64,
    as_of: Location,
}

/// The generation that grows, the one being written to sled, and the counts.
#[derive(Debug)]
pub(crate) struct Overlay {
    pub(crate) active: Generation,
    pub(crate) flushing: Option<Arc<Generation>>,
    counts: HashMap<EndpointId, Count>,
    /// Of all generations: what stands in records that are applied.
    pub(crate) names: Loose,
    /// Whether changes are new to the index. During replay they may have been applied before.
    fresh: bool,
}

impl Overlay {
    pub(crate) fn new(watermark: Watermark) -> Overlay {
        Overlay {
            active: Generation::new(1, watermark),
            flushing: None,
            counts: HashMap::new(),
            names: Loose::default(),
            fresh: false,
        }
    }

    /// Ends replay: from here on every change is new to the index.
    pub(crate) fn begin_live(&mut self) {
        self.fresh = true;
    }

    /// Changes in the growing generation.
    pub(crate) fn changes(&self) -> usize {
        self.active.changes
    }

    /// Notes where a record speaks of a name.
    pub(crate) fn note(&mut self, mention: Mention) {
        self.active.changes += 1;
        self.names.note(mention);
    }

    /// Sets a place whose key may be known already.
    pub(crate) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.active.changes += 1;
        set(&mut self.active.plain, key, value, false);
    }

    /// Sets a place whose key was never used before.
    pub(crate) fn put_new(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.active.changes += 1;
        let fresh = self.fresh;
        set(&mut self.active.plain, key, value, fresh);
    }

    /// Clears a place.
    pub(crate) fn remove(&mut self, key: Vec<u8>) {
        self.active.changes += 1;
        clear(&mut self.active.plain, key);
    }

    /// Puts an event into a run. `known`: the run may hold it already.
    pub(crate) fn post(&mut self, run: Run, id: EventId, entry: Entry, known: bool) {
        self.active.changes += 1;
        let fresh = self.fresh && !known;
        set(self.active.runs.entry(run).or_default(), id, entry, fresh);
    }

    /// Takes an event out of a run.
    pub(crate) fn unpost(&mut self, run: Run, id: EventId) {
        self.active.changes += 1;
        let events = self.active.runs.entry(run).or_default();
        clear(events, id);
    }

    /// Counts a delivery in (1) or out (-1), unless the count already covers the record at `location`.
    pub(crate) fn count(&mut self, endpoint: EndpointId, merchant: &MerchantId, location: Location, step: i64) {
        let count = self.counts.entry(endpoint).or_insert_with(|| Count {
            merchant: merchant.clone(),
            waiting: 0,
            as_of: Location::ZERO,
        });
        if location > count.as_of {
            count.waiting += step;
            self.active.touched.insert(endpoint);
        }
    }

    /// Takes over a count that sled holds.
    pub(crate) fn load_count(&mut self, endpoint: EndpointId, merchant: MerchantId, waiting: &Waiting) {
        let count = Count { merchant, waiting: waiting.count, as_of: Location(waiting.as_of) };
        self.counts.insert(endpoint, count);
    }

    /// Endpoints to which something is owed.
    pub(crate) fn backlog(&self) -> Vec<(EndpointId, MerchantId, u64)> {
        let mut backlog: Vec<_> = self
            .counts
            .iter()
            .filter(|(_, count)| count.waiting > 0)
            .map(|(endpoint, count)| (*endpoint, count.merchant.clone(), count.waiting.unsigned_abs()))
            .collect();
        backlog.sort_unstable();
        backlog
    }

    /// Deliveries owed in all.
    pub(crate) fn waiting(&self) -> u64 {
        self.counts.values().map(|count| u64::try_from(count.waiting).unwrap_or(0)).sum()
    }

    /// The record before `watermark.next` is applied.
    pub(crate) fn advance(&mut self, watermark: Watermark) {
        self.active.watermark = watermark;
    }

    /// Closes the growing generation and begins the next; the closed one, or `None` where nothing changed and
    /// the watermark stands where it stood.
    pub(crate) fn rotate(&mut self) -> Option<Arc<Generation>> {
        assert!(self.flushing.is_none(), "one generation at a time is written to sled");
        if self.active.changes == 0 && self.active.watermark == self.active.begun {
            return None;
        }
        let next = Generation::new(self.active.number + 1, self.active.watermark);
        let mut closed = std::mem::replace(&mut self.active, next);
        let through = Location(closed.watermark.next.saturating_sub(1));
        for endpoint in std::mem::take(&mut closed.touched) {
            let Some(count) = self.counts.get(&endpoint) else { continue };
            let merchant = count.merchant.as_str().to_owned();
            closed.counts.push((endpoint, Waiting { merchant, count: count.waiting, as_of: through.0 }));
        }
        closed.runs.retain(|_, events| !events.is_empty());
        let closed = Arc::new(closed);
        self.flushing = Some(Arc::clone(&closed));
        Some(closed)
    }

    /// The latest word on a place, where this overlay has one.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Option<Vec<u8>>> {
        let slot = self.active.plain.get(key).or_else(|| self.flushing.as_ref()?.plain.get(key))?;
        Some(slot.value.clone())
    }
}

impl Generation {
    /// The counts as changes of the index.
    pub(crate) fn count_changes(&self) -> impl Iterator<Item = (Vec<u8>, Option<Vec<u8>>)> + '_ {
        self.counts.iter().map(|(endpoint, waiting)| (key::waiting(*endpoint), Some(value::encode(waiting))))
    }
}

fn set<K: Ord, V>(places: &mut BTreeMap<K, Slot<V>>, key: K, value: V, fresh: bool) {
    let slot = places.entry(key).or_insert(Slot { value: None, born: fresh });
    slot.value = Some(value);
}

fn clear<K: Ord, V>(places: &mut BTreeMap<K, Slot<V>>, key: K) {
    match places.entry(key) {
        std::collections::btree_map::Entry::Occupied(slot) if slot.get().born => {
            slot.remove();
        }
        std::collections::btree_map::Entry::Occupied(mut slot) => slot.get_mut().value = None,
        std::collections::btree_map::Entry::Vacant(place) => {
            place.insert(Slot { value: None, born: false });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(live: bool) -> Overlay {
        let mut overlay = Overlay::new(Watermark { next: 0, number: 1, last_event: 0 });
        if live {
            overlay.begin_live();
        }
        overlay
    }

    #[test]
    fn what_is_made_and_undone_in_one_generation_leaves_nothing() {
        let mut live = overlay(true);
        live.put_new(b"d1".to_vec(), vec![1]);
        live.remove(b"d1".to_vec());
        assert!(live.rotate().unwrap().plain.is_empty());
    }

    #[test]
    fn replay_always_writes_the_removal_because_sled_may_be_ahead() {
        let mut replaying = overlay(false);
        replaying.put_new(b"d1".to_vec(), vec![1]);
        replaying.remove(b"d1".to_vec());
        let generation = replaying.rotate().unwrap();
        assert!(generation.plain[b"d1".as_slice()].value.is_none());
    }

    #[test]
    fn what_an_older_generation_made_is_removed_explicitly() {
        let mut live = overlay(true);
        live.put_new(b"d1".to_vec(), vec![1]);
        live.rotate();
        live.remove(b"d1".to_vec());
        assert_eq!(live.get(b"d1"), Some(None), "the removal hides what is still being written");
    }

    #[test]
    fn a_count_ignores_records_it_already_covers() {
        let mut replaying = overlay(false);
        let merchant: MerchantId = "acme".parse().unwrap();
        let covered = Waiting { merchant: "acme".into(), count: 3, as_of: 100 };
        replaying.load_count(EndpointId(1), merchant.clone(), &covered);
        replaying.count(EndpointId(1), &merchant, Location(100), 1);
        replaying.count(EndpointId(1), &merchant, Location(101), -1);
        assert_eq!(replaying.backlog(), [(EndpointId(1), merchant, 2)]);
    }
}
