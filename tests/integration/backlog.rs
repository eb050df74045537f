//! Backlogs that are longer than the memory for them, and the limits of what leaves at once.
//!
//! Never lets a delivery be lost or doubled by being paged in and out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::harness::{Appliance, Client, Receiver, Reply, eventually};

/// Windows so small that nearly everything is on disk only.
const SMALL: [(&str, &str); 4] = [
    ("DELIVERY__WINDOW_MAX", "8"),
    ("DELIVERY__IN_FLIGHT_PER_ENDPOINT_MAX", "4"),
    ("STORAGE__SEGMENT_BYTES", "4MiB"),
    ("DELIVERY__WINDOW_PAYLOAD_BYTES_MAX", "1MiB"),
];

/// Hands in events `range` of a merchant; their ids.
fn hand_in(producer: &mut Client, merchant: &str, range: std::ops::Range<usize>) -> Vec<String> {
    let line = |n: usize| json!({ "type": "card_state", "merchant_id": merchant, "data": { "n": n } }).to_string();
    let mut ids = Vec::new();
    for begin in range.clone().step_by(500) {
        let lines: Vec<String> = (begin..range.end.min(begin + 500)).map(line).collect();
        let headers = [("content-type", "application/x-ndjson")];
        let answer = producer.send("POST", "/v1/events/batch", &headers, lines.join("\n").as_bytes());
        ids.extend(answer.lines().iter().map(|line| line["id"].as_str().expect("accepted").to_owned()));
    }
    ids
}

/// How often each event came, by its id; the body must be the one that was handed in under that id.
fn arrivals(receiver: &Receiver, ids: &[String]) -> BTreeMap<String, u32> {
    let numbers: BTreeMap<&str, usize> = ids.iter().enumerate().map(|(n, id)| (id.as_str(), n)).collect();
    let mut arrivals = BTreeMap::new();
    for received in receiver.wait_for(ids.len()) {
        let expected = json!({ "n": numbers[received.id()] }).to_string();
        assert_eq!(String::from_utf8_lossy(&received.body), expected);
        *arrivals.entry(received.id().to_owned()).or_default() += 1;
    }
    arrivals
}

#[test]
fn a_backlog_longer_than_the_memory_for_it_is_delivered_whole() {
    const EVENTS: usize = 2_000;
    let (appliance, receiver) = (Appliance::start(&SMALL), Receiver::start());
    let mut merchant = appliance.merchant("acme");
    merchant.configure(&json!({ "url": receiver.url(), "enabled": false }));
    let mut ids = hand_in(&mut appliance.producer(), "acme", 0..EVENTS / 2);
    merchant.configure(&json!({ "url": receiver.url() }));
    ids.extend(hand_in(&mut appliance.producer(), "acme", EVENTS / 2..EVENTS));
    let arrivals = arrivals(&receiver, &ids);
    eventually("nothing waits", || (appliance.metric("posthaste_deliveries_waiting") == 0.0).then_some(()));
    assert_eq!(arrivals.len(), EVENTS);
    assert_eq!(receiver.count(), EVENTS, "none came twice");
}

#[test]
fn a_backlog_survives_a_stop_in_the_middle_of_its_delivery() {
    const EVENTS: usize = 1_000;
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let receiver = Receiver::scripted(|r| {
        let pause = if r.number < 200 { 0 } else { 5 };
        Reply::Drip(vec![(Duration::from_millis(pause), b"HTTP/1.1 200 -\r\nContent-Length: 0\r\n\r\n".to_vec())])
    });
    let ids = {
        let appliance = Appliance::start_in(temporary.path(), &SMALL);
        appliance.merchant_at("acme", &receiver);
        let ids = hand_in(&mut appliance.producer(), "acme", 0..EVENTS);
        receiver.wait_for(300);
        let (status, log) = appliance.stop();
        assert!(status.success(), "{log}");
        ids
    };
    let before = receiver.count();
    assert!(before < EVENTS, "it stopped in the middle");
    let appliance = Appliance::start_in(temporary.path(), &SMALL);
    let arrivals = arrivals(&receiver, &ids);
    eventually("nothing waits", || (appliance.metric("posthaste_deliveries_waiting") == 0.0).then_some(()));
    assert_eq!(arrivals.len(), EVENTS);
    assert_eq!(receiver.count(), EVENTS, "a stop repeats nothing");
}

#[test]
fn an_event_deep_in_a_backlog_can_be_sent_again_and_comes_once() {
    let (appliance, receiver) = (Appliance::start(&SMALL), Receiver::start());
    let mut merchant = appliance.merchant("acme");
    merchant.configure(&json!({ "url": receiver.url(), "enabled": false }));
    let ids = hand_in(&mut appliance.producer(), "acme", 0..300);
    for id in [&ids[250], &ids[250], &ids[299], &ids[0]] {
        let answer = merchant.api.post(&format!("/api/v2/webhooks/events/{id}/resend"), &json!({}));
        let answer = answer.expect(202);
        assert!(["queued", "under_way"].contains(&answer["state"].as_str().expect("a word")), "{answer}");
        assert_eq!(merchant.event(id)["status"], "pending", "no attempt was made yet");
    }
    merchant.configure(&json!({ "url": receiver.url() }));
    assert!(arrivals(&receiver, &ids).values().all(|times| *times == 1));
    eventually("nothing waits", || (appliance.metric("posthaste_deliveries_waiting") == 0.0).then_some(()));
    assert_eq!(receiver.count(), 300);
}

#[test]
fn an_endpoint_and_a_merchant_have_so_many_attempts_at_a_time_and_no_more() {
    const LIMIT: usize = 3;
    let limit = LIMIT.to_string();
    let settings =
        [("DELIVERY__IN_FLIGHT_PER_ENDPOINT_MAX", limit.as_str()), ("DELIVERY__IN_FLIGHT_PER_MERCHANT_MAX", &limit)];
    let appliance = Appliance::start(&settings);
    let open = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (opened, highest) = (Arc::clone(&open), Arc::clone(&most));
    let receiver = Receiver::scripted(move |_| {
        highest.fetch_max(opened.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(20));
        opened.fetch_sub(1, Ordering::SeqCst);
        Reply::Status(200)
    });
    appliance.merchant_at("acme", &receiver);
    hand_in(&mut appliance.producer(), "acme", 0..100);
    receiver.wait_for(100);
    assert_eq!(most.load(Ordering::SeqCst), LIMIT);
}

#[test]
fn merchants_with_backlogs_take_turns() {
    // One attempt at a time in all, so that the order of arrivals is the order of turns.
    let settings = [
        ("DELIVERY__SHARDS", "1"),
        ("DELIVERY__IN_FLIGHT_MAX", "1"),
        ("DELIVERY__IN_FLIGHT_PER_MERCHANT_MAX", "1"),
        ("DELIVERY__IN_FLIGHT_PER_ENDPOINT_MAX", "1"),
    ];
    let appliance = Appliance::start(&settings);
    let receiver = Receiver::scripted(|_| {
        Reply::Drip(vec![(Duration::from_millis(5), b"HTTP/1.1 200 -\r\nContent-Length: 0\r\n\r\n".to_vec())])
    });
    for merchant in ["long", "short"] {
        appliance.merchant_at(merchant, &receiver);
    }
    hand_in(&mut appliance.producer(), "long", 0..200);
    let short = hand_in(&mut appliance.producer(), "short", 0..20);
    let received = receiver.wait_for(220);
    let last = received.iter().rposition(|r| short.iter().any(|id| id == r.id())).expect("all came");
    // The long one had a head start of what left before the short one's events were there.
    let first = received.iter().position(|r| short.iter().any(|id| id == r.id())).expect("all came");
    assert!(last - first <= 2 * 20, "turn by turn: the first was number {first}, the last number {last}");
}

#[test]
fn large_payloads_beyond_the_memory_for_them_arrive_whole() {
    let (appliance, receiver) = (Appliance::start(&SMALL), Receiver::start());
    let mut merchant = appliance.merchant("acme");
    merchant.configure(&json!({ "url": receiver.url(), "enabled": false }));
    let mut producer = appliance.producer();
    let trace = |n: usize| format!("00-{n:032x}-00f067aa0ba902b7-01");
    for n in 1..=20 {
        let data = json!({ "n": n, "p": "y".repeat(200_000) });
        let event = json!({ "type": "card_transaction", "merchant_id": "acme", "data": data }).to_string();
        let trace = trace(n);
        let headers = [("content-type", "application/json"), ("traceparent", trace.as_str())];
        producer.send("POST", "/v1/events", &headers, event.as_bytes()).expect(202);
    }
    merchant.configure(&json!({ "url": receiver.url() }));
    let mut seen = Vec::new();
    for received in receiver.wait_for(20) {
        let body: serde_json::Value = serde_json::from_slice(&received.body).expect("whole");
        let n = usize::try_from(body["n"].as_u64().expect("a number")).expect("small");
        assert_eq!(body["p"].as_str().expect("text").len(), 200_000);
        assert_eq!(received.header("traceparent"), Some(trace(n).as_str()));
        seen.push(n);
    }
    seen.sort_unstable();
    assert_eq!(seen, (1..=20).collect::<Vec<_>>());
}
