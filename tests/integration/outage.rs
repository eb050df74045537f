//! All receivers are gone for a while, and come back: an outage, shortened.
//!
//! Never asserts how long anything takes: the busiest second is compared with the others of the same run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Appliance, Received, Receiver, Reply, alone, eventually};

const MERCHANTS: usize = 12;
/// Of each merchant; all of them are in its endpoint's window.
const EVENTS: usize = 240;
const CARDS: usize = 8;
const ANSWER: Duration = Duration::from_millis(300);

fn id(merchant: usize) -> String {
    format!("merchant-{merchant}")
}

/// Every other merchant asks for an order.
fn is_ordered(merchant: usize) -> bool {
    merchant.is_multiple_of(2)
}

/// Whose it is, of which card, and the how many-th of it.
fn told(received: &Received) -> (usize, usize, usize) {
    let body: Value = serde_json::from_slice(&received.body).expect("the body that was handed in");
    let number = |name: &str| body[name].as_u64().expect("a number") as usize;
    (number("merchant"), number("card"), number("n"))
}

#[test]
fn after_an_outage_of_all_receivers_all_arrives_in_order_and_nobody_is_run_over() {
    let _alone = alone();
    let is_up = Arc::new(AtomicBool::new(false));
    let taken: Arc<Mutex<Vec<Received>>> = Arc::default();
    let receiver = Receiver::scripted({
        let (is_up, taken) = (Arc::clone(&is_up), Arc::clone(&taken));
        move |received| {
            if !is_up.load(Ordering::SeqCst) {
                return Reply::Status(503);
            }
            taken.lock().expect("no panic while held").push(received.clone());
            Reply::Drip(vec![(ANSWER, b"HTTP/1.1 200 -\r\nContent-Length: 0\r\n\r\n".to_vec())])
        }
    });
    let schedule = ["1s"; 30].join(",");
    let appliance = Appliance::start(&[
        ("DELIVERY__BREAKER_WAIT", "500ms"),
        ("DELIVERY__BREAKER_WAIT_MAX", "1s"),
        ("DELIVERY__RETRY_SCHEDULE", &schedule),
    ]);
    for n in 0..MERCHANTS {
        let ordering = if is_ordered(n) { "resource" } else { "none" };
        appliance.merchant(&id(n)).configure(&json!({ "url": receiver.url(), "ordering": ordering }));
    }
    hand_in(&appliance);
    // Each was tried until it was left alone, and was looked at again a few times.
    receiver.wait_for(MERCHANTS * 13);
    let during = receiver.count();
    assert!(during < MERCHANTS * EVENTS / 4, "{during} attempts at receivers that are not there");
    let up = Instant::now();
    is_up.store(true, Ordering::SeqCst);
    eventually("nothing waits any more", || (appliance.metric("posthaste_deliveries_waiting") == 0.0).then_some(()));
    let arrived = taken.lock().expect("no panic while held");
    assert_eq!(arrived.iter().map(Received::id).collect::<BTreeSet<_>>().len(), MERCHANTS * EVENTS);
    in_order(&arrived);
    let mut seconds: BTreeMap<u64, usize> = BTreeMap::new();
    for received in arrived.iter() {
        *seconds.entry(received.at.duration_since(up).as_secs()).or_default() += 1;
    }
    let last = *seconds.last_key_value().expect("something arrived").0 as usize;
    let (mean, peak) = (arrived.len() / (last + 1), *seconds.values().max().expect("something arrived"));
    println!("{} attempts within {last} s: {mean} in a second, at most {peak}: {seconds:?}", arrived.len());
    assert!(peak <= 2 * mean, "{peak} attempts in a second, {mean} in the mean");
}

fn hand_in(appliance: &Appliance) {
    let mut producer = appliance.producer();
    let headers = [("Content-Type", "application/x-ndjson")];
    for merchant in 0..MERCHANTS {
        let line = |n: usize| {
            let data = json!({ "id": format!("card-{}", n % CARDS), "merchant": merchant, "card": n % CARDS, "n": n });
            json!({ "type": "card_state", "merchant_id": id(merchant), "data": data }).to_string()
        };
        let lines: Vec<String> = (0..EVENTS).map(line).collect();
        let taken = producer.send("POST", "/v1/events/batch", &headers, lines.join("\n").as_bytes());
        assert_eq!(taken.status, 200);
    }
}

/// What was asked for in order came so, every card for itself; elsewhere some came before others.
fn in_order(arrived: &[Received]) {
    let mut last: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    let mut overtaken = 0;
    for (merchant, card, n) in arrived.iter().map(told) {
        let before = last.insert((merchant, card), n).filter(|before| *before > n);
        assert!(before.is_none() || !is_ordered(merchant), "{n} of card {card} of {merchant} came after {before:?}");
        overtaken += usize::from(before.is_some());
    }
    assert!(overtaken > 0, "where no order was asked for, a failure parks nobody else");
}
