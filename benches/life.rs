//! What an event costs over its whole life: accepted, delivered, dropped when its time has passed. Processor time,
//! bytes written, and room on the disk beside what still counts.
//!
//! `cargo bench --bench life [-- EVENTS [CARDS]]`. The journal is bounded, so that after a while as many events are dropped as
//! come; what is measured begins then. Never measures the receiver's or the producer's share: only the store's.

#![expect(clippy::disallowed_methods, reason = "the world outside has clocks of its own")]

mod stock;

use std::fs;
use std::time::Instant;

use mimalloc::MiMalloc;
use posthaste::store::Store as _;
use posthaste::store::embedded::Limits;

use stock::{CARDS, PAYLOAD_LEN, Stock, number_after, size};

/// As in the product.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// What history may take: small, so that every event is dropped in the course of the bench.
const RETENTION_BYTES: u64 = 256 << 20;

const SEGMENT_BYTES: u32 = 16 << 20;

/// Parts of the run after each of which the disk is looked at.
const PARTS: u64 = 10;

/// Events between two looks at how far the journal has grown.
const PART_MIN: u64 = 20_000;

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let (events, cards) = (numbers.next().unwrap_or(600_000), numbers.next().unwrap_or(CARDS));
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the build's own directory");
    let limits = Limits {
        retention_bytes_max: RETENTION_BYTES,
        retention_every_ms: 500,
        segment_bytes: SEGMENT_BYTES,
        free_bytes_min: 0,
        ..Limits::default()
    };
    let mut stock = Stock::make(dir.path(), limits, "https://example.com/").of_cards(cards);
    // Until the first are dropped.
    while stock.store.figures().journal_bytes < RETENTION_BYTES {
        stock.live(PART_MIN);
    }
    stock.live(events / PARTS);
    let (begun, processor, written) = (Instant::now(), processor_seconds(), written_bytes());
    println!("{events} events of {cards} cards; {} MiB of journal may be kept", RETENTION_BYTES >> 20);
    for _ in 0..PARTS {
        stock.live(events / PARTS);
        let (journal, index) = (size(&dir.path().join("journal")), size(&dir.path().join("index")));
        let (mib, ratio) = (|bytes| bytes >> 20, (journal + index) as f64 / journal as f64);
        println!("journal {:>4} MiB, index {:>4} MiB; disk / journal {ratio:.2}", mib(journal), mib(index));
    }
    let count = (events / PARTS * PARTS) as f64;
    let per_event = (written_bytes() - written) as f64 / count;
    println!(
        "{:.0} events/s; per event {:.1} us of processor, {per_event:.0} bytes written, {:.2} x payload",
        count / begun.elapsed().as_secs_f64(),
        (processor_seconds() - processor) * 1e6 / count,
        per_event / PAYLOAD_LEN as f64,
    );
    stock.store.close();
}

/// Bytes that this process had written to the disk.
fn written_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/io").expect("Linux");
    number_after(&text, "write_bytes:").expect("the kernel counts")
}

/// User and system time of this process, in the kernel's hundredths of a second.
fn processor_seconds() -> f64 {
    let text = fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |nth: usize| fields.get(nth).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}
