//! The async shell round one shard: hears the store and the registry, asks the shard, makes attempts,
//! tells the store.
//!
//! Never decides: when, whether and to whom is the shard's. Never waits for the disk.

mod inbox;
mod resends;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{self, JoinError, JoinSet};

use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::metrics::Metrics;
use crate::model::{
    Attempt, Delivery, DisabledReason, DueKey, Endpoint, EndpointId, ErrorCode, EventId, MerchantId, Outcome, Phases,
    Status, Terms, Timestamp, Verdict, fnv1a,
};
use crate::pulse::Pulse;
use crate::registry::Registry;
use crate::shard::{Action, Gate, Page, Recall, Settled, Shard};
use crate::store::{Dossier, DuePage, Notice, Reads, Settlement, Store, StoreError};
use crate::transport::{OwnFault, Parcel, Transport};

pub use inbox::{Inbox, Inlet, Limits as InboxLimits, inbox};
pub use resends::{Answer, ResendFault, Resent};
use resends::{Key, Resends};

/// Notices taken from the channel in one go.
const NOTICES_MAX: usize = 256;

/// The longest sleep, so that a wall clock that was set forward is noticed.
const SLEEP_MAX: Duration = Duration::from_secs(10);

/// How long what could not be read is left alone.
const REREAD_DELAY: Duration = Duration::from_millis(200);

/// How long an event whose payload cannot be read is left alone: a quarter of its age, within these bounds.
const PUT_OFF_MS_MIN: u64 = 1_000;
const PUT_OFF_MS_MAX: u64 = 15 * 60 * 1_000;

/// What the rest of the product asks of a dispatcher.
#[derive(Debug)]
pub enum Control {
    /// An endpoint is there, with this gate. `backlog`: the outbox may hold deliveries for it.
    Open {
        /// The endpoint.
        endpoint: EndpointId,
        /// Its owner.
        merchant: MerchantId,
        /// Whether its deliveries leave.
        gate: Gate,
        /// Whether the outbox may hold deliveries for it.
        backlog: bool,
        /// How they leave.
        terms: Terms,
    },
    /// Try this event once more, now.
    Resend {
        /// Whose it is.
        merchant: MerchantId,
        /// The event.
        event: EventId,
        /// What came of it.
        answer: Answer,
    },
    /// Tell whether an endpoint could make an attempt at this moment, and has none to make.
    Leisure {
        /// The endpoint.
        endpoint: EndpointId,
        /// Whether it is so.
        answer: oneshot::Sender<bool>,
    },
    /// Start nothing more; end once everything under way is recorded.
    Drain,
}

/// What a dispatcher works with.
pub struct Tools {
    /// The durable memory.
    pub store: Arc<dyn Store>,
    /// Its reads: payloads that are not in memory, and events to be sent again.
    pub reads: Reads,
    /// The door to the receivers.
    pub transport: Arc<dyn Transport>,
    /// Endpoints as they are now.
    pub registry: Arc<Registry>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub entropy: Arc<dyn Entropy>,
    /// Figures.
    pub metrics: Metrics,
    /// How endpoints fare, for their merchants.
    pub pulse: Arc<Pulse>,
}

/// What others can see of a dispatcher while it runs.
#[derive(Debug)]
pub struct Vitals {
    oldest_due_ms: AtomicI64,
    in_flight: AtomicI64,
    windowed: AtomicI64,
    resting: AtomicI64,
}

impl Default for Vitals {
    fn default() -> Vitals {
        Vitals {
            oldest_due_ms: AtomicI64::new(Timestamp::MAX.as_ms()),
            in_flight: AtomicI64::new(0),
            windowed: AtomicI64::new(0),
            resting: AtomicI64::new(0),
        }
    }
}

impl Vitals {
    /// When the delivery that is due longest became due.
    pub fn oldest_due(&self) -> Timestamp {
        Timestamp::from_ms(self.oldest_due_ms.load(Ordering::Relaxed))
    }

    /// Attempts under way.
    pub fn in_flight(&self) -> i64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Deliveries in memory.
    pub fn windowed(&self) -> i64 {
        self.windowed.load(Ordering::Relaxed)
    }

    /// Endpoints that are left alone.
    pub fn resting(&self) -> i64 {
        self.resting.load(Ordering::Relaxed)
    }
}

/// Runs one shard.
pub struct Dispatcher {
    shard: Shard,
    tools: Arc<Tools>,
    vitals: Arc<Vitals>,
    controls: mpsc::UnboundedReceiver<Control>,
    notices: Inbox,
    work: JoinSet<Done>,
    /// What each running attempt is for, so that one that panics fails alone.
    running: HashMap<task::Id, Delivery>,
    resends: Resends,
    draining: bool,
}

/// Something that ran beside the loop has ended.
enum Done {
    Attempt {
        endpoint: Arc<Endpoint>,
        attempt: Box<Attempt>,
    },
    /// Nothing was sent: this host is at fault.
    Faulted(OwnFault),
    /// Nothing was sent: the endpoint is gone.
    Unmade,
    /// Nothing was sent: the payload cannot be read.
    Unreadable,
    Page {
        endpoint: EndpointId,
        page: Result<DuePage, StoreError>,
    },
    Looked {
        key: Key,
        found: Box<Result<Option<Dossier>, StoreError>>,
    },
    Recorded,
}

enum Input {
    Control(Control),
    Notices,
    Done(Result<(task::Id, Done), JoinError>),
    Wake,
}

impl Dispatcher {
    /// A dispatcher that hears `controls` and `notices`.
    pub fn new(
        shard: Shard,
        tools: Arc<Tools>,
        vitals: Arc<Vitals>,
        controls: mpsc::UnboundedReceiver<Control>,
        notices: Inbox,
    ) -> Dispatcher {
        Dispatcher {
            shard,
            tools,
            vitals,
            controls,
            notices,
            work: JoinSet::new(),
            running: HashMap::new(),
            resends: Resends::default(),
            draining: false,
        }
    }

    /// Runs until drained, or until the store's notices end.
    pub async fn run(mut self) {
        let mut notices = Vec::with_capacity(NOTICES_MAX);
        loop {
            self.act();
            self.report();
            if self.draining && self.is_idle() {
                return;
            }
            match self.hear(&mut notices).await {
                Some(Input::Control(control)) => self.control(control),
                Some(Input::Notices) => self.notice(&mut notices),
                Some(Input::Done(done)) => {
                    self.done(done);
                    // What ended meanwhile costs no round of its own.
                    while let Some(done) = self.work.try_join_next_with_id() {
                        self.done(done);
                    }
                }
                Some(Input::Wake) => {}
                None => return,
            }
        }
    }

    /// Whether everything that was begun is recorded.
    fn is_idle(&self) -> bool {
        let figures = self.shard.figures();
        figures.in_flight == 0 && figures.settling == 0 && self.running.is_empty()
    }

    async fn hear(&mut self, notices: &mut Vec<Notice>) -> Option<Input> {
        let sleep = self.sleep();
        tokio::select! {
            biased;
            Some(control) = self.controls.recv() => Some(Input::Control(control)),
            Some(done) = self.work.join_next_with_id() => Some(Input::Done(done)),
            taken = self.notices.take(notices, NOTICES_MAX) => (taken > 0).then_some(Input::Notices),
            () = tokio::time::sleep(sleep) => Some(Input::Wake),
        }
    }

    fn sleep(&self) -> Duration {
        let Some(wake) = self.shard.next_wake().filter(|_| !self.draining) else { return SLEEP_MAX };
        Duration::from_millis(wake.since_ms(self.tools.clock.now())).min(SLEEP_MAX)
    }

    /// Does everything that the shard wants done now.
    fn act(&mut self) {
        while !self.draining {
            match self.shard.poll(self.tools.clock.now()) {
                Some(Action::Attempt(delivery)) => self.attempt(delivery),
                Some(Action::Cancel(delivery)) => self.end(delivery, Status::Canceled),
                Some(Action::Expire(delivery)) => {
                    // A whole backlog may end so, within moments.
                    tracing::debug!(event = %delivery.event, merchant = %delivery.merchant, "due for too long: failed");
                    self.tools.metrics.expired.increment(1);
                    self.end(delivery, Status::Failed);
                }
                Some(Action::Move(delivery, due)) => self.move_to(delivery, due),
                Some(Action::Refill { endpoint, from, limit }) => self.read(endpoint, from, limit),
                None => return,
            }
        }
    }

    fn attempt(&mut self, delivery: Delivery) {
        let tools = Arc::clone(&self.tools);
        let running = delivery.clone();
        let task = self.work.spawn(async move {
            // As it is now, not as it was when the event came: a mended URL rescues what waits.
            let endpoint = tools.registry.endpoint(delivery.endpoint);
            let Some(endpoint) = endpoint else {
                // Its deletion is on its way to the shard.
                tokio::time::sleep(REREAD_DELAY).await;
                return Done::Unmade;
            };
            let (payload, traceparent) = match delivery.payload {
                Some(payload) => (payload, delivery.traceparent),
                None => {
                    let wanted = delivery.clone();
                    match tools.reads.read(move |store| store.event(&wanted)).await {
                        Ok(event) => (event.payload, event.traceparent),
                        Err(error) => {
                            tracing::error!(event = %delivery.event, %error, "a payload cannot be read");
                            return Done::Unreadable;
                        }
                    }
                }
            };
            let parcel = Parcel {
                endpoint: Arc::clone(&endpoint),
                event: delivery.event,
                event_type: delivery.event_type,
                number: delivery.attempts + 1,
                sequence: delivery.sequence,
                traceparent,
                payload,
            };
            match tools.transport.send(parcel).await {
                Ok(attempt) => Done::Attempt { endpoint, attempt: Box::new(attempt) },
                Err(fault) => Done::Faulted(fault),
            }
        });
        self.running.insert(task.id(), running);
    }

    /// Ends a delivery without an attempt.
    fn end(&mut self, delivery: Delivery, status: Status) {
        self.tools.metrics.settled(status);
        let at = self.tools.clock.now();
        let (due, attempts_before) = (delivery.due, delivery.attempts_before);
        self.tools.store.settle(Settlement { delivery, attempt: None, status, at, due, attempts_before });
    }

    /// Lets a delivery wait for another one.
    fn move_to(&mut self, delivery: Delivery, due: Timestamp) {
        let at = self.tools.clock.now();
        let (status, attempts_before) = (delivery.status, delivery.attempts_before);
        self.tools.store.settle(Settlement { delivery, attempt: None, status, at, due, attempts_before });
    }

    fn read(&mut self, endpoint: EndpointId, from: DueKey, limit: usize) {
        let store = Arc::clone(&self.tools.store);
        self.work.spawn_blocking(move || {
            let page = store.due(endpoint, from, limit);
            if page.is_err() {
                std::thread::sleep(REREAD_DELAY);
            }
            Done::Page { endpoint, page }
        });
    }

    fn control(&mut self, control: Control) {
        match control {
            Control::Open { endpoint, merchant, gate, backlog, terms } => {
                self.shard.open(endpoint, merchant, gate, backlog, terms);
            }
            Control::Resend { merchant, event, answer } => self.resend(merchant, event, answer),
            Control::Leisure { endpoint, answer } => {
                // The one who asked may have gone away.
                let _ = answer.send(self.shard.has_leisure(self.tools.clock.now(), endpoint));
            }
            Control::Drain => {
                self.draining = true;
                self.resends.end();
            }
        }
    }

    fn notice(&mut self, notices: &mut Vec<Notice>) {
        // A delivery in hand was routed after its endpoint was announced, so the announcement is there.
        while let Ok(control) = self.controls.try_recv() {
            self.control(control);
        }
        for notice in notices.drain(..) {
            match notice {
                Notice::Accepted(delivery) => self.shard.accept(delivery),
                Notice::Settled(delivery) => {
                    self.heard_of(&delivery);
                    self.shard.confirm(delivery);
                }
            }
        }
    }

    fn done(&mut self, done: Result<(task::Id, Done), JoinError>) {
        let (id, done) = match done {
            Ok(done) => done,
            Err(panicked) => return self.panicked(panicked.id()),
        };
        match done {
            Done::Attempt { endpoint, attempt } => {
                let delivery = self.ran(id);
                self.settle(&delivery, Some(endpoint), *attempt);
            }
            Done::Faulted(fault) => {
                let delivery = self.ran(id);
                tracing::warn!(merchant = %delivery.merchant, %fault, "an attempt was not made and is not counted");
                self.tools.metrics.excused.increment(1);
                self.shard.excuse(self.tools.clock.now(), delivery.endpoint, delivery.event);
                self.stir(&delivery);
            }
            Done::Unmade => {
                let delivery = self.ran(id);
                self.shard.give_back(delivery.endpoint, delivery.event);
                self.stir(&delivery);
            }
            Done::Unreadable => {
                let delivery = self.ran(id);
                self.put_off(delivery);
            }
            Done::Page { endpoint, page: Ok(page) } => {
                let DuePage { deliveries, more, as_of } = page;
                self.shard.refill(endpoint, Page { deliveries, more, as_of });
            }
            Done::Page { endpoint, page: Err(error) } => {
                tracing::error!(%endpoint, %error, "the outbox cannot be read");
                self.shard.refill_failed(endpoint);
            }
            Done::Looked { key, found } => self.looked(key, *found),
            Done::Recorded => {}
        }
    }

    /// What an attempt that has ended was for.
    fn ran(&mut self, id: task::Id) -> Delivery {
        self.running.remove(&id).expect("what ends as an attempt was begun as one")
    }

    fn panicked(&mut self, id: task::Id) {
        let delivery = self.running.remove(&id).expect("a read panicked: the index is not to be trusted any more");
        tracing::error!(event = %delivery.event, "an attempt panicked: counted as a protocol error");
        let attempt = self.broken(&delivery);
        self.settle(&delivery, None, attempt);
    }

    /// A delivery whose payload cannot be read waits longer and longer, so that others of its endpoint go on. No
    /// attempt was made, so none is counted and none is recorded.
    fn put_off(&mut self, delivery: Delivery) {
        self.tools.metrics.unreadable.increment(1);
        self.shard.give_back(delivery.endpoint, delivery.event);
        let delivery = match self.shard.hold(&delivery) {
            Recall::Waiting(delivery) => delivery,
            Recall::Unknown => delivery,
            Recall::InFlight | Recall::Settling => unreachable!("it was given back this moment"),
        };
        let now = self.tools.clock.now();
        let age_ms = now.since_ms(delivery.event.accepted_at());
        let due = now.plus_ms((age_ms / 4).clamp(PUT_OFF_MS_MIN, PUT_OFF_MS_MAX));
        let (status, attempts_before) = (delivery.status, delivery.attempts_before);
        self.tools.store.settle(Settlement { delivery, attempt: None, status, at: now, due, attempts_before });
    }

    /// What is recorded of an attempt that ended in a panic of ours.
    fn broken(&self, delivery: &Delivery) -> Attempt {
        Attempt {
            number: delivery.attempts + 1,
            started_at: self.tools.clock.now(),
            duration_ms: 0,
            phases: Phases::default(),
            outcome: Outcome::failed(ErrorCode::ProtocolError),
            sent: None,
            response: None,
        }
    }

    fn settle(&mut self, delivery: &Delivery, endpoint: Option<Arc<Endpoint>>, attempt: Attempt) {
        let now = self.tools.clock.now();
        self.observe(delivery, endpoint.as_deref(), &attempt, now);
        let chance = self.tools.entropy.unit();
        let Settled { delivery, verdict, attempts, disable, failing } =
            self.shard.settle(now, delivery.endpoint, delivery.event, &attempt.outcome, chance);
        assert_eq!(attempts, attempt.number, "attempts are counted once");
        let (status, at, due) = match verdict {
            Verdict::Delivered => (Status::Delivered, attempt.decided_at(), delivery.due),
            Verdict::RetryAt(due) => (Status::Retrying, now, due),
            Verdict::Failed => (Status::Failed, now, delivery.due),
            Verdict::Canceled => (Status::Canceled, now, delivery.due),
        };
        self.tools.metrics.settled(status);
        let attempts_before = delivery.attempts_before;
        self.tools.store.settle(Settlement { delivery, attempt: Some(attempt), status, at, due, attempts_before });
        let Some(endpoint) = endpoint else { return };
        if let Some(reason) = disable {
            self.disable(endpoint, reason);
        } else if let Some(since) = failing {
            self.mark(endpoint, since);
        }
    }

    /// Records since when an endpoint has been failing, or that it is well again.
    fn mark(&mut self, endpoint: Arc<Endpoint>, since: Option<Timestamp>) {
        let registry = Arc::clone(&self.tools.registry);
        match since {
            Some(since) => {
                tracing::warn!(endpoint = %endpoint.id, merchant = %endpoint.merchant, %since, "endpoint is failing");
            }
            None => tracing::info!(endpoint = %endpoint.id, merchant = %endpoint.merchant, "endpoint is well again"),
        }
        self.work.spawn(async move {
            // Refused only while stopping; the streak is then counted anew.
            let _ = registry.mark_failing(&endpoint, since).await;
            Done::Recorded
        });
    }

    fn disable(&mut self, endpoint: Arc<Endpoint>, reason: DisabledReason) {
        let registry = Arc::clone(&self.tools.registry);
        self.tools.metrics.disabled(reason);
        tracing::warn!(endpoint = %endpoint.id, merchant = %endpoint.merchant, reason = reason.as_str(), "endpoint disabled");
        self.work.spawn(async move {
            // Refused only while stopping; the next 410 after the restart says it again.
            let _ = registry.disable(&endpoint, reason).await;
            Done::Recorded
        });
    }

    fn observe(&self, delivery: &Delivery, endpoint: Option<&Endpoint>, attempt: &Attempt, now: Timestamp) {
        let metrics = &self.tools.metrics;
        let accepted_at = delivery.event.accepted_at();
        metrics.attempted(attempt.outcome.error());
        self.tools.pulse.beat(&delivery.merchant, now, attempt.outcome.error().is_none(), attempt.duration_ms);
        metrics.attempt_seconds.record(f64::from(attempt.duration_ms) / 1000.0);
        // What was resent, or kept for a config that was changed meanwhile, says nothing of the way from acceptance.
        let was_free =
            endpoint.is_some_and(|endpoint| endpoint.updated_at <= accepted_at) && delivery.due <= accepted_at;
        if attempt.number == 1 && was_free {
            metrics.first_attempt_seconds.record(attempt.started_at.since_ms(accepted_at) as f64 / 1000.0);
        }
        if attempt.outcome.error().is_none() {
            metrics.delivery_seconds.record(attempt.decided_at().since_ms(accepted_at) as f64 / 1000.0);
        }
        tracing::debug!(
            event = %delivery.event,
            merchant = %delivery.merchant,
            number = attempt.number,
            status = attempt.outcome.status(),
            error = attempt.outcome.error().map(ErrorCode::as_str),
            duration_ms = attempt.duration_ms,
            "attempt"
        );
    }

    fn report(&self) {
        let figures = self.shard.figures();
        let oldest = self.shard.oldest_due().unwrap_or(Timestamp::MAX);
        self.vitals.oldest_due_ms.store(oldest.as_ms(), Ordering::Relaxed);
        self.vitals.in_flight.store(figures.in_flight as i64, Ordering::Relaxed);
        self.vitals.windowed.store(figures.windowed as i64, Ordering::Relaxed);
        self.vitals.resting.store(figures.resting as i64, Ordering::Relaxed);
    }
}

/// The shard of a merchant: the same within one run; nothing on disk depends on it.
pub fn shard_of(merchant: &MerchantId, shards: usize) -> usize {
    usize::try_from(fnv1a(merchant.as_str()) % shards as u64).expect("there are few shards")
}
