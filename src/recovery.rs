//! Sending again what a merchant missed: counted first, then one event after the other at an easy pace.
//!
//! Never in a hurry: live events go first, and an endpoint that is held or failing is waited for. Never more
//! than one recovery of a merchant at a time. A restart ends it: what it queued stays queued, and asking again
//! goes on, because what was recovered is no longer failed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{self, JoinSet};

use crate::clock::Clock;
use crate::dispatcher::{Control, Resent};
use crate::history::{History, HistoryPage, HistoryQuery, StoreError};
use crate::model::{EndpointState, EventId, EventType, MerchantId, Status, Timestamp};
use crate::registry::Registry;

/// Events of one look into the history.
const PAGE: usize = 100;

/// How often an endpoint that is held or failing is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How much may be recovered how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Events of one recovery.
    pub events_max: u64,
    /// Events queued in a second.
    pub per_second: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { events_max: 100_000, per_second: 50 }
    }
}

/// What is to be sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Accepted from here on.
    pub from: Option<Timestamp>,
    /// Accepted before.
    pub to: Option<Timestamp>,
    /// Any of these; none of them is waiting.
    pub statuses: Vec<Status>,
    /// Any of these; empty means every type.
    pub event_types: Vec<EventType>,
}

/// How many events there are to be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// So many, but no more than one recovery takes.
    pub matching: u64,
    /// Whether there are more.
    pub more: bool,
}

/// Where a recovery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Under way.
    Running,
    /// Everything was queued.
    Done,
    /// Somebody stopped it.
    Canceled,
    /// The history could not be read, or the process is stopping.
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

/// A recovery as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Where it stands.
    pub stage: Stage,
    /// What was counted at its beginning.
    pub count: Count,
    /// Events queued so far.
    pub queued: u64,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

/// Why a recovery was not begun.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// One of the merchant's is under way.
    #[error("a recovery is under way")]
    UnderWay,
    /// The history could not be read.
    #[error(transparent)]
    Unreadable(#[from] StoreError),
}

/// All recoveries.
pub struct Recoveries {
    history: History,
    registry: Arc<Registry>,
    clock: Arc<dyn Clock>,
    limits: Limits,
    /// The newest of each merchant that ever asked, until the process ends.
    runs: Mutex<BTreeMap<MerchantId, Arc<Run>>>,
    tasks: tokio::sync::Mutex<JoinSet<()>>,
}

struct Run {
    count: Count,
    queued: AtomicU64,
    canceled: AtomicBool,
    started_at: Timestamp,
    ended: Mutex<Option<(Stage, Timestamp)>>,
}

impl Run {
    fn progress(&self) -> Progress {
        let ended = *self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        Progress {
            stage: ended.map_or(Stage::Running, |(stage, _)| stage),
            count: self.count,
            queued: self.queued.load(Ordering::Relaxed),
            started_at: self.started_at,
            ended_at: ended.map(|(_, at)| at),
        }
    }
}

impl Recoveries {
    /// None yet.
    pub fn new(history: History, registry: Arc<Registry>, clock: Arc<dyn Clock>, limits: Limits) -> Recoveries {
        Recoveries { history, registry, clock, limits, runs: Mutex::default(), tasks: tokio::sync::Mutex::default() }
    }

    /// Counts what would be sent again.
    pub async fn count(&self, merchant: &MerchantId, wanted: &Wanted) -> Result<Count, StoreError> {
        let mut query = query(merchant, wanted);
        let mut matching = 0;
        loop {
            let page = read(&self.history, query.clone()).await?;
            let left = self.limits.events_max - matching;
            matching += left.min(page.items.len() as u64);
            let more = page.items.len() as u64 > left || (page.more && matching == self.limits.events_max);
            match page.items.last() {
                Some(last) if page.more && !more => query.first = last.id.after(),
                _ => return Ok(Count { matching, more }),
            }
        }
    }

    /// Counts and begins. `controls` lead to the merchant's dispatcher.
    pub async fn begin(
        &self,
        merchant: &MerchantId,
        wanted: &Wanted,
        controls: mpsc::UnboundedSender<Control>,
    ) -> Result<Progress, Refused> {
        let count = self.count(merchant, wanted).await?;
        let run = Arc::new(Run {
            count,
            queued: AtomicU64::new(0),
            canceled: AtomicBool::new(false),
            started_at: self.clock.now(),
            ended: Mutex::new(None),
        });
        {
            let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
            if runs.get(merchant).is_some_and(|run| run.progress().stage == Stage::Running) {
                return Err(Refused::UnderWay);
            }
            runs.insert(merchant.clone(), Arc::clone(&run));
        }
        let progress = run.progress();
        let walk = Walk {
            run: Arc::clone(&run),
            history: self.history.clone(),
            registry: Arc::clone(&self.registry),
            pace: Duration::from_micros(1_000_000 / self.limits.per_second.max(1)),
            controls,
        };
        let (query, clock) = (query(merchant, wanted), Arc::clone(&self.clock));
        self.tasks.lock().await.spawn(async move {
            let stage = walk.send_all(query).await;
            *run.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some((stage, clock.now()));
        });
        Ok(progress)
    }

    /// The merchant's newest recovery since the start.
    pub fn progress(&self, merchant: &MerchantId) -> Option<Progress> {
        let runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.get(merchant).map(|run| run.progress())
    }

    /// Stops the merchant's recovery, where one is under way; what is queued stays queued. False where the
    /// merchant never asked for one.
    pub fn cancel(&self, merchant: &MerchantId) -> bool {
        let runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.get(merchant).is_some_and(|run| {
            run.canceled.store(true, Ordering::Relaxed);
            true
        })
    }

    /// Stops them all.
    pub async fn stop(&self) {
        self.tasks.lock().await.shutdown().await;
    }
}

/// One recovery at work.
struct Walk {
    run: Arc<Run>,
    history: History,
    registry: Arc<Registry>,
    pace: Duration,
    controls: mpsc::UnboundedSender<Control>,
}

impl Walk {
    async fn send_all(&self, mut query: HistoryQuery) -> Stage {
        loop {
            let page = match read(&self.history, query.clone()).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::error!(merchant = %query.merchant, %error, "a recovery cannot read the history");
                    return Stage::Broken;
                }
            };
            for item in &page.items {
                if self.run.queued.load(Ordering::Relaxed) >= self.run.count.matching {
                    return Stage::Done;
                }
                if let Err(stage) = self.send(&query.merchant, item.id).await {
                    return stage;
                }
            }
            match page.items.last() {
                Some(last) if page.more => query.first = last.id.after(),
                _ => return Stage::Done,
            }
        }
    }

    /// Queues one event, once the endpoint takes it.
    async fn send(&self, merchant: &MerchantId, event: EventId) -> Result<(), Stage> {
        tokio::time::sleep(self.pace).await;
        let endpoint = loop {
            if self.run.canceled.load(Ordering::Relaxed) {
                return Err(Stage::Canceled);
            }
            match self.registry.endpoint_of(merchant) {
                Some(endpoint) if endpoint.state == EndpointState::Active && !endpoint.is_failing() => {
                    break endpoint.id;
                }
                Some(_) => tokio::time::sleep(LOOK).await,
                // The config was deleted: nobody is left to send it to.
                None => return Err(Stage::Canceled),
            }
        };
        let (answer, answered) = oneshot::channel();
        let control = Control::Resend { merchant: merchant.clone(), event, endpoint, answer };
        self.controls.send(control).map_err(|_| Stage::Broken)?;
        match answered.await {
            Ok(Ok(Resent::Queued | Resent::UnderWay)) => {
                self.run.queued.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            // It is not kept any more.
            Ok(Ok(Resent::Unknown)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Stage::Broken),
        }
    }
}

/// Oldest first, so that what comes meanwhile is at the end.
fn query(merchant: &MerchantId, wanted: &Wanted) -> HistoryQuery {
    HistoryQuery {
        merchant: merchant.clone(),
        statuses: wanted.statuses.clone(),
        event_types: wanted.event_types.clone(),
        resource_id: None,
        first: wanted.from.map_or(EventId::MIN, EventId::floor),
        last: wanted.to.map_or(EventId::MAX, |to| EventId::floor(to).before()),
        descending: false,
        limit: PAGE,
    }
}

async fn read(history: &History, query: HistoryQuery) -> Result<HistoryPage, StoreError> {
    let history = history.clone();
    let read = task::spawn_blocking(move || history.page(&query)).await;
    read.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
}
