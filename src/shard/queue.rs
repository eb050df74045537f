//! One endpoint's queue: a window on what the outbox holds for it, and what is under way.
//!
//! Never knows the time, other endpoints, or whose turn it is.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Delivery, DueKey, EventId, Location, MerchantId, Timestamp};

use super::{Gate, Page, Recall};

/// Smaller than the key of every delivery.
const FIRST: DueKey = (Timestamp::ZERO, EventId::MIN);

/// What the shard's totals know of one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Weight {
    pub(super) in_flight: usize,
    pub(super) settling: usize,
    pub(super) windowed: usize,
    pub(super) payload_bytes: usize,
    pub(super) refills: usize,
}

/// Where the queue stands in the shard's lists, so that it stands in each at most once.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) counted: Weight,
    pub(super) timer: Option<Timestamp>,
    pub(super) front: Option<Timestamp>,
    pub(super) ready: bool,
    pub(super) wanted: bool,
    pub(super) canceling: bool,
}

/// A page that was asked for and has not come.
#[derive(Debug)]
struct Refill {
    from: DueKey,
    /// The newest record heard of when it was asked for; the page has seen it.
    heard: Location,
    /// Keys from here on were dropped meanwhile, so the page does not speak for them.
    cap: Option<DueKey>,
    /// Recorded meanwhile: what the page says of these may be old.
    postponed: BTreeSet<EventId>,
}

/// One endpoint's deliveries.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) merchant: MerchantId,
    pub(super) gate: Gate,
    pub(super) places: Places,
    window: BTreeMap<DueKey, Delivery>,
    /// The key of each event in the window.
    keys: BTreeMap<EventId, DueKey>,
    in_flight: BTreeMap<EventId, Delivery>,
    settling: BTreeSet<EventId>,
    /// Whatever the outbox holds under a smaller key is in memory; `None`: all of it is.
    bound: Option<DueKey>,
    refill: Option<Refill>,
    /// The newest record heard of.
    heard: Location,
    /// Where the last page began, and what it had seen.
    shown: Option<(DueKey, Location)>,
    payload_bytes: usize,
}

impl Queue {
    pub(super) fn new(merchant: MerchantId, gate: Gate, backlog: bool) -> Queue {
        Queue {
            merchant,
            gate,
            places: Places::default(),
            window: BTreeMap::new(),
            keys: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            settling: BTreeSet::new(),
            bound: backlog.then_some(FIRST),
            refill: None,
            heard: Location::ZERO,
            shown: None,
            payload_bytes: 0,
        }
    }

    /// A delivery that the store has just recorded for the first time.
    pub(super) fn accept(&mut self, delivery: Delivery) {
        self.heard = self.heard.max(delivery.written);
        if self.contains(delivery.event) {
            return;
        }
        let key = delivery.key();
        let covered = self.shown.is_some_and(|(from, as_of)| key >= from && delivery.written <= as_of);
        assert!(
            !covered || self.refill.is_some() || !self.is_below_bound(key),
            "what a page has shown stays in memory until its acceptance is told: notices come in order"
        );
        self.admit(delivery);
    }

    /// A settlement is recorded; `delivery` is its new state.
    pub(super) fn confirm(&mut self, delivery: Delivery) {
        let settled = self.settling.remove(&delivery.event);
        assert!(settled, "only what was settled, canceled or recalled is confirmed, and once");
        self.heard = self.heard.max(delivery.written);
        if let Some(refill) = &mut self.refill {
            refill.postponed.insert(delivery.event);
        }
        if delivery.status.is_waiting() {
            self.admit(delivery);
        }
    }

    /// Takes the first delivery of the window for an attempt.
    pub(super) fn start(&mut self) -> Option<Delivery> {
        let delivery = self.take_first()?;
        self.in_flight.insert(delivery.event, delivery.clone());
        Some(delivery)
    }

    /// The attempt has ended: the delivery as it was before.
    pub(super) fn finish(&mut self, event: EventId) -> Delivery {
        let delivery = self.in_flight.remove(&event).expect("an attempt that ends was in flight");
        self.settling.insert(event);
        delivery
    }

    /// Takes the first delivery of the window to be canceled.
    pub(super) fn cancel(&mut self) -> Option<Delivery> {
        let delivery = self.take_first()?;
        self.settling.insert(delivery.event);
        Some(delivery)
    }

    /// Takes one delivery out of the window, whatever its place.
    pub(super) fn recall(&mut self, event: EventId) -> Recall {
        if self.in_flight.contains_key(&event) {
            return Recall::InFlight;
        }
        if self.settling.contains(&event) {
            return Recall::Settling;
        }
        let Some(key) = self.keys.get(&event).copied() else { return Recall::Unknown };
        let delivery = self.remove(key).expect("every event in the window has its key there");
        self.settling.insert(event);
        Recall::Waiting(delivery)
    }

    /// Counts an event that is not in memory as settling.
    pub(super) fn hold(&mut self, event: EventId) {
        self.settling.insert(event);
    }

    /// Asks for a page: from where. There is no other outstanding and the bound is known.
    pub(super) fn ask(&mut self) -> DueKey {
        let from = self.bound.expect("a page is asked for only while something may be on disk");
        assert!(self.refill.is_none(), "an endpoint has one page outstanding at most");
        self.refill = Some(Refill { from, heard: self.heard, cap: None, postponed: BTreeSet::new() });
        from
    }

    /// The page has come.
    pub(super) fn refill(&mut self, page: Page) {
        let refill = self.refill.take().expect("a page answers a refill");
        assert!(page.as_of >= refill.heard, "a page has seen every record that was told before it was asked for");
        assert!(!page.more || !page.deliveries.is_empty(), "a page after which more follows holds something");
        let end = page.deliveries.iter().map(Delivery::key).max().filter(|_| page.more).map(after);
        self.shown = Some((refill.from, page.as_of));
        self.lower_bound_to(least(end, refill.cap));
        for mut delivery in page.deliveries {
            assert!(delivery.key() >= refill.from, "a page begins where it was asked to");
            let stale = refill.postponed.contains(&delivery.event) || self.contains(delivery.event);
            if !stale && self.is_below_bound(delivery.key()) {
                delivery.strip();
                self.insert(delivery);
            }
        }
    }

    /// The page will not come.
    pub(super) fn refill_failed(&mut self) {
        let refill = self.refill.take().expect("a page that failed was asked for");
        self.lower_bound_to(least(Some(refill.from), refill.cap));
    }

    /// Leaves at most `len_max` deliveries in the window: the latest ones go back to being on disk only.
    pub(super) fn shrink(&mut self, len_max: usize) {
        while self.window.len() > len_max {
            let (&key, _) = self.window.last_key_value().expect("a window that is too long is not empty");
            self.remove(key);
            match &mut self.refill {
                Some(refill) => refill.cap = least(refill.cap, Some(key)),
                None => self.bound = least(self.bound, Some(key)),
            }
        }
        let in_order =
            self.refill.is_some() || self.window.last_key_value().is_none_or(|(k, _)| self.is_below_bound(*k));
        assert!(in_order, "while no page is outstanding the window ends before the bound");
        assert!(self.keys.len() == self.window.len(), "every delivery in the window is found by its event");
    }

    /// When the window's first delivery is due.
    pub(super) fn first_due(&self) -> Option<Timestamp> {
        self.window.first_key_value().map(|((due, _), _)| *due)
    }

    /// When the first delivery that is on disk only may be due; `None` while a page is outstanding.
    pub(super) fn page_due(&self) -> Option<Timestamp> {
        self.bound.filter(|_| self.refill.is_none()).map(|(due, _)| due)
    }

    /// Whether nothing is owed, under way or expected.
    pub(super) fn is_empty(&self) -> bool {
        self.bound.is_none() && self.weight() == Weight::default()
    }

    pub(super) fn weight(&self) -> Weight {
        Weight {
            in_flight: self.in_flight.len(),
            settling: self.settling.len(),
            windowed: self.window.len(),
            payload_bytes: self.payload_bytes,
            refills: usize::from(self.refill.is_some()),
        }
    }

    /// Into the window, unless it will come with a later page. While a page is outstanding it may have
    /// been read before this record, so nothing is left to it.
    fn admit(&mut self, delivery: Delivery) {
        if self.refill.is_some() || self.is_below_bound(delivery.key()) {
            self.insert(delivery);
        }
    }

    /// Sets the bound and forgets what lies past it.
    fn lower_bound_to(&mut self, bound: Option<DueKey>) {
        self.bound = bound;
        while let Some((&key, _)) = self.window.last_key_value()
            && !self.is_below_bound(key)
        {
            self.remove(key);
        }
    }

    fn is_below_bound(&self, key: DueKey) -> bool {
        self.bound.is_none_or(|bound| key < bound)
    }

    fn contains(&self, event: EventId) -> bool {
        self.keys.contains_key(&event) || self.in_flight.contains_key(&event) || self.settling.contains(&event)
    }

    fn take_first(&mut self) -> Option<Delivery> {
        let (&key, _) = self.window.first_key_value()?;
        self.remove(key)
    }

    fn insert(&mut self, delivery: Delivery) {
        self.payload_bytes += delivery.payload_len();
        self.keys.insert(delivery.event, delivery.key());
        let before = self.window.insert(delivery.key(), delivery);
        assert!(before.is_none(), "a delivery is in one place only");
    }

    fn remove(&mut self, key: DueKey) -> Option<Delivery> {
        let delivery = self.window.remove(&key)?;
        self.keys.remove(&delivery.event);
        self.payload_bytes -= delivery.payload_len();
        Some(delivery)
    }
}

/// The key that follows `key` immediately.
fn after((due, event): DueKey) -> DueKey {
    (due, EventId::from_u128(event.as_u128().saturating_add(1)))
}

/// The smaller of two bounds, where `None` is past everything.
fn least(a: Option<DueKey>, b: Option<DueKey>) -> Option<DueKey> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
