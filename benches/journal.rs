//! Durable acceptance through the store beside a bare loop of append and fdatasync with the same bytes and the same
//! batch sizes, in turn on the same disk.
//!
//! Never on a file system in memory: the files lie where the build lies. Run it with
//! `cargo bench --bench journal [-- SECONDS]`; SECONDS are those of each part of a round.

#![expect(clippy::disallowed_methods, reason = "the world outside has clocks of its own")]

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use posthaste::clock::SystemClock;
use posthaste::entropy::SystemEntropy;
use posthaste::model::{Endpoint, EndpointId, EndpointState, EventType, EventTypes, Merchant, MerchantId, Timestamp};
use posthaste::store::embedded::{EmbeddedStore, Limits, Probes, Surroundings};
use posthaste::store::{Change, NewEvent, Store, StoreError};

const PAYLOAD_LEN: usize = 600;
const ROUNDS: usize = 5;
const BATCHES: [usize; 4] = [1, 16, 128, 1024];

/// What one part of a round came to.
struct Figures {
    per_second: f64,
    /// Times of whole batches, from the first byte handed over to the last acknowledgement.
    times: Vec<Duration>,
}

fn main() {
    let seconds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(1);
    let time = Duration::from_secs(seconds);
    println!("{PAYLOAD_LEN}-byte events, medians of {ROUNDS} rounds of {seconds} s each, in turn");
    println!(
        "{:>6} {:>12} {:>12} {:>7} {:>10} {:>10} {:>10} {:>10}",
        "batch", "bare /s", "store /s", "ratio", "bare p50", "bare p99", "store p50", "store p99"
    );
    for batch in BATCHES {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the build's own directory");
        let store = Subject::open(&dir.path().join("store"));
        let record_len = store.record_len(dir.path());
        let mut bare = File::create(dir.path().join("bare")).expect("a new file");
        let (mut bares, mut stores) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            bares.push(append_for(&mut bare, record_len, batch, time));
            stores.push(store.accept_for(batch, time));
        }
        print(batch, &bares, &stores);
    }
}

fn print(batch: usize, bares: &[Figures], stores: &[Figures]) {
    let rate = |rounds: &[Figures]| {
        let mut rates: Vec<f64> = rounds.iter().map(|round| round.per_second).collect();
        rates.sort_unstable_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let ms = |rounds: &[Figures], part: f64| {
        let mut times: Vec<Duration> = rounds.iter().flat_map(|round| round.times.iter().copied()).collect();
        times.sort_unstable();
        times[((times.len() as f64 * part) as usize).min(times.len() - 1)].as_secs_f64() * 1000.0
    };
    let (bare, store) = (rate(bares), rate(stores));
    println!(
        "{batch:>6} {bare:>12.0} {store:>12.0} {:>7.2} {:>10.2} {:>10.2} {:>10.2} {:>10.2}",
        store / bare,
        ms(bares, 0.5),
        ms(bares, 0.99),
        ms(stores, 0.5),
        ms(stores, 0.99)
    );
}

/// One write and one sync for each batch.
fn append_for(file: &mut File, record_len: usize, batch: usize, time: Duration) -> Figures {
    let records = vec![b'x'; record_len * batch];
    repeat(batch, time, || {
        file.write_all(&records).expect("there is room");
        file.sync_data().expect("the disk syncs");
    })
}

fn repeat(batch: usize, time: Duration, mut step: impl FnMut()) -> Figures {
    let (begun, mut times) = (Instant::now(), Vec::new());
    while begun.elapsed() < time {
        let at = Instant::now();
        step();
        times.push(at.elapsed());
    }
    Figures { per_second: (times.len() * batch) as f64 / begun.elapsed().as_secs_f64(), times }
}

/// The store with one merchant and its endpoint.
struct Subject {
    store: EmbeddedStore,
    event: NewEvent,
}

impl Subject {
    fn open(dir: &Path) -> Subject {
        let around = Surroundings {
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            sink: Arc::new(drop),
            fatal: Arc::new(|error: &StoreError| panic!("{error}")),
            probes: Probes::default(),
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
            old_secret: None,
            state: EndpointState::Active,
            created_at: Timestamp::ZERO,
            updated_at: Timestamp::ZERO,
        };
        let merchant_record = Merchant { id: merchant.clone(), name: None, created_at: Timestamp::ZERO };
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
        Subject { store, event }
    }

    /// How many bytes the journal grows by for one event, so that the bare loop writes as many.
    fn record_len(&self, dir: &Path) -> usize {
        let journal = dir.join("store/journal");
        let len = || {
            let files = std::fs::read_dir(&journal).expect("it is there");
            files.map(|file| file.expect("readable").metadata().expect("readable").len()).sum::<u64>()
        };
        let before = len();
        for _ in 0..100 {
            self.store.accept(self.event.clone()).wait().expect("a healthy disk");
        }
        usize::try_from(len() - before).expect("small") / 100
    }

    /// Hands over a batch, waits for all its acknowledgements, and so on.
    fn accept_for(&self, batch: usize, time: Duration) -> Figures {
        repeat(batch, time, || {
            let receipts: Vec<_> = (0..batch).map(|_| self.store.accept(self.event.clone())).collect();
            for receipt in receipts {
                receipt.wait().expect("a healthy disk");
            }
        })
    }
}
