//! What is owed: takes an event, decides to whom it is owed, and has it stored.
//!
//! Never answers before the store did; never keeps anything itself.

use std::sync::Arc;

use crate::metrics::{Metrics, RefusalReason};
use crate::model::{MerchantId, OwnerKind};
use crate::policy::routing;
use crate::registry::Registry;
use crate::store::{NewEvent, Store};

pub use crate::store::{Acceptance, Idempotency, NewEvent as Submission, Receipt, Refusal, StoreError};

/// Accepts events.
#[derive(Clone)]
pub struct Outbox {
    store: Arc<dyn Store>,
    registry: Arc<Registry>,
    metrics: Metrics,
}

impl Outbox {
    /// An outbox over a store.
    pub fn new(store: Arc<dyn Store>, registry: Arc<Registry>, metrics: Metrics) -> Outbox {
        Outbox { store, registry, metrics }
    }

    /// Hands an event and what is owed because of it to the store. `endpoints` of the submission is
    /// decided here. Many can be handed over before the first is awaited: they share a commit.
    pub fn submit(&self, event: Submission) -> Receipt<Acceptance> {
        let endpoint = self.registry.endpoint_of(&event.merchant);
        let endpoints = routing::route(event.event_type, endpoint.as_deref());
        self.store.accept(NewEvent { endpoints, ..event })
    }

    /// Waits until what was submitted is durable.
    pub async fn committed(&self, receipt: Receipt<Acceptance>) -> Result<Acceptance, Refusal> {
        let committed = receipt.await;
        match &committed {
            Ok(Acceptance::Fresh { .. }) => self.metrics.accepted.increment(1),
            Ok(Acceptance::Duplicate { .. }) => self.metrics.duplicates.increment(1),
            Ok(Acceptance::Conflict) => self.metrics.refused(RefusalReason::Conflict),
            Err(Refusal::TooLarge) => self.metrics.refused(RefusalReason::Invalid),
            Err(Refusal::Overloaded) => self.metrics.refused(RefusalReason::Overloaded),
            Err(Refusal::DiskFull) => self.metrics.refused(RefusalReason::DiskFull),
            Err(Refusal::Unreadable | Refusal::Mending) => self.metrics.refused(RefusalReason::Unreadable),
            Err(Refusal::Stopped) => self.metrics.refused(RefusalReason::Stopped),
        }
        committed
    }

    /// Whether an event of this merchant and type would be owed to anybody now.
    pub fn is_wanted(&self, event: &Submission) -> bool {
        let endpoint = self.registry.endpoint_of(&event.merchant);
        !routing::route(event.event_type, endpoint.as_deref()).is_empty()
    }

    /// The merchant that owns an account or card, where one does that still exists.
    pub fn owner(&self, kind: OwnerKind, id: &str) -> Result<Option<MerchantId>, StoreError> {
        let owner = self.store.owner(kind, id)?;
        Ok(owner.filter(|merchant| self.registry.merchant(merchant).is_some()))
    }
}
