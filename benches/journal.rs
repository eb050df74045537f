//! Durable acceptance through the store beside a bare loop of append and fdatasync with the same bytes and the same
//! batch sizes, in turn on the same disk.
//!
//! So many events are on their way into the store at any moment, and it makes group commits of them as it likes. The
//! bare loop then appends and syncs exactly as many bytes at a time, commit for commit. Never on a file system in
//! memory: the files lie where the build lies. Run it with `cargo bench --bench journal [-- SECONDS [ROUNDS]]`; SECONDS
//! are those of each part of a round.

#![expect(clippy::disallowed_methods, reason = "the world outside has clocks of its own")]

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use metrics::{Histogram, HistogramFn};
use posthaste::clock::SystemClock;
use posthaste::entropy::SystemEntropy;
use posthaste::model::{Endpoint, EndpointId, EndpointState, EventType, EventTypes, Merchant, MerchantId, Timestamp};
use posthaste::store::embedded::{EmbeddedStore, Limits, Probes, Surroundings};
use posthaste::store::{Change, NewEvent, Store, StoreError};

const PAYLOAD_LEN: usize = 600;
const IN_FLIGHT: [usize; 4] = [1, 16, 128, 1024];

/// What one part of a round came to.
struct Figures {
    per_second: f64,
    /// Of each commit: the write and its sync.
    commits_ms: Vec<f64>,
    /// Of each event: from handing it over to its acknowledgement.
    accepted_ms: Vec<f64>,
    /// Bytes and records of each commit.
    sizes: Vec<(f64, f64)>,
}

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let (seconds, rounds) = (numbers.next().unwrap_or(1), numbers.next().unwrap_or(5u64).max(1));
    let time = Duration::from_secs(seconds);
    println!("{PAYLOAD_LEN}-byte events, medians of {rounds} rounds of {seconds} s for each part, in turn");
    println!(
        "{:>9} {:>10} {:>10} {:>10} {:>6}   {:>15} {:>15} {:>15}",
        "in flight", "per commit", "bare /s", "store /s", "ratio", "bare p50, p99", "store p50, p99", "202 p50, p99 ms"
    );
    for in_flight in IN_FLIGHT {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the build's own directory");
        let subject = Subject::open(&dir.path().join("store"));
        let mut bare = File::create(dir.path().join("bare")).expect("a new file");
        let (mut stores, mut bares) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let figures = subject.accept_for(in_flight, time);
            bares.push(append_for(&mut bare, &figures.sizes, time));
            stores.push(figures);
        }
        print(in_flight, &bares, &stores);
    }
}

fn print(in_flight: usize, bares: &[Figures], stores: &[Figures]) {
    let median = |figures: Vec<f64>| part(figures, 0.5);
    let rate = |rounds: &[Figures]| median(rounds.iter().map(|round| round.per_second).collect());
    let ratios = stores.iter().zip(bares).map(|(store, bare)| store.per_second / bare.per_second).collect();
    let records = stores.iter().flat_map(|round| &round.sizes).map(|(_, records)| records);
    let commits = stores.iter().map(|round| round.sizes.len()).sum::<usize>() as f64;
    let both = |times: Vec<f64>| format!("{:.2} {:.2}", part(times.clone(), 0.5), part(times, 0.99));
    let commits_of = |rounds: &[Figures]| both(rounds.iter().flat_map(|round| round.commits_ms.clone()).collect());
    println!(
        "{in_flight:>9} {:>10.1} {:>10.0} {:>10.0} {:>6.2}   {:>15} {:>15} {:>15}",
        records.sum::<f64>() / commits,
        rate(bares),
        rate(stores),
        median(ratios),
        commits_of(bares),
        commits_of(stores),
        both(stores.iter().flat_map(|round| round.accepted_ms.clone()).collect()),
    );
}

fn part(mut figures: Vec<f64>, part: f64) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures[((figures.len() as f64 * part) as usize).min(figures.len() - 1)]
}

/// One write and one sync for each of these commits, and again from the first.
fn append_for(file: &mut File, sizes: &[(f64, f64)], time: Duration) -> Figures {
    let longest = sizes.iter().map(|(bytes, _)| *bytes as usize).max().expect("something was committed");
    let bytes = vec![b'x'; longest];
    let (begun, mut commits_ms, mut records) = (Instant::now(), Vec::new(), 0.0);
    for (len, count) in sizes.iter().cycle() {
        let at = Instant::now();
        file.write_all(&bytes[..*len as usize]).expect("there is room");
        file.sync_data().expect("the disk syncs");
        commits_ms.push(at.elapsed().as_secs_f64() * 1000.0);
        records += count;
        if begun.elapsed() >= time {
            break;
        }
    }
    let per_second = records / begun.elapsed().as_secs_f64();
    Figures { per_second, commits_ms, accepted_ms: Vec::new(), sizes: Vec::new() }
}

/// Keeps what the store reports.
#[derive(Default)]
struct Samples(Mutex<Vec<f64>>);

impl Samples {
    fn pair() -> (Histogram, Arc<Samples>) {
        let samples = Arc::new(Samples::default());
        (Histogram::from_arc(Arc::clone(&samples)), samples)
    }

    fn take(&self) -> Vec<f64> {
        std::mem::take(&mut self.0.lock().expect("no panic while held"))
    }
}

impl HistogramFn for Samples {
    fn record(&self, value: f64) {
        self.0.lock().expect("no panic while held").push(value);
    }
}

/// The store with one merchant and its endpoint.
struct Subject {
    store: EmbeddedStore,
    event: NewEvent,
    seconds: Arc<Samples>,
    bytes: Arc<Samples>,
    records: Arc<Samples>,
}

impl Subject {
    fn open(dir: &Path) -> Subject {
        let (commit_seconds, seconds) = Samples::pair();
        let (commit_bytes, bytes) = Samples::pair();
        let (commit_records, records) = Samples::pair();
        let around = Surroundings {
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            sink: Arc::new(drop),
            fatal: Arc::new(|error: &StoreError| panic!("{error}")),
            probes: Probes { commit_seconds, commit_bytes, commit_records, ..Probes::default() },
        };
        let limits = Limits { free_bytes_min: 0, ..Limits::default() };
        let store = EmbeddedStore::open(dir, limits, around).expect("a new store");
        let merchant: MerchantId = "acme".parse().expect("a plain word");
        let endpoint = Endpoint {
            id: EndpointId(1),
            merchant: merchant.clone(),
            url: "https://example.com/".into(),
            event_types: EventTypes::EVERY,
            secret: None,
            old_secrets: Vec::new(),
            state: EndpointState::Active,
            created_at: Timestamp::ZERO,
            updated_at: Timestamp::ZERO,
        };
        let merchant_record =
            Merchant { id: merchant.clone(), name: None, created_at: Timestamp::ZERO, paused_at: None };
        let changes = vec![Change::PutMerchant(merchant_record), Change::PutEndpoint(endpoint)];
        store.change(changes).wait().expect("a healthy disk");
        let event = NewEvent {
            merchant,
            event_type: EventType::CardTransaction,
            resource_id: Some("txn_000001".into()),
            traceparent: None,
            occurred_at: None,
            payload: Bytes::from(vec![b'x'; PAYLOAD_LEN]),
            idempotency: None,
            endpoints: vec![EndpointId(1)],
        };
        Subject { store, event, seconds, bytes, records }
    }

    /// Hands over a new event for each that is acknowledged.
    fn accept_for(&self, in_flight: usize, time: Duration) -> Figures {
        self.taken();
        let (begun, mut accepted_ms) = (Instant::now(), Vec::new());
        let mut waiting = VecDeque::with_capacity(in_flight);
        while begun.elapsed() < time || !waiting.is_empty() {
            if waiting.len() < in_flight && begun.elapsed() < time {
                waiting.push_back((Instant::now(), self.store.accept(self.event.clone())));
                continue;
            }
            let (at, receipt) = waiting.pop_front().expect("the loop ends when none is left");
            receipt.wait().expect("a healthy disk");
            accepted_ms.push(at.elapsed().as_secs_f64() * 1000.0);
        }
        let per_second = accepted_ms.len() as f64 / begun.elapsed().as_secs_f64();
        let (commits_ms, sizes) = self.taken();
        Figures { per_second, commits_ms, accepted_ms, sizes }
    }

    /// What the store has reported since the last call: the time and the size of each commit.
    fn taken(&self) -> (Vec<f64>, Vec<(f64, f64)>) {
        let ms = self.seconds.take().into_iter().map(|seconds| seconds * 1000.0).collect();
        (ms, self.bytes.take().into_iter().zip(self.records.take()).collect())
    }
}
