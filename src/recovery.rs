//! Trying again what was given up: one event, or all of a period, one after the other.
//!
//! Never faster than the pace, never past the fair queue: each event waits for its endpoint's turn like any other.
//! Never outlives the process: what was queued is kept, what was not yet reached is not remembered.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::dispatcher::{Control, ResendFault, Resent, shard_of};
use crate::history::{History, HistoryQuery, StoreError};
use crate::model::{EventId, MerchantId, Status, Timestamp};
use crate::registry::Registry;

/// Events of one recovery.
pub const EVENTS_MAX: usize = 100_000;

/// Recoveries under way, of all merchants together.
pub const RUNNING_MAX: usize = 64;

/// Recoveries that are remembered, ended ones included.
const REMEMBERED_MAX: usize = 1024;

/// Events read at a time.
const PAGE: usize = 100;

/// Between two events of one recovery.
const PACE: Duration = Duration::from_millis(5);

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
        let control = Control::Resend { merchant: merchant.clone(), event, answer };
        self.controls[shard_of(merchant, self.controls.len())].send(control).map_err(|_| ResendFault::Stopped)?;
        answered.await.map_err(|_| ResendFault::Stopped)?
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
}

/// How far a recovery has come.
#[derive(Clone, Debug)]
pub struct Progress {
    /// What it recovers.
    pub period: Period,
    /// How many there were when it began.
    pub total: usize,
    /// How many are queued by now.
    pub queued: usize,
    /// Whether it is over.
    pub stage: Stage,
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
    total: usize,
    queued: AtomicUsize,
    is_canceled: AtomicBool,
    stage: Mutex<Stage>,
}

impl Job {
    fn stage(&self) -> Stage {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, stage: Stage) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }
}

/// Recoveries of all merchants, one of each at a time.
pub struct Recoveries {
    resender: Resender,
    history: History,
    jobs: Mutex<HashMap<MerchantId, Arc<Job>>>,
    tasks: Mutex<JoinSet<()>>,
}

impl Recoveries {
    /// None is under way.
    pub fn new(resender: Resender, history: History) -> Recoveries {
        Recoveries { resender, history, jobs: Mutex::default(), tasks: Mutex::default() }
    }

    /// How many events of a period there are, at most [`EVENTS_MAX`].
    pub async fn count(&self, merchant: &MerchantId, period: &Period) -> Result<usize, StoreError> {
        let (mut count, mut from) = (0, EventId::floor(period.from));
        loop {
            let page = self.history.page(query(merchant, period, from)).await?;
            count += page.items.len();
            match page.items.last().filter(|_| page.more && count < EVENTS_MAX) {
                Some(last) => from = last.id.after(),
                None => return Ok(count.min(EVENTS_MAX)),
            }
        }
    }

    /// Begins. Must be called inside the runtime.
    pub async fn begin(&self, merchant: &MerchantId, period: Period) -> Result<Result<(), NotBegun>, StoreError> {
        let total = self.count(merchant, &period).await?;
        if total == 0 {
            return Ok(Err(NotBegun::Nothing));
        }
        let mut jobs = self.jobs();
        let running = jobs.values().filter(|job| job.stage() == Stage::Running).count();
        if jobs.get(merchant).is_some_and(|job| job.stage() == Stage::Running) {
            return Ok(Err(NotBegun::Running));
        }
        if running >= RUNNING_MAX {
            return Ok(Err(NotBegun::Busy));
        }
        if jobs.len() >= REMEMBERED_MAX {
            jobs.retain(|_, job| job.stage() == Stage::Running);
        }
        let job = Arc::new(Job {
            period,
            total,
            queued: AtomicUsize::new(0),
            is_canceled: AtomicBool::new(false),
            stage: Mutex::new(Stage::Running),
        });
        jobs.insert(merchant.clone(), Arc::clone(&job));
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(run(self.resender.clone(), self.history.clone(), merchant.clone(), job));
        Ok(Ok(()))
    }

    /// How far the merchant's last recovery has come, where there was one.
    pub fn progress(&self, merchant: &MerchantId) -> Option<Progress> {
        let job = self.jobs().get(merchant).cloned()?;
        Some(Progress {
            period: job.period.clone(),
            total: job.total,
            queued: job.queued.load(Ordering::Relaxed),
            stage: job.stage(),
        })
    }

    /// Stops the merchant's recovery. What is queued stays queued.
    pub fn cancel(&self, merchant: &MerchantId) {
        if let Some(job) = self.jobs().get(merchant) {
            job.is_canceled.store(true, Ordering::Relaxed);
        }
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

async fn run(resender: Resender, history: History, merchant: MerchantId, job: Arc<Job>) {
    let stage = match pass(&resender, &history, &merchant, &job).await {
        Ok(true) => Stage::Done,
        Ok(false) => Stage::Canceled,
        Err(fault) => {
            tracing::warn!(%merchant, %fault, "a recovery stopped before its end");
            Stage::Broken
        }
    };
    job.end(stage);
}

/// True where all are queued, false where it was canceled.
async fn pass(resender: &Resender, history: &History, merchant: &MerchantId, job: &Job) -> Result<bool, ResendFault> {
    let mut from = EventId::floor(job.period.from);
    loop {
        let page = history.page(query(merchant, &job.period, from)).await?;
        for item in &page.items {
            if job.is_canceled.load(Ordering::Relaxed) {
                return Ok(false);
            }
            if job.queued.load(Ordering::Relaxed) >= EVENTS_MAX {
                return Ok(true);
            }
            if resender.resend(merchant, item.id).await? != Resent::Unknown {
                job.queued.fetch_add(1, Ordering::Relaxed);
            }
            from = item.id.after();
            tokio::time::sleep(PACE).await;
        }
        if !page.more {
            return Ok(true);
        }
    }
}

fn query(merchant: &MerchantId, period: &Period, from: EventId) -> HistoryQuery {
    HistoryQuery {
        merchant: merchant.clone(),
        statuses: period.statuses.clone(),
        event_types: Vec::new(),
        resource_id: None,
        first: from,
        last: EventId::floor(period.to).before(),
        descending: false,
        limit: PAGE,
    }
}
