//! A question to the history: filters, order, and where to go on.
//!
//! Never moves while new events come in: a page begins next to an event, not at a number.

use url::form_urlencoded;

use super::cursor::Cursor;
use super::{HistoryItem, HistoryPage, HistoryQuery};
use crate::model::{EventId, EventType, MerchantId, Status};

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Question {
    /// Whose history.
    pub merchant: MerchantId,
    /// Any of these; empty means every status.
    pub statuses: Vec<Status>,
    /// Any of these; empty means every type.
    pub event_types: Vec<EventType>,
    /// Only events of this resource.
    pub resource_id: Option<String>,
    /// The smallest id wanted.
    pub first: EventId,
    /// The greatest id wanted.
    pub last: EventId,
    /// Newest first?
    pub descending: bool,
    /// At most so many items.
    pub limit: usize,
    cursor: Option<Cursor>,
}

/// A page of the answer, in the order asked for, with the cursors that lead on from it.
#[derive(Clone, Debug)]
pub struct Stretch {
    /// The items.
    pub items: Vec<HistoryItem>,
    /// Whether more follow.
    pub more: bool,
    /// Leads to what follows.
    pub next: Option<String>,
    /// Leads back.
    pub prev: Option<String>,
}

impl Question {
    /// Everything of a merchant, newest first.
    pub fn new(merchant: &MerchantId, limit: usize) -> Question {
        Question {
            merchant: merchant.clone(),
            statuses: Vec::new(),
            event_types: Vec::new(),
            resource_id: None,
            first: EventId::MIN,
            last: EventId::MAX,
            descending: true,
            limit,
            cursor: None,
        }
    }

    /// Goes on where a page of this very question ended. False where the text is no cursor of it.
    pub fn go_on_at(&mut self, text: &str) -> bool {
        self.cursor = Cursor::open(text, &self.binding());
        self.cursor.is_some()
    }

    /// The question as the store understands it.
    pub fn query(&self) -> HistoryQuery {
        let backwards = self.cursor.is_some_and(|cursor| cursor.before);
        let descending = self.descending != backwards;
        let (mut first, mut last) = (self.first, self.last);
        if let Some(cursor) = self.cursor {
            if descending {
                last = last.min(cursor.event.before());
            } else {
                first = first.max(cursor.event.after());
            }
        }
        HistoryQuery {
            merchant: self.merchant.clone(),
            statuses: self.statuses.clone(),
            event_types: self.event_types.clone(),
            resource_id: self.resource_id.clone(),
            first,
            last,
            descending,
            limit: self.limit,
        }
    }

    /// The page that answers [`Question::query`], turned into the order asked for.
    pub fn turned(&self, page: HistoryPage) -> Stretch {
        let HistoryPage { mut items, more } = page;
        let backwards = self.cursor.is_some_and(|cursor| cursor.before);
        if backwards {
            items.reverse();
        }
        let (before, after) = match self.cursor {
            None => (false, more),
            Some(_) if backwards => (more, true),
            Some(_) => (true, more),
        };
        let seal = |item: &HistoryItem, before| Cursor { event: item.id, before }.seal(&self.binding());
        Stretch {
            more: after && !items.is_empty(),
            next: items.last().filter(|_| after).map(|item| seal(item, false)),
            prev: items.first().filter(|_| before).map(|item| seal(item, true)),
            items,
        }
    }

    /// The filters as a query string in one form, for links and for binding cursors.
    pub fn filters(&self) -> String {
        let mut text = form_urlencoded::Serializer::new(String::new());
        let (mut statuses, mut event_types) = (self.statuses.clone(), self.event_types.clone());
        statuses.sort_unstable();
        statuses.dedup();
        event_types.sort_unstable();
        event_types.dedup();
        for status in statuses {
            text.append_pair("status", status.as_str());
        }
        for event_type in event_types {
            text.append_pair("event_type", event_type.as_str());
        }
        if let Some(id) = &self.resource_id {
            text.append_pair("resource_id", id);
        }
        if self.first > EventId::MIN {
            text.append_pair("created[gte]", &self.first.accepted_at().to_string());
        }
        if self.last < EventId::MAX {
            text.append_pair("created[lte]", &self.last.accepted_at().to_string());
        }
        if !self.descending {
            text.append_pair("order", "asc");
        }
        text.finish()
    }

    fn binding(&self) -> String {
        format!("{}?{}", self.merchant, self.filters())
    }
}
