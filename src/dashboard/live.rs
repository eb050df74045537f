//! News for pages that are open: which events came, how shown ones changed (server-sent events).
//!
//! Never sends markup, never more than a few looks into the history at a time: who missed more is told to reload.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use super::events::{Row, read};
use super::{Dashboard, Stop};
use crate::feed::{News, Watcher};
use crate::history::{HistoryItem, HistoryQuery, Question, StoreError};
use crate::http::{Request, Response, StatusCode, response};
use crate::model::{EventId, MerchantId};

/// News is gathered for so long, so that a busy merchant's page is told a few times in a second and not a thousand.
const GATHER: Duration = Duration::from_millis(300);

/// How often a silent stream shows that it is alive, and looks whether the session is.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Events that are looked up for one message.
const LOOKS_MAX: usize = 25;

/// What the browser waits before it comes back, in milliseconds.
const RETRY_MS: u32 = 3_000;

#[derive(Serialize)]
struct Message {
    /// New events that fit the filters of the page.
    fresh: usize,
    /// Events that changed, as they are by now.
    rows: Vec<ChangedRow>,
    /// More happened than is told here.
    missed: bool,
}

#[derive(Serialize)]
struct ChangedRow {
    id: String,
    status: &'static str,
    status_word: &'static str,
    status_meaning: &'static str,
    answer: String,
    took: String,
    attempts: u32,
    next: String,
}

/// One open page.
struct Page {
    dashboard: Arc<Dashboard>,
    session: String,
    question: Question,
    watcher: Watcher,
    is_greeted: bool,
}

/// What gathered.
#[derive(Default)]
struct Gathered {
    came: BTreeSet<EventId>,
    changed: BTreeSet<EventId>,
    missed: bool,
}

impl Gathered {
    fn take(&mut self, news: News) {
        match news {
            News::Came(id) => drop(self.came.insert(id)),
            News::Changed(id) => drop(self.changed.insert(id)),
            News::Missed => self.missed = true,
        }
        if self.came.len() + self.changed.len() > LOOKS_MAX {
            self.missed = true;
        }
    }
}

/// The query is that of the log, so that only what it would show counts as new.
pub(super) async fn watch(dashboard: Arc<Dashboard>, request: Request) -> Result<Response, Stop> {
    let visitor = dashboard.visitor(&request)?;
    let (question, ..) = read(&visitor.visit.merchant, request.query());
    let Some(watcher) = dashboard.engine.feed.watch(&visitor.visit.merchant) else {
        let text = "Too many pages watch for new events. Reload to see what is new.";
        return Err(Stop::sorry(StatusCode::SERVICE_UNAVAILABLE, "Not live", text));
    };
    let page = Page { dashboard, session: visitor.session, question, watcher, is_greeted: false };
    Ok(response::stream(StatusCode::OK, "text/event-stream", response::unfold(page, next)))
}

async fn next(mut page: Page) -> Option<(Bytes, Page)> {
    if !page.is_greeted {
        page.is_greeted = true;
        return Some((Bytes::from(format!("retry: {RETRY_MS}\n\n")), page));
    }
    let text = match tokio::time::timeout(HEARTBEAT, page.gather()).await {
        Ok(gathered) => page.tell(&gathered?).await,
        Err(_) => ":\n\n".to_owned(),
    };
    // What ends here is not taken up again: the browser's next request leads to the sign-in.
    page.dashboard.engine.portal.is_open(&page.session).then(|| (Bytes::from(text), page))
}

impl Page {
    async fn gather(&mut self) -> Option<Gathered> {
        let mut gathered = Gathered::default();
        gathered.take(self.watcher.next().await?);
        let mut pause = pin!(tokio::time::sleep(GATHER));
        loop {
            tokio::select! {
                biased;
                () = &mut pause => return Some(gathered),
                news = self.watcher.next() => gathered.take(news?),
            }
        }
    }

    async fn tell(&self, gathered: &Gathered) -> String {
        let mut message = Message { fresh: 0, rows: Vec::new(), missed: gathered.missed };
        if !gathered.missed {
            for id in gathered.came.union(&gathered.changed) {
                match self.look(*id).await {
                    Ok(Some(item)) => self.add(&mut message, &item, gathered.came.contains(id)),
                    Ok(None) => {}
                    Err(error) => {
                        tracing::error!(%error, "the store cannot be read");
                        message.missed = true;
                    }
                }
            }
        }
        let json = serde_json::to_string(&message).expect("strings and numbers are always JSON");
        format!("event: news\ndata: {json}\n\n")
    }

    fn add(&self, message: &mut Message, item: &HistoryItem, is_new: bool) {
        let row = Row::of(item, self.dashboard.clock.now());
        message.fresh += usize::from(is_new && self.fits(item));
        message.rows.push(ChangedRow {
            id: row.id,
            status: row.status,
            status_word: row.status_word,
            status_meaning: row.status_meaning,
            answer: row.answer,
            took: row.took,
            attempts: row.attempts,
            next: row.next,
        });
    }

    fn fits(&self, item: &HistoryItem) -> bool {
        let Question { statuses, event_types, resource_id, first, last, .. } = &self.question;
        (statuses.is_empty() || statuses.contains(&item.status))
            && (event_types.is_empty() || event_types.contains(&item.event_type))
            && (resource_id.is_none() || resource_id.as_deref() == item.resource_id.as_deref())
            && (*first..=*last).contains(&item.id)
    }

    async fn look(&self, id: EventId) -> Result<Option<HistoryItem>, StoreError> {
        let merchant: &MerchantId = &self.question.merchant;
        let query = HistoryQuery { first: id, last: id, ..Question::new(merchant, 1).query() };
        Ok(self.dashboard.engine.history.page(query).await?.items.into_iter().next())
    }
}
