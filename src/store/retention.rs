//! Dropping what is past its time, a whole segment at a time, after copying forward what still counts; and keeping the
//! sheets of names few and whole.
//!
//! Never drops a delivery that is owed, a configuration, a sequence, or a producer's key before its time. Never
//! deletes a segment before the index is durable past everything that was copied out of it, nor one before an
//! earlier one.

use std::collections::{BTreeMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender};
use metrics::Counter;

use super::admission::Admission;
use super::carry::{Bundle, accepted_of, stands};
use super::commit::Command;
use super::embedded::{Fatal, Limits, index_fault};
use super::index::{Dropped, Index, apply};
use super::journal::carried::{KeptV1, KnownKeyV1};
use super::journal::codec::{self, AcceptedV1, ChangeV1};
use super::journal::segment::{HEAD_LEN, Scanned, Scanner, Segment};
use super::journal::{Kind, Record, Segments};
use super::known::is_within;
use super::{Answer, Receipt, Refusal, StoreError};
use crate::clock::Clock;
use crate::model::{EventId, EventType, Location, MerchantId, Timestamp};

/// Segments dropped in one pass: while they are, settling what stands in them costs more.
const SEGMENTS_MAX: usize = 4;

/// Records, and bytes, looked at together.
const CHUNK_RECORDS_MAX: usize = 512;
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// Entries of one record of what is kept.
const KEPT_MAX: usize = 4096;

/// A segment is also closed after this part of the retention age, so that quiet times do not prolong it much.
const AGE_PARTS: u64 = 16;

/// The retention thread, and whoever wants a pass now.
pub(super) struct Retention {
    pub(super) index: Arc<Index>,
    pub(super) segments: Arc<Segments>,
    pub(super) commands: Sender<Command>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) admission: Arc<Admission>,
    pub(super) limits: Limits,
    pub(super) dropped: Counter,
    pub(super) fatal: Fatal,
    pub(super) stopping: Arc<AtomicBool>,
    pub(super) progress: Progress,
}

/// What one pass leaves to the next.
#[derive(Default)]
pub(super) struct Progress {
    /// Dropping by size freed next to nothing: it is not tried again before the journal has so many bytes.
    bytes_patience: u64,
}

/// Events that are owed.
type Owed = HashSet<EventId>;

/// Why a pass ended before it was done.
enum Interrupted {
    Stopping,
    Fault(StoreError),
}

impl From<StoreError> for Interrupted {
    fn from(error: StoreError) -> Interrupted {
        Interrupted::Fault(error)
    }
}

impl From<Refusal> for Interrupted {
    fn from(_: Refusal) -> Interrupted {
        Interrupted::Stopping
    }
}

impl Retention {
    /// Looks again and again until stopped.
    pub(super) fn run(retention: &Mutex<Retention>, every: Duration, stopped: &Receiver<()>) {
        loop {
            crossbeam::channel::select! {
                recv(stopped) -> _ => return,
                default(every) => {}
            }
            let mut retention = retention.lock().expect("no panic while held");
            // A thread that is gone without a word would leave a disk that fills up.
            match catch_unwind(AssertUnwindSafe(|| retention.enforce())) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "what is past its time cannot be dropped"),
                Err(_) => {
                    retention.admission.stop();
                    return (retention.fatal)(&StoreError::Index("the retention thread panicked".into()));
                }
            }
        }
    }

    /// Drops everything that is past its time now.
    pub(super) fn enforce(&mut self) -> Result<(), StoreError> {
        let passed = loop {
            match self.pass() {
                Ok(true) => {}
                Ok(false) => break self.index.drop_names(&self.segments),
                Err(Interrupted::Stopping) => return Ok(()),
                Err(Interrupted::Fault(error)) => break Err(error),
            }
        };
        // Also where nothing can be dropped.
        let goes_on = || !self.stopping.load(Ordering::Acquire);
        let tidied = self.index.tidy_names(&self.segments, &goes_on);
        passed.and(if goes_on() { tidied } else { Ok(()) })
    }

    /// One pass. True where there may be more to drop.
    fn pass(&mut self) -> Result<bool, Interrupted> {
        let now = self.clock.now();
        // Of a pass that a crash cut short.
        self.delete()?;
        self.close_old_segment(now)?;
        let segments = self.segments.all();
        let (old, by_bytes) = self.past_their_time(&segments, now);
        let Some(last) = old.last() else { return Ok(false) };
        let first = last.number + 1;
        self.tell(|answer| Command::Condemn { first, answer })?;
        // From here on whatever becomes of such a delivery takes it along: what is not among these need not be looked for.
        let owed = self.index.owed_before(first)?;
        let (mut sequences, mut moved) = (BTreeMap::new(), 0);
        for segment in &old {
            moved += self.copy_forward(segment, owed.as_ref(), &mut sequences, now)?;
        }
        let sequences = sequences.into_iter().collect();
        self.carry(Vec::new(), KeptV1 { sequences, ..KeptV1::default() })?;
        self.tell(|answer| Command::KeepFrom { first, answer })?;
        let freed = self.delete()?;
        tracing::info!(segments = old.len(), freed_bytes = freed, moved_bytes = moved, "old segments were dropped");
        if by_bytes && moved as u64 > freed / 2 {
            let total = self.admission.journal_bytes.load(Ordering::Relaxed);
            let step = u64::from(self.limits.segment_bytes).max(self.limits.retention_bytes_max / 16);
            self.progress.bytes_patience = total.saturating_add(step);
            tracing::warn!(
                journal_bytes = total,
                "what is still owed takes most of the room that history may have (storage.retention_bytes_max)"
            );
        }
        Ok(true)
    }

    /// Begins a new segment where the last one has been growing for long.
    fn close_old_segment(&self, now: Timestamp) -> Result<(), Interrupted> {
        let Some(last) = self.segments.all().pop() else { return Ok(()) };
        let made_at = last.made_at.unwrap_or(now);
        let has_records = last.file.metadata().is_ok_and(|found| found.len() > u64::from(HEAD_LEN));
        if has_records && now.since_ms(made_at) > self.limits.retention_age_ms / AGE_PARTS {
            let first = self.segments.first();
            self.tell(|answer| Command::KeepFrom { first, answer })?;
        }
        Ok(())
    }

    /// The oldest segments, as far as their time has passed or there are too many bytes; whether it is for the
    /// bytes.
    fn past_their_time(&self, segments: &[Segment], now: Timestamp) -> (Vec<Segment>, bool) {
        // A segment is no younger than any that was made after it, whatever the clock said then.
        let mut ends: Vec<Option<Timestamp>> = vec![None; segments.len()];
        for nth in (0..segments.len().saturating_sub(1)).rev() {
            ends[nth] = segments[nth + 1].made_at.into_iter().chain(ends[nth + 1]).min();
        }
        let candidates = segments.len().saturating_sub(1).min(SEGMENTS_MAX);
        let is_old = |nth: usize| ends[nth].is_some_and(|end| now.since_ms(end) > self.limits.retention_age_ms);
        let old = (0..candidates).take_while(|nth| is_old(*nth)).count();
        let mut total = self.admission.journal_bytes.load(Ordering::Relaxed);
        let mut many = 0;
        if total > self.progress.bytes_patience {
            while many < candidates && total > self.limits.retention_bytes_max {
                total = total.saturating_sub(segments[many].file.metadata().map_or(0, |found| found.len()));
                many += 1;
            }
        }
        (segments[..old.max(many)].to_vec(), many > old)
    }

    /// Copies forward what still counts of a segment; how many bytes that were. `sequences` gathers the newest
    /// sequence of every merchant met.
    fn copy_forward(
        &self,
        segment: &Segment,
        owed: Option<&Owed>,
        sequences: &mut BTreeMap<String, u64>,
        now: Timestamp,
    ) -> Result<usize, Interrupted> {
        let mut scanner = Scanner::new(Arc::clone(&segment.file), segment.number, HEAD_LEN);
        let mut moved = 0;
        let mut ended = false;
        while !ended {
            let (chunk, end) = next_chunk(&mut scanner, segment)?;
            ended = end;
            let mut kept = KeptV1::default();
            let bundles = self.still_owed(&chunk, owed)?;
            for (_, record) in &chunk {
                self.still_counts(record, &mut kept, sequences, now)?;
            }
            moved += bundles.iter().map(Bundle::bytes).sum::<usize>();
            if !bundles.is_empty() || kept.entries() > 0 {
                self.carry(bundles, kept)?;
            }
        }
        Ok(moved)
    }

    /// The events of a chunk to which an attempt is owed; `owed` are all that can be.
    fn still_owed(&self, chunk: &[(Location, Record)], owed: Option<&Owed>) -> Result<Vec<Bundle>, StoreError> {
        let mut events = Vec::new();
        let mut stretches: BTreeMap<(MerchantId, EventType), (EventId, EventId)> = BTreeMap::new();
        for (location, record) in chunk.iter().filter(|(_, record)| record.header.kind.is_event()) {
            let accepted = accepted_of(record.header.kind, &record.meta)?;
            let (merchant, id) = (accepted.merchant().map_err(index_fault)?, EventId::from_u128(accepted.id));
            let event_type = accepted.event_type().map_err(index_fault)?;
            if owed.is_some_and(|owed| !owed.contains(&id)) {
                continue;
            }
            let run = (merchant, event_type);
            if record.header.kind == Kind::Accepted {
                // Their ids follow each other as their records do: one look finds the few that wait.
                let ids = stretches.entry(run.clone()).or_insert((id, id));
                *ids = (ids.0.min(id), ids.1.max(id));
            }
            events.push((*location, record, accepted, run, id));
        }
        let mut waiting = BTreeMap::new();
        for ((merchant, event_type), (first, last)) in stretches {
            waiting.extend(self.index.waiting(&merchant, event_type, first, last)?);
        }
        let mut bundles = Vec::new();
        for (location, record, accepted, (merchant, event_type), id) in events {
            if record.header.kind == Kind::Carried {
                waiting.extend(self.index.waiting(&merchant, event_type, id, id)?);
            }
            // Only the newest copy counts.
            let Some(found) = waiting.get(&id).filter(|(_, entry)| entry.location == location) else { continue };
            bundles.extend(Bundle::load(&self.index, &self.segments, accepted, record.payload.clone(), *found)?);
        }
        Ok(bundles)
    }

    /// Gathers what counts of a record beside its event.
    fn still_counts(
        &self,
        record: &Record,
        kept: &mut KeptV1,
        sequences: &mut BTreeMap<String, u64>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let is_known = |at: i64| is_within(at, now, self.limits.idempotency_ms);
        match record.header.kind {
            Kind::Accepted | Kind::Carried => {
                let accepted = accepted_of(record.header.kind, &record.meta)?;
                // A copy came after its key's record, whose own segment's end kept the key.
                let known = accepted.idempotency.filter(|_| record.header.kind == Kind::Accepted);
                if let Some((key, content)) = known.filter(|_| is_known(accepted.accepted_at)) {
                    let AcceptedV1 { merchant, id: event, sequence, accepted_at, .. } = accepted.clone();
                    kept.keys.push(KnownKeyV1 { merchant, key, content, event, sequence, accepted_at });
                }
                note(sequences, accepted.merchant, accepted.sequence);
            }
            Kind::Changed => self.note_changes(kept, codec::decode(&record.payload).map_err(index_fault)?)?,
            Kind::Kept => {
                let before: KeptV1 = codec::decode(&record.payload).map_err(index_fault)?;
                kept.keys.extend(before.keys.into_iter().filter(|known| is_known(known.accepted_at)));
                for (merchant, sequence) in before.sequences {
                    note(sequences, merchant, sequence);
                }
                self.note_changes(kept, before.changes)?;
            }
            Kind::Settled | Kind::CarriedAttempt | Kind::Lost | Kind::Unknown(_) => {}
        }
        Ok(())
    }

    fn note_changes(&self, kept: &mut KeptV1, changes: Vec<ChangeV1>) -> Result<(), StoreError> {
        for change in changes {
            if stands(&self.index, &apply::changes_of(vec![change.clone()]).map_err(index_fault)?)? {
                kept.changes.push(change);
            }
        }
        Ok(())
    }

    /// Hands what counts to the journal thread and waits until it is durable.
    fn carry(&self, bundles: Vec<Bundle>, kept: KeptV1) -> Result<(), Interrupted> {
        let KeptV1 { mut sequences, mut keys, mut changes, .. } = kept;
        let mut bundles = Some(bundles);
        loop {
            let part = Box::new(KeptV1 {
                sequences: front(&mut sequences),
                keys: front(&mut keys),
                changes: front(&mut changes),
                ..KeptV1::default()
            });
            let bundles = bundles.take().unwrap_or_default();
            self.tell(|answer| Command::Carry { bundles, kept: part, answer })?;
            if sequences.is_empty() && keys.is_empty() && changes.is_empty() {
                return Ok(());
            }
        }
    }

    /// Deletes every segment that does not count any more; how many bytes that freed.
    fn delete(&mut self) -> Result<u64, Interrupted> {
        let first = self.segments.first();
        let old: Vec<Segment> = self.segments.all().into_iter().filter(|segment| segment.number < first).collect();
        if old.is_empty() {
            return Ok(0);
        }
        // What the index needs of them must be durable elsewhere first.
        self.index.checkpoint()?;
        for segment in &old {
            let dropped = self.events_of(segment)?;
            self.index.trim(&dropped, first)?;
        }
        // Once they are gone nobody can tell any more what to trim.
        self.index.sync()?;
        let mut freed = 0;
        for segment in old {
            let bytes = self.segments.remove(segment.number);
            let bytes = bytes.map_err(|source| StoreError::Io { context: "deleting a segment".into(), source })?;
            self.admission.journal_shrank(bytes);
            self.dropped.increment(1);
            freed += bytes;
        }
        Ok(freed)
    }

    fn events_of(&self, segment: &Segment) -> Result<Vec<Dropped>, Interrupted> {
        let mut scanner = Scanner::new(Arc::clone(&segment.file), segment.number, HEAD_LEN);
        let mut events = Vec::new();
        loop {
            let (chunk, ended) = next_chunk(&mut scanner, segment)?;
            for (_, record) in chunk.iter().filter(|(_, record)| record.header.kind.is_event()) {
                let accepted = accepted_of(record.header.kind, &record.meta)?;
                events.push(Dropped {
                    id: EventId::from_u128(accepted.id),
                    merchant: accepted.merchant().map_err(index_fault)?,
                    event_type: accepted.event_type().map_err(index_fault)?,
                });
            }
            if ended {
                return Ok(events);
            }
        }
    }

    /// Asks the journal thread for something and waits until it is done.
    fn tell(&self, command: impl FnOnce(Answer<()>) -> Command) -> Result<(), Interrupted> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(Interrupted::Stopping);
        }
        let (answer, receipt) = Receipt::pending();
        self.commands.send(command(answer)).map_err(|_| Interrupted::Stopping)?;
        Ok(receipt.wait()?)
    }
}

/// The next records of a segment; whether they were the last.
fn next_chunk(scanner: &mut Scanner, segment: &Segment) -> Result<(Vec<(Location, Record)>, bool), StoreError> {
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    while chunk.len() < CHUNK_RECORDS_MAX && bytes < CHUNK_BYTES_MAX {
        let at = scanner.offset();
        let context = || format!("reading segment {} of the journal", segment.number);
        match scanner.next().map_err(|source| StoreError::Io { context: context(), source })? {
            Scanned::Record(location, record) => {
                bytes += record.header.record_len();
                chunk.push((location, record));
            }
            Scanned::End => return Ok((chunk, true)),
            Scanned::Bad => {
                return Err(StoreError::Corrupt(format!(
                    "segment {} of the journal is damaged at byte {at}: it is kept. See `posthaste store verify`",
                    segment.number
                )));
            }
        }
    }
    Ok((chunk, false))
}

fn note(sequences: &mut BTreeMap<String, u64>, merchant: String, sequence: u64) {
    let newest = sequences.entry(merchant).or_insert(sequence);
    *newest = sequence.max(*newest);
}

fn front<T>(list: &mut Vec<T>) -> Vec<T> {
    let rest = list.split_off(list.len().min(KEPT_MAX));
    std::mem::replace(list, rest)
}
