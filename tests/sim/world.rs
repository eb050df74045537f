//! The world of one seed: an agenda in virtual time, and one shard, store and set of receivers in it.
//!
//! Never reads a clock, never runs a thread: it jumps from one appointment to the next.

use std::collections::{BTreeMap, VecDeque};

use posthaste::model::{Delivery, DueKey, EndpointId, EventId, MerchantId, Outcome, Timestamp};
use posthaste::shard::{Gate, Page};

use crate::dice::Dice;
use crate::history::{History, Step};
use crate::mutant::Bug;
use crate::oracle::Oracle;
use crate::outbox::{Entry, Outbox, Write};
use crate::plan::Plan;
use crate::receiver::{DEADLINE_MS, Receiver};
use crate::rest::Rest;
use crate::subject::{self, Subject};

const BEGINNING_MS: i64 = 1_700_000_000_000;
/// The shell sleeps no longer, so that a clock that was set forward is noticed.
const SLEEP_MS_MAX: u64 = 10_000;
/// How long what could not be read or made is left alone.
pub(super) const REREAD_MS: u64 = 200;
/// More happenings than any seed has.
const HAPPENINGS_MAX: u64 = 200_000;
/// How far the clock is set, at most.
const JUMP_MS_MAX: u64 = 5_000;

/// What happens at a moment. What a process has under way carries its life, and dies with it.
pub(super) enum Happening {
    Submit,
    Meddle,
    Resend,
    Jump,
    Crash,
    Restart,
    Commit { life: u32 },
    Tell { life: u32 },
    Hear { life: u32 },
    Answer { life: u32, delivery: Delivery, outcome: Outcome },
    Unmade { life: u32, delivery: Delivery },
    Read { life: u32, endpoint: EndpointId, from: DueKey, limit: usize },
    Page { life: u32, endpoint: EndpointId, page: Option<Page> },
    Disable { life: u32, endpoint: EndpointId },
    LookUp { life: u32, event: EventId },
    LetGo { life: u32, delivery: Delivery },
    Wake { life: u32 },
}

/// What is announced to the shard of an endpoint.
pub(super) struct Control {
    pub(super) endpoint: EndpointId,
    pub(super) gate: Gate,
}

/// Everything there is.
pub(crate) struct World {
    pub(super) plan: Plan,
    pub(super) dice: Dice,
    pub(crate) history: History,
    agenda: BTreeMap<(u64, u64), Happening>,
    booked: u64,
    /// Since the beginning; never goes back.
    pub(super) clock_ms: u64,
    /// How far the wall clock was set.
    pub(super) offset_ms: i64,
    /// `None` while the process is down.
    pub(super) subject: Option<Box<dyn Subject>>,
    bug: Option<Bug>,
    pub(super) life: u32,
    pub(super) outbox: Outbox,
    pub(crate) oracle: Oracle,
    pub(super) controls: VecDeque<Control>,
    pub(super) receivers: BTreeMap<EndpointId, Receiver>,
    pub(super) committing: bool,
    pub(super) telling: bool,
    wake_ms: Option<u64>,
    pub(super) mended: bool,
    pub(super) submitted: u64,
}

impl World {
    pub(crate) fn new(seed: u64, bug: Option<Bug>) -> World {
        let mut dice = Dice::seeded(seed);
        let plan = Plan::of(&mut dice);
        let mut world = World {
            oracle: Oracle::new(&plan),
            dice,
            history: History::new(),
            agenda: BTreeMap::new(),
            booked: 0,
            clock_ms: 0,
            offset_ms: 0,
            subject: None,
            bug,
            life: 0,
            outbox: Outbox::default(),
            controls: VecDeque::new(),
            receivers: BTreeMap::new(),
            committing: false,
            telling: false,
            wake_ms: None,
            mended: false,
            submitted: 0,
            plan,
        };
        for (endpoint, merchant) in world.plan.endpoints.clone() {
            world.make(endpoint, merchant);
        }
        world
    }

    /// Lives through it: faults, then none, then nobody held; panics where a promise is broken.
    pub(crate) fn run(&mut self) {
        self.restart();
        let every = self.plan.every;
        self.book_soon(Some(every.event_ms), Happening::Submit);
        self.book_soon(every.gate_ms, Happening::Meddle);
        self.book_soon(every.resend_ms, Happening::Resend);
        self.book_soon(every.jump_ms, Happening::Jump);
        self.book_soon(every.crash_ms, Happening::Crash);
        while self.clock_ms < self.plan.faults_ms && self.step(self.plan.faults_ms) {}
        self.mended = true;
        self.history.note(self.now(), Step::Mended);
        if self.subject.is_none() {
            self.restart();
        }
        self.drain("the faults stopped");
        // What is decided of an endpoint is heard of before it is resumed.
        let heard_ms = self.clock_ms + 2 * self.plan.slowest.control_ms;
        while self.step(heard_ms) {}
        for (endpoint, entry) in self.outbox.catalog.clone() {
            let is_ajar = self.oracle.gate_of(endpoint) == Gate::Ajar;
            if matches!(entry.gate, Gate::Held | Gate::Ajar) || self.oracle.is_held(endpoint) || is_ajar {
                self.set_gate(endpoint, Gate::Open);
            }
        }
        self.drain("all was resumed");
        self.is_done();
    }

    pub(super) fn now(&self) -> Timestamp {
        Timestamp::from_ms(BEGINNING_MS + self.offset_ms + self.clock_ms as i64)
    }

    /// An endpoint comes to be.
    pub(super) fn make(&mut self, endpoint: EndpointId, merchant: MerchantId) {
        self.outbox.catalog.insert(endpoint, Entry { merchant, gate: Gate::Open });
        let mut receiver = Receiver::random(&mut self.dice);
        // One that is disabled again and again would never be done.
        receiver.stubborn &= self.plan.policy.failing.disable_after_ms == 0;
        self.receivers.insert(endpoint, receiver);
    }

    pub(super) fn book(&mut self, in_ms: u64, happening: Happening) {
        self.booked += 1;
        self.agenda.insert((self.clock_ms + in_ms, self.booked), happening);
    }

    /// Books what comes again and again, where it does.
    pub(super) fn book_soon(&mut self, every_ms: Option<u64>, happening: Happening) {
        if let Some(every_ms) = every_ms {
            let in_ms = self.dice.below(2 * every_ms + 1);
            self.book(in_ms, happening);
        }
    }

    /// Books a commit, where one is needed and none is on its way.
    pub(super) fn book_commit(&mut self) {
        if !self.committing && !self.outbox.is_written() {
            self.committing = true;
            let in_ms = self.dice.between(0, self.plan.slowest.commit_ms);
            self.book(in_ms, Happening::Commit { life: self.life });
        }
    }

    /// Books the telling of what is committed, likewise.
    pub(super) fn book_tell(&mut self) {
        if !self.telling && !self.outbox.is_told() {
            self.telling = true;
            let in_ms = self.dice.between(0, self.plan.slowest.notice_ms);
            self.book(in_ms, Happening::Tell { life: self.life });
        }
    }

    pub(super) fn shard(&mut self) -> &mut dyn Subject {
        self.subject.as_deref_mut().expect("what happens inside of the process happens while it runs")
    }

    /// The next appointment at or before `end_ms`, and all that the shard wants done because of it.
    /// `false`: there was none, and it is `end_ms`.
    fn step(&mut self, end_ms: u64) -> bool {
        let Some((&(at_ms, booked), _)) = self.agenda.first_key_value().filter(|((at_ms, _), _)| *at_ms <= end_ms)
        else {
            self.clock_ms = end_ms;
            return false;
        };
        assert!(self.booked < HAPPENINGS_MAX, "rests: it goes on and on");
        let happening = self.agenda.remove(&(at_ms, booked)).expect("it was the first");
        self.clock_ms = at_ms;
        self.happen(happening);
        if self.subject.is_some() {
            self.act();
        }
        true
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Submit => self.submit(),
            Happening::Meddle => self.meddle(),
            Happening::Resend => self.resend(),
            Happening::Jump => self.jump(),
            Happening::Crash => self.crash(),
            Happening::Restart if self.subject.is_none() => self.restart(),
            Happening::Restart => {}
            Happening::Commit { life } if life == self.life => self.commit(),
            Happening::Tell { life } if life == self.life => self.tell(),
            Happening::Hear { life } if life == self.life => self.hear(),
            Happening::Answer { life, delivery, outcome } if life == self.life => self.answer(&delivery, outcome),
            Happening::Unmade { life, delivery } if life == self.life => self.unmade(&delivery),
            Happening::Read { life, endpoint, from, limit } if life == self.life => self.read(endpoint, from, limit),
            Happening::Page { life, endpoint, page } if life == self.life => self.page(endpoint, page),
            Happening::Disable { life, endpoint } if life == self.life => self.disable(endpoint),
            Happening::LookUp { life, event } if life == self.life => self.look_up(event),
            Happening::LetGo { life, delivery } if life == self.life => self.let_go(delivery),
            Happening::Wake { life } if life == self.life => self.wake_ms = None,
            // It was under way in a process that is gone.
            _ => {}
        }
    }

    /// Begins a life: the shard is told of every endpoint, and of those to which something is owed first.
    fn restart(&mut self) {
        self.life += 1;
        self.committing = false;
        self.telling = false;
        self.wake_ms = None;
        self.subject = Some(subject::begin(self.bug, self.life, &self.plan.limits, &self.plan.policy));
        self.history.note(self.now(), Step::Begin { life: self.life });
        let owed: Vec<EndpointId> = self.outbox.catalog.keys().copied().filter(|id| self.outbox.owes(*id)).collect();
        let living = |(id, entry): (&EndpointId, &Entry)| (entry.gate != Gate::Closed).then_some(*id);
        let others: Vec<EndpointId> = self.outbox.catalog.iter().filter_map(living).collect();
        for endpoint in &owed {
            self.open(*endpoint, self.outbox.catalog[endpoint].gate, true);
        }
        for endpoint in others.iter().filter(|endpoint| !owed.contains(endpoint)) {
            self.open(*endpoint, self.outbox.catalog[endpoint].gate, false);
        }
        self.act();
    }

    fn crash(&mut self) {
        if self.mended {
            return;
        }
        self.book_soon(self.plan.every.crash_ms, Happening::Crash);
        if self.subject.is_none() {
            return;
        }
        self.history.note(self.now(), Step::Crash);
        self.subject = None;
        self.life += 1;
        self.controls.clear();
        self.outbox.crash();
        self.oracle.crashed(&self.outbox);
        let in_ms = self.dice.between(0, 3_000);
        self.book(in_ms, Happening::Restart);
    }

    fn jump(&mut self) {
        if self.mended {
            return;
        }
        self.book_soon(self.plan.every.jump_ms, Happening::Jump);
        let ms = self.dice.between(0, 2 * JUMP_MS_MAX) as i64 - JUMP_MS_MAX as i64;
        self.offset_ms += ms;
        self.history.note(self.now(), Step::Jump { ms });
        // The shell finds out when it wakes up next.
        let in_ms = self.dice.below(SLEEP_MS_MAX);
        self.book(in_ms, Happening::Wake { life: self.life });
    }

    fn submit(&mut self) {
        if self.mended || self.submitted >= self.plan.events_max {
            return;
        }
        self.book_soon(Some(self.plan.every.event_ms), Happening::Submit);
        if self.subject.is_none() {
            return;
        }
        let endpoints: Vec<EndpointId> = self.outbox.catalog.keys().copied().collect();
        let burst = if self.dice.one_in(6) { self.dice.between(2, 12) } else { 1 };
        let favourite = self.plan.lopsided && !self.dice.one_in(4);
        for _ in 0..burst {
            let endpoint = if favourite { endpoints[0] } else { self.dice.pick(&endpoints) };
            self.outbox.submit(Write::Accept { endpoint });
            self.submitted += 1;
        }
        self.book_commit();
    }

    /// Books the wake-up that the shard wants, where none comes before it.
    pub(super) fn book_wake(&mut self, rest: Rest) {
        let Some(wake) = rest.wake else { return };
        let at_ms = self.clock_ms + wake.since_ms(rest.now);
        if self.wake_ms.is_none_or(|booked_ms| at_ms < booked_ms) {
            self.wake_ms = Some(at_ms);
            self.book(at_ms - self.clock_ms, Happening::Wake { life: self.life });
        }
    }

    /// Runs until nothing is left to be done; panics where that takes longer than it may.
    fn drain(&mut self, since: &str) {
        let end_ms = self.clock_ms + self.drain_ms_max();
        self.act();
        while !self.oracle.is_drained(&self.outbox) || !self.controls.is_empty() {
            let left = self.step(end_ms);
            assert!(left, "drains: {} wait, long after {since}", self.outbox.waiting().count());
        }
        self.oracle.books_agree(&self.outbox);
    }

    /// How long what is owed may take: for each attempt that may be left the longest wait, and then all of
    /// them one after another, each with the slowest of everything.
    fn drain_ms_max(&self) -> u64 {
        let policy = &self.plan.policy;
        let schedule = &policy.schedule;
        let plan_ms_max = schedule.delays_ms.iter().max().copied().unwrap_or(0) as f64 * (1.0 + schedule.jitter);
        let wait_ms_max = (plan_ms_max.ceil() as u64).max(schedule.retry_after_ms_max) + 2 * JUMP_MS_MAX;
        // Each may have to wait for a rest of its endpoint, a second for its rate, and be moved behind another.
        let rest_ms_max =
            if self.plan.care { 2 * policy.breaker.wait_ms_max + policy.fault_wait_ms_max + 1_000 } else { 0 };
        let slowest = self.plan.slowest;
        let overhead_ms =
            slowest.commit_ms + slowest.notice_ms + slowest.control_ms + 40 * (2 * slowest.page_ms + REREAD_MS);
        let owed = self.outbox.waiting().count() as u64 + 2;
        let stubborn = self.receivers.values().any(|receiver| receiver.stubborn);
        let attempts = if stubborn { schedule.delays_ms.len() as u64 + 1 } else { 1 };
        // At an ordered endpoint one delivery may wait for all attempts of another.
        let lines = if self.plan.care { owed } else { 1 };
        lines * attempts * (wait_ms_max + owed * (DEADLINE_MS + 2 * overhead_ms + rest_ms_max))
    }

    /// Nothing is owed and nothing is kept.
    fn is_done(&mut self) {
        assert_eq!(self.outbox.waiting().count(), 0, "nothing lost: all are resumed, so all must end");
        let figures = self.shard().figures();
        let rest = (figures.in_flight, figures.settling, figures.windowed, figures.payload_bytes, figures.refills);
        assert_eq!(rest, (0, 0, 0, 0, 0), "figures: nothing is owed and something is kept");
        assert_eq!(self.shard().oldest_due(), None, "figures: nothing is owed and something is due");
        let living = self.outbox.catalog.values().filter(|entry| entry.gate != Gate::Closed).count();
        assert_eq!(figures.endpoints, living, "figures: a deleted endpoint is forgotten when nothing is owed to it");
    }
}
