//! What a start costs after kill -9, with much history and with much that waits for one endpoint: time to ready and
//! resident memory of the real binary, and a page of the large history.
//!
//! `cargo bench --bench restart [-- EVENTS WAITING]`: events of history in one store, deliveries that wait in another.
//! Never measures in the process that made the data: that one is killed, and the files leave the page cache.

#![expect(clippy::disallowed_methods, reason = "the world outside has clocks of its own")]

mod stock;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mimalloc::MiMalloc;
use posthaste::model::{EndpointId, EventId, EventType, Status, Timestamp};
use posthaste::store::embedded::Limits;
use posthaste::store::{HistoryQuery, Store as _};

use stock::{CARDS, PAYLOAD_LEN, Stock, files, merchant, number_after, size};

/// As in the product.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// After it is ready, until its memory is looked at: deliveries have begun by then.
const SETTLED: Duration = Duration::from_secs(5);

/// Pages read, of which the first is cold.
const PAGES: usize = 21;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let number = |nth: usize, default: u64| arguments.get(nth).map_or(default, |text| text.parse().expect("a number"));
    match arguments.first().map(String::as_str) {
        Some("fill") => fill(Path::new(&arguments[1]), number(2, 0), number(3, 0), &arguments[4]),
        Some("read") => read(Path::new(&arguments[1])),
        _ => {
            let (history, waiting) = (number(0, 200_000), number(1, 100_000));
            run(history, 0);
            run(0, waiting);
        }
    }
}

/// Makes a store of so many events, kills whoever made it, and starts the product on it.
fn run(history: u64, waiting: u64) {
    // Takes connections and never answers, as a dead receiver does.
    let receiver = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}/", receiver.local_addr().expect("bound"));
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the build's own directory");
    let path = dir.path().to_str().expect("a plain path");
    let mut maker = itself(&["fill", path, &history.to_string(), &waiting.to_string(), &url]);
    let made = first_line(&mut maker);
    kill(&mut maker);
    let (journal, index) = (size(&dir.path().join("journal")), size(&dir.path().join("index")));
    println!("{history} events of history, {waiting} waiting: made at {made}");
    println!(
        "  disk: journal {} MiB, index {} MiB ({:.2} of the journal), {:.2} x payload",
        journal >> 20,
        index >> 20,
        index as f64 / journal as f64,
        (journal + index) as f64 / ((history + waiting) * PAYLOAD_LEN as u64) as f64
    );
    for how in ["kill -9, cold", "kill -9, warm"] {
        if how.ends_with("cold") {
            forget(dir.path());
        }
        let begun = Instant::now();
        let mut product = serve(dir.path());
        first_line(&mut product);
        let ready = begun.elapsed();
        let at_ready = resident_mib(product.id(), "VmRSS:");
        std::thread::sleep(SETTLED);
        println!(
            "  after {how}: ready in {:.2} s, resident {at_ready} MiB, {} MiB after {} s, {} MiB at most",
            ready.as_secs_f64(),
            resident_mib(product.id(), "VmRSS:"),
            SETTLED.as_secs(),
            resident_mib(product.id(), "VmHWM:")
        );
        kill(&mut product);
    }
    let read = itself(&["read", path]).wait_with_output().expect("it ends");
    print!("{}", String::from_utf8_lossy(&read.stdout));
}

fn itself(arguments: &[&str]) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    command.args(arguments).stdout(Stdio::piped()).spawn().expect("it starts")
}

fn serve(dir: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
    command.args(["serve", "--dev", "--json", "--data-dir"]).arg(dir);
    // What the store is filled with may take as much room as it likes.
    command.env("POSTHASTE__STORAGE__RETENTION_BYTES_MAX", "1024GiB");
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts")
}

fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut line).expect("readable");
    assert!(!line.is_empty(), "it has ended before it was ready");
    line.trim_end().to_owned()
}

fn kill(child: &mut Child) {
    child.kill().expect("it runs");
    child.wait().expect("it ends");
}

/// Takes the files out of the page cache.
fn forget(dir: &Path) {
    for path in files(dir) {
        let file = File::open(path).expect("nobody removes it");
        file.sync_all().expect("a healthy disk");
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("a file");
    }
}

/// Resident memory of a process, now (`VmRSS:`) or at its most (`VmHWM:`), in MiB.
fn resident_mib(pid: u32, which: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("Linux");
    number_after(&text, which).expect("it runs") >> 10
}

fn limits() -> Limits {
    Limits { retention_bytes_max: 1 << 50, free_bytes_min: 0, ..Limits::default() }
}

/// Fills a store, says so, and waits to be killed.
fn fill(dir: &Path, history: u64, waiting: u64, url: &str) {
    let begun = Instant::now();
    let mut stock = Stock::make(dir, limits(), url).of_cards(CARDS);
    stock.live(history);
    stock.take(waiting, |_| 0, false);
    println!("{:.0} events/s", (history + waiting) as f64 / begun.elapsed().as_secs_f64());
    loop {
        std::thread::park();
    }
}

/// Reads pages of the merchant with the longest history, and the first window of what is owed to it.
fn read(dir: &Path) {
    let stock = Stock::open(dir, limits());
    let page = |statuses: &[Status], types: &[EventType], resource: Option<&str>| {
        let query = HistoryQuery {
            merchant: merchant(0),
            statuses: statuses.to_vec(),
            event_types: types.to_vec(),
            resource_id: resource.map(str::to_owned),
            first: EventId::MIN,
            last: EventId::MAX,
            descending: true,
            limit: 50,
        };
        stock.store.page(&query).expect("readable").items.len()
    };
    let types = [EventType::ALL[0], EventType::ALL[2]];
    time("page of everything", || page(&[], &[], None));
    time("page by two statuses and two types", || page(&[Status::Delivered, Status::Failed], &types, None));
    time("page of what has failed", || page(&[Status::Failed], &[], None));
    time("page of one resource", || page(&[], &[], Some("card_4200")));
    let due = || stock.store.due(EndpointId(1), (Timestamp::ZERO, EventId::MIN), 256).expect("readable");
    time("window of what is owed", || due().deliveries.len());
}

fn time(name: &str, read: impl Fn() -> usize) {
    let mut found = 0;
    let mut ms: Vec<f64> = (0..PAGES)
        .map(|_| {
            let begun = Instant::now();
            found = read();
            begun.elapsed().as_secs_f64() * 1000.0
        })
        .collect();
    let cold = ms.remove(0);
    ms.sort_unstable_by(f64::total_cmp);
    let (median, most) = (ms[ms.len() / 2], ms[ms.len() - 1]);
    println!("  {name}: {found} lines, first {cold:.2} ms, then {median:.2}, {most:.2} at most");
}
