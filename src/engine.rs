//! Assembly: builds the store, the registry and the dispatchers, recovers what was owed, drains.
//!
//! Never parses a request, never reads a configuration file.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::dispatcher::{Control, Dispatcher, Inlet, Tools, Vitals, inbox, shard_of};
use crate::entropy::Entropy;
use crate::feed::{self, Feed, News};
use crate::history::History;
use crate::metrics::Metrics;
use crate::model::{Digest, Endpoint, EndpointState, EventId, Leave, MerchantId, Terms, Timestamp};
use crate::outbox::Outbox;
use crate::portal::{self, Portal};
use crate::pulse::{self, Pulse};
use crate::recovery::{self, Recoveries, Resender};
use crate::registry::{EndpointChange, EndpointSink, Registry};
use crate::shard::{Gate, Shard};
use crate::store::embedded::{EmbeddedStore, Fatal as StoreFatal, Probes, Surroundings};
use crate::store::{Backlog, Notice, NoticeSink, Reads, Store, StoreError, StoreFigures};
use crate::transport::Transport;

pub use crate::dispatcher::{InboxLimits, ResendFault, Resent};
pub use crate::shard::{Limits as ShardLimits, Policy};
pub use crate::store::embedded::{Limits as StoreLimits, OpenFault};

/// How often gathered samples of histograms are folded together.
const UPKEEP: Duration = Duration::from_secs(5);

/// What the engine may use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Shards; merchants are spread over them.
    pub shards: usize,
    /// Of the store.
    pub store: StoreLimits,
    /// Of all shards together.
    pub shard: ShardLimits,
    /// Of the notices on their way to all dispatchers.
    pub inbox: InboxLimits,
    /// Reads of the disk at once: by the surfaces, and by the dispatchers.
    pub reads_max: usize,
    /// How endpoints are treated.
    pub policy: Policy,
    /// Of recoveries.
    pub recovery: recovery::Limits,
    /// Of links and sessions.
    pub portal: portal::Limits,
    /// Of those who watch.
    pub feed: feed::Limits,
}

/// Why the process must end at once.
#[derive(Debug, thiserror::Error)]
pub enum Downfall<'a> {
    /// The disk failed, or the store itself did.
    #[error(transparent)]
    Store(&'a StoreError),
    /// A dispatcher panicked: its merchants would be left without a word, while their events are still taken.
    #[error("a dispatcher panicked")]
    Dispatcher,
}

/// Called once when the process must end, and nothing more is acknowledged.
pub type Fatal = Arc<dyn Fn(&Downfall<'_>) + Send + Sync>;

/// Everything the engine takes from the world.
pub struct World {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub entropy: Arc<dyn Entropy>,
    /// The door to the receivers.
    pub transport: Arc<dyn Transport>,
    /// Figures.
    pub metrics: Metrics,
    /// Ends the process when it cannot go on.
    pub fatal: Fatal,
    /// Digests of operator keys given by configuration.
    pub operator_digests: Vec<Digest>,
}

/// Why the engine did not start; a sentence for the operator.
#[derive(Debug, thiserror::Error)]
pub enum StartFault {
    /// The store did not open.
    #[error(transparent)]
    Open(#[from] OpenFault),
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] StoreError),
}

/// The running product, without its surfaces.
pub struct Engine {
    /// Takes events.
    pub outbox: Outbox,
    /// Tells what happened.
    pub history: History,
    /// Knows who there is.
    pub registry: Arc<Registry>,
    /// Lets merchants into the dashboard.
    pub portal: Portal,
    /// Tells who watches what happens.
    pub feed: Arc<Feed>,
    /// Knows how endpoints fared in the last day.
    pub pulse: Arc<Pulse>,
    /// Tries again what was given up.
    pub recoveries: Recoveries,
    /// Figures.
    pub metrics: Metrics,
    resender: Resender,
    transport: Arc<dyn Transport>,
    clock: Arc<dyn Clock>,
    store: Arc<dyn Store>,
    controls: Arc<[mpsc::UnboundedSender<Control>]>,
    vitals: Vec<Arc<Vitals>>,
    tasks: Mutex<JoinSet<()>>,
}

impl Engine {
    /// Opens the store in `dir`, takes up everything that is owed, and begins to deliver. Must be called
    /// inside the runtime.
    pub fn start(dir: &Path, limits: &Limits, world: World) -> Result<Engine, StartFault> {
        let World { clock, entropy, transport, metrics, fatal, operator_digests } = world;
        let (controls, controls_in): (Vec<_>, Vec<_>) = (0..limits.shards).map(|_| mpsc::unbounded_channel()).unzip();
        let inbox_limits = limits.inbox.share(limits.shards);
        let (inlets, inboxes): (Vec<_>, Vec<_>) = (0..limits.shards).map(|_| inbox(inbox_limits)).unzip();
        let controls: Arc<[_]> = controls.into();
        let feed = Arc::new(Feed::new(limits.feed));
        let around = Surroundings {
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&entropy),
            sink: notice_sink(inlets, Arc::clone(&feed)),
            fatal: store_fatal(&fatal),
            probes: probes(&metrics),
        };
        let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(dir, limits.store, around)?);
        let registry = Registry::new(
            Arc::clone(&store),
            Arc::clone(&clock),
            Arc::clone(&entropy),
            endpoint_sink(Arc::clone(&controls)),
            operator_digests,
        )?;
        let registry = Arc::new(registry);
        take_up(&*store, &registry, &controls)?;
        let pulse = Arc::new(Pulse::new(clock.now()));
        let tools = Arc::new(Tools {
            store: Arc::clone(&store),
            reads: Reads::new(Arc::clone(&store), limits.reads_max),
            transport: Arc::clone(&transport),
            registry: Arc::clone(&registry),
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&entropy),
            metrics: metrics.clone(),
            pulse: Arc::clone(&pulse),
        });
        let vitals: Vec<Arc<Vitals>> = (0..limits.shards).map(|_| Arc::default()).collect();
        let mut tasks = JoinSet::new();
        for ((controls, notices), vitals) in controls_in.into_iter().zip(inboxes).zip(&vitals) {
            let shard = Shard::new(share(&limits.shard, limits.shards), limits.policy.clone());
            let dispatcher = Dispatcher::new(shard, Arc::clone(&tools), Arc::clone(vitals), controls, notices);
            tasks.spawn(watched(dispatcher, Arc::clone(&fatal)));
        }
        show_limits(&metrics, limits);
        metrics.ready.set(1.0);
        let history = History::new(Reads::new(Arc::clone(&store), limits.reads_max));
        let resender = Resender::new(Arc::clone(&registry), Arc::clone(&controls));
        Ok(Engine {
            outbox: Outbox::new(Arc::clone(&store), Arc::clone(&registry), metrics.clone()),
            history: history.clone(),
            portal: Portal::new(Arc::clone(&registry), Arc::clone(&clock), entropy, limits.portal),
            recoveries: Recoveries::new(resender.clone(), history, Arc::clone(&clock), limits.recovery),
            resender,
            transport,
            registry,
            feed,
            pulse,
            metrics,
            clock,
            store,
            controls,
            vitals,
            tasks: Mutex::new(tasks),
        })
    }

    /// Tries an event once more, now, through the same fair queue.
    pub async fn resend(&self, merchant: &MerchantId, event: EventId) -> Result<Resent, ResendFault> {
        self.resender.resend(merchant, event).await
    }

    /// Until when the certificate of an endpoint's receiver is valid, where one was seen since the start.
    pub fn certificate_not_after(&self, endpoint: &Endpoint) -> Option<Timestamp> {
        self.transport.certificate_not_after(endpoint)
    }

    /// When the first attempt after the last success failed. `None`: the last one succeeded, or none is known of.
    pub fn failing_since(&self, endpoint: &Endpoint) -> Option<Timestamp> {
        // What the merchant's webhook before this one did is none of its faults.
        let counted = self.pulse.failing_since(&endpoint.merchant).filter(|since| *since >= endpoint.created_at);
        endpoint.failing_since.or(counted)
    }

    /// Whether deliveries leave and nothing but failures comes back. What is switched off makes no attempts.
    pub fn is_failing(&self, endpoint: &Endpoint) -> bool {
        self.registry.standing(endpoint).leaves() && self.failing_since(endpoint).is_some()
    }

    /// Figures of the store.
    pub fn figures(&self) -> StoreFigures {
        self.store.figures()
    }

    /// All figures as Prometheus reads them, as of now.
    pub fn render_metrics(&self) -> String {
        let figures = self.store.figures();
        let now = self.clock.now();
        let oldest = self.vitals.iter().map(|v| v.oldest_due()).min();
        let total = |figure: fn(&Vitals) -> i64| self.vitals.iter().map(|v| figure(v)).sum::<i64>() as f64;
        self.metrics.waiting.set(figures.waiting as f64);
        self.metrics.oldest_due_seconds.set(oldest.map_or(0, |due| now.since_ms(due)) as f64 / 1000.0);
        self.metrics.in_flight.set(total(Vitals::in_flight));
        self.metrics.windowed.set(total(Vitals::windowed));
        self.metrics.endpoints_resting.set(total(Vitals::resting));
        let endpoints = self.registry.endpoints();
        let failing = endpoints.iter().filter(|endpoint| self.is_failing(endpoint)).count();
        self.metrics.endpoints_failing.set(failing as f64);
        let disabled = endpoints.iter().filter(|e| matches!(e.state, EndpointState::Disabled(_))).count();
        self.metrics.endpoints_disabled.set(disabled as f64);
        self.metrics.retries_paused.set(f64::from(u8::from(self.registry.retries_paused_at().is_some())));
        self.metrics.journal_bytes.set(figures.journal_bytes as f64);
        self.metrics.disk_free_bytes.set(figures.free_bytes as f64);
        self.metrics.commit_queued.set(figures.queued as f64);
        self.metrics.sessions.set(self.portal.session_count() as f64);
        self.metrics.watchers.set(self.feed.watching() as f64);
        self.metrics.index_unwritten.set(figures.unindexed as f64);
        self.metrics.names_unwritten.set(figures.loose_names as f64);
        self.metrics.render()
    }

    /// Folds gathered samples together until dropped.
    pub async fn upkeep(&self) {
        loop {
            tokio::time::sleep(UPKEEP).await;
            self.metrics.upkeep();
        }
    }

    /// Starts nothing more, lets what is under way end for at most `grace`, writes everything out.
    /// Attempts cut off by the end of the grace are repeated after the next start.
    pub async fn drain(&self, grace: Duration) {
        self.metrics.ready.set(0.0);
        self.recoveries.end();
        for controls in self.controls.iter() {
            // A dispatcher that is gone has nothing to drain.
            let _ = controls.send(Control::Drain);
        }
        let mut tasks = self.tasks.lock().await;
        let all = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, all).await.is_err() {
            tracing::warn!("attempts were still under way at the end of the grace; they are repeated after the start");
        }
        tasks.shutdown().await;
        self.store.close();
    }
}

/// Runs a dispatcher to its end, in a task of its own, so that a panic is heard of.
async fn watched(dispatcher: Dispatcher, fatal: Fatal) {
    let mut task = JoinSet::new();
    task.spawn(dispatcher.run());
    if let Some(Err(ended)) = task.join_next().await
        && ended.is_panic()
    {
        fatal(&Downfall::Dispatcher);
    }
}

fn store_fatal(fatal: &Fatal) -> StoreFatal {
    let fatal = Arc::clone(fatal);
    Arc::new(move |error| fatal(&Downfall::Store(error)))
}

/// Announces every endpoint to its shard, also deleted ones to which something is still owed.
fn take_up(
    store: &dyn Store,
    registry: &Registry,
    controls: &[mpsc::UnboundedSender<Control>],
) -> Result<(), StoreError> {
    let announce = |merchant: &MerchantId, control| {
        controls[shard_of(merchant, controls.len())].send(control).expect("the dispatchers have not begun yet");
    };
    let mut owed = BTreeSet::new();
    for Backlog { endpoint, merchant, .. } in store.backlog()? {
        owed.insert(endpoint);
        let known = registry.endpoint(endpoint);
        let gate = known.as_ref().map_or(Gate::Closed, |endpoint| gate(registry.leave(endpoint)));
        let terms = known.map_or(Terms::default(), |endpoint| endpoint.terms());
        announce(&merchant.clone(), Control::Open { endpoint, merchant, gate, backlog: true, terms });
    }
    for endpoint in registry.endpoints().into_iter().filter(|endpoint| !owed.contains(&endpoint.id)) {
        let (gate, merchant) = (gate(registry.leave(&endpoint)), endpoint.merchant.clone());
        let terms = endpoint.terms();
        announce(&endpoint.merchant, Control::Open { endpoint: endpoint.id, merchant, gate, backlog: false, terms });
    }
    Ok(())
}

fn notice_sink(inlets: Vec<Inlet>, feed: Arc<Feed>) -> NoticeSink {
    Arc::new(move |notice: Notice| {
        let (Notice::Accepted(delivery) | Notice::Settled(delivery)) = &notice;
        let news = match &notice {
            Notice::Accepted(delivery) => News::Came(delivery.event),
            Notice::Settled(delivery) => News::Changed(delivery.event),
        };
        feed.tell(&delivery.merchant, news);
        let shard = shard_of(&delivery.merchant, inlets.len());
        inlets[shard].send(notice);
    })
}

fn endpoint_sink(controls: Arc<[mpsc::UnboundedSender<Control>]>) -> EndpointSink {
    Arc::new(move |change| {
        let (merchant, endpoint, gate, terms) = match change {
            EndpointChange::Put(endpoint, leave) => {
                (endpoint.merchant.clone(), endpoint.id, gate(leave), endpoint.terms())
            }
            EndpointChange::Deleted(endpoint, merchant) => (merchant, endpoint, Gate::Closed, Terms::default()),
        };
        let shard = shard_of(&merchant, controls.len());
        // Refused only when the dispatcher has drained; the store has the change.
        let _ = controls[shard].send(Control::Open { endpoint, merchant, gate, backlog: false, terms });
    })
}

fn gate(leave: Leave) -> Gate {
    match leave {
        Leave::All => Gate::Open,
        Leave::FirstAttempts => Gate::Ajar,
        Leave::Nothing => Gate::Held,
    }
}

/// A shard's part of the limits that hold for all of them together.
fn share(limits: &ShardLimits, shards: usize) -> ShardLimits {
    let part = |whole: usize| whole.div_ceil(shards);
    ShardLimits {
        in_flight_max: part(limits.in_flight_max),
        settling_max: part(limits.settling_max),
        window_max: part(limits.window_max),
        payload_bytes_max: part(limits.payload_bytes_max),
        ..limits.clone()
    }
}

fn probes(metrics: &Metrics) -> Probes {
    Probes {
        commit_seconds: metrics.commit_seconds.clone(),
        commit_records: metrics.commit_records.clone(),
        commit_bytes: metrics.commit_bytes.clone(),
        index_rebuilds: metrics.index_rebuilds.clone(),
        segments_dropped: metrics.segments_dropped.clone(),
        events_damaged: metrics.events_damaged.clone(),
    }
}

fn show_limits(metrics: &Metrics, limits: &Limits) {
    for (name, value) in [
        ("shards", limits.shards as f64),
        ("in_flight", limits.shard.in_flight_max as f64),
        ("in_flight_per_merchant", limits.shard.in_flight_per_merchant_max as f64),
        ("in_flight_per_endpoint", limits.shard.in_flight_per_endpoint_max as f64),
        ("window_per_endpoint", limits.shard.window_per_endpoint_max as f64),
        ("window", limits.shard.window_max as f64),
        ("parked_per_endpoint", limits.shard.parked_per_endpoint_max as f64),
        ("window_payload_bytes", limits.shard.payload_bytes_max as f64),
        ("settling", limits.shard.settling_max as f64),
        ("pages", limits.shard.refills_max as f64),
        ("page", limits.shard.page_max as f64),
        ("notices", limits.inbox.notices_max as f64),
        ("notices_payload_bytes", limits.inbox.payload_bytes_max as f64),
        ("reads", limits.reads_max as f64),
        ("commit_queue", limits.store.queued_max as f64),
        ("commit_queue_bytes", limits.store.queued_bytes_max as f64),
        ("disk_free_bytes", limits.store.free_bytes_min as f64),
        ("index_unwritten", limits.store.unindexed_max as f64),
        ("names_unwritten", limits.store.loose_names_max as f64),
        ("sessions", limits.portal.sessions_max as f64),
        ("watchers", limits.feed.watchers_max as f64),
        ("retention_bytes", limits.store.retention_bytes_max as f64),
        ("retention_seconds", limits.store.retention_age_ms as f64 / 1000.0),
        ("reserve_bytes", limits.store.reserve_bytes as f64),
        ("pulse_merchants", pulse::MERCHANTS_MAX as f64),
        ("recoveries", limits.recovery.running_max as f64),
        ("recovery_events", limits.recovery.events_max as f64),
    ] {
        metrics.limit(name, value);
    }
}
