//! What a restart costs after a kill -9, with much history and with much that waits; and what an event costs on
//! disk.
//!
//! `cargo bench --bench restart -- 5000000 1000000`: events of history, deliveries that wait for one endpoint.
//! Never measures inside the process that made the data: each store is made by a process that is killed, and
//! opened by a fresh one, with its files no longer in the page cache.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use posthaste::clock::{Clock, SystemClock};
use posthaste::entropy::{Entropy, SystemEntropy};
use posthaste::model::{
    Attempt, Delivery, Endpoint, EndpointId, EndpointState, EventId, EventType, EventTypes, Merchant, MerchantId,
    Outcome, Phases, Status, Timestamp,
};
use posthaste::store::embedded::{EmbeddedStore, Limits, Probes, Surroundings};
use posthaste::store::{Change, HistoryQuery, NewEvent, Notice, NoticeSink, Settlement, Store};

const MERCHANTS: u64 = 1_000;
const PAYLOAD: usize = 600;
/// Events handed in before the first answer is waited for.
const GROUP: u64 = 1_024;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let number = |nth: usize, default: u64| arguments.get(nth).and_then(|text| text.parse().ok()).unwrap_or(default);
    match arguments.first().map(String::as_str) {
        Some("fill") => fill(Path::new(&arguments[1]), number(2, 0), number(3, 0)),
        Some("open") => open(Path::new(&arguments[1])),
        _ => {
            let (history, waiting) = (number(0, 100_000), number(1, 100_000));
            println!("{:>10} {:>10} | {}", "history", "waiting", "figures");
            run(history, 0);
            run(0, waiting);
        }
    }
}

/// Makes a store of so many events, kills whoever made it, and opens it.
fn run(history: u64, waiting: u64) {
    let dir = tempfile::tempdir_in(".").expect("a directory on the disk under test");
    let mut child =
        itself(&["fill", dir.path().to_str().expect("a plain path"), &history.to_string(), &waiting.to_string()]);
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let filled = lines.next().expect("it says when it is done").expect("readable");
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    println!("{history:>10} {waiting:>10} | made: {filled}");
    let (journal, index) = (size(&dir.path().join("journal")), size(&dir.path().join("index")));
    let live = (history + waiting).max(1) as f64 * PAYLOAD as f64;
    println!(
        "{:>21} | disk: journal {} MB, index {} MB, {:.2} x payload",
        "",
        journal >> 20,
        index >> 20,
        (journal + index) as f64 / live
    );
    for round in ["after kill -9", "after a clean end"] {
        forget(dir.path());
        let child = itself(&["open", dir.path().to_str().expect("a plain path")]);
        let output = child.wait_with_output().expect("it ends");
        println!("{:>21} | {round}: {}", "", String::from_utf8_lossy(&output.stdout).trim());
    }
}

fn itself(arguments: &[&str]) -> std::process::Child {
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    command.args(arguments).stdout(Stdio::piped()).spawn().expect("it starts")
}

fn size(dir: &Path) -> u64 {
    files(dir).iter().map(|file| fs::metadata(file).map_or(0, |found| found.len())).sum()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() { found.extend(files(&entry.path())) } else { found.push(entry.path()) }
    }
    found
}

/// Takes the files out of the page cache.
fn forget(dir: &Path) {
    for path in files(dir) {
        let Ok(file) = File::open(path) else { continue };
        let _ = file.sync_all();
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    }
}

fn merchant(n: u64) -> MerchantId {
    format!("merchant_{}", n % MERCHANTS).parse().expect("a legal id")
}

fn event(n: u64, merchant: MerchantId, endpoint: u64, payload: &Bytes) -> NewEvent {
    NewEvent {
        merchant,
        event_type: EventType::ALL[(n % 4) as usize],
        resource_id: Some(format!("card_{}", n % 50_000).into()),
        traceparent: None,
        occurred_at: None,
        payload: payload.clone(),
        idempotency: None,
        endpoints: vec![EndpointId(endpoint)],
    }
}

fn around(sink: NoticeSink) -> Surroundings {
    Surroundings {
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SystemEntropy),
        sink,
        fatal: Arc::new(|error| panic!("the store failed: {error}")),
        probes: Probes::default(),
    }
}

/// Fills a store, says so, and waits to be killed.
fn fill(dir: &Path, history: u64, waiting: u64) {
    let owed: Arc<Mutex<Vec<Delivery>>> = Arc::default();
    let settled = Arc::new(AtomicU64::new(0));
    let (log, count) = (owed.clone(), settled.clone());
    let sink: NoticeSink = Arc::new(move |notice| match notice {
        Notice::Accepted(delivery) => log.lock().expect("no panic").push(delivery),
        Notice::Settled(_) => drop(count.fetch_add(1, Ordering::SeqCst)),
    });
    let store = EmbeddedStore::open(dir, Limits { retention_bytes_max: 1 << 50, ..Limits::default() }, around(sink));
    let store = store.expect("a fresh store opens");
    for n in 0..MERCHANTS {
        store.change(catalog(n)).wait().expect("taken");
    }
    let mut text = vec![b'x'; PAYLOAD];
    SystemEntropy.fill(&mut text[..PAYLOAD / 2]);
    let payload = Bytes::from(text);
    let begun = SystemClock.instant();
    let mut given = 0;
    while given < history + waiting {
        let group = GROUP.min(history + waiting - given);
        let receipts: Vec<_> = (given..given + group)
            .map(|n| {
                if n < history {
                    event(n, merchant(n), n % MERCHANTS + 1, &payload)
                } else {
                    event(n, merchant(0), 1, &payload)
                }
            })
            .map(|event| store.accept(event))
            .collect();
        receipts.into_iter().for_each(|receipt| drop(receipt.wait().expect("taken")));
        let owed = std::mem::take(&mut *owed.lock().expect("no panic"));
        for delivery in owed.into_iter().take(history.saturating_sub(given) as usize) {
            store.settle(done(delivery));
        }
        given += group;
    }
    while settled.load(Ordering::SeqCst) < history {
        std::thread::yield_now();
    }
    let seconds = begun.elapsed().as_secs_f64();
    let bytes_per_event = written_bytes() as f64 / (history + waiting).max(1) as f64;
    println!(
        "{:.0} events/s, {bytes_per_event:.0} bytes written per event, {:.2} x payload, {:.1} us of processor per event, rss {} MB",
        (history + waiting) as f64 / seconds,
        bytes_per_event / PAYLOAD as f64,
        processor_seconds() * 1e6 / (history + waiting).max(1) as f64,
        status_mb("VmHWM")
    );
    loop {
        std::thread::park();
    }
}

fn catalog(n: u64) -> Vec<Change> {
    let now = SystemClock.now();
    vec![
        Change::PutMerchant(Merchant { id: merchant(n), name: None, created_at: now }),
        Change::PutEndpoint(Endpoint {
            id: EndpointId(n + 1),
            merchant: merchant(n),
            url: format!("https://merchant-{n}.example/hooks").into(),
            event_types: EventTypes::EVERY,
            secret: None,
            old_secret: None,
            state: EndpointState::Active,
            created_at: now,
            updated_at: now,
        }),
    ]
}

fn done(delivery: Delivery) -> Settlement {
    let at = delivery.due;
    let attempt = Attempt {
        number: 1,
        started_at: at,
        duration_ms: 12,
        phases: Phases::default(),
        outcome: Outcome::Success { status: 200 },
        sent: None,
        response: None,
    };
    Settlement { delivery, attempt: Some(attempt), status: Status::Delivered, at, due: at, attempts_before: 0 }
}

/// Opens a store and says what that cost.
fn open(dir: &Path) {
    let begun = SystemClock.instant();
    let limits = Limits { retention_bytes_max: 1 << 50, ..Limits::default() };
    let store = EmbeddedStore::open(dir, limits, around(Arc::new(|_| {}))).expect("the store opens");
    let opened = begun.elapsed();
    let backlog = store.backlog().expect("readable");
    let waiting: u64 = backlog.iter().map(|line| line.waiting).sum();
    let first =
        |endpoint| store.due(endpoint, (Timestamp::ZERO, EventId::MIN), 256).expect("readable").deliveries.len();
    let window: usize = backlog.iter().take(1).map(|line| first(line.endpoint)).sum();
    let ready = begun.elapsed();
    let (cold, warm) = (page_ms(&store), page_ms(&store));
    println!(
        "opened in {:.2} s, first window of {window} of {waiting} after {:.2} s, filtered page {cold:.1} ms, again {warm:.1} ms, rss {} MB, at most {} MB",
        opened.as_secs_f64(),
        ready.as_secs_f64(),
        status_mb("VmRSS"),
        status_mb("VmHWM")
    );
    store.close();
}

fn page_ms(store: &EmbeddedStore) -> f64 {
    let begun: Instant = SystemClock.instant();
    let page = store.page(&HistoryQuery {
        merchant: merchant(0),
        statuses: vec![Status::Delivered, Status::Failed],
        event_types: vec![EventType::ALL[0], EventType::ALL[2]],
        resource_id: None,
        first: EventId::MIN,
        last: EventId::MAX,
        descending: true,
        limit: 50,
    });
    page.expect("readable");
    begun.elapsed().as_secs_f64() * 1000.0
}

/// Bytes that this process had written to the disk.
fn written_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

/// User and system time of this process, at the kernel's 100 ticks a second.
fn processor_seconds() -> f64 {
    let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |nth: usize| fields.get(nth).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

fn status_mb(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kb = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kb.unwrap_or(0) >> 10
}
