//! What happened: pages of a merchant's events, and everything about one of them.
//!
//! Never changes anything, never makes a worker of the runtime wait for the disk.

mod cursor;
mod question;

use crate::model::{Attempt, Event, EventId, MerchantId};
use crate::store::Reads;
use crate::transport::{Headline, shown_headers};

pub use question::{Question, Stretch};

pub use crate::store::{AttemptSummary, Dossier, HistoryItem, HistoryPage, HistoryQuery, StoreError};

/// Reads the history.
#[derive(Clone)]
pub struct History {
    reads: Reads,
}

impl History {
    /// A history over a store.
    pub fn new(reads: Reads) -> History {
        History { reads }
    }

    /// A page, in O(limit).
    pub async fn page(&self, query: HistoryQuery) -> Result<HistoryPage, StoreError> {
        self.reads.read(move |store| store.page(&query)).await
    }

    /// Everything about one event, where the merchant has it.
    pub async fn dossier(&self, merchant: &MerchantId, id: EventId) -> Result<Option<Dossier>, StoreError> {
        let merchant = merchant.clone();
        self.reads.read(move |store| store.dossier(&merchant, id)).await
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
