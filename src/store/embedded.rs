//! The store on this machine's disk: a journal that is the truth and an index that follows it.
//!
//! One directory, one process, two threads: one commits, one writes the index behind.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use metrics::{Counter, Histogram};

use super::commit::{Batch, Command, Committer, short};
use super::index::value::Watermark;
use super::index::{Index, apply, set_aside};
use super::journal::codec::{self, Undecodable};
use super::journal::{self, Journal, Kind, OpenError, Record, Segments, Start, sync_dir};
use super::{
    Acceptance, Backlog, Catalog, Change, Dossier, DuePage, HistoryPage, HistoryQuery, NewEvent, NoticeSink, Receipt,
    Refusal, Settlement, Store, StoreError, StoreFigures,
};
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::model::{DueKey, EndpointId, Event, EventId, Location, MerchantId, OwnerKind};

/// What the store may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A segment of the journal is closed once it has so many bytes.
    pub segment_bytes: u32,
    /// Events waiting for the next commit; more are refused as overload.
    pub queued_max: u64,
    /// Payload bytes waiting for the next commit; more are refused as overload.
    pub queued_bytes_max: u64,
    /// Below so much free disk space no event is accepted.
    pub free_bytes_min: u64,
    /// How long a settlement may wait for an event to share its commit with.
    pub settle_delay_ms: u64,
    /// How often the index is written behind.
    pub index_flush_ms: u64,
    /// Index changes in memory before commits wait for the index.
    pub unindexed_max: usize,
    /// sled's page cache.
    pub index_cache_bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            segment_bytes: 64 << 20,
            queued_max: 8192,
            queued_bytes_max: 64 << 20,
            free_bytes_min: 1 << 30,
            settle_delay_ms: 50,
            index_flush_ms: 1_000,
            unindexed_max: 200_000,
            index_cache_bytes: 64 << 20,
        }
    }
}

/// Where the store reports how it does.
#[derive(Clone, Debug)]
pub struct Probes {
    /// Duration of a group commit.
    pub commit_seconds: Histogram,
    /// Records in a group commit.
    pub commit_records: Histogram,
    /// Bytes in a group commit.
    pub commit_bytes: Histogram,
    /// Times the index was made anew.
    pub index_rebuilds: Counter,
}

impl Default for Probes {
    fn default() -> Probes {
        Probes {
            commit_seconds: Histogram::noop(),
            commit_records: Histogram::noop(),
            commit_bytes: Histogram::noop(),
            index_rebuilds: Counter::noop(),
        }
    }
}

/// Called once when the disk failed: the process must end, and nothing more is acknowledged.
pub type Fatal = Arc<dyn Fn(&StoreError) + Send + Sync>;

/// Everything the store takes from the world.
pub struct Surroundings {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub entropy: Arc<dyn Entropy>,
    /// Takes the notices.
    pub sink: NoticeSink,
    /// Ends the process.
    pub fatal: Fatal,
    /// Takes the figures.
    pub probes: Probes,
}

/// Why the store did not open; a sentence for the operator that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenFault {
    /// The directory cannot be had: another process has it, or it may not be used.
    #[error("{0}")]
    Directory(String),
    /// The disk failed, or what it holds cannot be used.
    #[error("{0}")]
    Disk(String),
}

/// The store on disk.
pub struct EmbeddedStore {
    index: Arc<Index>,
    segments: Arc<Segments>,
    clock: Arc<dyn Clock>,
    commands: Sender<Command>,
    admission: Arc<Admission>,
    dir: PathBuf,
    threads: Mutex<Option<Threads>>,
}

struct Threads {
    committer: JoinHandle<()>,
    indexer: JoinHandle<()>,
    stop_indexer: Sender<()>,
    /// Kept open so that the directory stays ours.
    _lock: File,
}

impl EmbeddedStore {
    /// Opens or makes the store in `dir`, replaying what the index lacks.
    pub fn open(dir: &Path, limits: Limits, around: Surroundings) -> Result<EmbeddedStore, OpenFault> {
        let lock = take(dir)?;
        let recovered = recover(dir, &limits, &around)?;
        let Recovered { journal, index, last_event } = recovered;
        let catalog_fault = |error: StoreError| OpenFault::Disk(error.to_string());
        let sequences = super::query::sequences(&index).map_err(catalog_fault)?;
        let catalog = super::query::catalog(&index).map_err(catalog_fault)?;
        let merchants: HashSet<MerchantId> = catalog.merchants.iter().map(|m| m.id.clone()).collect();
        let endpoints: HashSet<EndpointId> = catalog.endpoints.iter().map(|e| e.id).collect();
        index.overlay_mut().begin_live();
        let (commands, inbox) = unbounded();
        let (nudge, nudged) = bounded(1);
        let (stop_indexer, stopped) = bounded(1);
        let admission = Arc::new(Admission::new(&limits, journal.total_bytes()));
        admission.measure(dir);
        let segments = journal.segments();
        let Surroundings { clock, entropy, sink, fatal, probes } = around;
        let committer = Committer {
            journal,
            index: Arc::clone(&index),
            clock: Arc::clone(&clock),
            entropy,
            sink,
            fatal: Arc::clone(&fatal),
            probes,
            admission: Arc::clone(&admission),
            nudge,
            settle_delay: Duration::from_millis(limits.settle_delay_ms),
            unindexed_max: limits.unindexed_max,
            last_event,
            sequences,
            merchants,
            endpoints,
            batch: Batch::default(),
        };
        let indexer = Indexer {
            index: Arc::clone(&index),
            clock: Arc::clone(&clock),
            admission: Arc::clone(&admission),
            dir: dir.to_owned(),
            every: Duration::from_millis(limits.index_flush_ms),
            fatal,
        };
        let threads = Threads {
            committer: spawn("journal", move || committer.run(&inbox))?,
            indexer: spawn("index", move || indexer.run(&nudged, &stopped))?,
            stop_indexer,
            _lock: lock,
        };
        Ok(EmbeddedStore {
            index,
            segments,
            clock,
            commands,
            admission,
            dir: dir.to_owned(),
            threads: Mutex::new(Some(threads)),
        })
    }
}

impl Store for EmbeddedStore {
    fn accept(&self, event: NewEvent) -> Receipt<Acceptance> {
        if let Err(refusal) = self.admission.enter(event.payload.len()) {
            return Receipt::ready(Err(refusal));
        }
        let bytes = event.payload.len();
        let looked_up = match event.idempotency {
            Some(i) => self.index.known(&event.merchant, short(&i.key), self.clock.now()),
            None => Ok((None, 0)),
        };
        let Ok((known, generation)) = looked_up else {
            self.admission.leave(bytes);
            return Receipt::ready(Err(Refusal::Stopped));
        };
        let (answer, receipt) = Receipt::pending();
        if self.commands.send(Command::Accept { event: Box::new(event), known, generation, answer }).is_err() {
            self.admission.leave(bytes);
        }
        receipt
    }

    fn settle(&self, settlement: Settlement) {
        // Refused only when the journal thread is gone: then the attempt is repeated after the restart.
        let _ = self.commands.send(Command::Settle(Box::new(settlement)));
    }

    fn change(&self, changes: Vec<Change>) -> Receipt<()> {
        let (answer, receipt) = Receipt::pending();
        let _ = self.commands.send(Command::Change { changes, answer });
        receipt
    }

    fn catalog(&self) -> Result<Catalog, StoreError> {
        super::query::catalog(&self.index)
    }

    fn backlog(&self) -> Result<Vec<Backlog>, StoreError> {
        let backlog = self.index.overlay().backlog().into_iter();
        Ok(backlog.map(|(endpoint, merchant, waiting)| Backlog { endpoint, merchant, waiting }).collect())
    }

    fn due(&self, endpoint: EndpointId, from: DueKey, limit: usize) -> Result<DuePage, StoreError> {
        super::query::due(&self.index, endpoint, from, limit)
    }

    fn page(&self, query: &HistoryQuery) -> Result<HistoryPage, StoreError> {
        super::query::page(&self.index, &self.segments, query)
    }

    fn dossier(&self, merchant: &MerchantId, id: EventId) -> Result<Option<Dossier>, StoreError> {
        super::query::dossier(&self.index, &self.segments, merchant, id)
    }

    fn event(&self, location: Location) -> Result<Event, StoreError> {
        super::query::event(&self.segments, location)
    }

    fn owner(&self, kind: OwnerKind, id: &str) -> Result<Option<MerchantId>, StoreError> {
        super::query::owner(&self.index, kind, id)
    }

    fn figures(&self) -> StoreFigures {
        let overlay = self.index.overlay();
        StoreFigures {
            waiting: overlay.waiting(),
            journal_bytes: self.admission.journal_bytes.load(Ordering::Relaxed),
            free_bytes: free_bytes(&self.dir).unwrap_or(0),
            queued: self.admission.queued.load(Ordering::Relaxed),
            unindexed: overlay.changes() as u64,
        }
    }

    fn close(&self) {
        let threads = self.threads.lock().expect("no panic while held").take();
        let Some(threads) = threads else { return };
        self.admission.stop();
        let _ = self.commands.send(Command::Close);
        let _ = threads.committer.join();
        drop(threads.stop_indexer);
        let _ = threads.indexer.join();
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.close();
    }
}

/// Who may enter the queue of the next commit.
pub(super) struct Admission {
    queued: AtomicU64,
    queued_bytes: AtomicU64,
    journal_bytes: AtomicU64,
    disk_full: AtomicBool,
    stopped: AtomicBool,
    limits: Limits,
}

impl Admission {
    fn new(limits: &Limits, journal_bytes: u64) -> Admission {
        Admission {
            queued: AtomicU64::new(0),
            queued_bytes: AtomicU64::new(0),
            journal_bytes: AtomicU64::new(journal_bytes),
            disk_full: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            limits: *limits,
        }
    }

    fn enter(&self, bytes: usize) -> Result<(), Refusal> {
        if self.stopped.load(Ordering::Acquire) {
            return Err(Refusal::Stopped);
        }
        if self.disk_full.load(Ordering::Relaxed) {
            return Err(Refusal::DiskFull);
        }
        let queued = self.queued.fetch_add(1, Ordering::Relaxed);
        let queued_bytes = self.queued_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if queued >= self.limits.queued_max || queued_bytes >= self.limits.queued_bytes_max {
            self.leave(bytes);
            return Err(Refusal::Overloaded);
        }
        Ok(())
    }

    pub(super) fn leave(&self, bytes: usize) {
        self.queued.fetch_sub(1, Ordering::Relaxed);
        self.queued_bytes.fetch_sub(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    pub(super) fn journal_grew(&self, total_bytes: u64) {
        self.journal_bytes.store(total_bytes, Ordering::Relaxed);
    }

    fn measure(&self, dir: &Path) {
        // A file system that does not answer is not taken for a full one.
        let free = free_bytes(dir).unwrap_or(u64::MAX);
        let full = free < self.limits.free_bytes_min;
        if self.disk_full.swap(full, Ordering::Relaxed) != full {
            if full {
                tracing::error!(free_bytes = free, "disk nearly full: no event is accepted, deliveries go on");
            } else {
                tracing::info!(free_bytes = free, "disk space is back: events are accepted");
            }
        }
    }
}

/// The index thread.
struct Indexer {
    index: Arc<Index>,
    clock: Arc<dyn Clock>,
    admission: Arc<Admission>,
    dir: PathBuf,
    every: Duration,
    fatal: Fatal,
}

impl Indexer {
    fn run(self, nudged: &Receiver<()>, stopped: &Receiver<()>) {
        if let Err(error) = self.work(nudged, stopped) {
            self.admission.stop();
            (self.fatal)(&error);
        }
    }

    fn work(&self, nudged: &Receiver<()>, stopped: &Receiver<()>) -> Result<(), StoreError> {
        let mut stopping = false;
        while !stopping {
            crossbeam::channel::select! {
                recv(nudged) -> nudge => stopping = nudge.is_err() && stopped.recv().is_err(),
                recv(stopped) -> _ => stopping = true,
                default(self.every) => {}
            }
            self.admission.measure(&self.dir);
            self.index.flush(self.clock.now())?;
        }
        self.index.sync()
    }
}

struct Recovered {
    journal: Journal,
    index: Arc<Index>,
    last_event: EventId,
}

/// Opens index and journal and brings the index up to the journal. An index that cannot be used is set
/// aside and made anew.
fn recover(dir: &Path, limits: &Limits, around: &Surroundings) -> Result<Recovered, OpenFault> {
    let index_dir = dir.join("index");
    let (index, watermark) = match Index::open(&index_dir, limits.index_cache_bytes) {
        Ok(opened) => opened,
        Err(error) => {
            let aside = set_aside(&index_dir).map_err(|e| OpenFault::Disk(e.to_string()))?;
            tracing::error!(%error, aside = %aside.display(), "the index cannot be used: making it anew from the journal");
            around.probes.index_rebuilds.increment(1);
            Index::open(&index_dir, limits.index_cache_bytes).map_err(|e| OpenFault::Disk(e.to_string()))?
        }
    };
    let start = watermark.map_or(Start::First, |w| Start::At(Location(w.next), w.number));
    let mut last_event = EventId::from_u128(watermark.map_or(0, |w| w.last_event));
    let replay = |location: Location, record: &Record| {
        let last = replay(&index, location, record).map_err(|error| error.to_string())?;
        last_event = last_event.max(last);
        let next = Location(location.0 + record.header.record_len() as u64);
        let number = record.header.number + 1;
        let mut overlay = index.overlay_mut();
        overlay.advance(Watermark { next: next.0, number, last_event: last_event.as_u128() });
        if overlay.changes() >= limits.unindexed_max {
            drop(overlay);
            index.flush(around.clock.now()).map_err(|error| error.to_string())?;
        }
        Ok(())
    };
    let journal = journal::open(&dir.join("journal"), limits.segment_bytes, start, replay)
        .map_err(|error: OpenError| OpenFault::Disk(error.to_string()))?;
    let (end, number) = journal.end();
    index.overlay_mut().advance(Watermark { next: end.0, number, last_event: last_event.as_u128() });
    Ok(Recovered { journal, index: Arc::new(index), last_event })
}

/// Applies one record of the journal; the id of the event it accepted, if it did.
fn replay(index: &Index, location: Location, record: &Record) -> Result<EventId, Undecodable> {
    if record.header.version != codec::VERSION {
        return Err(Undecodable(format!("body version {}", record.header.version)));
    }
    let mut overlay = index.overlay_mut();
    match record.header.kind {
        Kind::Accepted => {
            let meta: codec::AcceptedV1 = codec::decode(&record.meta)?;
            apply::accepted(&mut overlay, location, &meta)?;
            Ok(EventId::from_u128(meta.id))
        }
        Kind::Settled => {
            apply::settled(&mut overlay, location, &codec::decode(&record.meta)?)?;
            Ok(EventId::MIN)
        }
        Kind::Changed => {
            let changes = apply::changes_of(codec::decode(&record.payload)?)?;
            apply::changed(&mut overlay, &changes);
            Ok(EventId::MIN)
        }
    }
}

/// Makes the directory, readable by us alone, and takes it for this process.
fn take(dir: &Path) -> Result<File, OpenFault> {
    let fault =
        |doing: &str, error: std::io::Error| OpenFault::Directory(format!("{doing} {}: {error}", dir.display()));
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| fault("making", e))?;
    if let Some(parent) = fs::canonicalize(dir).ok().as_deref().and_then(Path::parent) {
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

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenFault> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(body)
        .map_err(|e| OpenFault::Disk(format!("starting a thread: {e}")))
}

fn free_bytes(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// A record that we wrote ourselves a moment ago does not decode: a bug, and a reason to stop.
#[expect(clippy::needless_pass_by_value, reason = "fits map_err")]
pub(super) fn index_fault(error: Undecodable) -> StoreError {
    StoreError::Corrupt(error.to_string())
}
