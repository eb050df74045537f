//! The journal thread: takes what gathered while the last sync ran, writes it as one group commit,
//! applies it to the index's overlay, and only then answers.
//!
//! Never answers before the sync, never goes on after a failed one.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};

use super::admission::Admission;
use super::carry::Bundle;
use super::embedded::{Fatal, Probes, index_fault};
use super::index::value::Watermark;
use super::index::{Index, apply};
use super::journal::carried::{CarriedV1, KeptV1};
use super::journal::codec::{self, AcceptedV1, ChangeV1, ResponseV1, SettledV1};
use super::journal::record::PAYLOAD_LEN_MAX;
use super::journal::{Journal, Kind};
use super::known::{KeyLook, Known};
use super::{Acceptance, Answer, Change, Idempotency, NewEvent, Notice, NoticeSink, Refusal, Settlement, StoreError};
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::model::{Delivery, Digest, EndpointId, EventId, Location, MerchantId, Timestamp};

/// A group commit takes no more once it has so many bytes.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// A group commit takes no more once it has so many records.
const BATCH_RECORDS_MAX: usize = 4096;

/// One write that waits for the next group commit.
pub(super) enum Command {
    /// An event; the look for its key found nothing or this, as of so many `seals`: what came since is looked for again.
    Accept { event: Box<NewEvent>, known: Option<Known>, seals: u64, answer: Answer<Acceptance> },
    /// A delivery's step; nobody waits for it but through its notice.
    Settle(Box<Settlement>),
    /// Changes of configuration.
    Change { changes: Vec<Change>, answer: Answer<()> },
    /// What stands before this segment is about to be dropped.
    Condemn { first: u32, answer: Answer<()> },
    /// Copy these forward, as far as they still count.
    Carry { bundles: Vec<Bundle>, kept: Box<KeptV1>, answer: Answer<()> },
    /// Nothing before this segment counts any more.
    KeepFrom { first: u32, answer: Answer<()> },
    /// Commit what is there and stop.
    Close,
}

/// What the journal thread owns.
pub(super) struct Committer {
    pub(super) journal: Journal,
    pub(super) index: Arc<Index>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) sink: NoticeSink,
    pub(super) fatal: Fatal,
    pub(super) probes: Probes,
    pub(super) admission: Arc<Admission>,
    pub(super) nudge: Sender<()>,
    pub(super) settle_delay: Duration,
    pub(super) unindexed_max: usize,
    pub(super) idempotency_ms: u64,
    /// Who settles a delivery whose event stands before this segment looks up where it stands now.
    pub(super) condemned: u32,
    pub(super) last_event: EventId,
    pub(super) sequences: HashMap<MerchantId, u64>,
    pub(super) merchants: HashSet<MerchantId>,
    pub(super) endpoints: HashSet<EndpointId>,
    pub(super) batch: Batch,
}

/// What the next group commit holds.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) staged: Vec<Staged>,
    keys: HashMap<(MerchantId, u128), Known>,
    /// Somebody waits for this commit.
    urgent: bool,
    /// When the oldest settlement in it came, while nobody waits.
    since: Option<Instant>,
    pub(super) meta: Vec<u8>,
    pub(super) body: Vec<u8>,
}

pub(super) enum Staged {
    Accepted {
        location: Location,
        meta: AcceptedV1,
        payload: Bytes,
        answer: Answer<Acceptance>,
    },
    Repeated {
        acceptance: Acceptance,
        answer: Answer<Acceptance>,
    },
    Settled {
        location: Location,
        meta: SettledV1,
    },
    Changed {
        changes: Vec<Change>,
        answer: Answer<()>,
    },
    Carried {
        location: Location,
        meta: Box<CarriedV1>,
    },
    Kept {
        location: Location,
        meta: Box<KeptV1>,
    },
    /// The event of a settlement was dropped.
    Vanished(Box<Delivery>),
}

/// An answer that became due with the commit.
enum Due {
    Acceptance(Answer<Acceptance>, Acceptance),
    Change(Answer<()>),
}

impl Committer {
    /// Runs until closed or until a write fails.
    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        loop {
            // A bug of ours is as good a reason to stop as a failed disk: a thread that is gone without a word
            // would leave a process that takes events and never answers.
            let turn = catch_unwind(AssertUnwindSafe(|| self.turn(commands)));
            let turn = turn.unwrap_or_else(|_| Err(StoreError::Corrupt("the journal thread panicked".into())));
            match turn {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    self.admission.stop();
                    return (self.fatal)(&error);
                }
            }
        }
    }

    /// One group commit, or one step towards it. False once closed.
    fn turn(&mut self, commands: &Receiver<Command>) -> Result<bool, StoreError> {
        let first = match self.batch.since {
            None => commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(since) => {
                let waited = self.clock.instant().saturating_duration_since(since);
                commands.recv_timeout(self.settle_delay.saturating_sub(waited))
            }
        };
        let mut open = true;
        let mut next = match first {
            Ok(command) => Some(command),
            Err(RecvTimeoutError::Timeout) => {
                self.batch.urgent = true;
                None
            }
            Err(RecvTimeoutError::Disconnected) => Some(Command::Close),
        };
        while let Some(command) = next {
            open = self.stage(command)?;
            let full = self.journal.batch_bytes() >= BATCH_BYTES_MAX || self.batch.staged.len() >= BATCH_RECORDS_MAX;
            next = if open && !full { commands.try_recv().ok() } else { None };
            self.batch.urgent |= full;
        }
        if self.batch.urgent || !open {
            self.commit()?;
        }
        Ok(open)
    }

    /// Puts one command into the batch. False where it was the last.
    fn stage(&mut self, command: Command) -> Result<bool, StoreError> {
        match command {
            Command::Accept { event, known, seals, answer } => {
                self.admission.leave(event.payload.len());
                self.batch.urgent = true;
                self.stage_event(*event, known, seals, answer)?;
            }
            Command::Settle(settlement) => {
                self.batch.urgent |= settlement.is_awaited();
                self.stage_settlement(*settlement)?;
                if self.batch.since.is_none() {
                    self.batch.since = Some(self.clock.instant());
                }
            }
            Command::Change { changes, answer } => {
                self.batch.urgent = true;
                self.stage_changes(changes, answer);
            }
            Command::Condemn { first, answer } => self.condemn(first, answer)?,
            Command::Carry { bundles, kept, answer } => {
                self.carry(bundles, *kept)?;
                let _ = answer.send(Ok(()));
            }
            Command::KeepFrom { first, answer } => {
                self.keep_from(first)?;
                let _ = answer.send(Ok(()));
            }
            Command::Close => return Ok(false),
        }
        Ok(true)
    }

    fn stage_event(
        &mut self,
        event: NewEvent,
        known: Option<Known>,
        seals: u64,
        answer: Answer<Acceptance>,
    ) -> Result<(), StoreError> {
        assert!(event.endpoints.len() <= 1, "the history is one line per event");
        let now = self.clock.now();
        if let Some(idempotency) = event.idempotency {
            let known = match known {
                Some(known) => Ok(Some(known)),
                None => self.known(&event.merchant, idempotency, now, seals),
            };
            if let Some(refusal) = known.as_ref().err().and_then(untold) {
                let _ = answer.send(Err(refusal));
                return Ok(());
            }
            if let Some(known) = known? {
                let acceptance = if known.content == short(&idempotency.content) {
                    Acceptance::Duplicate { id: EventId::from_u128(known.event), sequence: known.sequence }
                } else {
                    Acceptance::Conflict
                };
                // The first event may stand in this very batch, so this answer waits for its sync too.
                self.batch.staged.push(Staged::Repeated { acceptance, answer });
                return Ok(());
            }
        }
        let id = EventId::next(self.last_event, now, self.entropy.number());
        self.last_event = id;
        let sequence = self.sequences.entry(event.merchant.clone()).or_insert(0);
        *sequence += 1;
        let meta = AcceptedV1 {
            id: id.as_u128(),
            accepted_at: now.as_ms(),
            merchant: event.merchant.as_str().to_owned(),
            sequence: *sequence,
            event_type: event.event_type.code(),
            resource_id: event.resource_id.as_deref().map(str::to_owned),
            traceparent: event.traceparent.as_deref().map(str::to_owned),
            occurred_at: event.occurred_at.map(Timestamp::as_ms),
            idempotency: event.idempotency.map(|i| (short(&i.key), short(&i.content))),
            endpoints: self.alive(&event),
        };
        if let Some((key, content)) = meta.idempotency {
            let known = Known { content, event: meta.id, sequence: meta.sequence };
            self.batch.keys.insert((event.merchant, key), known);
        }
        codec::encode_into(&mut self.batch.meta, &meta);
        let location = self.journal.append(Kind::Accepted, &self.batch.meta, &event.payload);
        self.batch.staged.push(Staged::Accepted { location, meta, payload: event.payload, answer });
        Ok(())
    }

    /// The endpoints to which it can be owed: they and the merchant may have gone since it was routed.
    fn alive(&self, event: &NewEvent) -> Vec<u64> {
        let endpoints = event.endpoints.iter().filter(|endpoint| self.endpoints.contains(endpoint));
        endpoints.filter(|_| self.merchants.contains(&event.merchant)).map(|endpoint| endpoint.0).collect()
    }

    fn known(
        &self,
        merchant: &MerchantId,
        idempotency: Idempotency,
        now: Timestamp,
        seals: u64,
    ) -> Result<Option<Known>, StoreError> {
        let digest = short(&idempotency.key);
        if let Some(known) = self.batch.keys.get(&(merchant.clone(), digest)) {
            return Ok(Some(*known));
        }
        let (index, segments, window_ms) = (&*self.index, &*self.journal.segments(), self.idempotency_ms);
        KeyLook { index, segments, merchant, digest, now, window_ms }.anew(seals)
    }

    fn stage_settlement(&mut self, settlement: Settlement) -> Result<(), StoreError> {
        let settlement = match self.locate(settlement)? {
            Ok(settlement) => settlement,
            Err(vanished) => {
                self.batch.staged.push(Staged::Vanished(Box::new(vanished)));
                return Ok(());
            }
        };
        let meta = SettledV1::of(&settlement);
        codec::encode_into(&mut self.batch.meta, &meta);
        self.batch.body.clear();
        if let Some(response) = settlement.attempt.as_ref().and_then(|a| a.response.as_ref()) {
            codec::encode_into(&mut self.batch.body, &ResponseV1::of(response));
        }
        let location = self.journal.append(Kind::Settled, &self.batch.meta, &self.batch.body);
        self.batch.staged.push(Staged::Settled { location, meta });
        Ok(())
    }

    fn stage_changes(&mut self, changes: Vec<Change>, answer: Answer<()>) {
        let bodies: Vec<ChangeV1> = changes.iter().map(ChangeV1::of).collect();
        codec::encode_into(&mut self.batch.body, &bodies);
        if self.batch.body.len() > PAYLOAD_LEN_MAX {
            // A list is one record, or it could be torn apart.
            let _ = answer.send(Err(Refusal::TooLarge));
            return;
        }
        for change in &changes {
            match change {
                Change::PutEndpoint(endpoint) => {
                    self.endpoints.insert(endpoint.id);
                }
                Change::DeleteEndpoint(id) => {
                    self.endpoints.remove(id);
                }
                Change::PutMerchant(merchant) => {
                    self.merchants.insert(merchant.id.clone());
                }
                Change::DeleteMerchant(id) => {
                    self.merchants.remove(id);
                }
                Change::PutKey(_) | Change::DeleteKey(_) | Change::PutOwner(..) | Change::DeleteOwner(..) => {}
            }
        }
        self.journal.append(Kind::Changed, &[], &self.batch.body);
        self.batch.staged.push(Staged::Changed { changes, answer });
    }

    /// Syncs, applies, tells, answers: in this order.
    pub(super) fn commit(&mut self) -> Result<(), StoreError> {
        let staged = std::mem::take(&mut self.batch.staged);
        self.batch.keys.clear();
        self.batch.urgent = false;
        self.batch.since = None;
        if staged.is_empty() {
            return Ok(());
        }
        let begun = self.clock.instant();
        self.probes.commit_records.record(staged.len() as f64);
        self.probes.commit_bytes.record(self.journal.batch_bytes() as f64);
        let grown = self.journal.commit(self.clock.now());
        let grown = grown.map_err(|source| StoreError::Io { context: "writing the journal".into(), source })?;
        self.probes.commit_seconds.record(self.clock.instant().saturating_duration_since(begun));
        self.admission.journal_grew(grown);
        let (notices, due) = self.apply(staged)?;
        for notice in notices {
            (self.sink)(notice);
        }
        for answer in due {
            // Whoever asked may have gone away; what was asked for is done all the same.
            match answer {
                Due::Acceptance(answer, acceptance) => drop(answer.send(Ok(acceptance))),
                Due::Change(answer) => drop(answer.send(Ok(()))),
            }
        }
        if self.index.overlay().changes() >= self.unindexed_max / 2 {
            let _ = self.nudge.try_send(());
            self.index.wait_for_room(self.unindexed_max);
        }
        Ok(())
    }

    fn apply(&mut self, staged: Vec<Staged>) -> Result<(Vec<Notice>, Vec<Due>), StoreError> {
        let mut notices = Vec::with_capacity(staged.len());
        let mut due = Vec::with_capacity(staged.len());
        let watermark = self.watermark();
        let mut overlay = self.index.overlay_mut();
        for entry in staged {
            match entry {
                Staged::Accepted { location, meta, payload, answer } => {
                    apply::accepted(&mut overlay, location, &meta).map_err(index_fault)?;
                    let owed = apply::owed_by(&meta, location).map_err(index_fault)?;
                    let with_payload = |delivery| Delivery {
                        payload: Some(payload.clone()),
                        traceparent: meta.traceparent.as_deref().map(Into::into),
                        ..delivery
                    };
                    notices.extend(owed.into_iter().map(with_payload).map(Notice::Accepted));
                    let id = EventId::from_u128(meta.id);
                    due.push(Due::Acceptance(answer, Acceptance::Fresh { id, sequence: meta.sequence }));
                }
                Staged::Repeated { acceptance, answer } => due.push(Due::Acceptance(answer, acceptance)),
                Staged::Settled { location, meta } => {
                    let delivery = apply::settled(&mut overlay, location, &meta).map_err(index_fault)?;
                    notices.push(Notice::Settled(delivery));
                }
                Staged::Changed { changes, answer } => {
                    apply::changed(&mut overlay, &changes);
                    due.push(Due::Change(answer));
                }
                Staged::Carried { location, meta } => {
                    apply::carried(&mut overlay, location, &meta, false).map_err(index_fault)?;
                }
                Staged::Kept { location, meta } => {
                    apply::kept(&mut overlay, location, &meta).map_err(index_fault)?;
                }
                Staged::Vanished(delivery) => notices.push(Notice::Settled(*delivery)),
            }
        }
        overlay.advance(watermark);
        Ok((notices, due))
    }

    /// Everything that the journal holds.
    pub(super) fn watermark(&self) -> Watermark {
        let (end, number) = self.journal.end();
        Watermark { next: end.0, number, last_event: self.last_event.as_u128() }
    }
}

/// Why it cannot be told whether an event with this key came before, where the rest of the store is well.
pub(super) fn untold(error: &StoreError) -> Option<Refusal> {
    if let StoreError::Index(_) = error {
        tracing::warn!(%error, "whether a producer's key is known cannot be told at this moment");
        return Some(Refusal::Mending);
    }
    error.is_damage().then(|| {
        tracing::error!(%error, "what came first with a producer's key cannot be read: see `posthaste store verify`");
        Refusal::Unreadable
    })
}

/// The first half of a digest: 128 bits are enough to tell a producer's keys and contents apart.
pub(super) fn short(digest: &Digest) -> u128 {
    let (half, _) = digest.split_at(16);
    u128::from_be_bytes(half.try_into().expect("half of 32 bytes"))
}
