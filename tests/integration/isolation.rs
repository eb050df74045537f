//! A merchant can only delay itself.
//!
//! Never compares times but within one run, with the machine to itself.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Appliance, Client, Merchant, Receiver, Reply, alone, eventually};

const WAITING: usize = 100_000;
const SAMPLES: usize = 300;
const ROUNDS: usize = 3;

/// The least of some medians: what else goes on on the machine adds to each of them, and never takes away.
fn delivery(producer: &mut Client, merchant: &Merchant, receiver: &Receiver) -> Duration {
    let medians = (0..ROUNDS).map(|_| median_delivery(producer, merchant, receiver));
    medians.min().expect("there are rounds")
}

/// Submits one event after the other; the median of the times from submission to arrival.
fn median_delivery(producer: &mut Client, merchant: &Merchant, receiver: &Receiver) -> Duration {
    let event = json!({ "type": "card_transaction", "merchant_id": merchant.id, "data": { "amount": "1.00" } });
    let mut times: Vec<Duration> = (0..SAMPLES)
        .map(|_| {
            let (before, begun) = (receiver.count(), Instant::now());
            producer.post("/v1/events", &event).expect(202);
            receiver.nth(before).at.saturating_duration_since(begun)
        })
        .collect();
    times.sort_unstable();
    times[SAMPLES / 2]
}

fn flood(producer: &mut Client, merchant: &str, count: usize) {
    let line = json!({ "type": "card_transaction", "merchant_id": merchant, "data": { "amount": "1.00" } }).to_string();
    let batch = vec![line; 1000].join("\n");
    for _ in 0..count / 1000 {
        let answer =
            producer.send("POST", "/v1/events/batch", &[("content-type", "application/x-ndjson")], batch.as_bytes());
        assert!(answer.lines().iter().all(|line| line["status"] == 202), "{}", answer.text());
    }
}

#[test]
fn a_hanging_merchant_with_a_hundred_thousand_waiting_delays_nobody_else() {
    let _machine = alone();
    let (healthy_receiver, hanging_receiver) = (Receiver::start(), Receiver::scripted(|_| Reply::Never));
    let appliance = Appliance::start(&[]);
    let healthy = appliance.merchant_at("healthy", &healthy_receiver);
    let mut hanging = appliance.merchant_at("hanging", &hanging_receiver);
    let mut producer = appliance.producer();
    let before = delivery(&mut producer, &healthy, &healthy_receiver);
    flood(&mut producer, "hanging", WAITING / 2);
    let half_bytes = appliance.resident_bytes();
    flood(&mut producer, "hanging", WAITING / 2);
    let full_bytes = appliance.resident_bytes();
    eventually("the index has caught up", || (appliance.metric("posthaste_index_unwritten") < 1000.0).then_some(()));
    let beside = delivery(&mut producer, &healthy, &healthy_receiver);
    assert!(appliance.metric("posthaste_deliveries_waiting") >= WAITING as f64);
    let in_flight = appliance.metric("posthaste_attempts_in_flight");
    // One is the hanging endpoint's; the last delivery to the healthy one may have arrived and not ended.
    assert!(in_flight <= 2.0, "an endpoint that never answers gets one attempt at a time, not {in_flight}");
    hanging.configure(&json!({ "url": hanging_receiver.url(), "enabled": false }));
    let after = delivery(&mut producer, &healthy, &healthy_receiver);
    let ratio = beside.as_secs_f64() / before.max(after).as_secs_f64();
    println!(
        "delivery {before:?} before, {beside:?} beside, {after:?} after: {ratio:.2}; {half_bytes} and {full_bytes} bytes resident"
    );
    assert!(ratio <= 1.5, "{before:?} before, {beside:?} beside {WAITING} waiting, {after:?} after");
    assert!(full_bytes < 256 << 20, "{full_bytes} bytes resident");
    assert!(full_bytes < half_bytes + half_bytes / 2, "memory follows the backlog: {half_bytes}, then {full_bytes}");
}

#[test]
fn anybody_can_measure_it_on_a_machine_of_their_own() {
    let options = ["--merchants", "4", "--sick-percent", "50", "--rate", "40", "--seconds", "1", "--rounds", "1"];
    let measured = Command::new(env!("CARGO_BIN_EXE_posthaste"))
        .args(["bench", "isolation", "--ailment", "failing", "--backlog", "100"])
        .args(options)
        .output()
        .expect("the binary runs");
    let text = String::from_utf8_lossy(&measured.stdout);
    assert!(measured.status.success(), "{text}{}", String::from_utf8_lossy(&measured.stderr));
    for line in ["before", "alone", "beside sick ones", "beside / alone", "attempts at sick receivers"] {
        assert!(text.lines().any(|shown| shown.starts_with(line)), "{line} is not in\n{text}");
    }
    let refused = Command::new(env!("CARGO_BIN_EXE_posthaste")).args(["bench", "isolation", "--rounds", "0"]).output();
    assert!(!refused.expect("the binary runs").status.success());
}
