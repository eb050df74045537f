//! Random programs, run on a store and on the model beside it: whatever can be seen must be the same.
//!
//! Ids and locations differ between the two, so events are known by the order of their acceptance.
//! Where history is dropped, the model is told what the store dropped, once it is sure that it could be.
//! `POSTHASTE_STORE_SEEDS=1000` runs the seeds below 1000; `POSTHASTE_STORE_SEEDS=17..18` runs one.

use std::collections::BTreeMap;
use std::ops::Range;
use std::thread;

use bytes::Bytes;
use posthaste::clock::Clock;
use posthaste::entropy::Entropy;
use posthaste::model::{
    Attempt, Delivery, DisabledReason, Endpoint, EndpointId, EndpointState, ErrorCode, EventId, EventType, EventTypes,
    KeyId, Merchant, MerchantId, OldSecret, Outcome, OwnerKind, Phases, Response, Role, Secret, Sent, Status,
    Timestamp,
};
use posthaste::store::{Acceptance, Change, Dossier, HistoryItem, HistoryQuery, NewEvent, Settlement};

use crate::disk::RETENTION_MS;
use crate::samples::{canceled, endpoint, everything, key, keyed, made_up, merchant, moved, name, resent, unrouted};
use crate::subject::{Ending, Subject, TestEntropy, memory_beside};

const MERCHANTS: [&str; 3] = ["acme", "globex", "initech"];
const RESOURCES: [&str; 3] = ["card_1", "card_2", "account_1"];
const HOUR_MS: u64 = 60 * 60 * 1000;

/// Runs the programs of all seeds, in which history is dropped where it is `fleeting`.
pub(crate) fn agree_with_the_model(fresh: fn() -> Subject, fleeting: bool) {
    for seed in seeds() {
        let mut run = Run::new(seed, fresh(), fleeting);
        let length = 300 + run.dice.below(701);
        while run.done < length {
            run.step();
            run.done += 1;
        }
        run.compare_all();
    }
}

fn seeds() -> Range<u64> {
    let text = std::env::var("POSTHASTE_STORE_SEEDS").unwrap_or_else(|_| "16".to_owned());
    let number = |text: &str| text.parse().expect("POSTHASTE_STORE_SEEDS is a number or a range like 17..18");
    match text.split_once("..") {
        Some((first, end)) => number(first)..number(end),
        None => 0..number(&text),
    }
}

/// The store under test first, the model second.
type Both<T> = [T; 2];

/// One program while it runs.
struct Run {
    seed: u64,
    done: u64,
    dice: TestEntropy,
    both: Both<Subject>,
    /// Every event, in the order of acceptance.
    known: Vec<Known>,
    /// From id to place in `known`.
    places: Both<BTreeMap<EventId, usize>>,
    /// Every endpoint that ever was.
    endpoints: Vec<(EndpointId, &'static str)>,
    keys: BTreeMap<(&'static str, u8), FirstUse>,
    /// The latest time that the clock ever showed.
    peak: Timestamp,
    fleeting: bool,
}

/// An event and its delivery as last noticed.
struct Known {
    merchant: MerchantId,
    ids: Both<EventId>,
    delivery: Option<Both<Delivery>>,
    /// The earliest time shown since its acceptance: its segment cannot have ended before.
    low: Timestamp,
    dropped: bool,
}

/// When a producer's key was first used: by the clock, and by the latest time shown until then.
struct FirstUse {
    clock: Timestamp,
    peak: Timestamp,
}

impl Drop for Run {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("failed at operation {} of POSTHASTE_STORE_SEEDS={}..{}", self.done, self.seed, self.seed + 1);
        }
    }
}

impl Run {
    fn new(seed: u64, subject: Subject, fleeting: bool) -> Run {
        let model = memory_beside(subject.clock.clone(), u64::MAX);
        Run {
            seed,
            done: 0,
            dice: TestEntropy::seeded(seed),
            peak: subject.clock.now(),
            both: [subject, model],
            known: Vec::new(),
            places: [BTreeMap::new(), BTreeMap::new()],
            endpoints: Vec::new(),
            keys: BTreeMap::new(),
            fleeting,
        }
    }

    fn step(&mut self) {
        match self.dice.below(100) {
            0..30 => self.accept(),
            30..55 => self.settle(),
            55..60 => self.resend(),
            60..70 => self.change(),
            70..76 => self.shift_clock(),
            76..95 => self.compare_something(),
            95..98 if self.fleeting => self.retain(),
            95..98 => self.compare_something(),
            _ => self.end(),
        }
    }

    fn accept(&mut self) {
        let merchant = self.any(&MERCHANTS);
        let endpoints = self.endpoint_of(merchant).filter(|_| self.dice.below(8) > 0).into_iter().collect();
        let mut payload = vec![0; usize::try_from(self.dice.below(40)).expect("small")];
        self.dice.fill(&mut payload);
        let mut event = NewEvent {
            event_type: self.any(&EventType::ALL),
            resource_id: self.maybe(&RESOURCES).map(Into::into),
            traceparent: self.maybe(&["00-1-2-01"]).map(Into::into),
            payload: Bytes::from(payload),
            endpoints,
            ..unrouted(merchant)
        };
        if let Some(used) = self.usable_key(merchant) {
            event = keyed(event, used, u8::from(self.dice.below(4) == 0));
            let clock = self.now();
            if self.keys.get(&(merchant, used)).is_none_or(|first| clock.since_ms(first.peak) > 36 * HOUR_MS) {
                self.keys.insert((merchant, used), FirstUse { clock, peak: self.peak });
            }
        }
        let answers = [0, 1].map(|side| self.both[side].accept(event.clone()));
        if let [Acceptance::Fresh { id: ours, .. }, Acceptance::Fresh { id: theirs, .. }] = answers {
            let ids = [ours, theirs];
            let place = self.known.len();
            for (places, id) in self.places.iter_mut().zip(ids) {
                places.insert(id, place);
            }
            let noticed = [0, 1].map(|side| self.both[side].notices.accepted(ids[side]));
            let delivery = both(noticed, "owed here, but not there");
            self.known.push(Known { merchant: event.merchant.clone(), ids, delivery, low: self.now(), dropped: false });
            if let Some(delivery) = &self.known[place].delivery {
                assert_eq!(self.told(0, &delivery[0]), self.told(1, &delivery[1]));
            }
        }
        let [ours, theirs] = [0, 1].map(|side| match answers[side] {
            Acceptance::Fresh { id, sequence } => format!("fresh {} {sequence}", self.places[side][&id]),
            Acceptance::Duplicate { id, sequence } => format!("duplicate {} {sequence}", self.places[side][&id]),
            Acceptance::Conflict => "conflict".to_owned(),
        });
        assert_eq!(ours, theirs, "{event:?}");
    }

    /// A producer's key whose fate is certain. Between a day and a day and a half a store may have
    /// forgotten it or not, and the latest time ever shown is what it may have gone by.
    fn usable_key(&self, merchant: &'static str) -> Option<u8> {
        let wanted = u8::try_from(self.dice.below(20)).expect("small");
        let certain = self.keys.get(&(merchant, wanted)).is_none_or(|first| {
            self.peak.since_ms(first.clock) < 24 * HOUR_MS || self.now().since_ms(first.peak) > 36 * HOUR_MS
        });
        (wanted < 6 && certain).then_some(wanted)
    }

    fn settle(&mut self) {
        let Some(place) = self.place(|known| is_waiting(known) == Some(true)) else { return };
        let (now, later) = (self.now(), self.now().plus_ms(self.dice.below(HOUR_MS)));
        let step = self.dice.below(10);
        let sample = self.known[place].delivery.as_ref().expect("it is waiting")[1].clone();
        let attempt = self.attempt(sample.attempts + 1, step < 3);
        self.apply(place, |delivery| {
            let attempted = Settlement { attempt: Some(attempt.clone()), at: now, ..moved(delivery, later) };
            match step {
                0..3 => Settlement { status: Status::Delivered, ..attempted },
                3..6 => Settlement { status: Status::Retrying, ..attempted },
                6 => Settlement { status: Status::Retrying, due: delivery.due, ..attempted },
                7 => Settlement { status: Status::Failed, ..attempted },
                8 => moved(delivery, later),
                _ => canceled(delivery),
            }
        });
    }

    fn attempt(&self, number: u32, good: bool) -> Attempt {
        let failure = Outcome::Failure {
            error: self.any(&ErrorCode::ALL),
            status: self.maybe(&[500, 404, 302]),
            retry_after_ms: self.maybe(&[0, 60_000]),
        };
        let mut body = vec![0; usize::try_from(self.dice.below(20)).expect("small")];
        self.dice.fill(&mut body);
        let response = Response {
            headers: vec![("x-body".to_owned(), body.clone())],
            body: Bytes::from(body),
            truncated: self.dice.below(2) == 0,
        };
        let sent = Sent { timestamp_s: self.now().as_s(), standard: self.maybe(&[[7; 32]]), ..Sent::default() };
        Attempt {
            number,
            started_at: self.now(),
            duration_ms: u32::try_from(self.dice.below(10_000)).expect("small"),
            phases: Phases { head_us: self.maybe(&[1, 2]), dns_us: self.maybe(&[3]), ..Phases::default() },
            outcome: if good { Outcome::Success { status: 200 } } else { failure },
            sent: self.maybe(&[sent]),
            response: self.maybe(&[response]),
        }
    }

    fn resend(&mut self) {
        let Some(place) = self.place(|known| is_waiting(known) != Some(true)) else { return };
        let due = self.now();
        if self.known[place].delivery.is_none() {
            let known = &self.known[place];
            let Some(endpoint) = self.endpoint_of(known.merchant.as_str()) else { return };
            let dossiers = [0, 1].map(|side| self.both[side].dossier(&known.merchant, known.ids[side]));
            self.known[place].delivery = Some(dossiers.map(|dossier| made_up(&dossier, endpoint)));
        }
        self.apply(place, |delivery| resent(delivery, due));
    }

    /// Takes the same step on both sides and compares what they say of it.
    fn apply(&mut self, place: usize, step: impl Fn(&Delivery) -> Settlement) {
        let before = self.known[place].delivery.as_ref().expect("there is a delivery");
        let after = [0, 1].map(|side| self.both[side].settle(step(&before[side])));
        assert_eq!(self.told(0, &after[0]), self.told(1, &after[1]));
        self.known[place].delivery = Some(after);
    }

    fn change(&mut self) {
        let list: Vec<Change> = (0..=self.dice.below(3)).map(|_| self.any_change()).collect();
        self.both.iter().for_each(|side| side.change(list.clone()));
    }

    fn any_change(&mut self) -> Change {
        let owner = self.any(&MERCHANTS);
        let key_id = self.dice.below(4);
        match self.dice.below(12) {
            0..3 => Change::PutMerchant(Merchant {
                name: self.maybe(&["A", "B"]).map(Into::into),
                created_at: self.now(),
                paused_at: self.maybe(&[self.now()]),
                ..merchant(owner)
            }),
            3 => Change::DeleteMerchant(name(owner)),
            4..6 => {
                let id = EndpointId(self.endpoints.len() as u64 + 1);
                self.endpoints.push((id, owner));
                Change::PutEndpoint(self.any_endpoint(id, owner))
            }
            6 => match self.both[1].catalog().endpoints.as_slice() {
                [] => Change::PutMerchant(merchant(owner)),
                live => {
                    let old = self.any(live);
                    Change::PutEndpoint(self.any_endpoint(old.id, old.merchant.as_str()))
                }
            },
            7 => Change::DeleteEndpoint(self.endpoint_of(owner).unwrap_or(EndpointId(0))),
            8 => Change::PutKey(key(key_id, self.any(&[Role::Producer, Role::Operator, Role::Merchant(name(owner))]))),
            9 => Change::DeleteKey(KeyId(key_id)),
            10 => Change::PutOwner(
                self.any(&[OwnerKind::Card, OwnerKind::Account]),
                self.any(&RESOURCES).into(),
                name(owner),
            ),
            _ => Change::DeleteOwner(self.any(&[OwnerKind::Card, OwnerKind::Account]), self.any(&RESOURCES).into()),
        }
    }

    fn any_endpoint(&self, id: EndpointId, owner: &str) -> Endpoint {
        let secret = || Secret::new(&format!("secret {}", self.dice.below(9))).expect("a legal secret");
        let old_secret = || OldSecret { secret: secret(), until: self.now() };
        let old_secrets = [vec![], vec![old_secret()], vec![old_secret(), old_secret()]];
        let gone = EndpointState::Disabled(DisabledReason::Gone);
        Endpoint {
            event_types: EventTypes::only([self.any(&EventType::ALL)]).expect("not empty"),
            secret: self.maybe(&[secret()]),
            old_secrets: self.any(&old_secrets),
            state: self.any(&[EndpointState::Active, EndpointState::Paused, gone]),
            updated_at: self.now(),
            ..endpoint(id, owner)
        }
    }

    fn shift_clock(&mut self) {
        let ms = match self.dice.below(12) {
            0 => 37 * HOUR_MS,
            1 => 13 * HOUR_MS,
            _ => self.dice.below(600_000),
        };
        let ms = i64::try_from(ms).expect("small");
        let back = self.dice.below(6) == 0;
        self.both[0].clock.shift(if back { -ms.min(300_000) } else { ms });
        let now = self.now();
        self.peak = self.peak.max(now);
        self.known.iter_mut().for_each(|known| known.low = known.low.min(now));
    }

    fn end(&mut self) {
        let ending = self.any(&Ending::ALL);
        if self.both[0].end(ending) {
            self.compare_all();
        }
    }

    /// Drops what is past its time, and lets the model forget what was dropped.
    fn retain(&mut self) {
        let age_ms = RETENTION_MS.unsigned_abs();
        self.both[0].clock.shift(RETENTION_MS / 2);
        self.peak = self.peak.max(self.now());
        self.both[0].retain();
        for place in 0..self.known.len() {
            let known = &self.known[place];
            if known.dropped || self.both[0].store().dossier(&known.merchant, known.ids[0]).expect("readable").is_some()
            {
                continue;
            }
            assert!(is_waiting(known) != Some(true), "event {place} was owed");
            assert!(self.now().since_ms(known.low) + 1_000 > age_ms, "event {place} was dropped before its time");
            let forget = self.both[1].forget.as_ref().expect("the model can be told");
            forget(&known.merchant, known.ids[1]);
            self.known[place].dropped = true;
        }
    }

    fn compare_something(&self) {
        match self.dice.below(10) {
            0..5 => self.compare_page(),
            5..8 => self.compare_due(),
            8 => self.compare_summaries(),
            _ => self.kept().rev().take(5).for_each(|place| self.compare_dossier(place)),
        }
    }

    fn compare_page(&self) {
        let bounds = [0, 1].map(|_| self.place(|_| true));
        let bound = |end: usize, side: usize| bounds[end].map(|place| self.known[place].ids[side]);
        let (bounded, query) = (self.dice.below(4), self.any_query());
        let [ours, theirs] = [0, 1].map(|side| {
            let query = HistoryQuery {
                first: bound(0, side).filter(|_| bounded & 1 == 1).unwrap_or(EventId::MIN),
                last: bound(1, side).filter(|_| bounded & 2 == 2).unwrap_or(EventId::MAX),
                ..query.clone()
            };
            let page = self.both[side].page(&query);
            (page.items.into_iter().map(|item| self.placed(side, item)).collect::<Vec<_>>(), page.more)
        });
        assert_eq!(ours, theirs, "{query:?}");
    }

    fn any_query(&self) -> HistoryQuery {
        let some_of = |bits: u64, n: usize| self.dice.below(2) == 0 && bits >> n & 1 == 1;
        let (statuses, types) = (self.dice.below(64), self.dice.below(16));
        HistoryQuery {
            statuses: Status::ALL
                .into_iter()
                .enumerate()
                .filter(|(n, _)| some_of(statuses, *n))
                .map(|(_, s)| s)
                .collect(),
            event_types: EventType::ALL
                .into_iter()
                .enumerate()
                .filter(|(n, _)| some_of(types, *n))
                .map(|(_, t)| t)
                .collect(),
            resource_id: self.maybe(&RESOURCES).filter(|_| self.dice.below(2) == 0).map(str::to_owned),
            descending: self.dice.below(2) == 0,
            limit: 1 + usize::try_from(self.dice.below(20)).expect("small"),
            ..everything(self.any(&MERCHANTS))
        }
    }

    fn compare_due(&self) {
        let Some((endpoint, _)) = self.maybe(&self.endpoints) else { return };
        let from = self.place(|known| known.delivery.is_some());
        let limit = 1 + usize::try_from(self.dice.below(8)).expect("small");
        let [ours, theirs] = [0, 1].map(|side| {
            let key = from.and_then(|place| self.known[place].delivery.as_ref()).map(|delivery| delivery[side].key());
            self.both[side].due(endpoint, key.unwrap_or((Timestamp::ZERO, EventId::MIN)), limit)
        });
        let told = |side: usize, page: &[Delivery]| page.iter().map(|d| self.told(side, d)).collect::<Vec<_>>();
        assert_eq!(told(0, &ours.deliveries), told(1, &theirs.deliveries), "{endpoint} from {from:?}");
        assert!(ours.more || !theirs.more, "{endpoint} from {from:?}: more follows");
        for delivery in &ours.deliveries {
            self.is_as_noticed(delivery);
            assert!(delivery.written <= ours.as_of, "nothing is newer than the page");
        }
    }

    /// What the store shows of a delivery is what its last notice said.
    fn is_as_noticed(&self, shown: &Delivery) {
        let noticed = &self.known[self.places[0][&shown.event]].delivery.as_ref().expect("it was noticed")[0];
        let written = |delivery: &Delivery| delivery.status.is_waiting().then_some(delivery.written);
        assert_eq!((written(shown), shown.status), (written(noticed), noticed.status));
        assert_eq!(shown.last_attempt.is_some(), noticed.last_attempt.is_some());
        // Where history is dropped, what is owed may move.
        if !self.fleeting {
            assert_eq!((shown.location, shown.last_attempt), (noticed.location, noticed.last_attempt));
        }
    }

    fn compare_dossier(&self, place: usize) {
        let known = &self.known[place];
        let [ours, theirs] = [0, 1].map(|side| self.both[side].dossier(&known.merchant, known.ids[side]));
        assert_eq!(self.told_dossier(0, &ours), self.told_dossier(1, &theirs), "event {place}");
        if let Some(shown) = &ours.delivery {
            self.is_as_noticed(shown);
        }
        let payload = ours.delivery.map(|d| self.both[0].store().event(&d).expect("it stands there").payload);
        assert!(payload.is_none_or(|payload| payload == theirs.event.payload), "event {place}");
    }

    fn compare_summaries(&self) {
        let [ours, theirs] = [0, 1].map(|side| {
            let subject = &self.both[side];
            let owner = |kind, id: &&str| subject.store().owner(kind, id).expect("owners are readable");
            let cards: Vec<_> = RESOURCES.iter().map(|id| owner(OwnerKind::Card, id)).collect();
            let accounts: Vec<_> = RESOURCES.iter().map(|id| owner(OwnerKind::Account, id)).collect();
            (subject.backlog(), subject.store().figures().waiting, cards, accounts)
        });
        assert_eq!(ours, theirs);
        let [ours, theirs] = [0, 1].map(|side| self.both[side].catalog());
        assert_eq!((ours.merchants, ours.endpoints, ours.keys), (theirs.merchants, theirs.endpoints, theirs.keys));
    }

    fn compare_all(&self) {
        self.compare_summaries();
        for merchant in MERCHANTS {
            let [ours, theirs] = [0, 1].map(|side| {
                let items = self.both[side].history(&everything(merchant));
                items.into_iter().map(|item| self.placed(side, item)).collect::<Vec<_>>()
            });
            assert_eq!(ours, theirs);
        }
        for (endpoint, _) in &self.endpoints {
            let [ours, theirs] = [0, 1].map(|side| {
                let owed = self.both[side].owed(*endpoint);
                owed.iter().map(|delivery| self.told(side, delivery)).collect::<Vec<_>>()
            });
            assert_eq!(ours, theirs);
        }
        self.kept().for_each(|place| self.compare_dossier(place));
    }

    /// A delivery in words that mean the same on both sides.
    fn told(&self, side: usize, d: &Delivery) -> String {
        let due = d.status.is_waiting().then_some(d.due);
        let who = (self.places[side][&d.event], d.endpoint, &d.merchant, d.event_type, d.resource, d.sequence);
        let scheduled = d.status.is_waiting().then_some(d.attempts_before);
        let tried = (d.attempts, scheduled, d.last_attempt.is_some());
        format!("{who:?} {tried:?} {} {due:?} {:?}", d.status, d.payload)
    }

    fn told_dossier(&self, side: usize, dossier: &Dossier) -> String {
        let Dossier { event, location: _, item, attempts, delivery } = dossier;
        let content = (&event.merchant, event.sequence, event.event_type, &event.resource_id, &event.traceparent);
        let item = self.placed(side, item.clone());
        let bare = delivery.clone().map(|delivery| Delivery { payload: None, ..delivery });
        let delivery = bare.map(|delivery| self.told(side, &delivery));
        let place = self.places[side][&event.id];
        format!("{place} {content:?} {:?} {item:?} {attempts:?} {delivery:?}", event.payload)
    }

    /// A line of the history with the event's place for its id.
    fn placed(&self, side: usize, item: HistoryItem) -> HistoryItem {
        HistoryItem { id: EventId::from_u128(self.places[side][&item.id] as u128), ..item }
    }

    fn now(&self) -> Timestamp {
        self.both[0].clock.now()
    }

    fn endpoint_of(&self, merchant: &str) -> Option<EndpointId> {
        let own: Vec<EndpointId> = self.endpoints.iter().filter(|(_, of)| *of == merchant).map(|(id, _)| *id).collect();
        (!own.is_empty()).then(|| self.any(&own))
    }

    /// The events that were not dropped.
    fn kept(&self) -> impl DoubleEndedIterator<Item = usize> {
        (0..self.known.len()).filter(|place| !self.known[*place].dropped)
    }

    /// A random event among those wanted.
    fn place(&self, wanted: impl Fn(&Known) -> bool) -> Option<usize> {
        let places: Vec<usize> = self.kept().filter(|place| wanted(&self.known[*place])).collect();
        (!places.is_empty()).then(|| self.any(&places))
    }

    fn any<T: Clone>(&self, choices: &[T]) -> T {
        choices[usize::try_from(self.dice.below(choices.len() as u64)).expect("small")].clone()
    }

    fn maybe<T: Clone>(&self, choices: &[T]) -> Option<T> {
        choices.get(usize::try_from(self.dice.below(choices.len() as u64 + 1)).expect("small")).cloned()
    }
}

fn is_waiting(known: &Known) -> Option<bool> {
    known.delivery.as_ref().map(|delivery| delivery[1].status.is_waiting())
}

fn both<T>(sides: Both<Option<T>>, message: &str) -> Option<Both<T>> {
    match sides {
        [Some(ours), Some(theirs)] => Some([ours, theirs]),
        [None, None] => None,
        _ => panic!("{message}"),
    }
}
