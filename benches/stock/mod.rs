//! A store full of events as years of traffic leave them: merchants of all sizes, every delivery with its attempt.
//!
//! Never measures by itself: it counts, and reads what the kernel counts.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use posthaste::clock::{Clock as _, SystemClock};
use posthaste::entropy::SystemEntropy;
use posthaste::model::{
    self, Attempt, Delivery, Endpoint, EndpointId, EndpointState, ErrorCode, EventType, EventTypes, Merchant,
    MerchantId, Outcome, Phases, Response, Sent, Status,
};
use posthaste::store::embedded::{EmbeddedStore, Limits, Probes, Surroundings};
use posthaste::store::{Change, NewEvent, Notice, NoticeSink, Settlement, Store as _};

pub(crate) const PAYLOAD_LEN: usize = 600;

/// One of them has half of all events.
pub(crate) const MERCHANTS: u64 = 1_000;

/// Of which events speak, where nothing else is said.
pub(crate) const CARDS: u64 = 50_000;

/// Events handed in before the first answer is waited for.
const GROUP: u64 = 1_024;

/// Of so many deliveries one has failed.
const FAILED: u64 = 1_000;

/// A store that is open, with everything that was accepted and is not settled.
pub(crate) struct Stock {
    pub(crate) store: EmbeddedStore,
    owed: Arc<Mutex<Vec<Delivery>>>,
    settled: Arc<AtomicU64>,
    settling: u64,
    accepted: u64,
    cards: u64,
}

impl Stock {
    /// A fresh store with every merchant and its endpoint at `url`.
    pub(crate) fn make(dir: &Path, limits: Limits, url: &str) -> Stock {
        let stock = Stock::open(dir, limits);
        for n in 0..MERCHANTS {
            stock.store.change(catalog(n, url)).wait().expect("a healthy disk");
        }
        stock
    }

    pub(crate) fn open(dir: &Path, limits: Limits) -> Stock {
        let (owed, settled): (Arc<Mutex<Vec<Delivery>>>, Arc<AtomicU64>) = Default::default();
        let (log, count) = (Arc::clone(&owed), Arc::clone(&settled));
        let sink: NoticeSink = Arc::new(move |notice| match notice {
            Notice::Accepted(delivery) => log.lock().expect("no panic while held").push(delivery),
            Notice::Settled(_) => drop(count.fetch_add(1, Ordering::AcqRel)),
        });
        let around = Surroundings {
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            sink,
            fatal: Arc::new(|error| panic!("the store failed: {error}")),
            probes: Probes::default(),
        };
        let store = EmbeddedStore::open(dir, limits, around).unwrap_or_else(|fault| panic!("{fault}"));
        Stock { store, owed, settled, settling: 0, accepted: 0, cards: 0 }
    }

    /// Events speak of so many cards; 0: of none.
    pub(crate) fn of_cards(self, cards: u64) -> Stock {
        Stock { cards, ..self }
    }

    /// Accepts so many events and settles each of them; waits until the last is recorded.
    pub(crate) fn live(&mut self, events: u64) {
        self.take(events, |n| if n % 2 == 0 { 0 } else { n / 2 % MERCHANTS }, true);
        while self.settled.load(Ordering::Acquire) < self.settling {
            std::thread::yield_now();
        }
    }

    /// Accepts so many events for merchants of choice; what is not settled stays there.
    pub(crate) fn take(&mut self, events: u64, merchant_of: impl Fn(u64) -> u64, settle: bool) {
        let end = self.accepted + events;
        let payload = Bytes::from(vec![b'x'; PAYLOAD_LEN]);
        while self.accepted < end {
            let group = self.accepted..end.min(self.accepted + GROUP);
            self.accepted = group.end;
            let receipts: Vec<_> =
                group.map(|n| self.store.accept(event(n, merchant_of(n), self.cards, &payload))).collect();
            for receipt in receipts {
                receipt.wait().expect("a healthy disk");
            }
            for delivery in std::mem::take(&mut *self.owed.lock().expect("no panic while held")) {
                if settle {
                    self.settling += 1;
                    self.store.settle(ended(delivery));
                }
            }
        }
    }
}

pub(crate) fn merchant(n: u64) -> MerchantId {
    format!("merchant_{n}").parse().expect("a plain word")
}

fn event(n: u64, of: u64, cards: u64, payload: &Bytes) -> NewEvent {
    NewEvent {
        merchant: merchant(of),
        event_type: EventType::ALL[(n / 3 % 4) as usize],
        resource_id: n.checked_rem(cards).map(|card| format!("card_{card}").into()),
        traceparent: None,
        occurred_at: None,
        payload: payload.clone(),
        idempotency: None,
        endpoints: vec![EndpointId(of + 1)],
    }
}

fn catalog(n: u64, url: &str) -> Vec<Change> {
    let now = SystemClock.now();
    vec![
        Change::PutMerchant(Merchant { id: merchant(n), name: None, created_at: now, paused_at: None }),
        Change::PutEndpoint(Endpoint {
            id: EndpointId(n + 1),
            merchant: merchant(n),
            url: url.into(),
            event_types: EventTypes::EVERY,
            secret: None,
            old_secrets: Vec::new(),
            state: EndpointState::Active,
            ordering: model::Ordering::Free,
            rate: None,
            failing_since: None,
            created_at: now,
            updated_at: now,
        }),
    ]
}

/// The only attempt of a delivery, with what is kept of a usual answer.
fn ended(delivery: Delivery) -> Settlement {
    let at = delivery.due;
    let (outcome, status) = match delivery.sequence % FAILED {
        0 => {
            (Outcome::Failure { error: ErrorCode::HttpStatus, status: Some(500), retry_after_ms: None }, Status::Failed)
        }
        _ => (Outcome::Success { status: 200 }, Status::Delivered),
    };
    let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
    let response = Response {
        headers: vec![header("content-length", "2"), header("date", "Fri, 27 Nov 2026 03:11:13 GMT")],
        body: Bytes::from_static(b"ok"),
        truncated: false,
    };
    let attempt = Attempt {
        number: 1,
        started_at: at,
        duration_ms: 12,
        phases: Phases { head_us: Some(11_000), body_us: Some(100), ..Phases::default() },
        outcome,
        sent: Some(Sent {
            timestamp_s: at.as_s(),
            signature: Some([1; 32]),
            signature_old: None,
            standard: Some([2; 32]),
            standards_old: Vec::new(),
        }),
        response: Some(response),
    };
    Settlement { delivery, attempt: Some(attempt), status, at, due: at, attempts_before: 0 }
}

/// Bytes of all files below a directory.
pub(crate) fn size(dir: &Path) -> u64 {
    files(dir).iter().map(|file| fs::metadata(file).map_or(0, |found| found.len())).sum()
}

pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() { found.extend(files(&entry.path())) } else { found.push(entry.path()) }
    }
    found
}

/// The number after a word at the beginning of a line, as in the files under /proc.
pub(crate) fn number_after(text: &str, word: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(word))?.split_whitespace().next()?.parse().ok()
}
