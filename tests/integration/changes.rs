//! A config that changes while its deliveries are under way.
//!
//! Never loses or doubles an event, whatever the merchant does to the config meanwhile.

use std::collections::BTreeMap;
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Appliance, Merchant, Receiver, Reply, eventually};

const CONFIG: &str = "/api/v2/webhooks/config";

/// Answers this status after a pause that is long enough to change something meanwhile.
fn slow(status: u16) -> Receiver {
    let answer = format!("HTTP/1.1 {status} -\r\nContent-Length: 0\r\n\r\n").into_bytes();
    Receiver::scripted(move |_| Reply::Drip(vec![(Duration::from_millis(700), answer.clone())]))
}

fn list(merchant: &mut Merchant, query: &str) -> Vec<Value> {
    let page = merchant.api.get(&format!("/api/v2/webhooks/events?limit=250&{query}")).expect(200);
    page["data"].as_array().expect("a list").clone()
}

/// Hands in so many events for `acme` beside the test, a hundred at a time.
fn hand_in(appliance: &Appliance, count: usize) -> JoinHandle<()> {
    let mut producer = appliance.producer();
    std::thread::spawn(move || {
        for begin in (0..count).step_by(100) {
            let line =
                |n: usize| json!({ "type": "card_state", "merchant_id": "acme", "data": { "n": n } }).to_string();
            let lines: Vec<String> = (begin..begin + 100).map(line).collect();
            let headers = [("content-type", "application/x-ndjson")];
            let answer = producer.send("POST", "/v1/events/batch", &headers, lines.join("\n").as_bytes());
            assert!(answer.lines().iter().all(|line| line["status"] == 202), "{}", answer.text());
        }
    })
}

#[test]
fn an_attempt_under_way_while_the_config_is_deleted_is_recorded_as_it_ended() {
    let appliance = Appliance::start(&[]);
    for (id, answered, ends) in [("good", 200, "delivered"), ("bad", 500, "canceled")] {
        let receiver = slow(answered);
        let mut merchant = appliance.merchant_at(id, &receiver);
        let event = appliance.submit(&merchant, "card_state", &json!({}));
        receiver.wait_for(1);
        assert_eq!(merchant.api.delete(CONFIG).status, 204);
        let event = merchant.wait_for_status(&event, ends);
        assert_eq!((&event["attempt_count"], &event["attempts"][0]["status_code"]), (&json!(1), &json!(answered)));
        assert_eq!(event["next_attempt_at"], json!(null));
        assert_eq!(receiver.count(), 1);
    }
}

#[test]
fn a_config_made_anew_does_not_hear_of_what_was_canceled() {
    let (appliance, first, second) = (Appliance::start(&[]), Receiver::start(), Receiver::start());
    let mut merchant = appliance.merchant("acme");
    merchant.configure(&json!({ "url": first.url(), "enabled": false, "secret": "old" }));
    let canceled = appliance.submit(&merchant, "card_state", &json!({ "n": 1 }));
    assert_eq!(merchant.api.delete(CONFIG).status, 204);
    let made = merchant.api.put(CONFIG, &json!({ "url": second.url() })).expect(201);
    assert_eq!(made["secret_set"], false, "the secret went with the config");
    let event = appliance.submit(&merchant, "card_state", &json!({ "n": 2 }));
    let received = second.first();
    assert_eq!((received.id(), received.header("x-webhook-sequence")), (event.as_str(), Some("2")));
    merchant.wait_for_status(&event, "delivered");
    merchant.wait_for_status(&canceled, "canceled");
    assert_eq!((first.count(), second.count()), (0, 1));
}

#[test]
fn a_410_from_a_url_that_was_replaced_meanwhile_holds_nothing_up() {
    let (old, new) = (slow(410), Receiver::start());
    let appliance = Appliance::start(&[("DELIVERY__RETRY_SCHEDULE", "100ms"), ("DELIVERY__RETRY_JITTER", "0")]);
    let mut merchant = appliance.merchant_at("acme", &old);
    let first = appliance.submit(&merchant, "card_state", &json!({ "n": 1 }));
    old.wait_for(1);
    merchant.configure(&json!({ "url": new.url() }));
    let event = merchant.wait_for_status(&first, "delivered");
    assert_eq!((&event["attempts"][0]["error_code"], &event["attempt_count"]), (&json!("gone"), &json!(2)));
    let second = appliance.submit(&merchant, "card_state", &json!({ "n": 2 }));
    merchant.wait_for_status(&second, "delivered");
    let config = merchant.api.get(CONFIG).expect(200);
    assert_eq!((&config["state"], &config["url"]), (&json!("active"), &json!(new.url())));
    assert_eq!((old.count(), new.count()), (1, 2));
}

#[test]
fn a_canceled_event_can_be_sent_to_the_config_that_came_after() {
    let (appliance, first, second) = (Appliance::start(&[]), Receiver::start(), Receiver::start());
    let mut merchant = appliance.merchant("acme");
    merchant.configure(&json!({ "url": first.url(), "enabled": false }));
    let id = appliance.submit(&merchant, "card_state", &json!({}));
    assert_eq!(merchant.api.delete(CONFIG).status, 204);
    merchant.wait_for_status(&id, "canceled");
    merchant.configure(&json!({ "url": second.url() }));
    merchant.api.post(&format!("/api/v2/webhooks/events/{id}/resend"), &json!({})).expect(202);
    let received = second.first();
    assert_eq!((received.id(), received.header("x-webhook-attempt")), (id.as_str(), Some("1")));
    merchant.wait_for_status(&id, "delivered");
    assert_eq!(first.count(), 0);
}

#[test]
fn a_resend_amid_the_cancellation_of_a_backlog_goes_to_the_config_that_came_after() {
    let (appliance, first, second) = (Appliance::start(&[]), Receiver::start(), Receiver::start());
    let mut merchant = appliance.merchant("acme");
    merchant.configure(&json!({ "url": first.url(), "enabled": false }));
    hand_in(&appliance, 3_000).join().expect("all are taken");
    let newest: Vec<String> =
        list(&mut merchant, "").iter().take(20).map(|event| event["id"].as_str().expect("an id").to_owned()).collect();
    assert_eq!(merchant.api.delete(CONFIG).status, 204);
    merchant.configure(&json!({ "url": second.url() }));
    // The newest are canceled last.
    for id in &newest {
        let resent = merchant.api.post(&format!("/api/v2/webhooks/events/{id}/resend"), &json!({})).expect(202);
        assert_eq!(resent["state"], "queued");
    }
    for id in &newest {
        merchant.wait_for_status(id, "delivered");
    }
    eventually("nothing waits", || (appliance.metric("posthaste_deliveries_waiting") == 0.0).then_some(()));
    assert_eq!((first.count(), second.count()), (0, newest.len()));
}

#[test]
fn a_pause_during_an_attempt_keeps_its_retry_for_the_resume() {
    let receiver = Receiver::scripted(|r| match r.number {
        0 => Reply::Drip(vec![(Duration::from_millis(700), b"HTTP/1.1 500 -\r\nContent-Length: 0\r\n\r\n".to_vec())]),
        _ => Reply::Status(200),
    });
    let appliance = Appliance::start(&[("DELIVERY__RETRY_SCHEDULE", "100ms"), ("DELIVERY__RETRY_JITTER", "0")]);
    let mut merchant = appliance.merchant_at("acme", &receiver);
    let id = appliance.submit(&merchant, "card_state", &json!({}));
    receiver.wait_for(1);
    merchant.configure(&json!({ "url": receiver.url(), "enabled": false }));
    merchant.wait_for_status(&id, "retrying");
    // Others are delivered long after the retry was due; it is not made.
    let other_receiver = Receiver::start();
    let other = appliance.merchant_at("other", &other_receiver);
    let due = merchant.event(&id)["next_attempt_at"].as_str().expect("a time").parse::<jiff::Timestamp>();
    let due = due.expect("RFC 3339");
    eventually("the retry is overdue", || (jiff::Timestamp::now() > due + Duration::from_millis(200)).then_some(()));
    appliance.submit(&other, "card_state", &json!({}));
    other_receiver.wait_for(1);
    assert_eq!(receiver.count(), 1);
    merchant.configure(&json!({ "url": receiver.url() }));
    assert_eq!(receiver.nth(1).header("x-webhook-attempt"), Some("2"));
    assert_eq!(merchant.wait_for_status(&id, "delivered")["attempt_count"], 2);
}

#[test]
fn types_that_are_no_longer_selected_still_deliver_what_was_accepted_before() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    let mut merchant = appliance.merchant("acme");
    merchant.configure(&json!({ "url": receiver.url(), "enabled": false }));
    let before = appliance.submit(&merchant, "card_state", &json!({}));
    merchant.configure(&json!({ "url": receiver.url(), "event_types": ["account_topup"] }));
    let after = appliance.submit(&merchant, "card_state", &json!({}));
    merchant.wait_for_status(&before, "delivered");
    assert_eq!(merchant.event(&after)["status"], "skipped");
    merchant.configure(&json!({ "url": receiver.url() }));
    assert_eq!(merchant.event(&after)["status"], "skipped", "a later selection does not bring it back");
    assert_eq!(receiver.count(), 1);
}

#[test]
fn pausing_and_resuming_under_load_loses_and_doubles_nothing() {
    const EVENTS: usize = 2_000;
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    let mut merchant = appliance.merchant_at("acme", &receiver);
    let handing_in = hand_in(&appliance, EVENTS);
    let mut enabled = false;
    while !handing_in.is_finished() || enabled {
        merchant.configure(&json!({ "url": receiver.url(), "enabled": enabled }));
        enabled = !enabled;
    }
    handing_in.join().expect("every event is accepted");
    merchant.configure(&json!({ "url": receiver.url() }));
    receiver.wait_for(EVENTS);
    eventually("all are recorded", || (appliance.metric("posthaste_deliveries_waiting") == 0.0).then_some(()));
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for received in receiver.wait_for(EVENTS) {
        *seen.entry(received.id().to_owned()).or_default() += 1;
    }
    assert_eq!(seen.len(), EVENTS);
    let doubled: Vec<_> = seen.iter().filter(|(_, times)| **times > 1).collect();
    assert!(doubled.is_empty(), "{doubled:?}");
    assert_eq!(list(&mut merchant, "status=pending&status=retrying"), Vec::<Value>::new());
}

#[test]
fn deleting_and_making_the_config_under_load_leaves_every_event_with_one_end() {
    const EVENTS: usize = 2_000;
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    let mut merchant = appliance.merchant("acme");
    let handing_in = hand_in(&appliance, EVENTS);
    while !handing_in.is_finished() {
        merchant.configure(&json!({ "url": receiver.url() }));
        assert_eq!(merchant.api.delete(CONFIG).status, 204);
    }
    handing_in.join().expect("every event is accepted");
    eventually("nothing waits", || (appliance.metric("posthaste_deliveries_waiting") == 0.0).then_some(()));
    let (mut ends, mut sequences) = (BTreeMap::<String, usize>::new(), Vec::new());
    let mut target = Some("limit=250&order=asc".to_owned());
    while let Some(query) = target {
        let page = merchant.api.get(&format!("/api/v2/webhooks/events?{query}")).expect(200);
        for item in page["data"].as_array().expect("a list") {
            *ends.entry(item["status"].as_str().expect("a word").to_owned()).or_default() += 1;
            sequences.push(item["sequence"].as_u64().expect("a number"));
        }
        target = page["next_cursor"].as_str().map(|cursor| format!("limit=250&order=asc&cursor={cursor}"));
    }
    assert_eq!(sequences, (1..=EVENTS as u64).collect::<Vec<_>>(), "each has its number");
    let known = ["canceled", "delivered", "skipped"];
    assert!(ends.keys().all(|status| known.contains(&status.as_str())), "{ends:?}");
    assert_eq!(
        receiver.count(),
        ends.get("delivered").copied().unwrap_or(0),
        "what arrived is what is shown: {ends:?}"
    );
}

#[test]
fn deleting_a_long_backlog_cancels_all_of_it() {
    const EVENTS: usize = 3_000;
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::scripted(|_| Reply::Never));
    let mut merchant = appliance.merchant_at("acme", &receiver);
    let line = json!({ "type": "card_state", "merchant_id": "acme", "data": {} }).to_string();
    let headers = [("content-type", "application/x-ndjson")];
    for _ in 0..EVENTS / 1000 {
        let lines = vec![line.clone(); 1000].join("\n");
        appliance.producer().send("POST", "/v1/events/batch", &headers, lines.as_bytes());
    }
    receiver.wait_for(8);
    assert_eq!(merchant.api.delete(CONFIG).status, 204);
    // Those under way end by their deadline and are canceled then.
    eventually("nothing waits any more", || (appliance.metric("posthaste_deliveries_waiting") == 0.0).then_some(()));
    assert_eq!(list(&mut merchant, "status=pending&status=retrying"), Vec::<Value>::new());
    let (mut canceled, mut target) = (0, Some("/api/v2/webhooks/events?limit=250&status=canceled".to_owned()));
    while let Some(path) = target {
        let page = merchant.api.get(&path).expect(200);
        canceled += page["data"].as_array().expect("a list").len();
        let cursor = page["next_cursor"].as_str();
        target = cursor.map(|cursor| format!("/api/v2/webhooks/events?limit=250&status=canceled&cursor={cursor}"));
    }
    assert_eq!(canceled, EVENTS);
    assert_eq!(receiver.count(), 8);
}

#[test]
fn a_grace_ends_by_itself_and_with_the_secret() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    let mut merchant = appliance.merchant("acme");
    let previous = |merchant: &Merchant, n: usize| {
        appliance.submit(merchant, "card_state", &json!({ "n": n }));
        let received = receiver.nth(n);
        let entries = received.header("webhook-signature").map_or(0, |value| value.split(' ').count());
        (received.header("x-webhook-signature-previous").is_some(), entries)
    };
    let config = |secret: Value, grace_s: u64| json!({ "url": receiver.url(), "secret": secret, "secret_grace_seconds": grace_s });
    merchant.configure(&config(json!("first"), 0));
    merchant.configure(&config(json!("second"), 2));
    assert_eq!(previous(&merchant, 0), (true, 2));
    let replaced = std::time::Instant::now();
    eventually("the grace is over", || (replaced.elapsed() > Duration::from_millis(2_100)).then_some(()));
    assert_eq!(previous(&merchant, 1), (false, 1));
    merchant.configure(&config(json!("third"), 3600));
    merchant.configure(&config(json!("third"), 60));
    assert_eq!(previous(&merchant, 2), (true, 2), "the same secret again is no replacement");
    merchant.configure(&config(json!("third"), 0));
    assert_eq!(previous(&merchant, 3), (false, 1), "no grace ends the one that has begun");
    merchant.configure(&config(json!("second"), 3600));
    merchant.configure(&config(json!(null), 3600));
    assert_eq!(previous(&merchant, 4), (false, 0), "without a secret nothing is signed");
    merchant.configure(&config(json!("fourth"), 3600));
    assert_eq!(previous(&merchant, 5), (false, 1), "there was none to replace");
}
