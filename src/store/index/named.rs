//! Finding by name: the events of a resource, the records that speak of a producer's key.
//!
//! Never believes a name: two may share one, so that whoever asks looks at the records, too.

use std::collections::HashSet;

use super::key::Run;
use super::names::{Mention, Name, Names, Wanted};
use super::{Found, Index, apply};
use crate::model::{EventId, EventType, Location, MerchantId, Timestamp};
use crate::store::StoreError;
use crate::store::journal::Record;

/// Events of a resource, and of what is listed, that are looked at together.
const CHUNK: usize = 256;

/// Records that may speak of one producer's key.
const KEY_MENTIONS_MAX: usize = 64;

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
        let wanted = of_key(merchant, digest, since);
        let (mut found, seals) = {
            let names = &self.overlay().names;
            (names.find(&wanted), names.seals())
        };
        self.distrusting(self.names.find(&wanted, &mut found))?;
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
        let mut kinds: Vec<(&MerchantId, EventType)> = runs.iter().map(|run| (&run.merchant, run.event_type)).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let names = kinds.into_iter().map(|(merchant, event_type)| Name::resource(merchant, event_type, resource));
        let names: Vec<Name> = names.collect();
        let mut look = Look { first, last, descending };
        let mut found = Vec::new();
        // Both lists are read from where the other one has come to: what is long in one and not in the other is leapt over.
        while found.len() < limit && !look.is_over() {
            let (named, named_end) = self.named(&names, &look)?;
            let nearest =
                named.iter().copied().reduce(|one, other| if look.is_before(other, one) { other } else { one });
            let Some(nearest) = nearest else { break };
            look.go_on(nearest, false);
            let (listed, listed_end) = self.listed(runs, &look)?;
            let end = look.nearer(named_end, listed_end);
            let is_within = |id: EventId| end.is_none_or(|end| !look.is_before(end, id));
            found.extend(listed.iter().filter(|(_, id, _)| is_within(*id) && named.contains(id)));
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

    /// Events of which records speak of one of the names, and the id up to which they are all of them; `None`: to the end.
    fn named(&self, names: &[Name], look: &Look) -> Result<(HashSet<EventId>, Option<EventId>), StoreError> {
        let (mut events, mut end) = (HashSet::new(), None);
        for name in names {
            let Look { first, last, descending } = *look;
            let wanted = Wanted { name: *name, first, last, descending, limit: CHUNK };
            let mut found = self.overlay().names.find(&wanted);
            self.distrusting(self.names.find(&wanted, &mut found))?;
            let mut ids: Vec<EventId> = found.iter().map(Mention::event).collect();
            ids.sort_unstable();
            if descending {
                ids.reverse();
            }
            // Of each source the first CHUNK were read, so that as many of all of them are certain.
            if ids.len() >= CHUNK {
                ids.truncate(CHUNK);
                end = look.nearer(end, ids.last().copied());
            }
            events.extend(ids);
        }
        Ok((events, end))
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

    /// Notes what a record says that is applied already.
    pub(crate) fn note(&self, location: Location, record: &Record) -> Result<(), StoreError> {
        let noted = apply::named(&mut self.overlay_mut(), location, record);
        noted.map_err(|error| StoreError::Corrupt(error.to_string()))
    }

    /// Where the names of the journal are to be noted from before anything is applied, if it begins with segment `first`.
    pub(crate) fn names_end(&self, first: u32) -> Result<Location, StoreError> {
        let required = self.names.require(Location::at(first, 0));
        required.map_err(|source| StoreError::Io { context: "removing sheets of names".into(), source })?;
        Ok(self.names.end())
    }

    /// Writes what was noted up to `to`, where it is much.
    pub(crate) fn seal(&self, to: Location, number: u64) -> Result<(), StoreError> {
        let _flush = self.flushes.wait();
        let mentions = self.names.begin_seal(&mut self.overlay_mut().names, number);
        let Some(mentions) = mentions else { return Ok(()) };
        let written = self.names.write(&mentions, to, number);
        Names::end_seal(&mut self.overlay_mut().names, written.is_ok());
        written
    }

    /// Removes the names of what stands before segment `first`, and makes a few sheets of many.
    pub(crate) fn tidy_names(&self, first: u32) -> Result<(), StoreError> {
        self.names.drop_before(first)?;
        while self.distrusting(self.names.merge(first))? {}
        Ok(())
    }

    /// All that records speak of, in order.
    pub(super) fn mentions(&self) -> impl Iterator<Item = Result<Mention, StoreError>> + use<> {
        self.names.all(&self.overlay().names)
    }

    /// A sheet that is found damaged is made anew by the next start, with the index.
    fn distrusting<T>(&self, found: Result<T, StoreError>) -> Result<T, StoreError> {
        found.inspect_err(|error| {
            if let StoreError::Index(text) = error {
                self.tree.distrust(text);
            }
        })
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
