//! The outbox and history index: sled, and sheets of names beside it, under an overlay of what the journal has and they have
//! not yet.
//!
//! Never the truth: it can be made anew from the journal at any time. Never blocks the journal thread on
//! sled, except when the overlay is full.

pub(crate) mod apply;
mod audit;
mod compare;
mod cut;
#[cfg(test)]
mod dice;
pub(crate) mod key;
mod layered;
mod line;
mod named;
mod names;
mod outbox;
mod overlay;
mod posting;
mod tree;
mod trim;
pub(crate) mod value;

use std::collections::HashSet;
use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::model::{EventId, EventType, Location, MerchantId, Status};
use crate::store::StoreError;
use crate::store::embedded::Limits;

use cut::regroup;
use key::Run;
use layered::Layered;
use line::Line;
use names::Names;
use overlay::Generation;
use tree::{Tree, Write};
use value::{Owed, Waiting, Watermark};

pub(crate) use overlay::Overlay;
pub(crate) use posting::Entry;
pub(crate) use tree::{Pair, set_aside};
pub(crate) use trim::Dropped;

/// The index. The journal thread applies, the index and the retention thread write, everyone reads.
#[derive(Debug)]
pub(crate) struct Index {
    tree: Tree,
    /// One generation at a time is written behind.
    flushes: Line,
    /// For whoever writes to sled: those who write behind, those who trim.
    writers: Line,
    /// Whether the watermark that was written last is durable.
    watermark_durable: AtomicBool,
    names: Names,
    overlay: RwLock<Overlay>,
    /// Held for reading during a range read and for writing while generations change, so that a reader
    /// never meets changes in sled that are newer than the overlay it looked at.
    gate: RwLock<()>,
    room: (Mutex<()>, Condvar),
}

/// Writes gathered before they go to sled together, because each of its batches costs two synchronous writes however
/// little it holds; then whoever else writes has its turn.
const TURN_WRITES_MAX: usize = 1024;

/// Changes of one stretch of places that are written together, so that they fit in one of sled's batches.
const STRETCH_CHANGES_MAX: usize = 2048;

/// Deliveries that are looked through for those that stand in old segments.
const OWED_MAX: usize = 50_000;

/// Events, with which of the runs asked for each stands in.
pub(crate) type Found = Vec<(usize, EventId, Entry)>;

/// A stretch of places and up to which record it is true.
pub(crate) struct Stretch {
    pub(crate) pairs: Vec<Pair>,
    pub(crate) more: bool,
    pub(crate) as_of: Location,
}

impl Index {
    /// Opens the index in `dir`; what it holds and its watermark, where it has one.
    pub(crate) fn open(dir: &Path, limits: &Limits) -> Result<(Index, Option<Watermark>), StoreError> {
        let tree = Tree::open(dir, limits.index_cache_bytes)?;
        let watermark = tree.get(key::WATERMARK)?.map(|bytes| value::decode::<Watermark>(&bytes)).transpose()?;
        let begun = watermark.unwrap_or(Watermark { next: 0, number: 1, last_event: 0 });
        let mut overlay = Overlay::new(begun);
        for pair in tree.range(&[key::WAITING], &[key::WAITING + 1]) {
            let (key, bytes) = pair?;
            let waiting: Waiting = value::decode(&bytes)?;
            let endpoint = key::number(&key).ok_or_else(|| value::damaged("a count has a bad key"))?;
            let merchant = waiting.merchant().ok_or_else(|| value::damaged("a count has a bad merchant"))?;
            overlay.load_count(crate::model::EndpointId(endpoint), merchant, &waiting);
        }
        let names = Names::open(&dir.join("names"), Location(begun.next), begun.number, limits.loose_names_max);
        let names = names
            .map_err(|source| StoreError::Io { context: format!("opening names in {}", dir.display()), source })?;
        let index = Index {
            tree,
            flushes: Line::default(),
            writers: Line::default(),
            watermark_durable: AtomicBool::new(true),
            names,
            overlay: RwLock::new(overlay),
            gate: RwLock::new(()),
            room: (Mutex::new(()), Condvar::new()),
        };
        Ok((index, watermark))
    }

    /// For looking at the overlay.
    pub(crate) fn overlay(&self) -> RwLockReadGuard<'_, Overlay> {
        self.overlay.read().expect("no panic while held")
    }

    /// For applying records; the journal thread alone does.
    pub(crate) fn overlay_mut(&self) -> RwLockWriteGuard<'_, Overlay> {
        self.overlay.write().expect("no panic while held")
    }

    /// Waits until the growing generation has fewer than `changes_max` changes.
    pub(crate) fn wait_for_room(&self, changes_max: usize) {
        let (lock, condvar) = &self.room;
        let mut held = lock.lock().expect("no panic while held");
        while self.overlay().changes() >= changes_max {
            held = condvar.wait(held).expect("no panic while held");
        }
    }

    /// Writes what has gathered to sled and makes it durable, but for the watermark: the next call does that.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        let _flush = self.flushes.wait();
        let (generation, sealing) = {
            let _gate = self.gate.write().expect("no panic while held");
            let mut overlay = self.overlay_mut();
            let rotated = overlay.rotate();
            let upto = rotated.as_ref().map(|generation| generation.watermark);
            let names = &mut overlay.names;
            let sealing = upto.and_then(|w| self.names.begin_seal(names, Location(w.next), w.number));
            drop(overlay);
            match rotated {
                Some(generation) => (generation, sealing),
                None if self.watermark_durable.load(Ordering::Acquire) => return Ok(()),
                None => return self.sync(),
            }
        };
        self.notify_room();
        let plain = generation.plain.iter().filter(|(key, _)| key[0] != key::OWED);
        let plain = plain.map(|(key, slot)| (key.clone(), slot.value.clone()));
        let mut plain = plain.chain(generation.count_changes()).peekable();
        while plain.peek().is_some() {
            let _turn = self.writers.wait();
            self.tree.apply(plain.by_ref().take(TURN_WRITES_MAX))?;
        }
        self.flush_owed(&generation)?;
        let mut groups = Vec::new();
        let mut turn = Some(self.writers.wait());
        for (run, events) in &generation.runs {
            self.flush_run(run, events.iter().map(|(id, slot)| (*id, slot.value)).collect(), &mut groups)?;
            // Runs share no place, so that one may be read while what another changes is not yet written. Whoever else
            // writes may change it afterwards: what was read of it is written by then.
            if groups.len() >= TURN_WRITES_MAX {
                self.tree.apply_groups(groups.drain(..))?;
                drop(turn.take());
                turn = Some(self.writers.wait());
            }
        }
        self.tree.apply_groups(groups)?;
        // Everything the watermark covers is durable before the watermark is written.
        self.tree.sync()?;
        self.tree.apply([(key::WATERMARK.to_vec(), Some(value::encode(&generation.watermark)))])?;
        self.watermark_durable.store(false, Ordering::Release);
        self.overlay_mut().flushing = None;
        self.write_sealing(sealing)
    }

    /// Writes what has gathered and makes it durable, the watermark included.
    pub(crate) fn checkpoint(&self) -> Result<(), StoreError> {
        self.flush()?;
        self.sync()
    }

    /// Makes durable what was written.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        let _turn = self.writers.wait();
        self.tree.sync()?;
        self.watermark_durable.store(true, Ordering::Release);
        Ok(())
    }

    /// What went wrong with the index while it was read or written, where something did.
    pub(crate) fn fault(&self) -> Option<StoreError> {
        self.tree.fault()
    }

    fn notify_room(&self) {
        let _held = self.room.0.lock().expect("no panic while held");
        self.room.1.notify_all();
    }

    /// What becomes of a run's blocks, those that share entries in one group. Each stretch of changes lies before the next
    /// block that is there, so no block is read after it was changed and before it is written.
    fn flush_run(
        &self,
        run: &Run,
        changes: Vec<(EventId, Option<Entry>)>,
        groups: &mut Vec<Vec<Write>>,
    ) -> Result<(), StoreError> {
        let prefix = run.prefix();
        let end = prefix_end(&prefix);
        let mut rest = changes.as_slice();
        while let Some((id, _)) = rest.first() {
            let block = self.block_of(&prefix, *id)?;
            let from = block.as_ref().map_or_else(|| key::block(&prefix, *id), |(key, _)| key.clone());
            let next = self.tree.range(&after(&from), &end).next().transpose()?;
            let next_first = next.and_then(|(key, _)| key::block_first(&prefix, &key)).unwrap_or(EventId::MAX);
            let here = rest.partition_point(|(id, _)| *id < next_first).clamp(1, STRETCH_CHANGES_MAX);
            let (mine, others) = rest.split_at(here);
            rest = others;
            groups.push(flush_block(&prefix, block, mine)?);
            if here == STRETCH_CHANGES_MAX {
                self.tree.apply_groups(groups.drain(..))?;
            }
        }
        Ok(())
    }

    /// The block that holds `id` or would: the last one that begins at or before it.
    fn block_of(&self, prefix: &[u8], id: EventId) -> Result<Option<Pair>, StoreError> {
        self.tree.range(prefix, &after(&key::block(prefix, id))).next_back().transpose()
    }

    /// The latest value of a place.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        // Bound apart from the match, so that the lock is not held while sled reads.
        let told = self.overlay().get(key);
        match told {
            Some(value) => Ok(value),
            None if key[0] == key::OWED => outbox::get(&self.tree, key),
            None => self.tree.get(key),
        }
    }

    /// At most `limit` places from `from` (inclusive) to `to` (exclusive), in order.
    pub(crate) fn stretch(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Stretch, StoreError> {
        let [stretch] = self.stretches([(from, to)], limit)?;
        Ok(stretch)
    }

    /// Several stretches, all seen at one moment.
    pub(crate) fn stretches<const N: usize>(
        &self,
        ranges: [(&[u8], &[u8]); N],
        limit: usize,
    ) -> Result<[Stretch; N], StoreError> {
        let _gate = self.gate.read().expect("no panic while held");
        let (active, flushing, as_of) = {
            let overlay = self.overlay();
            let active = ranges.map(|range| changes(&overlay.active, range, limit + 1));
            let as_of = Location(overlay.active.watermark.next.saturating_sub(1));
            (active, overlay.flushing.clone(), as_of)
        };
        let mut stretches = [const { None }; N];
        for ((stretch, range), active) in stretches.iter_mut().zip(ranges).zip(active) {
            *stretch = Some(self.layered(range, active, flushing.as_deref(), limit, as_of)?);
        }
        Ok(stretches.map(|stretch| stretch.expect("each range was read")))
    }

    fn layered(
        &self,
        range: (&[u8], &[u8]),
        active: Vec<Write>,
        flushing: Option<&Generation>,
        limit: usize,
        as_of: Location,
    ) -> Result<Stretch, StoreError> {
        let mut fault = None;
        let sled = self.tree_stretch(range)?.map_while(|pair| match pair {
            Ok((key, value)) => Some((key, Some(value))),
            Err(error) => {
                fault = Some(error);
                None
            }
        });
        let bounds = (Bound::Included(range.0), Bound::Excluded(range.1));
        let middle = flushing.map(|generation| generation.plain.range::<[u8], _>(bounds));
        let middle = middle.into_iter().flatten().map(|(key, slot)| (key.clone(), slot.value.clone()));
        let merged = Layered::new(active.into_iter(), Layered::new(middle, sled, false), false);
        let there = merged.filter_map(|(key, value)| value.map(|value| (key, value)));
        let mut pairs: Vec<Pair> = there.take(limit.saturating_add(1)).collect();
        if let Some(error) = fault {
            return Err(error);
        }
        let more = pairs.len() > limit;
        pairs.truncate(limit);
        Ok(Stretch { pairs, more, as_of })
    }

    /// What sled holds of a range, place by place. It spans the outbox or other kinds, never both.
    fn tree_stretch(
        &self,
        (from, to): (&[u8], &[u8]),
    ) -> Result<Box<dyn Iterator<Item = Result<Pair, StoreError>>>, StoreError> {
        match from[0] {
            key::OWED => Ok(Box::new(outbox::stretch(&self.tree, from, to)?)),
            _ => Ok(Box::new(self.tree.range(from, to))),
        }
    }

    /// For each run, its first `limit` events between `first` and `last` (both inclusive) in the order
    /// asked for. All runs are seen at one moment.
    pub(crate) fn events(
        &self,
        runs: &[Run],
        first: EventId,
        last: EventId,
        descending: bool,
        limit: usize,
    ) -> Result<Found, StoreError> {
        let _gate = self.gate.read().expect("no panic while held");
        let (active, flushing) = {
            let overlay = self.overlay();
            let active: Vec<_> =
                runs.iter().map(|run| recent(&overlay.active, run, first, last, descending, limit)).collect();
            (active, overlay.flushing.clone())
        };
        let mut found = Vec::new();
        for (nth, (run, active)) in runs.iter().zip(active).enumerate() {
            let middle = match &flushing {
                Some(generation) => recent(generation, run, first, last, descending, usize::MAX),
                None => Vec::new(),
            };
            let mut fault = None;
            let sled = self.indexed(run, first, last, descending, &mut fault)?;
            let merged =
                Layered::new(active.into_iter(), Layered::new(middle.into_iter(), sled, descending), descending);
            let entries = merged.filter_map(|(id, entry)| entry.map(|entry| (nth, id, entry)));
            found.extend(entries.take(limit));
            if let Some(error) = fault {
                return Err(error);
            }
        }
        Ok(found)
    }

    /// An event's status and entry.
    pub(crate) fn find(
        &self,
        merchant: &MerchantId,
        event_type: EventType,
        id: EventId,
    ) -> Result<Option<(Status, Entry)>, StoreError> {
        let run = |status| Run { merchant: merchant.clone(), event_type, status };
        let found = self.events(&Status::ALL.map(run), id, id, false, 1)?;
        Ok(found.first().map(|(nth, _, entry)| (Status::ALL[*nth], *entry)))
    }

    /// The events of a run's stretch to which an attempt is owed.
    pub(crate) fn waiting(
        &self,
        merchant: &MerchantId,
        event_type: EventType,
        first: EventId,
        last: EventId,
    ) -> Result<impl Iterator<Item = (EventId, (Status, Entry))> + use<>, StoreError> {
        const WAITING: [Status; 2] = [Status::Pending, Status::Retrying];
        let run = |status| Run { merchant: merchant.clone(), event_type, status };
        let found = self.events(&WAITING.map(run), first, last, false, usize::MAX)?;
        Ok(found.into_iter().map(|(nth, id, entry)| (id, (WAITING[nth], entry))))
    }

    /// The events that are owed and stand before segment `first`; `None` where so much is owed that it is not looked
    /// through.
    pub(crate) fn owed_before(&self, first: u32) -> Result<Option<HashSet<EventId>>, StoreError> {
        let owed = self.stretch(&[key::OWED], &[key::OWED + 1], OWED_MAX)?;
        let mut events = HashSet::new();
        for (key, bytes) in &owed.pairs {
            let (_, event) = key::owed_parts(key).ok_or_else(|| value::damaged("an outbox key is torn"))?;
            if value::decode::<Owed>(bytes)?.location().segment() < first {
                events.insert(event);
            }
        }
        Ok((!owed.more).then_some(events))
    }

    /// What sled holds of a run, event by event.
    fn indexed<'a>(
        &self,
        run: &Run,
        first: EventId,
        last: EventId,
        descending: bool,
        fault: &'a mut Option<StoreError>,
    ) -> Result<impl Iterator<Item = (EventId, Option<Entry>)> + use<'a>, StoreError> {
        let prefix = run.prefix();
        let from = self.block_of(&prefix, first)?.map_or(prefix.clone(), |(key, _)| key);
        let mut blocks = self.tree.range(&from, &after(&key::block(&prefix, last)));
        let blocks = std::iter::from_fn(move || if descending { blocks.next_back() } else { blocks.next() });
        let mut given = None;
        let entries = blocks
            .map_while(move |block| {
                let decoded = block.and_then(|(_, bytes)| {
                    posting::decode(&bytes).ok_or_else(|| value::damaged("a block of history is torn"))
                });
                match decoded {
                    Ok(mut entries) => {
                        if descending {
                            entries.reverse();
                        }
                        Some(entries)
                    }
                    Err(error) => {
                        *fault = Some(error);
                        None
                    }
                }
            })
            .flatten()
            // What a block that was split meanwhile gave to the one behind it was given already: see `outbox`.
            .filter(move |(id, _)| {
                let is_new = descending || given.is_none_or(|last| *id > last);
                given = given.max(Some(*id));
                is_new && (first..=last).contains(id)
            })
            .map(|(id, entry)| (id, Some(entry)));
        Ok(entries)
    }
}

fn flush_block(
    prefix: &[u8],
    block: Option<Pair>,
    changes: &[(EventId, Option<Entry>)],
) -> Result<Vec<Write>, StoreError> {
    let old = match &block {
        Some((_, bytes)) => posting::decode(bytes).ok_or_else(|| value::damaged("a block of history is torn"))?,
        None => Vec::new(),
    };
    Ok(regroup(block, old, changes.to_vec(), posting::room, |id| key::block(prefix, *id), posting::encode))
}

/// A generation's changes of a range, up to `limit` places that are there.
fn changes(generation: &Generation, range: (&[u8], &[u8]), limit: usize) -> Vec<Write> {
    let mut left = limit;
    let mut found = Vec::new();
    for (key, slot) in generation.plain.range::<[u8], _>((Bound::Included(range.0), Bound::Excluded(range.1))) {
        found.push((key.clone(), slot.value.clone()));
        left -= usize::from(slot.value.is_some());
        if left == 0 {
            break;
        }
    }
    found
}

/// A generation's changes of a run between two ids, in the order asked for, up to `limit` events that
/// are there.
fn recent(
    generation: &Generation,
    run: &Run,
    first: EventId,
    last: EventId,
    descending: bool,
    limit: usize,
) -> Vec<(EventId, Option<Entry>)> {
    let Some(events) = generation.runs.get(run).filter(|_| first <= last) else { return Vec::new() };
    let mut range = events.range(first..=last);
    let mut left = limit;
    let mut found = Vec::new();
    while let Some((id, slot)) = if descending { range.next_back() } else { range.next() } {
        found.push((*id, slot.value));
        left -= usize::from(slot.value.is_some());
        if left == 0 {
            break;
        }
    }
    found
}

/// The smallest key greater than `key`.
fn after(key: &[u8]) -> Vec<u8> {
    let mut next = key.to_vec();
    next.push(0);
    next
}

/// Greater than every key that begins with `prefix`; run prefixes never end in 0xff.
fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    let last = end.last_mut().expect("a prefix is not empty");
    assert!(*last < u8::MAX, "status codes are small");
    *last += 1;
    end
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EndpointId, Timestamp};

    #[test]
    fn a_block_that_is_split_while_it_is_read_gives_nothing_twice() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (index, _) = Index::open(dir.path(), &Limits::default()).expect("a fresh index opens");
        let run = Run {
            merchant: "acme".parse().expect("a name"),
            event_type: EventType::CardState,
            status: Status::Delivered,
        };
        let write = |ids: &mut dyn Iterator<Item = u64>| {
            for n in ids {
                let (endpoint, when) = (Some(EndpointId(1)), Timestamp::from_ms(1));
                let entry = Entry { location: Location(n), last_attempt: None, endpoint, when };
                index.overlay_mut().post(run.clone(), EventId::from_u128(n.into()), entry, false);
            }
            index.flush().expect("written");
        };
        write(&mut (0..200).map(|n| n * 10));
        let mut fault = None;
        let mut read = index.indexed(&run, EventId::MIN, EventId::MAX, false, &mut fault).expect("readable");
        let mut seen = vec![read.next().expect("the first").0];
        write(&mut (0..400).map(|n| n * 5 + 1));
        seen.extend(read.map(|(id, _)| id));
        let old = seen.iter().filter(|id| id.as_u128().is_multiple_of(10)).count();
        assert!(seen.is_sorted() && old == 200, "each once, in order: {}", seen.len());
        seen.dedup();
        assert_eq!(seen.iter().filter(|id| id.as_u128().is_multiple_of(10)).count(), 200);
    }
}
