//! Trying again what was given up: one event, or all of a period, one after the other.
//!
//! Never faster than the pace, never past the fair queue: each event waits for its endpoint's turn like any other. All
//! of a period never get in the way of live events: each is queued only once its endpoint has nothing else to do, and
//! an endpoint that rests or is held is waited for. Never outlives the process: what was queued is kept, what was not
//! yet reached is not remembered.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::dispatcher::{Control, ResendFault, Resent, shard_of};
use crate::history::{History, HistoryQuery, StoreError};
use crate::model::{EventId, EventType, MerchantId, Status, Timestamp};
use crate::registry::Registry;

/// Recoveries that are remembered, ended ones included.
const REMEMBERED_MAX: usize = 1024;

/// Events read at a time.
const PAGE: usize = 100;

/// How often a busy endpoint is looked at: at first, and twice as long each time up to the longest.
const LOOK: Duration = Duration::from_millis(10);
const LOOK_MAX: Duration = Duration::from_secs(1);

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

    /// Whether the merchant's endpoint could make an attempt at this moment, and has none to make.
    async fn has_leisure(&self, merchant: &MerchantId) -> Result<bool, ResendFault> {
        let endpoint = self.registry.endpoint_of(merchant).ok_or(ResendFault::NoEndpoint)?.id;
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
    /// Stopped because the webhook is gone, the store cannot be read, or the process ends.
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
}

struct Job {
    period: Period,
    count: Count,
    queued: AtomicUsize,
    is_canceled: AtomicBool,
    started_at: Timestamp,
    ended: Mutex<Option<(Stage, Timestamp)>>,
}

impl Job {
    fn is_running(&self) -> bool {
        self.ended().is_none()
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
    jobs: Mutex<HashMap<MerchantId, Arc<Job>>>,
    tasks: Mutex<JoinSet<()>>,
}

impl Recoveries {
    /// None is under way.
    pub fn new(resender: Resender, history: History, clock: Arc<dyn Clock>, limits: Limits) -> Recoveries {
        Recoveries { resender, history, clock, limits, jobs: Mutex::default(), tasks: Mutex::default() }
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
        let mut jobs = self.jobs();
        if jobs.get(merchant).is_some_and(|job| job.is_running()) {
            return Ok(Err(NotBegun::Running));
        }
        if jobs.values().filter(|job| job.is_running()).count() >= self.limits.running_max {
            return Ok(Err(NotBegun::Busy));
        }
        if jobs.len() >= REMEMBERED_MAX {
            jobs.retain(|_, job| job.is_running());
        }
        let job = Arc::new(Job {
            period,
            count,
            queued: AtomicUsize::new(0),
            is_canceled: AtomicBool::new(false),
            started_at: self.clock.now(),
            ended: Mutex::new(None),
        });
        let walk = Walk {
            resender: self.resender.clone(),
            history: self.history.clone(),
            pace: Duration::from_secs(1) / self.limits.per_second.max(1),
            merchant: merchant.clone(),
            job: Arc::clone(&job),
        };
        let (progress, clock) = (job.progress(), Arc::clone(&self.clock));
        jobs.insert(merchant.clone(), Arc::clone(&job));
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let stage = walk.stage_at_end().await;
            *job.ended() = Some((stage, clock.now()));
        });
        Ok(Ok(progress))
    }

    /// How far the merchant's last recovery has come, where there was one.
    pub fn progress(&self, merchant: &MerchantId) -> Option<Progress> {
        self.jobs().get(merchant).map(|job| job.progress())
    }

    /// Stops the merchant's recovery. What is queued stays queued. False where there was none.
    pub fn cancel(&self, merchant: &MerchantId) -> bool {
        let jobs = self.jobs();
        let Some(job) = jobs.get(merchant) else { return false };
        job.is_canceled.store(true, Ordering::Relaxed);
        true
    }

    /// Stops all of them: the process ends.
    pub fn end(&self) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<MerchantId, Arc<Job>>> {
        // Every change is one insertion or removal.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One recovery at work.
struct Walk {
    resender: Resender,
    history: History,
    /// Between two events.
    pace: Duration,
    merchant: MerchantId,
    job: Arc<Job>,
}

impl Walk {
    async fn stage_at_end(&self) -> Stage {
        match self.queue_all().await {
            Ok(true) => Stage::Done,
            Ok(false) => Stage::Canceled,
            Err(fault) => {
                tracing::warn!(merchant = %self.merchant, %fault, "a recovery stopped before its end");
                Stage::Broken
            }
        }
    }

    /// True where all are queued, false where it was canceled.
    async fn queue_all(&self) -> Result<bool, ResendFault> {
        let job = &*self.job;
        let mut from = EventId::floor(job.period.from);
        loop {
            let page = self.history.page(query(&self.merchant, &job.period, from)).await?;
            for item in &page.items {
                if job.queued.load(Ordering::Relaxed) >= job.count.matching {
                    return Ok(true);
                }
                if !self.wait_for_leisure().await? {
                    return Ok(false);
                }
                if self.resender.resend(&self.merchant, item.id).await? != Resent::Unknown {
                    job.queued.fetch_add(1, Ordering::Relaxed);
                }
                from = item.id.after();
                tokio::time::sleep(self.pace).await;
            }
            if !page.more {
                return Ok(true);
            }
        }
    }

    /// False where it was canceled.
    async fn wait_for_leisure(&self) -> Result<bool, ResendFault> {
        let mut look = LOOK;
        loop {
            if self.job.is_canceled.load(Ordering::Relaxed) {
                return Ok(false);
            }
            if self.resender.has_leisure(&self.merchant).await? {
                return Ok(true);
            }
            tokio::time::sleep(look).await;
            look = (look * 2).min(LOOK_MAX);
        }
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
