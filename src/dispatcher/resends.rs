//! Resends: one at a time of each event, answered once the disk has it.
//!
//! Never settles by what an event was before: what was looked up counts only where nothing was told of the event
//! since, and nothing is under way with it. Never sends to an endpoint that is gone.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::{Dispatcher, Done};
use crate::model::{Delivery, EndpointId, Event, EventId, Location, MerchantId, Status};
use crate::shard::Recall;
use crate::store::{Dossier, Settlement, StoreError};

/// What came of a resend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resent {
    /// An attempt follows as soon as it is this endpoint's turn, also after a crash.
    Queued,
    /// An attempt is under way this moment.
    UnderWay,
    /// The merchant has no such event.
    Unknown,
}

/// Why a resend was not queued.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ResendFault {
    /// The merchant has no endpoint to send it to.
    #[error("the merchant has no endpoint")]
    NoEndpoint,
    /// The process is stopping.
    #[error("the process is stopping")]
    Stopped,
    /// The store could not be read.
    #[error(transparent)]
    Read(Arc<StoreError>),
}

impl From<StoreError> for ResendFault {
    fn from(error: StoreError) -> ResendFault {
        ResendFault::Read(Arc::new(error))
    }
}

/// Where a resend is answered.
pub type Answer = oneshot::Sender<Result<Resent, ResendFault>>;

/// Whose event. With the merchant, because whoever asks may name an event of another one.
pub(super) type Key = (MerchantId, EventId);

/// Resends that are not yet answered: no more than there are requests and recoveries that wait for them.
#[derive(Default)]
pub(super) struct Resends(HashMap<Key, Resend>);

/// One event, and all who want it sent again: what is done for the first is done for all of them.
struct Resend {
    stage: Stage,
    answers: Vec<Answer>,
}

enum Stage {
    /// Its state is being read.
    Looking {
        /// It has changed since.
        is_stale: bool,
    },
    /// Something is under way with it. What is told of it next begins a new look.
    Waiting,
    /// The store has it as owed to this endpoint, once it says so.
    Recording(EndpointId),
}

impl Resends {
    /// Leaves only those that the store has already been given.
    pub(super) fn end(&mut self) {
        self.0.retain(|_, resend| matches!(resend.stage, Stage::Recording(_)));
    }
}

impl Dispatcher {
    /// Makes an event due now, whatever became of it before.
    pub(super) fn resend(&mut self, merchant: MerchantId, event: EventId, answer: Answer) {
        if self.draining {
            // The answer that is dropped says so.
            return;
        }
        match self.resends.0.entry((merchant, event)) {
            Entry::Occupied(mut resend) => resend.get_mut().answers.push(answer),
            Entry::Vacant(place) => {
                let key = place.key().clone();
                place.insert(Resend { stage: Stage::Waiting, answers: vec![answer] });
                self.look(key);
            }
        }
    }

    /// A step of a delivery was told.
    pub(super) fn heard_of(&mut self, delivery: &Delivery) {
        if self.resends.0.is_empty() {
            return;
        }
        let key = (delivery.merchant.clone(), delivery.event);
        let Some(resend) = self.resends.0.get_mut(&key) else { return };
        match &mut resend.stage {
            Stage::Looking { is_stale } => *is_stale = true,
            Stage::Waiting => self.look(key),
            // The step before it, at the endpoint of then.
            Stage::Recording(endpoint) if *endpoint != delivery.endpoint => {}
            Stage::Recording(endpoint) => {
                let is_owed = delivery.status.is_waiting() && self.tools.registry.endpoint(*endpoint).is_some();
                // Otherwise the event was dropped meanwhile, or the endpoint is gone and another may be there.
                if is_owed { self.answer(&key, &Ok(Resent::Queued)) } else { self.look(key) }
            }
        }
    }

    /// An attempt was not made, so that nothing is told of it.
    pub(super) fn stir(&mut self, delivery: &Delivery) {
        let key = (delivery.merchant.clone(), delivery.event);
        if self.resends.0.get(&key).is_some_and(|resend| matches!(resend.stage, Stage::Waiting)) {
            self.look(key);
        }
    }

    fn look(&mut self, key: Key) {
        self.stage(&key, Stage::Looking { is_stale: false });
        let reads = self.tools.reads.clone();
        self.work.spawn(async move {
            let (merchant, event) = key.clone();
            let found = reads.read(move |store| store.dossier(&merchant, event)).await;
            Done::Looked { key, found: Box::new(found) }
        });
    }

    pub(super) fn looked(&mut self, key: Key, found: Result<Option<Dossier>, StoreError>) {
        let Some(Resend { stage: Stage::Looking { is_stale }, .. }) = self.resends.0.get(&key) else { return };
        if *is_stale {
            return self.look(key);
        }
        let dossier = match found {
            Ok(Some(dossier)) => dossier,
            Ok(None) => return self.answer(&key, &Ok(Resent::Unknown)),
            Err(error) => return self.answer(&key, &Err(error.into())),
        };
        let registry = &self.tools.registry;
        let (delivery, is_gone) = match dossier.delivery {
            Some(waiting) if waiting.status.is_waiting() => {
                let is_gone = registry.endpoint(waiting.endpoint).is_none();
                (waiting, is_gone)
            }
            known => {
                // As it is now: whoever asked may have waited while a config went and another came.
                let Some(endpoint) = registry.endpoint_of(&key.0) else {
                    return self.answer(&key, &Err(ResendFault::NoEndpoint));
                };
                (renewed(&dossier.event, dossier.location, known, endpoint.id), false)
            }
        };
        let delivery = match self.shard.hold(&delivery) {
            Recall::InFlight if !is_gone => return self.answer(&key, &Ok(Resent::UnderWay)),
            Recall::InFlight | Recall::Settling => return self.stage(&key, Stage::Waiting),
            Recall::Waiting(delivery) => delivery,
            Recall::Unknown => delivery,
        };
        if is_gone {
            // Its cancellation may be a million deliveries away: this one's comes first.
            self.cancel(delivery);
            return self.stage(&key, Stage::Waiting);
        }
        self.stage(&key, Stage::Recording(delivery.endpoint));
        let now = self.tools.clock.now();
        let status = if delivery.attempts == 0 { Status::Pending } else { Status::Retrying };
        let attempts_before = delivery.attempts;
        self.tools.store.settle(Settlement { delivery, attempt: None, status, at: now, due: now, attempts_before });
    }

    fn stage(&mut self, key: &Key, stage: Stage) {
        if let Some(resend) = self.resends.0.get_mut(key) {
            resend.stage = stage;
        }
    }

    fn answer(&mut self, key: &Key, result: &Result<Resent, ResendFault>) {
        for answer in self.resends.0.remove(key).into_iter().flat_map(|resend| resend.answers) {
            // The one who asked may have gone away; the resend stands.
            let _ = answer.send(result.clone());
        }
    }
}

/// The delivery as which an event is owed anew, after its last state was a final one.
fn renewed(event: &Event, location: Location, known: Option<Delivery>, endpoint: EndpointId) -> Delivery {
    match known {
        Some(delivery) => Delivery { endpoint, ..delivery },
        None => {
            Delivery { status: Status::Skipped, ..Delivery::first(event, endpoint, location, event.id.accepted_at()) }
        }
    }
}
