//! Bugs planted at the seam: each alters what the shard is told or what it says.
//!
//! Never planted where the seeds must pass; each must be found by the promise that it breaks.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};

use bytes::Bytes;
use posthaste::model::{
    Delivery, EndpointId, ErrorCode, EventId, MerchantId, Ordering, Outcome, Status, Terms, Timestamp, Verdict,
};
use posthaste::shard::{Action, Figures, Gate, Limits, Page, Policy, Recall, Settled, Shard};

use crate::care::terms;
use crate::subject::Subject;

/// What goes wrong, now and then or always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    DropsARetry,
    SendsASecondEarly,
    ForgetsANotice,
    ConfirmsTwice,
    ConfirmsTheOldState,
    SendsWhilePaused,
    SendsAfterDeletion,
    NeverCancels,
    LosesTheEndOfAPage,
    KeepsTooMuch,
    AttemptsTwice,
    ComesBackTooEarly,
    ComesBackTooLate,
    HearsRetryAfterUnbounded,
    IgnoresRetryAfter,
    TriesForever,
    GivesUpEarly,
    ForgetsABacklog,
    ExceedsInFlight,
    ExceedsAMerchant,
    ExceedsAnEndpoint,
    ExceedsSettling,
    LetsOneMerchantWait,
    LosesWhatIsGivenBack,
    HoldsWhatIsUnderWay,
    WakesLate,
    WakesForNothing,
    SwapsPayloads,
    GoesOnAfterGone,
    RollsItsOwnDice,
    KnocksOnAndOn,
    RestsTooShort,
    NeverEndsARest,
    ComesInCrowds,
    ForgetsTheOrder,
    ForgetsTheOrderAfterARestart,
    MovesNobodyBehind,
    OverlooksTheRate,
    ExpiresEarly,
    NeverExpires,
    DisablesEarly,
    KnocksOnWhileTheHostIsAtFault,
    RetriesWhileRetriesWait,
    RetriesWaitForEver,
}

/// Every bug, with the beginnings of what may be said of it. Where it is no promise's, it is the shard
/// itself that notices.
pub(crate) const BUGS: [(Bug, &[&str]); 44] = [
    (Bug::DropsARetry, &["drains:", "nothing lost:", "wakes:", "order:"]),
    (Bug::SendsASecondEarly, &["nothing early:", "pages:"]),
    (Bug::ForgetsANotice, &["drains:", "nothing lost:", "wakes:", "order:"]),
    (Bug::ConfirmsTwice, &["only what was settled"]),
    (Bug::ConfirmsTheOldState, &["as recorded:"]),
    (Bug::SendsWhilePaused, &["gate:", "limits:", "figures:"]),
    (Bug::SendsAfterDeletion, &["gate:", "figures:"]),
    (Bug::NeverCancels, &["drains:", "nothing lost:", "figures:"]),
    (Bug::LosesTheEndOfAPage, &["drains:", "nothing lost:", "wakes:", "order:"]),
    (Bug::KeepsTooMuch, &["limits:"]),
    (Bug::AttemptsTwice, &["nothing twice:"]),
    (Bug::ComesBackTooEarly, &["nothing early:"]),
    (Bug::ComesBackTooLate, &["nothing late:"]),
    (Bug::HearsRetryAfterUnbounded, &["nothing late:"]),
    (Bug::IgnoresRetryAfter, &["nothing early:", "rest:"]),
    (Bug::TriesForever, &["verdict:"]),
    (Bug::GivesUpEarly, &["verdict:"]),
    (Bug::ForgetsABacklog, &["drains:", "nothing lost:", "wakes:", "order:"]),
    (Bug::ExceedsInFlight, &["limits:"]),
    (Bug::ExceedsAMerchant, &["limits:"]),
    (Bug::ExceedsAnEndpoint, &["limits:"]),
    (Bug::ExceedsSettling, &["limits:"]),
    (Bug::LetsOneMerchantWait, &["drains:", "fairness:"]),
    (Bug::LosesWhatIsGivenBack, &["figures:", "recall:"]),
    (Bug::HoldsWhatIsUnderWay, &["recall:"]),
    (Bug::WakesLate, &["drains:", "wakes:"]),
    (Bug::WakesForNothing, &["wakes:"]),
    (Bug::SwapsPayloads, &["as recorded:"]),
    (Bug::GoesOnAfterGone, &["gate:", "limits:"]),
    (Bug::RollsItsOwnDice, &["the same seed"]),
    (Bug::KnocksOnAndOn, &["rest:", "pace:"]),
    (Bug::RestsTooShort, &["rest:"]),
    (Bug::NeverEndsARest, &["drains:"]),
    (Bug::ComesInCrowds, &["pace:"]),
    (Bug::ForgetsTheOrder, &["sequence:"]),
    (Bug::ForgetsTheOrderAfterARestart, &["sequence:"]),
    (Bug::MovesNobodyBehind, &["sequence:"]),
    (Bug::OverlooksTheRate, &["rate:"]),
    (Bug::ExpiresEarly, &["overdue:", "gate: a page"]),
    (Bug::NeverExpires, &["overdue:"]),
    (Bug::DisablesEarly, &["failing:"]),
    (Bug::KnocksOnWhileTheHostIsAtFault, &["rest:"]),
    (Bug::RetriesWhileRetriesWait, &["gate:"]),
    (Bug::RetriesWaitForEver, &["drains:", "nothing lost:", "wakes:"]),
];

/// Where a bug strikes now and then, it is every so many times.
const STRIKES_EVERY: u64 = 5;

/// A shard with a bug.
pub(crate) struct Mutant {
    shard: Shard,
    bug: Bug,
    life: u32,
    care: bool,
    chances: u64,
    kept: VecDeque<Action>,
    payload: Option<Bytes>,
}

impl Mutant {
    pub(crate) fn new(bug: Bug, life: u32, limits: &Limits, policy: &Policy) -> Mutant {
        let (mut limits, mut policy) = (limits.clone(), policy.clone());
        let care = limits.adaptive;
        match bug {
            Bug::ExceedsInFlight => limits.in_flight_max += 1,
            Bug::ExceedsAMerchant => limits.in_flight_per_merchant_max += 1,
            Bug::ExceedsAnEndpoint => limits.in_flight_per_endpoint_max += 1,
            Bug::ExceedsSettling => limits.settling_max += 1,
            Bug::KeepsTooMuch => limits.window_per_endpoint_max += 5,
            Bug::KnocksOnAndOn => policy.breaker.failures_to_open = 0,
            Bug::RestsTooShort => policy.breaker.wait_ms /= 4,
            Bug::NeverEndsARest => {
                policy.breaker.wait_ms = 1_000_000_000_000;
                policy.breaker.wait_ms_max = 1_000_000_000_000;
            }
            Bug::ComesInCrowds => limits.adaptive = false,
            Bug::ExpiresEarly => policy.overdue_ms_max /= 2,
            Bug::NeverExpires => policy.overdue_ms_max = 0,
            Bug::DisablesEarly if care => (policy.failing.disable_after_ms, policy.failing.spread_ms) = (1_000, 0),
            _ => {}
        }
        let shard = Shard::new(limits, policy);
        Mutant { shard, bug, life, care, chances: 0, kept: VecDeque::new(), payload: None }
    }

    fn strikes(&mut self, bug: Bug) -> bool {
        let is_it = self.bug == bug;
        self.chances += u64::from(is_it);
        is_it && self.chances.is_multiple_of(STRIKES_EVERY)
    }

    fn gate_of(&self, gate: Gate) -> Gate {
        match (self.bug, gate) {
            (Bug::SendsWhilePaused, Gate::Held) | (Bug::SendsAfterDeletion, Gate::Closed) => Gate::Open,
            (Bug::NeverCancels, Gate::Closed) => Gate::Held,
            (Bug::RetriesWhileRetriesWait, Gate::Ajar) => Gate::Open,
            (Bug::RetriesWaitForEver, Gate::Open) => Gate::Ajar,
            _ => gate,
        }
    }

    fn verdict_of(&mut self, now: Timestamp, outcome: &Outcome, verdict: Verdict) -> Verdict {
        match (self.bug, verdict) {
            (Bug::TriesForever, Verdict::Failed) => Verdict::RetryAt(now.plus_ms(1_000)),
            (Bug::GivesUpEarly, Verdict::RetryAt(_)) if self.strikes(Bug::GivesUpEarly) => Verdict::Failed,
            (Bug::ComesBackTooEarly, Verdict::RetryAt(due)) => Verdict::RetryAt(now.plus_ms(due.since_ms(now) / 2)),
            (Bug::ComesBackTooLate, Verdict::RetryAt(due)) => Verdict::RetryAt(due.plus_ms(due.since_ms(now) / 2 + 1)),
            (Bug::HearsRetryAfterUnbounded, Verdict::RetryAt(due)) => match *outcome {
                Outcome::Failure { status: Some(429 | 503), retry_after_ms: Some(asked_ms), .. } => {
                    Verdict::RetryAt(due.max(now.plus_ms(asked_ms)))
                }
                _ => verdict,
            },
            _ => verdict,
        }
    }

    /// What is said of something under way.
    fn recall_of(&self, recall: Recall) -> Recall {
        match (self.bug, recall) {
            (Bug::HoldsWhatIsUnderWay, Recall::InFlight | Recall::Settling) => Recall::Unknown,
            (_, recall) => recall,
        }
    }

    fn attempt_of(&mut self, mut delivery: Delivery) -> Action {
        if self.bug == Bug::SwapsPayloads {
            let own = delivery.payload.take();
            delivery.payload = self.payload.take();
            self.payload = own;
        }
        if self.strikes(Bug::AttemptsTwice) {
            self.kept.push_back(Action::Attempt(delivery.clone()));
        }
        Action::Attempt(delivery)
    }
}

impl Subject for Mutant {
    fn open(&mut self, endpoint: EndpointId, merchant: MerchantId, gate: Gate, backlog: bool, mut terms: Terms) {
        match self.bug {
            Bug::ForgetsTheOrder => terms.ordering = Ordering::Free,
            Bug::ForgetsTheOrderAfterARestart if self.life > 1 => terms.ordering = Ordering::Free,
            Bug::OverlooksTheRate => terms.rate = None,
            _ => {}
        }
        let forgotten = self.bug == Bug::ForgetsABacklog && self.life > 1 && gate == Gate::Open;
        self.shard.open(endpoint, merchant, self.gate_of(gate), backlog && !forgotten, terms);
    }

    fn accept(&mut self, delivery: Delivery) {
        if !self.strikes(Bug::ForgetsANotice) {
            self.shard.accept(delivery);
        }
    }

    fn poll(&mut self, now: Timestamp) -> Option<Action> {
        if self.bug == Bug::AttemptsTwice
            && let Some(action) = self.kept.pop_front()
        {
            return Some(action);
        }
        let now = if self.bug == Bug::SendsASecondEarly { now.plus_ms(1_000) } else { now };
        loop {
            match self.shard.poll(now) {
                Some(Action::Attempt(delivery)) => {
                    if self.bug == Bug::LetsOneMerchantWait && delivery.merchant.as_str() == "m0" {
                        self.kept.push_back(Action::Attempt(delivery));
                        continue;
                    }
                    return Some(self.attempt_of(delivery));
                }
                Some(Action::Move(delivery, _)) if self.bug == Bug::MovesNobodyBehind => {
                    return Some(Action::Attempt(delivery));
                }
                None => return self.kept.pop_front(),
                action => return action,
            }
        }
    }

    fn settle(
        &mut self,
        now: Timestamp,
        endpoint: EndpointId,
        event: EventId,
        outcome: &Outcome,
        chance: f64,
    ) -> Settled {
        let heard = match *outcome {
            Outcome::Failure { error, status, .. } if self.bug == Bug::IgnoresRetryAfter => {
                Outcome::Failure { error, status, retry_after_ms: None }
            }
            outcome => outcome,
        };
        let rolled = || RandomState::new().hash_one(0) as f64 / u64::MAX as f64;
        let chance = if self.bug == Bug::RollsItsOwnDice { rolled() } else { chance };
        let settled = self.shard.settle(now, endpoint, event, &heard, chance);
        if self.bug == Bug::GoesOnAfterGone && settled.disable.is_some() {
            let terms = terms(endpoint, self.care);
            self.shard.open(endpoint, settled.delivery.merchant.clone(), Gate::Open, false, terms);
        }
        Settled { verdict: self.verdict_of(now, outcome, settled.verdict), ..settled }
    }

    fn give_back(&mut self, endpoint: EndpointId, event: EventId) {
        if self.bug == Bug::LosesWhatIsGivenBack {
            let lost = Outcome::failed(ErrorCode::ProtocolError);
            self.shard.settle(Timestamp::ZERO, endpoint, event, &lost, 0.5);
        } else {
            self.shard.give_back(endpoint, event);
        }
    }

    fn excuse(&mut self, now: Timestamp, endpoint: EndpointId, event: EventId) {
        if self.bug == Bug::KnocksOnWhileTheHostIsAtFault {
            self.shard.give_back(endpoint, event);
        } else {
            self.shard.excuse(now, endpoint, event);
        }
    }

    fn confirm(&mut self, mut delivery: Delivery) {
        if delivery.status == Status::Retrying && self.strikes(Bug::DropsARetry) {
            delivery.status = Status::Failed;
        }
        if self.bug == Bug::ConfirmsTheOldState {
            delivery.attempts = delivery.attempts.saturating_sub(1);
        }
        if self.strikes(Bug::ConfirmsTwice) {
            self.shard.confirm(delivery.clone());
        }
        self.shard.confirm(delivery);
    }

    fn refill(&mut self, endpoint: EndpointId, mut page: Page) {
        if !page.more && self.bug == Bug::LosesTheEndOfAPage {
            page.deliveries.pop();
        }
        self.shard.refill(endpoint, page);
    }

    fn refill_failed(&mut self, endpoint: EndpointId) {
        self.shard.refill_failed(endpoint);
    }

    fn recall(&mut self, endpoint: EndpointId, event: EventId) -> Recall {
        let recall = self.shard.recall(endpoint, event);
        self.recall_of(recall)
    }

    fn hold(&mut self, delivery: &Delivery) -> Recall {
        let recall = self.shard.hold(delivery);
        self.recall_of(recall)
    }

    fn next_wake(&self) -> Option<Timestamp> {
        let wake = self.shard.next_wake();
        match self.bug {
            Bug::WakesLate => wake.map(|wake| wake.plus_ms(60_000)),
            Bug::WakesForNothing => wake.map(|_| Timestamp::ZERO),
            _ => wake,
        }
    }

    fn oldest_due(&self) -> Option<Timestamp> {
        self.shard.oldest_due()
    }

    fn figures(&self) -> Figures {
        self.shard.figures()
    }
}
