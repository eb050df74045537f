//! How endpoints are treated: left alone while they fail, kept in order where asked, disabled after long, their
//! missed events counted and sent again.
//!
//! Never asserts how long anything takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::{Value, json};

use crate::harness::{Appliance, Merchant, Receiver, Reply, eventually};

const CONFIG: &str = "/api/v2/webhooks/config";
const RECOVER: &str = "/api/v2/webhooks/events/recover";

fn state(merchant: &mut Merchant, wanted: &str) -> Value {
    eventually(wanted, || {
        let config = merchant.api.get(CONFIG).expect(200);
        (config["state"] == wanted).then_some(config)
    })
}

#[test]
fn an_endpoint_that_fails_is_left_alone_and_its_events_keep_their_attempts() {
    let (receiver, says) = Receiver::moody(500);
    let appliance = Appliance::start(&[
        ("DELIVERY__BREAKER_FAILURES", "2"),
        ("DELIVERY__BREAKER_WAIT", "2s"),
        ("DELIVERY__BREAKER_WAIT_MAX", "2s"),
        ("DELIVERY__RETRY_SCHEDULE", "1s,1s,1s,1s,1s,1s,1s,1s"),
    ]);
    let mut merchant = appliance.merchant_at("acme", &receiver);
    let ids: Vec<String> = (0..20).map(|n| appliance.submit(&merchant, "card_state", &json!({ "n": n }))).collect();
    receiver.wait_for(3);
    says.store(200, Ordering::Relaxed);
    let tried: Vec<u64> =
        ids.iter().map(|id| merchant.wait_for_status(id, "delivered")["attempt_count"].as_u64().unwrap()).collect();
    let once = tried.iter().filter(|count| **count == 1).count();
    assert!(once >= 14, "most of them waited without being tried: {tried:?}");
}

#[test]
fn events_of_one_resource_keep_their_order_and_others_go_on() {
    let says = Arc::new(AtomicU16::new(500));
    let failing = Arc::clone(&says);
    let receiver = Receiver::scripted(move |received| {
        let first = received.body.starts_with(br#"{"id":"c1","n":1"#);
        Reply::Status(if first { failing.load(Ordering::Relaxed) } else { 200 })
    });
    let appliance =
        Appliance::start(&[("DELIVERY__RETRY_SCHEDULE", "1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s")]);
    let mut merchant = appliance.merchant("acme");
    merchant.configure(&json!({ "url": receiver.url(), "ordering": "resource" }));
    let [one, two, other] = [("c1", 1), ("c1", 2), ("c2", 3)]
        .map(|(card, n)| appliance.submit(&merchant, "card_state", &json!({ "id": card, "n": n })));
    merchant.wait_for_status(&other, "delivered");
    merchant.wait_for_status(&one, "retrying");
    merchant.wait_for_status(&two, "pending");
    says.store(200, Ordering::Relaxed);
    merchant.wait_for_status(&two, "delivered");
    merchant.wait_for_status(&one, "delivered");
    let arrived: Vec<String> = receiver.wait_for(4).iter().map(|received| received.id().to_owned()).collect();
    let last = |id: &String| arrived.iter().rposition(|arrived| arrived == id).expect("it arrived");
    assert!(last(&one) < last(&two), "{arrived:?}");
    assert_eq!(arrived.iter().filter(|id| **id == two).count(), 1);
}

#[test]
fn an_endpoint_that_only_fails_is_disabled_seen_and_enabled_again() {
    let (receiver, says) = Receiver::moody(500);
    let appliance = Appliance::start(&[
        ("DELIVERY__FAILING_AFTER", "1s"),
        ("DELIVERY__DISABLE_AFTER", "3s"),
        ("DELIVERY__DISABLE_SPREAD", "0s"),
        (
            "DELIVERY__RETRY_SCHEDULE",
            "500ms,500ms,500ms,500ms,500ms,500ms,500ms,500ms,500ms,500ms,500ms,500ms,500ms,500ms",
        ),
    ]);
    let mut merchant = appliance.merchant_at("acme", &receiver);
    let tag = merchant.api.get(CONFIG).header("etag").expect("a tag").to_owned();
    let id = appliance.submit(&merchant, "card_state", &json!({}));
    let failing = eventually("it is shown as failing", || {
        let found = appliance.operator().get("/admin/v1/endpoints?state=failing").expect(200);
        found["data"].as_array().expect("a list").first().cloned()
    });
    assert_eq!((&failing["merchant_id"], &failing["state"]), (&json!("acme"), &json!("active")));
    assert!(failing["failing_since"].is_string());
    assert_eq!(merchant.api.get(CONFIG).header("etag"), Some(&*tag), "failing is no change of the config");
    let config = state(&mut merchant, "disabled");
    assert_eq!((&config["state_reason"], &config["enabled"]), (&json!("failing"), &json!(false)));
    merchant.wait_for_status(&id, "retrying");
    assert_eq!(appliance.metric("posthaste_endpoints_disabled_total{reason=\"failing\"}"), 1.0);
    assert_eq!(appliance.metric("posthaste_endpoints_disabled"), 1.0);
    says.store(200, Ordering::Relaxed);
    let config = merchant.configure(&json!({ "url": receiver.url(), "enabled": true }));
    assert_eq!((&config["state"], &config["state_reason"]), (&json!("active"), &Value::Null));
    merchant.wait_for_status(&id, "delivered");
    assert_eq!(merchant.api.get(CONFIG).expect(200)["failing_since"], Value::Null);
}

#[test]
fn a_new_webhook_is_not_blamed_for_the_one_before_it() {
    let (receiver, other) = (Receiver::moody(500).0, Receiver::start());
    let appliance = Appliance::start(&[("DELIVERY__RETRY_SCHEDULE", "1h")]);
    let mut merchant = appliance.merchant_at("acme", &receiver);
    let id = appliance.submit(&merchant, "card_state", &json!({}));
    merchant.wait_for_status(&id, "retrying");
    assert!(merchant.api.get(CONFIG).expect(200)["failing_since"].is_string());
    assert_eq!(merchant.api.delete(CONFIG).status, 204);
    let config = merchant.configure(&json!({ "url": other.url() }));
    assert_eq!(config["failing_since"], Value::Null);
    let failing = appliance.operator().get("/admin/v1/endpoints?state=failing").expect(200);
    assert_eq!(failing["data"], json!([]));
}

#[test]
fn what_waits_for_too_long_has_failed_and_says_why() {
    let receiver = Receiver::start();
    let appliance = Appliance::start(&[("DELIVERY__OVERDUE_MAX", "2s")]);
    let mut merchant = appliance.merchant("acme");
    merchant.configure(&json!({ "url": receiver.url(), "enabled": false }));
    let id = appliance.submit(&merchant, "card_state", &json!({}));
    let event = merchant.wait_for_status(&id, "failed");
    assert_eq!((&event["status_reason"], &event["attempt_count"]), (&json!("expired"), &json!(0)));
    merchant.configure(&json!({ "url": receiver.url() }));
    let after = appliance.submit(&merchant, "card_state", &json!({}));
    let event = merchant.wait_for_status(&after, "delivered");
    assert_eq!(event["status_reason"], Value::Null);
    assert_eq!(receiver.count(), 1);
}

#[test]
fn missed_events_are_counted_and_sent_again() {
    let (receiver, says) = Receiver::moody(500);
    let appliance = Appliance::start(&[("DELIVERY__RETRY_SCHEDULE", "")]);
    let mut merchant = appliance.merchant_at("acme", &receiver);
    merchant.api.get(RECOVER).expect(404);
    let ids: Vec<String> = (0..5).map(|n| appliance.submit(&merchant, "card_state", &json!({ "n": n }))).collect();
    for id in &ids {
        merchant.wait_for_status(id, "failed");
    }
    says.store(200, Ordering::Relaxed);
    let counted = merchant.api.post(RECOVER, &json!({ "dry_run": true, "event_type": "card_state" })).expect(200);
    assert_eq!((&counted["matching"], &counted["more"]), (&json!(5), &json!(false)));
    let none = merchant.api.post(RECOVER, &json!({ "dry_run": true, "event_type": ["account_topup"] })).expect(200);
    assert_eq!(none["matching"], 0);
    let past = json!({ "dry_run": true, "to": "2020-01-01T00:00:00Z" });
    assert_eq!(merchant.api.post(RECOVER, &past).expect(200)["matching"], 0);
    let begun = merchant.api.post(RECOVER, &json!({ "status": "failed" })).expect(202);
    assert_eq!(begun["state"], "running");
    for id in &ids {
        assert_eq!(merchant.wait_for_status(id, "delivered")["attempt_count"], 2);
    }
    let done = eventually("the recovery ends", || {
        let progress = merchant.api.get(RECOVER).expect(200);
        (progress["state"] == "done").then_some(progress)
    });
    assert_eq!(done["queued"], 5);
    assert_eq!(merchant.api.delete(RECOVER).status, 204);
}

#[test]
fn a_recovery_can_be_stopped_and_there_is_one_at_a_time() {
    let (receiver, _) = Receiver::moody(500);
    let appliance = Appliance::start(&[("DELIVERY__RETRY_SCHEDULE", ""), ("DELIVERY__RECOVER_PER_SECOND", "1")]);
    let mut merchant = appliance.merchant_at("acme", &receiver);
    let ids: Vec<String> = (0..9).map(|n| appliance.submit(&merchant, "card_state", &json!({ "n": n }))).collect();
    for id in &ids {
        merchant.wait_for_status(id, "failed");
    }
    merchant.api.post(RECOVER, &json!({})).expect(202);
    let refused = merchant.api.post(RECOVER, &json!({})).expect(409);
    assert_eq!(refused["code"], "recovery_under_way");
    assert_eq!(merchant.api.delete(RECOVER).status, 204);
    let ended = eventually("the recovery ends", || {
        let progress = merchant.api.get(RECOVER).expect(200);
        (progress["state"] == "canceled").then_some(progress)
    });
    assert!(ended["queued"].as_u64().unwrap() < 9);
    appliance.merchant_at("globex", &receiver).api.get(RECOVER).expect(404);
}

#[test]
fn a_wrong_wish_is_refused_by_field() {
    let receiver = Receiver::start();
    let appliance = Appliance::start(&[]);
    let mut merchant = appliance.merchant("acme");
    let refused = merchant.api.post(RECOVER, &json!({})).expect(409);
    assert_eq!(refused["code"], "webhook_not_configured");
    let config = merchant.configure(&json!({ "url": receiver.url() }));
    assert_eq!((&config["ordering"], &config["rate_limit_per_second"]), (&json!("none"), &Value::Null));
    let set = json!({ "url": receiver.url(), "ordering": "resource", "rate_limit_per_second": 7 });
    let config = merchant.configure(&set);
    assert_eq!((&config["ordering"], &config["rate_limit_per_second"]), (&json!("resource"), &json!(7)));
    for (path, body, field) in [
        (CONFIG, json!({ "url": receiver.url(), "ordering": "global" }), "ordering"),
        (CONFIG, json!({ "url": receiver.url(), "rate_limit_per_second": 0 }), "rate_limit_per_second"),
        (CONFIG, json!({ "url": receiver.url(), "rate_limit_per_second": 10_001 }), "rate_limit_per_second"),
        (RECOVER, json!({ "status": "pending" }), "status"),
        (RECOVER, json!({ "event_type": ["nothing"] }), "event_type"),
        (RECOVER, json!({ "from": "yesterday" }), "from"),
        (RECOVER, json!({ "from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z" }), "to"),
        (RECOVER, json!({ "since": "2026-01-02T00:00:00Z" }), "since"),
    ] {
        let answer = if path == CONFIG { merchant.api.put(path, &body) } else { merchant.api.post(path, &body) };
        assert_eq!(answer.expect(422)["errors"][0]["field"], field, "{body}");
    }
    let config = merchant.api.get(CONFIG).expect(200);
    assert_eq!(config["rate_limit_per_second"], 7, "nothing was changed");
}
