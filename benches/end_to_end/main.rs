//! From a producer's request to the receiver's socket, through the real binary and its disk, beside a bare HTTP
//! client that posts the same bodies to the same receiver in the same run.
//!
//! Both share the machine with this process, which plays producers and receiver. Compare within one run only: a ratio
//! is taken within each round, whose parts follow each other, and then the median of the rounds. Run it with
//! `cargo bench --bench end_to_end [-- SECONDS [ROUNDS [CONNECTIONS]]]`; SECONDS are those of each part of a round,
//! CONNECTIONS those of the bare client and of the producers.

#![expect(clippy::disallowed_methods, reason = "the world outside has clocks, sockets and tasks of its own")]

mod meter;
mod product;
mod receiver;
mod wire;

use std::time::Duration;

use meter::Meter;
use product::{Product, Shape};
use receiver::Receiver;

const MERCHANTS: u64 = 64;
/// Events a second in the paced part: far below what saturates two cores.
const PACE: u32 = 500;

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let (seconds, rounds) = (numbers.next().unwrap_or(3), numbers.next().unwrap_or(3));
    let connections = numbers.next().map_or(64, |number| usize::try_from(number).unwrap_or(usize::MAX));
    let time = Duration::from_secs(seconds);
    let runtime = tokio::runtime::Runtime::new().expect("threads can be had");
    runtime.block_on(run(time, rounds.max(1), connections));
}

async fn run(time: Duration, rounds: u64, connections: usize) {
    let receiver = Receiver::start().await;
    let product = Product::start(&receiver, MERCHANTS).await;
    let one = Product::start(&receiver, 1).await;
    let mut bare = Row::new("bare hyper client to the receiver");
    let mut single = Row::new("ingest to delivered, POST /v1/events");
    let mut batch = Row::new("ingest to delivered, POST /v1/events/batch");
    let mut lone = Row::new("ingest to delivered, one merchant alone");
    let mut last = None;
    for _ in 0..rounds {
        let meter = Meter::start(None);
        let posted = wire::post_for(receiver.address, connections, time).await;
        bare.note(posted.per_second, meter.each(posted.count));
        let meter = Meter::start(Some(product.pid()));
        let outcome = product.load(&receiver, Shape::Single, connections, time).await;
        single.note(outcome.per_second, meter.each(outcome.count()));
        last = Some(outcome);
        let meter = Meter::start(Some(product.pid()));
        let outcome = product.load(&receiver, Shape::Batch, 4, time).await;
        batch.note(outcome.per_second, meter.each(outcome.count()));
        let meter = Meter::start(Some(one.pid()));
        let outcome = one.load(&receiver, Shape::Single, connections, time).await;
        lone.note(outcome.per_second, meter.each(outcome.count()));
    }
    let paced = product.paced(&receiver, PACE, time).await;
    let seconds = time.as_secs();
    println!("600-byte events, {connections} connections, medians of {rounds} rounds of {seconds} s for each part");
    println!("{:<44} {:>10} {:>8} {:>14} {:>14}", "", "events/s", "ratio", "product, us", "this side, us");
    for row in [&bare, &single, &batch, &lone] {
        row.print(&bare);
    }
    println!("\n{:<44} {:>8} {:>8} {:>8} {:>8}", "latency, ms", "p50", "p90", "p99", "p99.9");
    let loaded = last.expect("there was a round");
    for (name, times) in [
        ("full load: request to 202", loaded.accepted),
        ("full load: request to arrival", loaded.arrived),
        ("500 events/s: due to 202", paced.accepted),
        ("500 events/s: due to arrival", paced.arrived),
    ] {
        let [a, b, c, d] = percentiles(times);
        println!("{name:<44} {a:>8.2} {b:>8.2} {c:>8.2} {d:>8.2}");
    }
}

/// One line of the table, with a figure of each round.
struct Row {
    name: &'static str,
    rates: Vec<f64>,
    /// Processor time for each event: the product's, and this process's.
    theirs: Vec<f64>,
    ours: Vec<f64>,
}

impl Row {
    fn new(name: &'static str) -> Row {
        Row { name, rates: Vec::new(), theirs: Vec::new(), ours: Vec::new() }
    }

    fn note(&mut self, per_second: f64, [theirs, ours]: [f64; 2]) {
        self.rates.push(per_second);
        self.theirs.push(theirs);
        self.ours.push(ours);
    }

    fn print(&self, bare: &Row) {
        let ratios = self.rates.iter().zip(&bare.rates).map(|(rate, bare)| rate / bare).collect();
        let [rate, theirs, ours] = [&self.rates, &self.theirs, &self.ours].map(|figures| median(figures.clone()));
        println!("{:<44} {rate:>10.0} {:>8.2} {theirs:>14.1} {ours:>14.1}", self.name, median(ratios));
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Milliseconds at the 50th, 90th, 99th and 99.9th percentile.
fn percentiles(mut times: Vec<Duration>) -> [f64; 4] {
    times.sort_unstable();
    [0.5, 0.9, 0.99, 0.999].map(|part| {
        let at = ((times.len() as f64 * part) as usize).min(times.len().saturating_sub(1));
        times.get(at).map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
    })
}
