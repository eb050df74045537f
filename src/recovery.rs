//! Trying again what was given up: one event, or all of a period, one after the other.
//!
//! Never faster than the pace, never past the fair queue: each event waits for its endpoint's turn like any other. All
//! of a period never get in the way of live events: each is queued only once its endpoint has nothing else to do, and
//! an endpoint that rests or is held is waited for, as long as nobody else needs the place. Never goes on to another
//! webhook than the one for which it began. Never outlives the process: what was queued is kept, what was not yet
//! reached is not remembered.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::dispatcher::{Control, ResendFault, Resent, shard_of};
use crate::history::{History, HistoryQuery, StoreError};
use crate::model::{EndpointId, EventId, EventType, MerchantId, Status, Timestamp};
use crate::registry::Registry;

/// Recoveries that are remembered, ended ones included.
const REMEMBERED_MAX: usize = 1024;

/// Events read at a time.
const PAGE: usize = 100;

/// How often a busy endpoint is looked at: at first, and twice as long each time up to the longest.
const LOOK: Duration = Duration::from_millis(10);
const LOOK_MAX: Duration = Duration::from_secs(1);

/// What a page says of an event is not relied on for longer: somebody may have sent it again by hand since.
const PAGE_AGE_MAX: Duration = Duration::from_secs(1);

/// A recovery that has waited for its endpoint for so long gives its place to another one where none is left.
const WAIT_MS_MAX: i64 = 60_000;

/// How much may be recovered how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Events of one recovery.
    pub events_max: usize,
    /// Events that one recovery queues in a second.
    pub per_second: u32,
    /// Recoveries under way, of all merchants together.
    pub running_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { events_max: 100_000, per_second: 50, running_max: 64 }
    }
}

/// Asks dispatchers to try events once more.
#[derive(Clone)]
pub struct Resender {
    registry: Arc<Registry>,
    controls: Arc<[mpsc::UnboundedSender<Control>]>,
}

impl Resender {
    /// Over the dispatchers that hear `controls`.
    pub fn new(registry: Arc<Registry>, controls: Arc<[mpsc::UnboundedSender<Control>]>) -> Resender {
        Resender { registry, controls }
    }

    /// Tries an event once more, now, through the same fair queue.
    pub async fn resend(&self, merchant: &MerchantId, event: EventId) -> Result<Resent, ResendFault> {
        self.registry.endpoint_of(merchant).ok_or(ResendFault::NoEndpoint)?;
        let (answer, answered) = oneshot::channel();
        self.ask(merchant, Control::Resend { merchant: merchant.clone(), event, answer })?;
        answered.await.map_err(|_| ResendFault::Stopped)?
    }

    /// Whether the endpoint could make an attempt at this moment, and has none to make.
    async fn has_leisure(&self, merchant: &MerchantId, endpoint: EndpointId) -> Result<bool, ResendFault> {
        if self.registry.endpoint(endpoint).is_none() {
            return Err(ResendFault::NoEndpoint);
        }
        let (answer, answered) = oneshot::channel();
        self.ask(merchant, Control::Leisure { endpoint, answer })?;
        answered.await.map_err(|_| ResendFault::Stopped)
    }

    fn ask(&self, merchant: &MerchantId, control: Control) -> Result<(), ResendFault> {
        let shard = shard_of(merchant, self.controls.len());
        self.controls[shard].send(control).map_err(|_| ResendFault::Stopped)
    }
}

/// Which events are to be recovered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Period {
    /// Accepted at this moment or later.
    pub from: Timestamp,
    /// Accepted before this moment.
    pub to: Timestamp,
    /// In one of these final states; at least one.
    pub statuses: Vec<Status>,
    /// Of one of these types; empty: of any.
    pub event_types: Vec<EventType>,
}

/// How many events there are to be recovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// So many, but no more than one recovery takes.
    pub matching: usize,
    /// Whether there are more.
    pub more: bool,
}

/// How far a recovery has come.
#[derive(Clone, Debug)]
pub struct Progress {
    /// What it recovers.
    pub period: Period,
    /// How many there were when it began.
    pub count: Count,
    /// How many are queued by now.
    pub queued: usize,
    /// Whether it is over.
    pub stage: Stage,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

/// Where a recovery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Under way.
    Running,
    /// All are queued.
    Done,
    /// Stopped by its merchant.
    Canceled,
    /// Stopped because the webhook is gone, the store cannot be read, or another merchant needed its place while its own
    /// endpoint took nothing.
    Broken,
}

impl Stage {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Stage::Running => "running",
            Stage::Done => "done",
            Stage::Canceled => "canceled",
            Stage::Broken => "failed",
        }
    }
}

/// Why a recovery did not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotBegun {
    /// One of this merchant is under way.
    Running,
    /// Too many are under way.
    Busy,
    /// Nothing is to be recovered.
    Nothing,
    /// The merchant has no webhook.
    NoEndpoint,
}

struct Recovery {
    /// The webhook for which it began.
    endpoint: EndpointId,
    period: Period,
    count: Count,
    queued: AtomicUsize,
    /// Since when, in milliseconds, it has been waiting for its endpoint; 0: it is not.
    waits_since_ms: AtomicI64,
    started_at: Timestamp,
    ended: Mutex<Option<(Stage, Timestamp)>>,
}

impl Recovery {
    fn is_running(&self) -> bool {
        self.ended().is_none()
    }

    /// Ends it. Its walk takes note before its next event. What has ended already stays as it ended.
    fn end(&self, stage: Stage, now: Timestamp) {
        self.ended().get_or_insert((stage, now));
    }

    fn progress(&self) -> Progress {
        let ended = *self.ended();
        Progress {
            period: self.period.clone(),
            count: self.count,
            queued: self.queued.load(Ordering::Relaxed),
            stage: ended.map_or(Stage::Running, |(stage, _)| stage),
            started_at: self.started_at,
            ended_at: ended.map(|(_, at)| at),
        }
    }

    fn ended(&self) -> MutexGuard<'_, Option<(Stage, Timestamp)>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Recoveries of all merchants, one of each at a time.
pub struct Recoveries {
    resender: Resender,
    history: History,
    clock: Arc<dyn Clock>,
    limits: Limits,
    known: Mutex<HashMap<MerchantId, Arc<Recovery>>>,
    tasks: Mutex<JoinSet<()>>,
}

impl Recoveries {
    /// None is under way.
    pub fn new(resender: Resender, history: History, clock: Arc<dyn Clock>, limits: Limits) -> Recoveries {
        Recoveries { resender, history, clock, limits, known: Mutex::default(), tasks: Mutex::default() }
    }

    /// The moment up to which there is anything to be recovered.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// How many events of a period there are.
    pub async fn count(&self, merchant: &MerchantId, period: &Period) -> Result<Count, StoreError> {
        let (mut matching, mut from) = (0, EventId::floor(period.from));
        loop {
            let page = self.history.page(query(merchant, period, from)).await?;
            let left = self.limits.events_max - matching;
            matching += page.items.len().min(left);
            let is_full = matching == self.limits.events_max;
            match page.items.last().filter(|_| page.more && !is_full) {
                Some(last) => from = last.id.after(),
                None => return Ok(Count { matching, more: page.items.len() > left || (is_full && page.more) }),
            }
        }
    }

    /// Begins. Must be called inside the runtime.
    pub async fn begin(&self, merchant: &MerchantId, period: Period) -> Result<Result<Progress, NotBegun>, StoreError> {
        let count = self.count(merchant, &period).await?;
        if count.matching == 0 {
            return Ok(Err(NotBegun::Nothing));
        }
        let Some(endpoint) = self.resender.registry.endpoint_of(merchant) else {
            return Ok(Err(NotBegun::NoEndpoint));
        };
        let mut known = self.known();
        if let Err(refused) = self.make_room(&mut known, merchant) {
            return Ok(Err(refused));
        }
        let recovery = Arc::new(Recovery {
            endpoint: endpoint.id,
            period,
            count,
            queued: AtomicUsize::new(0),
            waits_since_ms: AtomicI64::new(0),
            started_at: self.clock.now(),
            ended: Mutex::new(None),
        });
        let walk = Walk {
            resender: self.resender.clone(),
            history: self.history.clone(),
            clock: Arc::clone(&self.clock),
            pace: Duration::from_secs(1) / self.limits.per_second.max(1),
            merchant: merchant.clone(),
            recovery: Arc::clone(&recovery),
        };
        let progress = recovery.progress();
        known.insert(merchant.clone(), recovery);
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(walk.run());
        Ok(Ok(progress))
    }

    /// Sees to it that one more recovery may run.
    fn make_room(&self, known: &mut HashMap<MerchantId, Arc<Recovery>>, merchant: &MerchantId) -> Result<(), NotBegun> {
        if known.get(merchant).is_some_and(|recovery| recovery.is_running()) {
            return Err(NotBegun::Running);
        }
        let running = || known.values().filter(|recovery| recovery.is_running());
        if running().count() >= self.limits.running_max {
            // A merchant whose endpoint takes nothing must not keep others from recovering theirs.
            let now = self.clock.now();
            let stuck = running().find(|recovery| self.is_stuck(recovery, now)).ok_or(NotBegun::Busy)?;
            stuck.end(Stage::Broken, now);
        }
        if known.len() >= REMEMBERED_MAX {
            known.retain(|_, recovery| recovery.is_running());
        }
        Ok(())
    }

    /// Whether its endpoint is held or gone, or has had no leisure for long.
    fn is_stuck(&self, recovery: &Recovery, now: Timestamp) -> bool {
        let registry = &self.resender.registry;
        let leaves = registry.endpoint(recovery.endpoint).is_some_and(|endpoint| registry.standing(&endpoint).leaves());
        let since_ms = recovery.waits_since_ms.load(Ordering::Relaxed);
        !leaves || (since_ms != 0 && now.as_ms() - since_ms > WAIT_MS_MAX)
    }

    /// How far the merchant's last recovery has come, where there was one.
    pub fn progress(&self, merchant: &MerchantId) -> Option<Progress> {
        self.known().get(merchant).map(|recovery| recovery.progress())
    }

    /// Stops the merchant's recovery. What is queued stays queued. False where there was none.
    pub fn cancel(&self, merchant: &MerchantId) -> bool {
        let known = self.known();
        let Some(recovery) = known.get(merchant) else { return false };
        recovery.end(Stage::Canceled, self.clock.now());
        true
    }

    /// Stops all of them: the process ends.
    pub fn end(&self) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }

    fn known(&self) -> MutexGuard<'_, HashMap<MerchantId, Arc<Recovery>>> {
        // Every change is one insertion or removal.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One recovery at work.
struct Walk {
    resender: Resender,
    history: History,
    clock: Arc<dyn Clock>,
    /// Between two events.
    pace: Duration,
    merchant: MerchantId,
    recovery: Arc<Recovery>,
}

impl Walk {
    async fn run(self) {
        let stage = match self.queue_all().await {
            // Where somebody else ended it, that stands.
            Ok(()) => Stage::Done,
            Err(fault) => {
                tracing::warn!(merchant = %self.merchant, %fault, "a recovery stopped before its end");
                Stage::Broken
            }
        };
        self.recovery.end(stage, self.clock.now());
    }

    /// Until all are queued, or until it was ended.
    async fn queue_all(&self) -> Result<(), ResendFault> {
        let recovery = &*self.recovery;
        let mut from = EventId::floor(recovery.period.from);
        'pages: loop {
            let page = self.history.page(query(&self.merchant, &recovery.period, from)).await?;
            let read = self.clock.instant();
            for item in &page.items {
                let is_all = recovery.queued.load(Ordering::Relaxed) >= recovery.count.matching;
                if is_all || !self.wait_for_leisure().await? {
                    return Ok(());
                }
                if self.clock.instant().saturating_duration_since(read) > PAGE_AGE_MAX {
                    continue 'pages;
                }
                if self.resender.resend(&self.merchant, item.id).await? != Resent::Unknown {
                    recovery.queued.fetch_add(1, Ordering::Relaxed);
                }
                from = item.id.after();
                tokio::time::sleep(self.pace).await;
            }
            if !page.more {
                return Ok(());
            }
        }
    }

    /// False where it was ended.
    async fn wait_for_leisure(&self) -> Result<bool, ResendFault> {
        let waits_since_ms = &self.recovery.waits_since_ms;
        let mut look = LOOK;
        while self.recovery.is_running() {
            if self.resender.has_leisure(&self.merchant, self.recovery.endpoint).await? {
                waits_since_ms.store(0, Ordering::Relaxed);
                return Ok(true);
            }
            if waits_since_ms.load(Ordering::Relaxed) == 0 {
                waits_since_ms.store(self.clock.now().as_ms(), Ordering::Relaxed);
            }
            tokio::time::sleep(look).await;
            look = (look * 2).min(LOOK_MAX);
        }
        Ok(false)
    }
}

fn query(merchant: &MerchantId, period: &Period, from: EventId) -> HistoryQuery {
    HistoryQuery {
        merchant: merchant.clone(),
        statuses: period.statuses.clone(),
        event_types: period.event_types.clone(),
        resource_id: None,
        first: from,
        last: EventId::floor(period.to).before(),
        descending: false,
        limit: PAGE,
    }
}
