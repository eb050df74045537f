//! What happened: pages of a merchant's events, and everything about one of them.
//!
//! Never changes anything.

mod cursor;
mod question;

use std::sync::Arc;

use crate::model::{Attempt, Event, EventId, MerchantId};
use crate::store::Store;
use crate::transport::{Headline, shown_headers};

pub use question::{Question, Stretch};

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

/// The headers of an attempt's request, signatures shown; none where no request was written.
pub fn request_headers(event: &Event, attempt: &Attempt) -> Vec<(String, String)> {
    let headline = Headline {
        event: event.id,
        event_type: event.event_type,
        number: attempt.number,
        sequence: event.sequence,
        traceparent: event.traceparent.as_deref(),
        payload_len: event.payload.len(),
    };
    attempt.sent.as_ref().map(|sent| shown_headers(&headline, sent)).unwrap_or_default()
}
