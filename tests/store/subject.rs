//! A store under test, with the clock it reads, the notices it sends, and the ways in which it can end.
//!
//! Never waits for time to pass: only for a condition, with a bound after which the test has failed.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use posthaste::clock::{Clock, SystemClock};
use posthaste::entropy::Entropy;
use posthaste::model::{Delivery, DueKey, EndpointId, EventId, Location, MerchantId, Timestamp};
use posthaste::store::memory::MemoryStore;
use posthaste::store::{
    Acceptance, Backlog, Catalog, Change, Dossier, DuePage, HistoryItem, HistoryPage, HistoryQuery, NewEvent, Notice,
    NoticeSink, Settlement, Store,
};

/// No store needs so long for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// The moment at which every subject begins.
pub(crate) const BEGINNING: Timestamp = Timestamp::from_ms(1_700_000_000_000);

/// Before everything that can be owed.
pub(crate) const FIRST_KEY: DueKey = (Timestamp::ZERO, EventId::MIN);

/// How a store's life ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ending {
    /// In order, by `close`.
    Closed,
    /// Without a word: only what is on the disk is left.
    Crashed,
    /// Without a word, and what can be made anew from the rest is lost, too.
    Bereft,
}

impl Ending {
    pub(crate) const ALL: [Ending; 3] = [Ending::Crashed, Ending::Closed, Ending::Bereft];
}

/// Ends the store it is given, of which it holds the only handle, and opens it again from what is left.
pub(crate) type Revive = Box<dyn FnMut(Arc<dyn Store>, Ending) -> Arc<dyn Store> + Send + Sync>;

/// A store under test.
pub(crate) struct Subject {
    /// Empty only while it is opened again.
    store: Option<Arc<dyn Store>>,
    pub(crate) notices: Arc<NoticeLog>,
    pub(crate) clock: Arc<TestClock>,
    /// `None` for a store that does not outlive its end.
    revive: Option<Revive>,
    /// Drops what is past its time now. `None` for a store that does not do so by itself.
    pub(crate) retain: Option<Box<dyn Fn() + Send + Sync>>,
    /// Forgets an event. `None` for a store that cannot be told to.
    pub(crate) forget: Option<Forget>,
}

/// Makes a store forget an event to which nothing is owed.
pub(crate) type Forget = Box<dyn Fn(&MerchantId, EventId) + Send + Sync>;

/// A fresh store in memory.
pub(crate) fn memory() -> Subject {
    memory_beside(Arc::new(TestClock::default()), 1)
}

/// A fresh store in memory that reads the clock of another one.
pub(crate) fn memory_beside(clock: Arc<TestClock>, seed: u64) -> Subject {
    let notices = Arc::new(NoticeLog::default());
    let store = Arc::new(MemoryStore::new(clock.clone(), Arc::new(TestEntropy::seeded(seed)), notices.sink()));
    let told = Arc::clone(&store);
    let forget: Forget = Box::new(move |merchant, id| told.forget(merchant, id));
    Subject { forget: Some(forget), ..Subject::new(store, notices, clock, None) }
}

impl Subject {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        notices: Arc<NoticeLog>,
        clock: Arc<TestClock>,
        revive: Option<Revive>,
    ) -> Subject {
        Subject { store: Some(store), notices, clock, revive, retain: None, forget: None }
    }

    pub(crate) fn store(&self) -> &dyn Store {
        self.store.as_deref().expect("a subject has its store")
    }

    /// Ends the store and opens it again. `false`: it does not outlive its end, nothing was done.
    pub(crate) fn end(&mut self, ending: Ending) -> bool {
        let Some(revive) = &mut self.revive else { return false };
        let store = self.store.take().expect("a subject has its store");
        self.store = Some(revive(store, ending));
        true
    }

    /// Drops what is past its time.
    pub(crate) fn retain(&self) {
        self.retain.as_ref().expect("a store that drops what is past its time")();
    }

    /// Checks what must hold now, and still after every ending, where it outlives them.
    pub(crate) fn holds(&mut self, check: impl Fn(&Subject)) {
        check(self);
        for ending in Ending::ALL {
            if self.end(ending) {
                check(self);
            }
        }
    }

    pub(crate) fn accept(&self, event: NewEvent) -> Acceptance {
        self.store().accept(event).wait().expect("an open store takes events")
    }

    /// Accepts an event that is new: its id and sequence.
    pub(crate) fn fresh(&self, event: NewEvent) -> (EventId, u64) {
        let acceptance = self.accept(event);
        let Acceptance::Fresh { id, sequence } = acceptance else { panic!("not fresh: {acceptance:?}") };
        (id, sequence)
    }

    /// Accepts an event that is new and owed: the delivery as it was noticed, payload and all.
    pub(crate) fn owe(&self, event: NewEvent) -> Delivery {
        let (id, _) = self.fresh(event);
        self.notices.accepted(id).expect("the notice comes before the receipt")
    }

    /// Accepts many new events at once: their ids, in the order handed in.
    pub(crate) fn fresh_all(&self, events: impl IntoIterator<Item = NewEvent>) -> Vec<EventId> {
        let receipts: Vec<_> = events.into_iter().map(|event| self.store().accept(event)).collect();
        let answers = receipts.into_iter().map(|receipt| receipt.wait().expect("an open store takes events"));
        answers
            .map(|answer| match answer {
                Acceptance::Fresh { id, .. } => id,
                other => panic!("not fresh: {other:?}"),
            })
            .collect()
    }

    /// Settles and waits for the notice: the delivery in its new state.
    pub(crate) fn settle(&self, settlement: Settlement) -> Delivery {
        let (event, before) = (settlement.delivery.event, settlement.delivery.written);
        self.store().settle(settlement);
        self.notices.wait_for(|notices| {
            notices.iter().rev().find_map(|notice| match notice {
                Notice::Settled(delivery) if delivery.event == event && delivery.written > before => {
                    Some(delivery.clone())
                }
                _ => None,
            })
        })
    }

    pub(crate) fn change(&self, changes: impl IntoIterator<Item = Change>) {
        self.store().change(changes.into_iter().collect()).wait().expect("an open store takes changes");
    }

    pub(crate) fn catalog(&self) -> Catalog {
        let mut catalog = self.store().catalog().expect("the catalog is readable");
        catalog.merchants.sort_by(|a, b| a.id.cmp(&b.id));
        catalog.endpoints.sort_by_key(|endpoint| endpoint.id);
        catalog.keys.sort_by_key(|key| key.id);
        catalog
    }

    /// A page of the outbox that has seen every notice sent so far.
    pub(crate) fn due(&self, endpoint: EndpointId, from: DueKey, limit: usize) -> DuePage {
        let newest = self.notices.newest();
        let begun = SystemClock.instant();
        loop {
            let page = self.store().due(endpoint, from, limit).expect("the outbox is readable");
            if page.as_of >= newest {
                return page;
            }
            assert!(begun.elapsed() < PATIENCE, "the outbox never caught up with {newest:?}: {page:?}");
            std::thread::yield_now();
        }
    }

    /// All that is owed to an endpoint, read in pages.
    pub(crate) fn owed(&self, endpoint: EndpointId) -> Vec<Delivery> {
        let (mut from, mut owed) = (FIRST_KEY, Vec::new());
        loop {
            let page = self.due(endpoint, from, 5);
            assert!(!page.more || !page.deliveries.is_empty(), "a page that promises more moves on");
            owed.extend(page.deliveries);
            let Some(last) = owed.last().filter(|_| page.more) else { return owed };
            from = (last.due, after(last.event));
        }
    }

    /// The events owed to an endpoint, in their order.
    pub(crate) fn owed_ids(&self, endpoint: EndpointId) -> Vec<EventId> {
        self.owed(endpoint).iter().map(|delivery| delivery.event).collect()
    }

    pub(crate) fn backlog(&self) -> Vec<Backlog> {
        let mut backlog = self.store().backlog().expect("the backlog is readable");
        backlog.sort_by_key(|line| line.endpoint);
        backlog
    }

    pub(crate) fn page(&self, query: &HistoryQuery) -> HistoryPage {
        let page = self.store().page(query).expect("the history is readable");
        assert!(page.items.len() <= query.limit, "a page keeps its limit");
        page
    }

    /// All that a query finds, read in pages of its limit.
    pub(crate) fn history(&self, query: &HistoryQuery) -> Vec<HistoryItem> {
        let (mut query, mut items) = (query.clone(), Vec::new());
        loop {
            let page = self.page(&query);
            assert!(!page.more || !page.items.is_empty(), "a page that promises more moves on");
            items.extend(page.items);
            let Some(last) = items.last().filter(|_| page.more) else { return items };
            query = rest(&query, last.id);
        }
    }

    pub(crate) fn dossier(&self, merchant: &MerchantId, id: EventId) -> Dossier {
        let dossier = self.store().dossier(merchant, id).expect("the dossier is readable");
        dossier.expect("the event is known")
    }
}

/// The id right after `id`.
pub(crate) fn after(id: EventId) -> EventId {
    EventId::from_u128(id.as_u128() + 1)
}

/// The id right before `id`.
pub(crate) fn before(id: EventId) -> EventId {
    EventId::from_u128(id.as_u128() - 1)
}

/// What is left of a query once everything up to `id` was read.
pub(crate) fn rest(query: &HistoryQuery, id: EventId) -> HistoryQuery {
    let (first, last) = if query.descending { (query.first, before(id)) } else { (after(id), query.last) };
    HistoryQuery { first, last, ..query.clone() }
}

/// Every notice that came, in order.
#[derive(Default)]
pub(crate) struct NoticeLog {
    heard: Mutex<Vec<Notice>>,
    rung: Condvar,
}

impl NoticeLog {
    pub(crate) fn sink(self: &Arc<Self>) -> NoticeSink {
        let log = self.clone();
        Arc::new(move |notice| {
            log.heard.lock().expect("no test panics here").push(notice);
            log.rung.notify_all();
        })
    }

    pub(crate) fn all(&self) -> Vec<Notice> {
        self.heard.lock().expect("no test panics here").clone()
    }

    /// Waits until `find` finds something.
    pub(crate) fn wait_for<T>(&self, find: impl Fn(&[Notice]) -> Option<T>) -> T {
        let begun: Instant = SystemClock.instant();
        let mut heard = self.heard.lock().expect("no test panics here");
        loop {
            if let Some(found) = find(&heard) {
                return found;
            }
            let left = PATIENCE.checked_sub(begun.elapsed()).expect("the notice comes");
            heard = self.rung.wait_timeout(heard, left).expect("no test panics here").0;
        }
    }

    /// The notices about one event.
    pub(crate) fn about(&self, event: EventId) -> Vec<Notice> {
        self.all().into_iter().filter(|notice| delivery_of(notice).event == event).collect()
    }

    /// What was noticed when the event was accepted, where it was.
    pub(crate) fn accepted(&self, event: EventId) -> Option<Delivery> {
        let heard = self.heard.lock().expect("no test panics here");
        heard.iter().rev().find_map(|notice| match notice {
            Notice::Accepted(delivery) if delivery.event == event => Some(delivery.clone()),
            _ => None,
        })
    }

    /// The newest record that was noticed.
    pub(crate) fn newest(&self) -> Location {
        let heard = self.heard.lock().expect("no test panics here");
        heard.iter().map(|notice| delivery_of(notice).written).max().unwrap_or(Location::ZERO)
    }
}

/// What a notice speaks of.
pub(crate) fn delivery_of(notice: &Notice) -> &Delivery {
    match notice {
        Notice::Accepted(delivery) | Notice::Settled(delivery) => delivery,
    }
}

/// A wall clock that moves when it is told to; durations are real.
pub(crate) struct TestClock(AtomicI64);

impl Default for TestClock {
    fn default() -> TestClock {
        TestClock(AtomicI64::new(BEGINNING.as_ms()))
    }
}

impl TestClock {
    /// Moves on, or back where `ms` is negative.
    pub(crate) fn shift(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_ms(self.0.load(Ordering::SeqCst))
    }

    fn instant(&self) -> Instant {
        SystemClock.instant()
    }
}

/// Numbers that look random and are the same in every run (splitmix64).
pub(crate) struct TestEntropy(AtomicU64);

impl TestEntropy {
    pub(crate) fn seeded(seed: u64) -> TestEntropy {
        TestEntropy(AtomicU64::new(seed.wrapping_mul(0xa076_1d64_78bd_642f)))
    }

    /// A number below `bound`.
    pub(crate) fn below(&self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn next(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.0.fetch_add(STEP, Ordering::SeqCst).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Entropy for TestEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}
