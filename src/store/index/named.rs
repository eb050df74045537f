//! Finding by name: the events of a resource, the records that speak of a producer's key.
//!
//! Never believes a name: two may share one, so that whoever asks looks at the records, too.

use std::collections::HashSet;
use std::fs::File;
use std::sync::Arc;

use super::key::Run;
use super::names::{self, Mention, Name, Sealing, Wanted};
use super::{Found, Index, apply};
use crate::model::{EventId, EventType, Location, MerchantId, Timestamp};
use crate::store::StoreError;
use crate::store::embedded::index_fault;
use crate::store::journal::Segments;
use crate::store::journal::survey::each_record;

/// Events of a resource, and of what is listed, that are looked at together.
const CHUNK: usize = 256;

/// Of so few each is looked for by itself.
const FEW: usize = 64;

/// Records that may speak of one producer's key.
const KEY_MENTIONS_MAX: usize = 64;

/// Events and their types.
type Named = Vec<(EventId, EventType)>;

/// A look for something by name.
struct Look {
    first: EventId,
    last: EventId,
    descending: bool,
}

impl Look {
    fn is_before(&self, one: EventId, other: EventId) -> bool {
        if self.descending { one > other } else { one < other }
    }

    /// Goes on at `id`, or behind it.
    fn go_on(&mut self, id: EventId, behind: bool) {
        match (self.descending, behind) {
            (false, _) => self.first = if behind { id.after() } else { id },
            (true, _) => self.last = if behind { id.before() } else { id },
        }
    }

    fn is_over(&self) -> bool {
        self.first > self.last
    }

    /// The nearer one of two ends. `None` is beyond everything.
    fn nearer(&self, one: Option<EventId>, other: Option<EventId>) -> Option<EventId> {
        match (one, other) {
            (Some(one), Some(other)) if self.is_before(other, one) => Some(other),
            (one, other) => one.or(other),
        }
    }
}

impl Index {
    /// Where records stand that may speak of a producer's key, of events that were not accepted before `since`: the one
    /// noted last first. And what to hand to `keyed_since`.
    pub(crate) fn keyed(
        &self,
        merchant: &MerchantId,
        digest: u128,
        since: Timestamp,
    ) -> Result<(Vec<Location>, u64), StoreError> {
        let (found, seals) = self.mentions_of(&of_key(merchant, digest, since))?;
        Ok((newest_first(&found), seals))
    }

    /// As `keyed`, but where nothing went to a sheet since the look-up that gave `seals`, only what may have come since.
    pub(crate) fn keyed_since(
        &self,
        merchant: &MerchantId,
        digest: u128,
        since: Timestamp,
        seals: u64,
    ) -> Result<Vec<Location>, StoreError> {
        {
            let names = &self.overlay().names;
            if names.seals() == seals {
                return Ok(newest_first(&names.find(&of_key(merchant, digest, since))));
            }
        }
        Ok(self.keyed(merchant, digest, since)?.0)
    }

    /// The first mentions that are wanted, of each source up to the limit, and how often any went to a sheet: all as of one
    /// moment.
    fn mentions_of(&self, wanted: &Wanted) -> Result<(Vec<Mention>, u64), StoreError> {
        let (mut found, seals, sheets) = {
            let loose = &self.overlay().names;
            (loose.find(wanted), loose.seals(), self.names.sheets())
        };
        names::find(&sheets, wanted, &mut found)?;
        Ok((found, seals))
    }

    /// The first `limit` events between `first` and `last` (both inclusive) of the runs that speak of a resource, in the
    /// order asked for. Some may be of another resource with the same hash.
    pub(crate) fn events_of(
        &self,
        resource: u64,
        runs: &[Run],
        (first, last): (EventId, EventId),
        descending: bool,
        limit: usize,
    ) -> Result<Found, StoreError> {
        let mut look = Look { first, last, descending };
        let mut found = Vec::new();
        // Both lists are read from where the other one has come to: what is long in one and not in the other is leapt over.
        while found.len() < limit && !look.is_over() {
            let (named, named_end) = self.named(resource, runs, &look)?;
            let Some((nearest, _)) = named.first() else { break };
            if named_end.is_none() && named.len() <= FEW {
                self.each_by_itself(&named, runs, limit, &mut found)?;
                break;
            }
            look.go_on(*nearest, false);
            let (listed, listed_end) = self.listed(runs, &look)?;
            let is_within = |id: EventId, end: Option<EventId>| end.is_none_or(|end| !look.is_before(end, id));
            let mut end = look.nearer(named_end, listed_end);
            let (near, far) = named.split_at(named.partition_point(|(id, _)| is_within(*id, end)));
            let ids: HashSet<EventId> = near.iter().map(|(id, _)| *id).collect();
            found.extend(listed.iter().filter(|(_, id, _)| ids.contains(id)));
            if near.len() <= FEW && !far.is_empty() {
                self.each_by_itself(far, runs, limit, &mut found)?;
                end = named_end;
            }
            let Some(end) = end else { break };
            let next_listed = listed.iter().map(|(_, id, _)| *id).find(|id| look.is_before(end, *id));
            look.go_on(end, true);
            match next_listed {
                Some(id) => look.go_on(id, false),
                None if listed_end.is_none() => break,
                None => {}
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    /// Adds those events that stand in a run, up to `limit` in all.
    fn each_by_itself(
        &self,
        named: &[(EventId, EventType)],
        runs: &[Run],
        limit: usize,
        found: &mut Found,
    ) -> Result<(), StoreError> {
        for (id, event_type) in named {
            if found.len() >= limit {
                break;
            }
            let of_type = runs.iter().enumerate().filter(|(_, run)| run.event_type == *event_type);
            let (places, runs): (Vec<usize>, Vec<Run>) = of_type.map(|(nth, run)| (nth, run.clone())).unzip();
            let there = self.events(&runs, *id, *id, false, 1)?;
            found.extend(there.into_iter().map(|(nth, id, entry)| (places[nth], id, entry)));
        }
        Ok(())
    }

    /// Events of the runs' types of which records speak of a resource, in order, and the id up to which they are all of them;
    /// `None`: to the end.
    fn named(&self, resource: u64, runs: &[Run], look: &Look) -> Result<(Named, Option<EventId>), StoreError> {
        let mut kinds: Vec<(&MerchantId, EventType)> = runs.iter().map(|run| (&run.merchant, run.event_type)).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let (mut named, mut end) = (Named::new(), None);
        for (merchant, event_type) in kinds {
            let Look { first, last, descending } = *look;
            let name = Name::resource(merchant, event_type, resource);
            let wanted = Wanted { name, first, last, descending, limit: CHUNK };
            let (mut found, _) = self.mentions_of(&wanted)?;
            found.sort_unstable();
            if descending {
                found.reverse();
            }
            // Of each source the first CHUNK were read, so that as many of all of them are certain.
            if found.len() >= CHUNK {
                found.truncate(CHUNK);
                end = look.nearer(end, found.last().map(Mention::event));
            }
            named.extend(found.iter().map(|mention| (mention.event(), event_type)));
        }
        named.sort_unstable();
        named.dedup();
        if look.descending {
            named.reverse();
        }
        named.truncate(named.partition_point(|(id, _)| end.is_none_or(|end| !look.is_before(end, *id))));
        Ok((named, end))
    }

    /// Events of the runs, in order, and the id up to which they are all of them; `None`: to the end.
    fn listed(&self, runs: &[Run], look: &Look) -> Result<(Found, Option<EventId>), StoreError> {
        let mut found = self.events(runs, look.first, look.last, look.descending, CHUNK)?;
        found.sort_unstable_by_key(|(_, id, _)| *id);
        if look.descending {
            found.reverse();
        }
        // Of each run the first CHUNK were read.
        let is_cut = found.len() >= CHUNK;
        found.truncate(CHUNK);
        let end = found.last().map(|(_, id, _)| *id).filter(|_| is_cut);
        Ok((found, end))
    }

    /// Notes the names that stand in the journal before `upto`, where the index covers it, and are in no sheet. The journal
    /// begins with segment `first`. They go to sheets only where the journal is known to be `whole`: what is missing may come
    /// back.
    pub(crate) fn note_names(
        &self,
        files: impl IntoIterator<Item = (u32, Arc<File>)>,
        first: u32,
        upto: Location,
        whole: bool,
    ) -> Result<(), StoreError> {
        self.names.require(Location::at(first, 0))?;
        let mut begun = false;
        each_record(files, self.names.end()..upto, |location, record, end| {
            if !begun {
                self.names.sealed_to(record.header.number);
                begun = true;
            }
            let mentions = apply::mentions_of(location, record).map_err(index_fault)?;
            mentions.into_iter().for_each(|mention| self.overlay_mut().names.note(mention));
            if !whole {
                return Ok(());
            }
            self.seal(end, record.header.number + 1)?;
            self.keep_names_few(first);
            Ok(())
        })
    }

    /// Writes what is loose, where it is much: all mentions up to the record `number` at `to`.
    fn seal(&self, to: Location, number: u64) -> Result<(), StoreError> {
        let sealing = self.names.begin_seal(&mut self.overlay_mut().names, to, number);
        self.write_sealing(sealing)
    }

    pub(super) fn write_sealing(&self, sealing: Option<Arc<Sealing>>) -> Result<(), StoreError> {
        let Some(sealing) = sealing else { return Ok(()) };
        let written = self.names.write(&sealing);
        self.names.end_seal(&mut self.overlay_mut().names, written)
    }

    /// Makes one sheet of a few where so much of the journal is read at once that many were written, before anything is served.
    /// The journal is kept from segment `first`. Where it cannot be done now, as with a damaged one, it is done while serving.
    pub(crate) fn keep_names_few(&self, first: u32) {
        if self.names.are_more()
            && let Err(error) = self.merge_names(first, &|| true)
        {
            tracing::warn!(%error, "sheets of names stay many for now");
        }
    }

    fn merge_names(&self, first: u32, goes_on: &dyn Fn() -> bool) -> Result<(), StoreError> {
        while self.names.merge(first, goes_on)? {}
        Ok(())
    }

    /// Removes the names of segments that are gone.
    pub(crate) fn drop_names(&self, segments: &Segments) -> Result<(), StoreError> {
        self.names.drop_before(segments.first())
    }

    /// Makes those sheets anew that were found damaged, and keeps them few.
    pub(crate) fn tidy_names(&self, segments: &Segments, goes_on: &dyn Fn() -> bool) -> Result<(), StoreError> {
        self.mend_names(segments, goes_on)?;
        self.merge_names(segments.first(), goes_on).or_else(|error| match self.names.suspects()[..] {
            [] => Err(error),
            // Found by merging: it goes on the next time.
            _ => self.mend_names(segments, goes_on),
        })
    }

    fn mend_names(&self, segments: &Segments, goes_on: &dyn Fn() -> bool) -> Result<(), StoreError> {
        for suspect in self.names.suspects() {
            tracing::warn!("a sheet of names is damaged: it is made anew from the journal");
            let files = segments.all().into_iter().map(|segment| (segment.number, segment.file));
            self.names.make_anew(&suspect, |stretch, take| {
                each_record(files, stretch, |location, record, end| {
                    if !goes_on() {
                        return Err(names::interrupted());
                    }
                    take(end, apply::mentions_of(location, record).map_err(index_fault)?)
                })
            })?;
        }
        Ok(())
    }

    /// All that records from segment `first` on speak of, in order.
    pub(super) fn mentions(&self, first: u32) -> impl Iterator<Item = Result<Mention, StoreError>> + use<> {
        self.names.all(&self.overlay().names, first)
    }
}

fn of_key(merchant: &MerchantId, digest: u128, since: Timestamp) -> Wanted {
    let name = Name::key(merchant, digest);
    // An id is never of an earlier moment than its event was accepted at.
    Wanted { name, first: EventId::floor(since), last: EventId::MAX, descending: true, limit: KEY_MENTIONS_MAX }
}

fn newest_first(found: &[Mention]) -> Vec<Location> {
    let mut locations: Vec<Location> = found.iter().map(Mention::location).collect();
    locations.sort_unstable();
    locations.dedup();
    locations.reverse();
    locations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EndpointId, Status};
    use crate::store::embedded::Limits;
    use crate::store::index::dice::Dice;
    use crate::store::index::{Entry, value::Watermark};

    const EVENTS: u64 = 4_000;

    struct Line {
        id: EventId,
        run: Run,
        resource: u64,
    }

    /// Half of the events of one resource, the others of one of hundreds; delivered, but for a stretch that is not.
    fn lines(seed: u64) -> Vec<Line> {
        let mut dice = Dice(seed);
        let line = |n: u64| {
            let resource = if dice.below(2) == 0 { 1 } else { 2 + dice.below(300) };
            let status = match (n, dice.below(500)) {
                (1_000..1_200, _) => Status::Retrying,
                (_, 0) => Status::Failed,
                _ if resource == 1 && n < 3_000 => Status::Delivered,
                _ => Status::ALL[usize::try_from(dice.below(3)).expect("small")],
            };
            let event_type = EventType::ALL[usize::try_from(dice.below(2)).expect("small")];
            let run = Run { merchant: "acme".parse().expect("a name"), event_type, status };
            Line { id: EventId::from_u128(u128::from(n) * 3 + 1), run, resource }
        };
        (0..EVENTS).map(line).collect()
    }

    fn fill(index: &Index, lines: &[Line]) {
        for (nth, line) in lines.iter().enumerate() {
            let location = Location::at(1, u32::try_from(nth).expect("small") + 100);
            let (endpoint, when) = (Some(EndpointId(1)), Timestamp::from_ms(1));
            let entry = Entry { location, last_attempt: None, endpoint, when };
            let mut overlay = index.overlay_mut();
            overlay.post(line.run.clone(), line.id, entry, false);
            let name = Name::resource(&line.run.merchant, line.run.event_type, line.resource);
            overlay.names.note(Mention::new(name, line.id, location));
            // As of an event that was copied forward.
            overlay.names.note(Mention::new(name, line.id, Location::at(2, location.offset())));
            overlay.advance(Watermark { next: location.0 + 1, number: 1, last_event: 0 });
            drop(overlay);
            if nth % 1_500 == 1_499 {
                index.flush().expect("written");
                let sealing = index.names.begin_seal(&mut index.overlay_mut().names, location, u64::MAX);
                index.write_sealing(sealing).expect("written");
            }
        }
    }

    #[test]
    fn events_of_a_resource_are_those_that_a_look_at_each_would_find() {
        for seed in 0..3 {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let (index, _) = Index::open(dir.path(), &Limits::default()).expect("a fresh index opens");
            let lines = lines(seed);
            fill(&index, &lines);
            let mut dice = Dice(seed + 10);
            for round in 0..150 {
                let types = &EventType::ALL[..usize::try_from(1 + dice.below(4)).expect("small")];
                let from = usize::try_from(dice.below(Status::ALL.len() as u64)).expect("small");
                let statuses = if round % 3 == 0 { &Status::ALL[..] } else { &Status::ALL[from..=from] };
                let run =
                    |event_type: EventType, status| Run { merchant: lines[0].run.merchant.clone(), event_type, status };
                let runs = types.iter().flat_map(|kind| statuses.iter().map(|status| run(*kind, *status)));
                let mut runs: Vec<Run> = runs.collect();
                runs.sort_unstable();
                let resource = if round % 2 == 0 { 1 } else { 2 + dice.below(310) };
                let bound = |at: u64| EventId::from_u128(at.into());
                let (first, last) = match round % 5 {
                    0 => (bound(dice.below(EVENTS * 3)), bound(dice.below(EVENTS * 3))),
                    _ => (EventId::MIN, EventId::MAX),
                };
                let descending = dice.below(2) == 0;
                let limit = usize::try_from(1 + dice.below(900)).expect("small");
                let found = index.events_of(resource, &runs, (first, last), descending, limit).expect("readable");
                let found: Vec<(Run, EventId)> =
                    found.into_iter().map(|(nth, id, _)| (runs[nth].clone(), id)).collect();
                let is_wanted = |line: &&Line| {
                    line.resource == resource && first <= line.id && line.id <= last && runs.contains(&line.run)
                };
                let there = lines.iter().filter(is_wanted).map(|line| (line.run.clone(), line.id));
                let mut there: Vec<(Run, EventId)> = there.collect();
                if descending {
                    there.reverse();
                }
                there.truncate(limit);
                assert_eq!(found, there, "seed {seed}, round {round}");
            }
        }
    }
}
