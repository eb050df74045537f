//! The store on this machine's disk: a journal that is the truth and an index that follows it.
//!
//! One directory, one process, three threads: one commits, one writes the index behind, one drops what is past
//! its time.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use metrics::{Counter, Histogram};

use super::admission::{Admission, Reserve};
use super::commit::{Batch, Command, Committer, short, untold};
use super::damage::Damage;
use super::index::Index;
use super::journal::codec::Undecodable;
use super::journal::{MakeRoom, Segments};
use super::known::KeyLook;
use super::recovery::{Recovered, recover, take};
use super::retention::{Progress, Retention};
use super::standstill::Standstill;
use super::{
    Acceptance, Backlog, Catalog, Change, Dossier, DuePage, HistoryPage, HistoryQuery, NewEvent, NoticeSink, Receipt,
    Refusal, Settlement, Store, StoreError, StoreFigures,
};
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::model::{Delivery, DueKey, EndpointId, Event, EventId, MerchantId, OwnerKind, Timestamp};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

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
    /// Names in memory before they go to a sheet.
    pub loose_names_max: usize,
    /// sled's page cache.
    pub index_cache_bytes: u64,
    /// How old history may become.
    pub retention_age_ms: u64,
    /// How many bytes the journal may have.
    pub retention_bytes_max: u64,
    /// How often is looked for what is past its time.
    pub retention_every_ms: u64,
    /// How long a producer's key is remembered.
    pub idempotency_ms: u64,
    /// Room kept for the states of deliveries when the disk is full.
    pub reserve_bytes: u64,
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
            unindexed_max: 100_000,
            loose_names_max: 1 << 14,
            index_cache_bytes: 64 << 20,
            retention_age_ms: 30 * DAY_MS,
            retention_bytes_max: 20 << 30,
            retention_every_ms: 10_000,
            idempotency_ms: DAY_MS,
            reserve_bytes: 64 << 20,
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
    /// Segments dropped because they were past their time.
    pub segments_dropped: Counter,
    /// Events of which a reader found a record damaged.
    pub events_damaged: Counter,
}

impl Default for Probes {
    fn default() -> Probes {
        Probes {
            commit_seconds: Histogram::noop(),
            commit_records: Histogram::noop(),
            commit_bytes: Histogram::noop(),
            index_rebuilds: Counter::noop(),
            segments_dropped: Counter::noop(),
            events_damaged: Counter::noop(),
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
    damage: Damage,
    /// How long a producer's key is remembered.
    window_ms: u64,
    clock: Arc<dyn Clock>,
    commands: Sender<Command>,
    admission: Arc<Admission>,
    retention: Arc<Mutex<Retention>>,
    stopping: Arc<AtomicBool>,
    standstill: Arc<Mutex<Standstill>>,
    threads: Mutex<Option<Threads>>,
    /// Held until the index is closed, too: last.
    _lock: File,
}

struct Threads {
    committer: JoinHandle<()>,
    indexer: JoinHandle<()>,
    retention: JoinHandle<()>,
    stop_indexer: Sender<()>,
    stop_retention: Sender<()>,
}

impl EmbeddedStore {
    /// Opens or makes the store in `dir`, replaying what the index lacks.
    pub fn open(dir: &Path, limits: Limits, around: Surroundings) -> Result<EmbeddedStore, OpenFault> {
        let lock = take(dir)?;
        let admission = Arc::new(Admission::new(dir, &limits));
        let reserve = Arc::new(Reserve::new(dir, limits.reserve_bytes));
        // The index, too, needs room to open.
        reserve.adjust(admission.measure(), limits.free_bytes_min);
        let make_room = || room_maker(&reserve, &admission);
        let Surroundings { clock, entropy, sink, fatal, probes } = around;
        let Recovered { journal, index, last_event } = recover(dir, &limits, &*clock, &probes, make_room)?;
        let by_heart = ByHeart::of(&index).map_err(|error| OpenFault::Disk(error.to_string()))?;
        let ((commands, inbox), (nudge, nudged)) = (unbounded(), bounded(1));
        let (segments, stopping) = (journal.segments(), Arc::new(AtomicBool::new(false)));
        admission.journal_grew(segments.total_bytes());
        let (dropped, damage) = (probes.segments_dropped.clone(), Damage::new(probes.events_damaged.clone()));
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
            idempotency_ms: limits.idempotency_ms,
            condemned: segments.first(),
            last_event,
            sequences: by_heart.sequences,
            merchants: by_heart.merchants,
            endpoints: by_heart.endpoints,
            batch: Batch::default(),
        };
        let indexer = Indexer {
            index: Arc::clone(&index),
            admission: Arc::clone(&admission),
            reserve,
            every: Duration::from_millis(limits.index_flush_ms),
            floor_bytes: limits.free_bytes_min,
            fatal: Arc::clone(&fatal),
        };
        let retention = Arc::new(Mutex::new(Retention {
            index: Arc::clone(&index),
            segments: Arc::clone(&segments),
            commands: commands.clone(),
            clock: Arc::clone(&clock),
            admission: Arc::clone(&admission),
            limits,
            dropped,
            fatal,
            stopping: Arc::clone(&stopping),
            progress: Progress::default(),
        }));
        let threads = start(committer, inbox, indexer, nudged, &retention, limits.retention_every_ms)?;
        Ok(EmbeddedStore {
            index,
            segments,
            damage,
            window_ms: limits.idempotency_ms,
            clock,
            commands,
            admission,
            retention,
            stopping,
            standstill: Arc::new(Mutex::new(Standstill::new(dir))),
            threads: Mutex::new(Some(threads)),
            _lock: lock,
        })
    }

    fn look<'a>(&'a self, merchant: &'a MerchantId, digest: u128) -> KeyLook<'a> {
        let EmbeddedStore { index, segments, window_ms, .. } = self;
        KeyLook { index, segments, merchant, digest, now: self.clock.now(), window_ms: *window_ms }
    }

    /// Drops what is past its time now, and returns once it is gone from the disk.
    pub fn retain(&self) -> Result<(), StoreError> {
        self.retention.lock().expect("no panic while held").enforce()
    }
}

/// What the journal thread knows by heart.
struct ByHeart {
    sequences: HashMap<MerchantId, u64>,
    merchants: HashSet<MerchantId>,
    endpoints: HashSet<EndpointId>,
}

impl ByHeart {
    fn of(index: &Index) -> Result<ByHeart, StoreError> {
        let catalog = super::query::catalog(index)?;
        Ok(ByHeart {
            sequences: super::query::sequences(index)?,
            merchants: catalog.merchants.iter().map(|m| m.id.clone()).collect(),
            endpoints: catalog.endpoints.iter().map(|e| e.id).collect(),
        })
    }
}

fn room_maker(reserve: &Arc<Reserve>, admission: &Arc<Admission>) -> MakeRoom {
    let (reserve, admission) = (Arc::clone(reserve), Arc::clone(admission));
    Box::new(move || {
        admission.disk_is_full();
        reserve.release()
    })
}

fn start(
    committer: Committer,
    inbox: Receiver<Command>,
    indexer: Indexer,
    nudged: Receiver<()>,
    retention: &Arc<Mutex<Retention>>,
    retention_every_ms: u64,
) -> Result<Threads, OpenFault> {
    let (stop_indexer, indexer_stopped) = bounded(1);
    let (stop_retention, retention_stopped) = bounded(1);
    let retention = Arc::clone(retention);
    let every = Duration::from_millis(retention_every_ms);
    Ok(Threads {
        committer: spawn("journal", move || committer.run(&inbox))?,
        indexer: spawn("index", move || indexer.run(&nudged, &indexer_stopped))?,
        retention: spawn("retention", move || Retention::run(&retention, every, &retention_stopped))?,
        stop_indexer,
        stop_retention,
    })
}

impl Store for EmbeddedStore {
    fn accept(&self, event: NewEvent) -> Receipt<Acceptance> {
        if let Err(refusal) = self.admission.enter(event.payload.len()) {
            return Receipt::ready(Err(refusal));
        }
        let bytes = event.payload.len();
        let looked_up = event.idempotency.map_or(Ok((None, 0)), |i| self.look(&event.merchant, short(&i.key)).known());
        let (known, seals) = match looked_up {
            Ok(found) => found,
            Err(error) => {
                self.admission.leave(bytes);
                return Receipt::ready(Err(untold(&error).unwrap_or(Refusal::Stopped)));
            }
        };
        let (answer, receipt) = Receipt::pending();
        if self.commands.send(Command::Accept { event: Box::new(event), known, seals, answer }).is_err() {
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

    fn pause_retries(&self, since: Option<Timestamp>) -> Receipt<()> {
        if self.stopping.load(Ordering::Acquire) {
            return Receipt::ready(Err(Refusal::Stopped));
        }
        let (answer, receipt) = Receipt::pending();
        let standstill = Arc::clone(&self.standstill);
        // A thread of its own, since the disk may take its time; once in a while, by hand.
        std::thread::spawn(move || {
            let set = standstill.lock().expect("no panic while held").set(since);
            let answered = set.map_err(|error| {
                tracing::error!(%error, "the pause of retries cannot be written");
                Refusal::DiskFull
            });
            // Whoever asked may have gone away.
            let _ = answer.send(answered);
        });
        receipt
    }

    fn catalog(&self) -> Result<Catalog, StoreError> {
        let retries_paused_at = self.standstill.lock().expect("no panic while held").since()?;
        Ok(Catalog { retries_paused_at, ..super::query::catalog(&self.index)? })
    }

    fn backlog(&self) -> Result<Vec<Backlog>, StoreError> {
        let backlog = self.index.overlay().backlog().into_iter();
        Ok(backlog.map(|(endpoint, merchant, waiting)| Backlog { endpoint, merchant, waiting }).collect())
    }

    fn due(&self, endpoint: EndpointId, from: DueKey, limit: usize) -> Result<DuePage, StoreError> {
        super::query::due(&self.index, endpoint, from, limit)
    }

    fn page(&self, query: &HistoryQuery) -> Result<HistoryPage, StoreError> {
        super::query::page(&self.index, &self.segments, &self.damage, query)
    }

    fn dossier(&self, merchant: &MerchantId, id: EventId) -> Result<Option<Dossier>, StoreError> {
        let dossier = super::query::dossier(&self.index, &self.segments, merchant, id);
        dossier.inspect_err(|error| self.damage.met(id, error))
    }

    fn event(&self, delivery: &Delivery) -> Result<Event, StoreError> {
        super::query::event_of(&self.index, &self.segments, delivery)
    }

    fn owner(&self, kind: OwnerKind, id: &str) -> Result<Option<MerchantId>, StoreError> {
        super::query::owner(&self.index, kind, id)
    }

    fn figures(&self) -> StoreFigures {
        let overlay = self.index.overlay();
        StoreFigures {
            waiting: overlay.waiting(),
            journal_bytes: self.admission.journal_bytes.load(Ordering::Relaxed),
            free_bytes: self.admission.free_bytes().unwrap_or(0),
            queued: self.admission.queued.load(Ordering::Relaxed),
            unindexed: overlay.changes() as u64,
            loose_names: overlay.names.len() as u64,
        }
    }

    fn close(&self) {
        let threads = self.threads.lock().expect("no panic while held").take();
        let Some(threads) = threads else { return };
        self.admission.stop();
        self.stopping.store(true, Ordering::Release);
        drop(threads.stop_retention);
        let _ = threads.retention.join();
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

/// The index thread.
struct Indexer {
    index: Arc<Index>,
    admission: Arc<Admission>,
    reserve: Arc<Reserve>,
    every: Duration,
    floor_bytes: u64,
    fatal: Fatal,
}

impl Indexer {
    fn run(self, nudged: &Receiver<()>, stopped: &Receiver<()>) {
        let work = catch_unwind(AssertUnwindSafe(|| self.work(nudged, stopped)));
        let work = work.unwrap_or_else(|_| Err(StoreError::Index("the index thread panicked".into())));
        if let Err(error) = work {
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
            self.reserve.adjust(self.admission.measure(), self.floor_bytes);
            // Whoever met it, a reader as well, cannot mend it: the next start does.
            if let Some(fault) = self.index.fault() {
                return Err(fault);
            }
            self.index.flush()?;
        }
        self.index.checkpoint()
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenFault> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(body)
        .map_err(|e| OpenFault::Disk(format!("starting a thread: {e}")))
}

/// A record that we wrote ourselves a moment ago does not decode: a bug, and a reason to stop.
#[expect(clippy::needless_pass_by_value, reason = "fits map_err")]
pub(super) fn index_fault(error: Undecodable) -> StoreError {
    StoreError::Corrupt(error.to_string())
}
