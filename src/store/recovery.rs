//! Bringing a data directory back to life: take it, open the index, replay what the index lacks, check the
//! outbox.
//!
//! An index that cannot be used, or that misses something owed, is set aside and made anew from the journal.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::StoreError;
use super::embedded::{Limits, OpenFault, Probes, index_fault};
use super::index::value::Watermark;
use super::index::{Index, Overlay, apply, set_aside};
use super::journal::carried::{CarriedV1, KeptV1};
use super::journal::codec::{self, AcceptedV1, SettledV1, Undecodable};
use super::journal::{self, Journal, Kind, MakeRoom, OpenError, Record, Start, survey, sync_dir};
use crate::clock::Clock;
use crate::model::{EventId, Location};

/// A store brought back to life.
pub(super) struct Recovered {
    pub(super) journal: Journal,
    pub(super) index: Arc<Index>,
    pub(super) last_event: EventId,
}

/// Opens index and journal and brings the index up to the journal.
pub(super) fn recover(
    dir: &Path,
    limits: &Limits,
    clock: &dyn Clock,
    probes: &Probes,
    make_room: impl Fn() -> MakeRoom,
) -> Result<Recovered, OpenFault> {
    let index_dir = dir.join("index");
    let journal_dir = dir.join("journal");
    let first_present = first_present(&journal_dir)?;
    let open = || {
        let (index, watermark) = Index::open(&index_dir, limits)?;
        match watermark {
            Some(w) if Location(w.next).segment() < first_present => {
                Err(StoreError::Index("it is older than the journal".to_owned()))
            }
            _ => Ok((index, watermark)),
        }
    };
    let (index, watermark) = match open() {
        Ok(opened) => opened,
        Err(error) => start_anew(&index_dir, &error, probes, open)?,
    };
    let recovered = replay(&journal_dir, limits, clock, make_room(), first_present, index, watermark)?;
    let Err(error) = recovered.index.audit() else { return Ok(recovered) };
    drop(recovered);
    let (index, watermark) = start_anew(&index_dir, &error, probes, open)?;
    replay(&journal_dir, limits, clock, make_room(), first_present, index, watermark)
}

/// Sets the index aside and begins an empty one.
fn start_anew<T>(
    index_dir: &Path,
    error: &StoreError,
    probes: &Probes,
    open: impl Fn() -> Result<T, StoreError>,
) -> Result<T, OpenFault> {
    let aside = set_aside(index_dir).map_err(|error| OpenFault::Disk(error.to_string()))?;
    tracing::error!(%error, aside = %aside.display(), "the index cannot be used: making it anew from the journal");
    probes.index_rebuilds.increment(1);
    open().map_err(|error| OpenFault::Disk(error.to_string()))
}

fn first_present(journal_dir: &Path) -> Result<u32, OpenFault> {
    let found = survey::segments(journal_dir);
    let found = found.map_err(|error| OpenFault::Disk(format!("reading {}: {error}", journal_dir.display())))?;
    Ok(found.first().map_or(1, |segment| segment.number))
}

fn replay(
    journal_dir: &Path,
    limits: &Limits,
    clock: &dyn Clock,
    make_room: MakeRoom,
    first_present: u32,
    index: Index,
    watermark: Option<Watermark>,
) -> Result<Recovered, OpenFault> {
    let start = watermark.map_or(Start::First, |w| Start::At(Location(w.next), w.number));
    let last_event = EventId::from_u128(watermark.map_or(0, |w| w.last_event));
    let mut replayer = Replayer::new(first_present, last_event);
    if let Some(watermark) = watermark {
        let noted = note_names(&index, journal_dir, first_present, Location(watermark.next), true);
        noted.map_err(|error| OpenFault::Disk(error.to_string()))?;
    }
    let replay = |location: Location, record: &Record| {
        replayer.apply(&index, location, record).map_err(|error| error.to_string())?;
        // What one generation and the one before it may hold is written behind later, not before anything is served.
        if index.overlay().changes() >= limits.unindexed_max.saturating_mul(2) {
            index.flush().map_err(|error| error.to_string())?;
            index.keep_names_few(first_present);
        }
        Ok(())
    };
    let journal = journal::open(journal_dir, limits.segment_bytes, start, clock.now(), make_room, replay)
        .map_err(|error: OpenError| OpenFault::Disk(error.to_string()))?;
    let (end, number) = journal.end();
    let last_event = replayer.last_event;
    let mut overlay = index.overlay_mut();
    overlay.advance(Watermark { next: end.0, number, last_event: last_event.as_u128() });
    overlay.begin_live();
    drop(overlay);
    Ok(Recovered { journal, index: Arc::new(index), last_event })
}

/// Notes the names that stand in the journal before `upto` and are in no sheet. Where the journal is not `whole`, they are
/// not to outlive the process.
pub(super) fn note_names(
    index: &Index,
    journal_dir: &Path,
    first_present: u32,
    upto: Location,
    whole: bool,
) -> Result<(), StoreError> {
    let reading = |source| StoreError::Io { context: format!("reading {}", journal_dir.display()), source };
    let found = survey::segments(journal_dir).map_err(reading)?;
    let whole = whole && found.windows(2).all(|pair| pair[0].number + 1 == pair[1].number);
    let born = found.into_iter().filter(|found| !found.is_unborn());
    index.note_names(born.map(|found| (found.number, found.file)), first_present, upto, whole)
}

/// Applies records of the journal to the index, in order.
pub(super) struct Replayer {
    /// What refers to an event before this segment came too late for the index to need it: the event ended
    /// with its segment, or a later record carries it on.
    first_present: u32,
    /// Some records are not there any more: what the others say came before them is looked up, not believed.
    lossy: bool,
    pub(super) last_event: EventId,
}

impl Replayer {
    pub(super) fn new(first_present: u32, last_event: EventId) -> Replayer {
        Replayer { first_present, lossy: false, last_event }
    }

    /// Records are missing before the next one.
    pub(super) fn missed_some(&mut self) {
        self.lossy = true;
    }

    pub(super) fn apply(&mut self, index: &Index, location: Location, record: &Record) -> Result<(), StoreError> {
        if !record.header.is_understood() {
            let what = "it was written by a newer version; start that version instead";
            return Err(StoreError::Corrupt(what.to_owned()));
        }
        match record.header.kind {
            Kind::Settled => self.settled(index, location, codec::decode(&record.meta).map_err(index_fault)?)?,
            Kind::Carried => self.carried(index, location, &codec::decode(&record.meta).map_err(index_fault)?)?,
            _ => self.plain(&mut index.overlay_mut(), location, record).map_err(index_fault)?,
        }
        let end = Location(location.0 + record.header.record_len() as u64);
        let (number, last_event) = (record.header.number + 1, self.last_event.as_u128());
        index.overlay_mut().advance(Watermark { next: end.0, number, last_event });
        Ok(())
    }

    /// A record that says by itself what it changes.
    fn plain(&mut self, overlay: &mut Overlay, location: Location, record: &Record) -> Result<(), Undecodable> {
        match record.header.kind {
            Kind::Accepted => {
                let meta: AcceptedV1 = codec::decode(&record.meta)?;
                apply::accepted(overlay, location, &meta)?;
                self.last_event = self.last_event.max(EventId::from_u128(meta.id));
            }
            Kind::Changed => {
                let changes = apply::changes_of(codec::decode(&record.payload)?)?;
                apply::changed(overlay, &changes);
            }
            Kind::Kept => {
                let meta: KeptV1 = codec::decode(&record.payload)?;
                apply::kept(overlay, location, &meta)?;
                self.last_event = self.last_event.max(EventId::from_u128(meta.last_event));
            }
            Kind::Lost => self.lossy = true,
            Kind::Settled | Kind::Carried | Kind::CarriedAttempt | Kind::Unknown(_) => {}
        }
        Ok(())
    }

    fn settled(&self, index: &Index, location: Location, mut meta: SettledV1) -> Result<(), StoreError> {
        if self.is_gone(meta.event_location) {
            return Ok(());
        }
        if self.lossy {
            let merchant = codec::merchant(&meta.merchant).map_err(index_fault)?;
            let event_type = meta.event_type().map_err(index_fault)?;
            let found = index.find(&merchant, event_type, EventId::from_u128(meta.event))?;
            let Some((status, entry)) = found else { return Ok(()) };
            meta.old_status = status.code();
            meta.event_location = entry.location.0;
            if status.is_waiting() {
                meta.old_due = entry.when.as_ms();
            }
        }
        apply::settled(&mut index.overlay_mut(), location, &meta).map(drop).map_err(index_fault)
    }

    fn carried(&mut self, index: &Index, location: Location, meta: &CarriedV1) -> Result<(), StoreError> {
        let id = EventId::from_u128(meta.accepted.id);
        let mut born = self.is_gone(meta.from);
        if self.lossy {
            let merchant = meta.accepted.merchant().map_err(index_fault)?;
            let event_type = meta.accepted.event_type().map_err(index_fault)?;
            if let Some((status, entry)) = index.find(&merchant, event_type, id)? {
                apply::forgotten(&mut index.overlay_mut(), location, meta, status, &entry).map_err(index_fault)?;
            }
            born = true;
        }
        apply::carried(&mut index.overlay_mut(), location, meta, born).map_err(index_fault)?;
        self.last_event = self.last_event.max(id);
        Ok(())
    }

    fn is_gone(&self, location: u64) -> bool {
        Location(location).segment() < self.first_present
    }
}

/// Makes the directory, readable by us alone, and takes it for this process for as long as the file is open.
pub(super) fn take(dir: &Path) -> Result<File, OpenFault> {
    let fault =
        |doing: &str, error: std::io::Error| OpenFault::Directory(format!("{doing} {}: {error}", dir.display()));
    let absolute = std::path::absolute(dir).map_err(|e| fault("finding", e))?;
    // The directory itself, even if it is there: whoever made it may have ended before this sync.
    let missing = absolute.ancestors().skip(1).take_while(|dir| !dir.exists()).count();
    let made: Vec<PathBuf> = absolute.ancestors().take(missing + 1).map(Path::to_owned).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| fault("making", e))?;
    for parent in made.iter().filter_map(|dir| dir.parent()) {
        sync_dir(parent).map_err(|e| fault("syncing the parent of", e))?;
    }
    let path = dir.join("LOCK");
    let lock = File::options().create(true).truncate(false).write(true).open(&path);
    let lock = lock.map_err(|e| fault("opening the lock in", e))?;
    lock.try_lock().map_err(|error| match error {
        fs::TryLockError::WouldBlock => OpenFault::Directory(format!(
            "{} is in use by another posthaste process; stop that one first, or give this one another --data-dir",
            dir.display()
        )),
        fs::TryLockError::Error(error) => fault("locking", error),
    })?;
    Ok(lock)
}
