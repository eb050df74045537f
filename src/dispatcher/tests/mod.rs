//! A dispatcher over a real store whose settlements can be stopped on their way, with receivers of the test's own.
//!
//! Never waits for time to pass: only for a condition, with a bound after which the test has failed.

mod resending;
mod trying;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, ThreadId};
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::{Control, Dispatcher, InboxLimits, Inlet, ResendFault, Resent, Tools, inbox};
use crate::clock::{Clock, SystemClock};
use crate::entropy::SystemEntropy;
use crate::metrics::Metrics;
use crate::model::{
    Attempt, Delivery, DueKey, EndpointId, Event, EventId, EventType, EventTypes, Leave, MerchantId, Ordering as Order,
    Outcome, OwnerKind, Phases, Status, Terms, Timestamp,
};
use crate::policy::retry::Schedule;
use crate::pulse::Pulse;
use crate::registry::{Config, EndpointChange, EndpointSink, Precondition, Registry, SecretChange};
use crate::shard::{Gate, Limits, Policy, Shard};
use crate::store::embedded::{EmbeddedStore, Limits as StoreLimits, Probes, Surroundings};
use crate::store::{
    Acceptance, Backlog, Catalog, Change, Dossier, DuePage, HistoryPage, HistoryQuery, NewEvent, Reads, Receipt,
    Settlement, Store, StoreError, StoreFigures,
};
use crate::transport::{OwnFault, Parcel, Sending, Transport};

const PATIENCE: Duration = Duration::from_secs(60);

/// The first value that `look` finds.
async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            match look() {
                Some(found) => return found,
                None => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("waited in vain for: {what}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no test panics here")
}

/// The store on disk, and what can be done to it.
struct Weak {
    store: EmbeddedStore,
    /// Settlements are stopped.
    is_slow: AtomicBool,
    stopped: Mutex<Vec<Settlement>>,
    unreadable: Mutex<BTreeSet<EventId>>,
    /// Threads that read what may wait for the disk.
    readers: Mutex<Vec<ThreadId>>,
}

impl Weak {
    fn open(dir: &Path, inlet: Inlet) -> Weak {
        let around = Surroundings {
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            sink: Arc::new(move |notice| inlet.send(notice)),
            fatal: Arc::new(|error| panic!("the store failed: {error}")),
            probes: Probes::default(),
        };
        let limits = StoreLimits { free_bytes_min: 0, reserve_bytes: 0, ..StoreLimits::default() };
        Weak {
            store: EmbeddedStore::open(dir, limits, around).expect("the store opens"),
            is_slow: AtomicBool::new(false),
            stopped: Mutex::default(),
            unreadable: Mutex::default(),
            readers: Mutex::default(),
        }
    }

    /// Stops settlements from here on.
    fn stop(&self) {
        self.is_slow.store(true, Ordering::SeqCst);
    }

    /// Lets those that were stopped go on, and all after them.
    fn go_on(&self) {
        self.is_slow.store(false, Ordering::SeqCst);
        for settlement in lock(&self.stopped).drain(..) {
            self.store.settle(settlement);
        }
    }

    fn reads(&self) -> &EmbeddedStore {
        lock(&self.readers).push(thread::current().id());
        &self.store
    }
}

impl Store for Weak {
    fn accept(&self, event: NewEvent) -> Receipt<Acceptance> {
        self.store.accept(event)
    }

    fn settle(&self, settlement: Settlement) {
        if self.is_slow.load(Ordering::SeqCst) {
            return lock(&self.stopped).push(settlement);
        }
        self.store.settle(settlement);
    }

    fn change(&self, changes: Vec<Change>) -> Receipt<()> {
        self.store.change(changes)
    }

    fn pause_retries(&self, since: Option<Timestamp>) -> Receipt<()> {
        self.store.pause_retries(since)
    }

    fn catalog(&self) -> Result<Catalog, StoreError> {
        self.store.catalog()
    }

    fn backlog(&self) -> Result<Vec<Backlog>, StoreError> {
        self.store.backlog()
    }

    fn due(&self, endpoint: EndpointId, from: DueKey, limit: usize) -> Result<DuePage, StoreError> {
        self.reads().due(endpoint, from, limit)
    }

    fn page(&self, query: &HistoryQuery) -> Result<HistoryPage, StoreError> {
        self.reads().page(query)
    }

    fn dossier(&self, merchant: &MerchantId, id: EventId) -> Result<Option<Dossier>, StoreError> {
        self.reads().dossier(merchant, id)
    }

    fn event(&self, delivery: &Delivery) -> Result<Event, StoreError> {
        if lock(&self.unreadable).contains(&delivery.event) {
            return Err(StoreError::Corrupt("planted".into()));
        }
        self.reads().event(delivery)
    }

    fn owner(&self, kind: OwnerKind, id: &str) -> Result<Option<MerchantId>, StoreError> {
        self.store.owner(kind, id)
    }

    fn figures(&self) -> StoreFigures {
        self.store.figures()
    }

    fn close(&self) {
        self.store.close();
    }
}

/// Receivers that answer 200, or 500 where they are told to, and take as long as they are told.
#[derive(Default)]
struct Receivers {
    /// Event, endpoint and number of each attempt.
    sent: Mutex<Vec<(EventId, EndpointId, u32)>>,
    is_failing: AtomicBool,
    /// Nobody is reached, for this host has no route.
    is_cut_off: AtomicBool,
    is_silent: watch::Sender<bool>,
}

impl Receivers {
    fn sent(&self) -> Vec<(EventId, EndpointId, u32)> {
        lock(&self.sent).clone()
    }
}

impl Transport for Receivers {
    /// The head of the answer comes within a millisecond, the end of its body once they are not silent any more.
    fn send(&self, parcel: Parcel) -> Sending<'_> {
        lock(&self.sent).push((parcel.event, parcel.endpoint.id, parcel.number));
        if self.is_cut_off.load(Ordering::SeqCst) {
            return Box::pin(async { Err(OwnFault::NoRoute) });
        }
        let status = if self.is_failing.load(Ordering::SeqCst) { 500 } else { 200 };
        let attempt = Attempt {
            number: parcel.number,
            started_at: SystemClock.now(),
            duration_ms: 1,
            phases: Phases::default(),
            outcome: Outcome::of_status(status, None),
            sent: None,
            response: None,
        };
        let mut silent = self.is_silent.subscribe();
        Box::pin(async move {
            silent.wait_for(|is_silent| !is_silent).await.expect("the receivers are there");
            Ok(attempt)
        })
    }
}

/// A dispatcher and what is around it.
struct Scene {
    store: Arc<Weak>,
    receivers: Arc<Receivers>,
    registry: Arc<Registry>,
    metrics: Metrics,
    merchant: MerchantId,
    controls: mpsc::UnboundedSender<Control>,
    _dispatcher: JoinSet<()>,
    _dir: TempDir,
}

impl Scene {
    /// One merchant without a config.
    async fn set(delays_ms: Vec<u64>, limits: Limits) -> Scene {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (controls, controls_in) = mpsc::unbounded_channel();
        let (inlet, inbox) = inbox(InboxLimits::default());
        let store = Arc::new(Weak::open(dir.path(), inlet));
        let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
        let sink = endpoint_sink(controls.clone());
        let registry = Registry::new(store.clone(), clock.clone(), entropy.clone(), sink, Vec::new());
        let registry = Arc::new(registry.expect("readable"));
        let (metrics, receivers) = (Metrics::new(), Arc::new(Receivers::default()));
        let tools = Tools {
            store: store.clone(),
            reads: Reads::new(store.clone(), 4),
            transport: receivers.clone(),
            registry: Arc::clone(&registry),
            pulse: Arc::new(Pulse::new(clock.now())),
            clock,
            entropy,
            metrics: metrics.clone(),
        };
        let schedule = Schedule { delays_ms, jitter: 0.0, ..Schedule::default() };
        let shard = Shard::new(limits, Policy { schedule, ..Policy::default() });
        let mut dispatcher = JoinSet::new();
        dispatcher.spawn(Dispatcher::new(shard, Arc::new(tools), Arc::default(), controls_in, inbox).run());
        let merchant: MerchantId = "acme".parse().expect("an id");
        registry.put_merchant(&merchant, None).await.expect("the store takes it");
        Scene { store, receivers, registry, metrics, merchant, controls, _dispatcher: dispatcher, _dir: dir }
    }

    /// Sets the merchant's config.
    async fn configure(&self, enabled: bool) -> EndpointId {
        let config = Config {
            url: "http://127.0.0.1:1/".into(),
            event_types: EventTypes::EVERY,
            enabled,
            secret: SecretChange::Keep,
            secret_grace_ms: 0,
            ordering: Order::Free,
            rate: None,
        };
        let put = self.registry.put_config(&self.merchant, config, &Precondition::None).await;
        put.expect("the store takes it").0.id
    }

    /// Removes the merchant's config and sets another one.
    async fn configure_anew(&self) -> EndpointId {
        let deleted = self.registry.delete_config(&self.merchant, &Precondition::None).await;
        assert!(deleted.expect("the store takes it"));
        self.configure(true).await
    }

    /// An event that is owed to the merchant's endpoint, where it has one.
    async fn accept(&self) -> EventId {
        let event = NewEvent {
            merchant: self.merchant.clone(),
            event_type: EventType::CardState,
            resource_id: None,
            traceparent: None,
            occurred_at: None,
            payload: Bytes::from_static(b"{}"),
            idempotency: None,
            endpoints: self.registry.endpoint_of(&self.merchant).iter().map(|endpoint| endpoint.id).collect(),
        };
        match self.store.accept(event).await.expect("the store takes it") {
            Acceptance::Fresh { id, .. } => id,
            other => panic!("not fresh: {other:?}"),
        }
    }

    fn resend(&self, event: EventId) -> oneshot::Receiver<Result<Resent, ResendFault>> {
        let (answer, answered) = oneshot::channel();
        self.controls.send(Control::Resend { merchant: self.merchant.clone(), event, answer }).expect("it runs");
        answered
    }

    fn dossier(&self, event: EventId) -> Dossier {
        self.store.store.dossier(&self.merchant, event).expect("readable").expect("it is there")
    }

    async fn wait_for_status(&self, event: EventId, status: Status) -> Dossier {
        let look = || Some(self.dossier(event)).filter(|dossier| dossier.item.status == status);
        eventually(&format!("{event} is {status}"), look).await
    }

    /// Waits until so many settlements are stopped.
    async fn wait_for_stopped(&self, count: usize) {
        eventually("settlements", || (lock(&self.store.stopped).len() >= count).then_some(())).await;
    }

    /// Waits until so many attempts were begun.
    async fn wait_for_sent(&self, count: usize) -> Vec<(EventId, EndpointId, u32)> {
        eventually("attempts", || Some(self.receivers.sent()).filter(|sent| sent.len() >= count)).await
    }
}

fn endpoint_sink(controls: mpsc::UnboundedSender<Control>) -> EndpointSink {
    Arc::new(move |change| {
        let (endpoint, merchant, gate, terms) = match change {
            EndpointChange::Put(endpoint, leave) => {
                let gate = if leave == Leave::All { Gate::Open } else { Gate::Held };
                (endpoint.id, endpoint.merchant.clone(), gate, endpoint.terms())
            }
            EndpointChange::Deleted(endpoint, merchant) => (endpoint, merchant, Gate::Closed, Terms::default()),
        };
        // The dispatcher is gone only where the test is over.
        let _ = controls.send(Control::Open { endpoint, merchant, gate, backlog: false, terms });
    })
}

/// What was answered, in time.
async fn answer(answered: oneshot::Receiver<Result<Resent, ResendFault>>) -> Resent {
    let answered = tokio::time::timeout(PATIENCE, answered).await.expect("it is answered");
    answered.expect("the dispatcher runs").expect("it can be sent again")
}
