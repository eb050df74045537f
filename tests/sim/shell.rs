//! The shell round the shard, as the dispatcher is one: does what the shard wants, tells it what came of it.
//!
//! Never decides anything but by the dice.

use posthaste::model::{Delivery, DueKey, EndpointId, EventId, Outcome, Status, Verdict};
use posthaste::shard::{Action, Gate, Page, Recall};

use crate::history::{Step, coded};
use crate::outbox::{Notice, Settlement, Write, payload};
use crate::rest::Rest;
use crate::world::{Control, Happening, REREAD_MS, World};

/// More than one moment can hold.
const ACTIONS_MAX: usize = 20_000;

impl World {
    /// Does everything that the shard wants done now.
    pub(super) fn act(&mut self) {
        let now = self.now();
        self.oracle.look(now);
        for _ in 0..ACTIONS_MAX {
            match self.shard().poll(now) {
                Some(Action::Attempt(delivery)) => self.attempt(delivery),
                Some(Action::Cancel(delivery)) => self.cancel(delivery),
                Some(Action::Refill { endpoint, from, limit }) => self.ask(endpoint, from, limit),
                None => return self.rest(),
            }
        }
        panic!("rests: {ACTIONS_MAX} actions in one moment");
    }

    pub(super) fn open(&mut self, endpoint: EndpointId, gate: Gate, backlog: bool) {
        self.history.note(self.now(), Step::Open { endpoint, gate: gate as u8, backlog });
        let merchant = self.outbox.catalog[&endpoint].merchant.clone();
        self.shard().open(endpoint, merchant, gate, backlog);
        self.oracle.opened(&self.outbox, endpoint, gate, backlog);
    }

    /// The announcement that waits longest reaches the shard.
    pub(super) fn hear(&mut self) {
        if let Some(Control { endpoint, gate }) = self.controls.pop_front() {
            self.open(endpoint, gate, false);
        }
    }

    /// Some of what is committed reaches the shard; every announcement before it.
    pub(super) fn tell(&mut self) {
        self.telling = false;
        while !self.controls.is_empty() {
            self.hear();
        }
        for _ in 0..self.dice.between(1, 8) {
            match self.outbox.tell() {
                Some(Notice::Accepted(delivery)) => {
                    let Delivery { endpoint, event, due, .. } = delivery;
                    self.history.note(self.now(), Step::Accept { endpoint, event, due });
                    self.oracle.accepted(&delivery);
                    self.shard().accept(delivery);
                }
                Some(Notice::Settled(delivery)) => self.confirm(delivery),
                None => break,
            }
        }
        self.book_tell();
    }

    /// Some of what was handed in is committed.
    pub(super) fn commit(&mut self) {
        self.committing = false;
        let now = self.now();
        for _ in 0..self.dice.between(1, 12) {
            if let Some(Notice::Accepted(delivery) | Notice::Settled(delivery)) =
                self.outbox.commit(now, &mut self.dice)
            {
                self.oracle.recorded(&delivery);
            }
        }
        self.book_commit();
        self.book_tell();
    }

    /// An attempt ends. Who had their endpoint deleted often has the receiver say so too.
    pub(super) fn answer(&mut self, delivery: &Delivery, outcome: Outcome) {
        let deleted = self.outbox.catalog[&delivery.endpoint].gate == Gate::Closed;
        let says_so = deleted && self.dice.one_in(4);
        self.answered(delivery, &if says_so { Outcome::of_status(410, None) } else { outcome });
    }

    fn answered(&mut self, delivery: &Delivery, outcome: &Outcome) {
        let (now, chance) = (self.now(), self.dice.unit());
        let settled = self.shard().settle(now, delivery.endpoint, delivery.event, outcome, chance);
        assert!(settled.delivery.event == delivery.event, "as recorded: another delivery is settled");
        self.oracle.settled(&self.outbox, &settled, outcome, now);
        let (then, status, due) = match settled.verdict {
            Verdict::Delivered => (0, Status::Delivered, delivery.due),
            Verdict::RetryAt(due) => (1, Status::Retrying, due),
            Verdict::Failed => (2, Status::Failed, delivery.due),
            Verdict::Canceled => (3, Status::Canceled, delivery.due),
        };
        let Delivery { endpoint, event, .. } = *delivery;
        let (error, answer) = coded(outcome);
        self.history.note(now, Step::Settle { endpoint, event, error, status: answer, then, at: due });
        self.outbox.submit(Write::Settle(Settlement {
            attempts: settled.attempts,
            attempts_before: settled.delivery.attempts_before,
            delivery: settled.delivery,
            status,
            due,
            attempted: true,
        }));
        self.book_commit();
        if settled.disable.is_some() {
            let in_ms = self.dice.between(0, self.plan.slowest.control_ms);
            self.book(in_ms, Happening::Disable { life: self.life, endpoint });
        }
    }

    pub(super) fn unmade(&mut self, delivery: &Delivery) {
        let Delivery { endpoint, event, .. } = *delivery;
        self.history.note(self.now(), Step::GiveBack { endpoint, event });
        self.oracle.given_back(delivery);
        self.shard().give_back(endpoint, event);
    }

    /// The page is read now and comes later; one in a while cannot be read.
    pub(super) fn read(&mut self, endpoint: EndpointId, from: DueKey, limit: usize) {
        let page = (!self.dice.one_in(self.plan.slowest.page_fails_in)).then(|| self.read_page(endpoint, from, limit));
        let left_alone_ms = if page.is_some() { 0 } else { REREAD_MS };
        let in_ms = left_alone_ms + self.dice.between(0, self.plan.slowest.page_ms);
        self.book(in_ms, Happening::Page { life: self.life, endpoint, page });
    }

    pub(super) fn page(&mut self, endpoint: EndpointId, page: Option<Page>) {
        self.oracle.page_came(&self.outbox, endpoint, page.as_ref());
        match page {
            Some(page) => {
                let (len, more) = (page.deliveries.len(), page.more);
                self.history.note(self.now(), Step::Page { endpoint, len, more });
                self.shard().refill(endpoint, page);
            }
            None => {
                self.history.note(self.now(), Step::PageFailed { endpoint });
                self.shard().refill_failed(endpoint);
            }
        }
    }

    /// The product switches an endpoint off, unless it is gone meanwhile.
    pub(super) fn disable(&mut self, endpoint: EndpointId) {
        if self.outbox.catalog[&endpoint].gate != Gate::Closed {
            self.set_gate(endpoint, Gate::Held);
        }
    }

    /// A gate is configured; the shard hears of it a little later.
    pub(super) fn set_gate(&mut self, endpoint: EndpointId, gate: Gate) {
        self.outbox.catalog.get_mut(&endpoint).expect("an endpoint stays in the catalog").gate = gate;
        self.announce(endpoint, gate);
    }

    pub(super) fn announce(&mut self, endpoint: EndpointId, gate: Gate) {
        if self.subject.is_some() {
            self.controls.push_back(Control { endpoint, gate });
            let in_ms = self.dice.between(0, self.plan.slowest.control_ms);
            self.book(in_ms, Happening::Hear { life: self.life });
        }
    }

    /// Looks an event up in order to move it, as it is recorded now.
    pub(super) fn look_up(&mut self, event: EventId) {
        let known = self.outbox.deliveries[&event].clone();
        let asked = if known.status.is_waiting() { known } else { self.readdressed(known) };
        // Two moves at once to different endpoints are for the one who asks to prevent.
        if self.outbox.is_moving_elsewhere(event, asked.endpoint) {
            return;
        }
        let recall = self.shard().hold(&asked);
        self.recalled(asked.endpoint, event, &recall);
        match recall {
            Recall::InFlight | Recall::Settling => {}
            Recall::Waiting(delivery) => self.move_on(delivery),
            Recall::Unknown => {
                self.oracle.held(&asked);
                self.move_on(asked);
            }
        }
    }

    pub(super) fn recalled(&mut self, endpoint: EndpointId, event: EventId, recall: &Recall) {
        let found = match recall {
            Recall::InFlight => "in flight",
            Recall::Settling => "settling",
            Recall::Waiting(_) => "waiting",
            Recall::Unknown => "unknown",
        };
        self.history.note(self.now(), Step::Recall { endpoint, event, found });
        self.oracle.recalled(&self.outbox, endpoint, event, recall);
    }

    /// A delivery that is recalled or held is resent, canceled by hand, or left alone after all.
    pub(super) fn move_on(&mut self, delivery: Delivery) {
        let choice = self.dice.below(4);
        if choice == 0 {
            let in_ms = self.dice.between(0, 500);
            return self.book(in_ms, Happening::LetGo { life: self.life, delivery });
        }
        let canceled = choice == 1 && delivery.status.is_waiting();
        let waiting = if delivery.attempts == 0 { Status::Pending } else { Status::Retrying };
        let (attempts, due) = (delivery.attempts, self.now());
        let attempts_before = if canceled { delivery.attempts_before } else { attempts };
        let status = if canceled { Status::Canceled } else { waiting };
        let settlement = Settlement { delivery, status, due, attempts, attempts_before, attempted: false };
        self.outbox.submit(Write::Settle(settlement));
        self.book_commit();
    }

    pub(super) fn let_go(&mut self, delivery: Delivery) {
        self.confirm(delivery);
    }

    fn attempt(&mut self, delivery: Delivery) {
        let Delivery { endpoint, event, due, attempts, .. } = delivery;
        self.history.note(self.now(), Step::Attempt { endpoint, event, due, number: attempts + 1 });
        self.oracle.attempted(&self.outbox, &delivery, self.now());
        if self.dice.one_in(30) {
            return self.book(REREAD_MS, Happening::Unmade { life: self.life, delivery });
        }
        let receiver = self.receivers[&endpoint];
        let (in_ms, outcome) = receiver.answer(&mut self.dice, self.clock_ms, self.mended);
        self.book(in_ms, Happening::Answer { life: self.life, delivery, outcome });
    }

    fn cancel(&mut self, delivery: Delivery) {
        let Delivery { endpoint, event, due, attempts, attempts_before, .. } = delivery;
        self.history.note(self.now(), Step::Cancel { endpoint, event });
        self.oracle.canceled(&self.outbox, &delivery);
        let status = Status::Canceled;
        let settlement = Settlement { delivery, status, due, attempts, attempts_before, attempted: false };
        self.outbox.submit(Write::Settle(settlement));
        self.book_commit();
    }

    fn ask(&mut self, endpoint: EndpointId, from: DueKey, limit: usize) {
        self.history.note(self.now(), Step::Refill { endpoint, from, limit });
        self.oracle.page_asked(endpoint, from, limit);
        let in_ms = self.dice.between(0, self.plan.slowest.page_ms);
        self.book(in_ms, Happening::Read { life: self.life, endpoint, from, limit });
    }

    fn confirm(&mut self, delivery: Delivery) {
        let Delivery { endpoint, event, due, status, .. } = delivery;
        self.history.note(self.now(), Step::Confirm { endpoint, event, due, status: status.code() });
        self.oracle.confirmed(&delivery);
        self.shard().confirm(delivery);
    }

    /// A page may be shorter than it could be, may say that more follows where nothing does, and may bring
    /// payloads.
    fn read_page(&mut self, endpoint: EndpointId, from: DueKey, limit: usize) -> Page {
        let limit = if self.dice.one_in(4) { self.dice.count(1, limit) } else { limit };
        let mut page = self.outbox.page(endpoint, from, limit);
        page.more |= !page.deliveries.is_empty() && self.dice.one_in(6);
        for delivery in page.deliveries.iter_mut().filter(|delivery| delivery.sequence % 3 == 0) {
            delivery.payload = Some(payload(delivery.sequence));
        }
        page
    }

    fn rest(&mut self) {
        let now = self.now();
        let shard = self.shard();
        let (wake, oldest_due, figures) = (shard.next_wake(), shard.oldest_due(), shard.figures());
        let rest = Rest { now, wake, oldest_due, figures };
        self.history.note(
            now,
            Step::Rest {
                wake,
                in_flight: figures.in_flight,
                settling: figures.settling,
                windowed: figures.windowed,
                payload_bytes: figures.payload_bytes,
            },
        );
        self.oracle.rests(&self.outbox, rest);
        self.book_wake(rest);
    }
}
