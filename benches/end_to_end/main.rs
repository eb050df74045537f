//! From a producer's request to the receiver's socket, through the real binary and its disk, beside a bare HTTP
//! client that posts the same bodies to the same receiver in the same run.
//!
//! Both share the machine with this process, which plays producers and receiver. Compare within one run only.
//! Run it with `cargo bench --bench end_to_end [-- SECONDS]`; SECONDS are those of each part of a round.

#![expect(clippy::disallowed_methods, reason = "the world outside has clocks, sockets and tasks of its own")]

mod product;
mod receiver;
mod wire;

use std::time::Duration;

use product::{Product, Shape};
use receiver::Receiver;

/// Each figure is the median of so many rounds.
const ROUNDS: usize = 3;
/// Producers, and connections of the bare client.
const CONNECTIONS: usize = 64;
const MERCHANTS: u64 = 64;
/// Events a second in the paced part: far below what saturates two cores.
const PACE: u32 = 500;

fn main() {
    let seconds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(3);
    let time = Duration::from_secs(seconds);
    let runtime = tokio::runtime::Runtime::new().expect("threads can be had");
    runtime.block_on(run(time));
}

async fn run(time: Duration) {
    let receiver = Receiver::start().await;
    let product = Product::start(&receiver, MERCHANTS).await;
    let one = Product::start(&receiver, 1).await;
    let (mut bare, mut single, mut batch, mut lone) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut last = None;
    for _ in 0..ROUNDS {
        bare.push(wire::post_for(receiver.address, CONNECTIONS, time).await);
        let outcome = product.load(&receiver, Shape::Single, CONNECTIONS, time).await;
        single.push(outcome.per_second);
        last = Some(outcome);
        batch.push(product.load(&receiver, Shape::Batch, 4, time).await.per_second);
        lone.push(one.load(&receiver, Shape::Single, CONNECTIONS, time).await.per_second);
    }
    let paced = product.paced(&receiver, PACE, time).await;
    let reference = median(&mut bare);
    println!("{:<44} {:>10} {:>8}", "600-byte events, medians of 3 rounds", "events/s", "ratio");
    println!("{:<44} {reference:>10.0} {:>8.2}", "bare hyper client to the receiver", 1.0);
    for (name, figures) in [
        ("ingest to delivered, POST /v1/events", &mut single),
        ("ingest to delivered, POST /v1/events/batch", &mut batch),
        ("ingest to delivered, one merchant alone", &mut lone),
    ] {
        let figure = median(figures);
        println!("{name:<44} {figure:>10.0} {:>8.2}", figure / reference);
    }
    println!("\n{:<44} {:>8} {:>8} {:>8} {:>8}", "latency, ms", "p50", "p90", "p99", "p99.9");
    let loaded = last.expect("there was a round");
    for (name, times) in [
        ("full load: request to 202", loaded.accepted),
        ("full load: request to arrival", loaded.arrived),
        ("500 events/s: request to 202", paced.accepted),
        ("500 events/s: request to arrival", paced.arrived),
    ] {
        let [a, b, c, d] = percentiles(times);
        println!("{name:<44} {a:>8.2} {b:>8.2} {c:>8.2} {d:>8.2}");
    }
}

fn median(figures: &mut [f64]) -> f64 {
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
