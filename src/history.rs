//! What happened: pages of a merchant's events, and everything about one of them.
//!
//! Never changes anything.

use std::sync::Arc;

use crate::model::{EventId, MerchantId};
use crate::store::Store;

pub use crate::store::{AttemptSummary, Dossier, HistoryItem, HistoryPage, HistoryQuery, StoreError};

/// Reads the history.
#[derive(Clone)]
pub struct History {
    store: Arc<dyn Store>,
}

impl History {
    /// A history over a store.
    pub fn new(store: Arc<dyn Store>) -> History {
        History { store }
    }

    /// A page, in O(limit).
    pub fn page(&self, query: &HistoryQuery) -> Result<HistoryPage, StoreError> {
        self.store.page(query)
    }

    /// Everything about one event, where the merchant has it.
    pub fn dossier(&self, merchant: &MerchantId, id: EventId) -> Result<Option<Dossier>, StoreError> {
        self.store.dossier(merchant, id)
    }
}
