//! The operators' surface: merchants, keys, endpoints, figures, health.
//!
//! Never lets a key be seen twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::harness::{Appliance, Client, Merchant, Receiver, Reply, eventually};

#[test]
fn merchants_are_put_read_listed_and_removed() {
    let appliance = Appliance::start(&[]);
    let mut operator = appliance.operator();
    let made = operator.put("/admin/v1/merchants/acme", &json!({ "name": "Acme & Sons" })).expect(201);
    assert_eq!((&made["id"], &made["name"]), (&json!("acme"), &json!("Acme & Sons")));
    let again = operator.put("/admin/v1/merchants/acme", &json!({ "name": "Acme" })).expect(200);
    assert_eq!((&again["name"], &again["created_at"]), (&json!("Acme"), &made["created_at"]));
    assert_eq!(operator.get("/admin/v1/merchants/acme").expect(200)["webhook_configured"], false);
    for n in 0..5 {
        operator.put(&format!("/admin/v1/merchants/m{n}"), &json!({})).expect(201);
    }
    let mut listed = Vec::new();
    let mut target = Some("/admin/v1/merchants?limit=3".to_owned());
    while let Some(path) = target {
        let page = operator.get(&path).expect(200);
        listed.extend(
            page["data"].as_array().expect("a list").iter().map(|m| m["id"].as_str().expect("an id").to_owned()),
        );
        target = page["next_cursor"].as_str().map(|cursor| format!("/admin/v1/merchants?limit=3&cursor={cursor}"));
    }
    assert_eq!(listed, ["acme", "dev", "m0", "m1", "m2", "m3", "m4"]);
    assert_eq!(operator.delete("/admin/v1/merchants/m0").status, 204);
    assert_eq!(operator.get("/admin/v1/merchants/m0").expect(404)["code"], "merchant_not_found");
    assert_eq!(operator.delete("/admin/v1/merchants/m0").status, 404);
}

#[test]
fn a_removed_merchant_is_locked_out_and_what_waited_is_canceled() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    let mut merchant = appliance.merchant("acme");
    merchant.configure(&json!({ "url": receiver.url(), "enabled": false }));
    let id = appliance.submit(&merchant, "card_state", &json!({}));
    assert_eq!(appliance.operator().delete("/admin/v1/merchants/acme").status, 204);
    assert_eq!(merchant.api.get("/api/v2/webhooks/config").status, 401, "its keys went with it");
    let event = json!({ "type": "card_state", "merchant_id": "acme", "data": {} });
    assert_eq!(appliance.producer().post("/v1/events", &event).status, 422);
    let mut back = appliance.merchant("acme");
    let event = back.wait_for_status(&id, "canceled");
    assert_eq!(event["sequence"], 1, "its history stays");
    assert_eq!(receiver.count(), 0);
}

#[test]
fn keys_are_shown_once_and_revoked_at_once() {
    let appliance = Appliance::start(&[]);
    let mut operator = appliance.operator();
    operator.put("/admin/v1/merchants/acme", &json!({})).expect(201);
    let made = operator.post("/admin/v1/merchants/acme/keys", &json!({})).expect(201);
    let key = made["key"].as_str().expect("shown once").to_owned();
    assert!(key.starts_with("phm_") && key.len() >= 40, "{key}");
    let mut merchant = Client::new(appliance.says("public"), Some(&key));
    assert_eq!(merchant.get("/api/v2/webhooks/events").status, 200);
    let listed = operator.get("/admin/v1/merchants/acme/keys");
    assert!(!listed.text().contains(&key));
    assert_eq!(listed.expect(200)["data"][0]["id"], made["id"]);
    let id = made["id"].as_str().expect("an id");
    assert_eq!(operator.delete(&format!("/admin/v1/merchants/dev/keys/{id}")).status, 404, "another merchant's");
    assert_eq!(operator.delete(&format!("/admin/v1/keys/{id}")).status, 404, "not the platform's");
    assert_eq!(operator.delete(&format!("/admin/v1/merchants/acme/keys/{id}")).status, 204);
    assert_eq!(merchant.get("/api/v2/webhooks/events").status, 401);
    assert_eq!(operator.delete(&format!("/admin/v1/merchants/acme/keys/{id}")).status, 404);
}

#[test]
fn producers_and_operators_have_keys_of_their_own_role() {
    let appliance = Appliance::start(&[]);
    let mut operator = appliance.operator();
    let event = json!({ "type": "card_state", "merchant_id": "dev", "data": {} });
    for (role, prefix) in [("producer", "php_"), ("operator", "pho_")] {
        let made = operator.post("/admin/v1/keys", &json!({ "role": role })).expect(201);
        let key = made["key"].as_str().expect("shown once");
        assert!(key.starts_with(prefix), "{role}");
        let (is_producer, is_operator) = (role == "producer", role == "operator");
        let ingest = Client::new(appliance.says("ingest"), Some(key)).post("/v1/events", &event).status;
        let admin = Client::new(appliance.says("admin"), Some(key)).get("/admin/v1/stats").status;
        let api = Client::new(appliance.says("public"), Some(key)).get("/api/v2/webhooks/config").status;
        assert_eq!(ingest, if is_producer { 202 } else { 403 }, "{role}");
        assert_eq!(admin, if is_operator { 200 } else { 403 }, "{role}");
        assert_eq!(api, 403, "{role}");
    }
    let roles: Vec<Value> = operator.get("/admin/v1/keys").expect(200)["data"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|k| k["role"].clone())
        .collect();
    assert_eq!(roles.iter().filter(|role| **role == "producer").count(), 2);
    assert!(!roles.contains(&json!("merchant")));
}

#[test]
fn figures_are_true() {
    let receiver = Receiver::scripted(|r| Reply::Status(if r.body.ends_with(b"\"bad\"}") { 500 } else { 200 }));
    let appliance = Appliance::start(&[("DELIVERY__RETRY_SCHEDULE", "1h")]);
    let mut merchant = appliance.merchant_at("acme", &receiver);
    for _ in 0..3 {
        let id = appliance.submit(&merchant, "card_state", &json!({ "n": "good" }));
        merchant.wait_for_status(&id, "delivered");
    }
    let id = appliance.submit(&merchant, "card_state", &json!({ "n": "bad" }));
    merchant.wait_for_status(&id, "retrying");
    for (name, expected) in [
        ("posthaste_events_accepted_total", 4.0),
        ("posthaste_attempts_total{outcome=\"success\"}", 3.0),
        ("posthaste_attempts_total{outcome=\"http_status\"}", 1.0),
        ("posthaste_deliveries_settled_total{status=\"delivered\"}", 3.0),
        ("posthaste_deliveries_waiting", 1.0),
        ("posthaste_attempts_in_flight", 0.0),
        ("posthaste_delivery_latency_seconds_count", 3.0),
        ("posthaste_first_attempt_latency_seconds_count", 4.0),
        ("posthaste_ready", 1.0),
        ("posthaste_limit{name=\"in_flight_per_merchant\"}", 32.0),
        ("posthaste_limit{name=\"reads\"}", 16.0),
        ("posthaste_limit{name=\"notices\"}", 32_768.0),
        ("posthaste_limit{name=\"notices_payload_bytes\"}", 16_777_216.0),
        ("posthaste_limit{name=\"page\"}", 128.0),
        ("posthaste_limit{name=\"pages\"}", 4.0),
        ("posthaste_limit{name=\"settling\"}", 16_384.0),
        ("posthaste_limit{name=\"small_body_bytes\"}", 16384.0),
        ("posthaste_listener_limit{listener=\"public\",name=\"connections_per_ip\"}", 256.0),
        ("posthaste_listener_limit{listener=\"admin\",name=\"head_seconds\"}", 5.0),
        ("posthaste_http_requests_total{listener=\"ingest\",class=\"2xx\"}", 4.0),
    ] {
        assert_eq!(appliance.metric(name), expected, "{name}");
    }
    assert!(appliance.metric("posthaste_commit_duration_seconds_count") >= 4.0);
    assert_eq!(appliance.metric("posthaste_oldest_due_age_seconds"), 0.0, "it is not due yet");
    let stats = appliance.operator().get("/admin/v1/stats").expect(200);
    assert_eq!((&stats["merchants"], &stats["endpoints"]), (&json!(2), &json!(2)));
    assert_eq!(stats["deliveries_waiting"], 1);
}

#[test]
fn what_is_overdue_shows_its_age() {
    // One attempt at a time, and the receiver sits on it: the second delivery is due and waits.
    let receiver = Receiver::scripted(|_| Reply::Never);
    let appliance = Appliance::start(&[("DELIVERY__IN_FLIGHT_PER_ENDPOINT_MAX", "1")]);
    let merchant = appliance.merchant_at("acme", &receiver);
    for n in 0..2 {
        appliance.submit(&merchant, "card_state", &json!({ "n": n }));
    }
    eventually("the age grows", || (appliance.metric("posthaste_oldest_due_age_seconds") > 0.5).then_some(()));
    assert_eq!(appliance.metric("posthaste_attempts_in_flight"), 1.0);
}

#[test]
fn endpoints_are_listed_by_state() {
    let appliance = Appliance::start(&[]);
    appliance
        .merchant("acme")
        .configure(&json!({ "url": "http://127.0.0.1:9/", "enabled": false, "secret": "hush hush hush" }));
    let mut operator = appliance.operator();
    let paused = operator.get("/admin/v1/endpoints?state=paused");
    assert!(!paused.text().contains("hush"));
    assert_eq!(paused.expect(200)["data"][0]["merchant_id"], "acme");
    let active = operator.get("/admin/v1/endpoints?state=active").expect(200);
    assert_eq!(active["data"].as_array().expect("a list").len(), 1);
    assert_eq!(operator.get("/admin/v1/endpoints").expect(200)["data"].as_array().expect("a list").len(), 2);
}

#[test]
fn an_endpoint_that_fails_is_listed_until_it_succeeds() {
    let well = Arc::new(AtomicBool::new(false));
    let answers = Arc::clone(&well);
    let receiver = Receiver::scripted(move |_| Reply::Status(if answers.load(Ordering::Relaxed) { 200 } else { 500 }));
    let appliance = Appliance::start(&[("DELIVERY__RETRY_SCHEDULE", "1h")]);
    let (mut failing, healthy) = (appliance.merchant_at("acme", &receiver), Receiver::start());
    let mut other = appliance.merchant_at("globex", &healthy);
    let id = appliance.submit(&failing, "card_state", &json!({}));
    failing.wait_for_status(&id, "retrying");
    let fine = appliance.submit(&other, "card_state", &json!({}));
    other.wait_for_status(&fine, "delivered");
    let mut operator = appliance.operator();
    let mut listed = |state: &str| -> Vec<String> {
        let page = operator.get(&format!("/admin/v1/endpoints?state={state}")).expect(200);
        let of =
            |line: &Value| (line["merchant_id"].as_str().expect("an id").to_owned(), line["failing_since"].clone());
        let lines: Vec<_> = page["data"].as_array().expect("a list").iter().map(of).collect();
        assert!(lines.iter().all(|(id, since)| since.is_string() == (id == "acme") || state != "failing"), "{page}");
        lines.into_iter().map(|(id, _)| id).collect()
    };
    assert_eq!(listed("failing"), ["acme"]);
    assert_eq!(listed("active"), ["acme", "dev", "globex"], "what fails is active all the same");
    failing.configure(&json!({ "url": receiver.url(), "enabled": false }));
    assert_eq!(listed("failing"), [""; 0], "what is switched off makes no attempts");
    well.store(true, Ordering::Relaxed);
    failing.configure(&json!({ "url": receiver.url() }));
    assert_eq!(listed("failing"), ["acme"]);
    assert_eq!(failing.api.post(&format!("/api/v2/webhooks/events/{id}/resend"), &json!({})).status, 202);
    failing.wait_for_status(&id, "delivered");
    assert_eq!(listed("failing"), [""; 0]);
}

#[test]
fn a_paused_merchant_is_held_durably_and_loses_nothing() {
    const PAUSE: &str = "/admin/v1/merchants/acme/pause";
    const CONFIG: &str = "/api/v2/webhooks/config";
    let (receiver, healthy) = (Receiver::start(), Receiver::start());
    let temporary = tempfile::tempdir().expect("a directory");
    let appliance = Appliance::start_in(temporary.path(), &[]);
    let mut held = appliance.merchant_at("acme", &receiver);
    let mut other = appliance.merchant_at("globex", &healthy);
    let mut operator = appliance.operator();
    let paused = operator.put(PAUSE, &json!({})).expect(200);
    assert!(paused["paused_at"].is_string(), "{paused}");
    assert_eq!(operator.put(PAUSE, &json!({})).expect(200), paused, "pausing twice is pausing once");
    operator.put("/admin/v1/merchants/acme", &json!({ "name": "Acme" })).expect(200);
    let first = appliance.submit(&held, "card_state", &json!({ "n": 1 }));
    let fine = appliance.submit(&other, "card_state", &json!({}));
    other.wait_for_status(&fine, "delivered");
    let config = held.api.get(CONFIG).expect(200);
    let shown = (&config["enabled"], &config["state"], &config["state_reason"]);
    assert_eq!(shown, (&json!(true), &json!("paused"), &json!("operator")));
    let set = held.api.put(CONFIG, &json!({ "url": receiver.url(), "enabled": true })).expect(200);
    assert_eq!(set["state"], "paused", "it is not the merchant's to resume");
    let listed = operator.get("/admin/v1/endpoints?state=paused").expect(200);
    assert_eq!(listed["data"][0]["state_reason"], "operator");
    assert_eq!(operator.get("/admin/v1/stats").expect(200)["merchants_paused"], 1);
    let key = held.key.clone();
    appliance.kill();
    let appliance = Appliance::start_in(temporary.path(), &[]);
    let api = Client::new(appliance.says("public"), Some(&key));
    let mut held = Merchant { id: "acme".to_owned(), key, api };
    let second = appliance.submit(&held, "card_state", &json!({ "n": 2 }));
    let other = appliance.submit(&appliance.dev_merchant(), "card_state", &json!({}));
    appliance.dev_merchant().wait_for_status(&other, "delivered");
    assert_eq!((held.event(&first)["status"].clone(), receiver.count()), (json!("pending"), 0), "also after a crash");
    let mut operator = appliance.operator();
    assert_eq!(operator.get("/admin/v1/merchants/acme").expect(200)["name"], "Acme");
    let resumed = operator.delete(PAUSE).expect(200);
    assert_eq!(resumed["paused_at"], json!(null));
    assert_eq!(operator.delete(PAUSE).expect(200), resumed, "idempotent");
    for id in [first, second] {
        held.wait_for_status(&id, "delivered");
    }
    assert_eq!(held.api.get(CONFIG).expect(200)["state"], "active");
    assert_eq!(operator.put("/admin/v1/merchants/nobody/pause", &json!({})).status, 404);
    assert_eq!(operator.put(PAUSE, &json!({ "until": "noon" })).expect(422)["code"], "unknown_field");
    assert_eq!(Client::new(appliance.says("admin"), Some(&held.key)).put(PAUSE, &json!({})).status, 403);
}

#[test]
fn paused_retries_wait_for_everybody_while_first_attempts_leave() {
    const PAUSE: &str = "/admin/v1/retries/pause";
    let well = Arc::new(AtomicBool::new(false));
    let receiver = Receiver::scripted({
        let well = Arc::clone(&well);
        move |received| {
            let is_bad = received.body.starts_with(b"{\"bad\"") && !well.load(Ordering::Relaxed);
            Reply::Status(if is_bad { 500 } else { 200 })
        }
    });
    let schedule = [("DELIVERY__RETRY_SCHEDULE", "100ms,100ms,100ms,100ms")];
    let temporary = tempfile::tempdir().expect("a directory");
    let appliance = Appliance::start_in(temporary.path(), &schedule);
    let mut merchant = appliance.merchant_at("acme", &receiver);
    let mut operator = appliance.operator();
    let paused = operator.put(PAUSE, &json!({})).expect(200);
    assert!(paused["paused_at"].is_string(), "{paused}");
    assert_eq!(operator.put(PAUSE, &json!({})).expect(200), paused, "pausing twice is pausing once");
    assert_eq!(operator.get("/admin/v1/stats").expect(200)["retries_paused_at"], paused["paused_at"]);
    assert_eq!(appliance.metric("posthaste_retries_paused"), 1.0);
    let bad = appliance.submit(&merchant, "card_state", &json!({ "bad": 1 }));
    merchant.wait_for_status(&bad, "retrying");
    let good = appliance.submit(&merchant, "card_state", &json!({ "good": 1 }));
    merchant.wait_for_status(&good, "delivered");
    assert_eq!(merchant.api.get("/api/v2/webhooks/config").expect(200)["state"], "active");
    let key = merchant.key.clone();
    appliance.kill();
    let appliance = Appliance::start_in(temporary.path(), &schedule);
    let api = Client::new(appliance.says("public"), Some(&key));
    let mut merchant = Merchant { id: "acme".to_owned(), key, api };
    let good = appliance.submit(&merchant, "card_state", &json!({ "good": 2 }));
    merchant.wait_for_status(&good, "delivered");
    assert_eq!(appliance.metric("posthaste_retries_paused"), 1.0, "also after a crash");
    merchant.api.post(&format!("/api/v2/webhooks/events/{bad}/resend"), &json!({})).expect(202);
    eventually("what is sent by hand leaves", || (merchant.event(&bad)["attempt_count"] == 2).then_some(()));
    // Each of these could have been overtaken many times by a retry that is due after a tenth of a second.
    for n in 3..20 {
        let good = appliance.submit(&merchant, "card_state", &json!({ "good": n }));
        merchant.wait_for_status(&good, "delivered");
    }
    assert_eq!(
        (&merchant.event(&bad)["attempt_count"], &merchant.event(&bad)["status"]),
        (&json!(2), &json!("retrying"))
    );
    well.store(true, Ordering::Relaxed);
    let mut operator = appliance.operator();
    let resumed = operator.delete(PAUSE).expect(200);
    assert_eq!(resumed["paused_at"], json!(null));
    assert_eq!(operator.delete(PAUSE).expect(200), resumed, "idempotent");
    assert_eq!(merchant.wait_for_status(&bad, "delivered")["attempt_count"], 3);
    assert_eq!(appliance.metric("posthaste_retries_paused"), 0.0);
    assert_eq!(operator.put(PAUSE, &json!({ "until": "noon" })).expect(422)["code"], "unknown_field");
    assert_eq!(Client::new(appliance.says("admin"), Some(&merchant.key)).put(PAUSE, &json!({})).status, 403);
    assert_eq!(Client::new(appliance.says("admin"), None).delete(PAUSE).status, 401);
}

#[test]
fn health_readiness_and_metrics_need_no_key() {
    let appliance = Appliance::start(&[]);
    let mut nobody = Client::new(appliance.says("admin"), None);
    assert_eq!(nobody.get("/healthz").expect(200)["status"], "ok");
    assert_eq!(nobody.get("/readyz").expect(200)["status"], "ready");
    let metrics = nobody.get("/metrics");
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    for word in [appliance.says("secret"), appliance.says("merchant_key"), "acme", "127.0.0.1"] {
        assert!(!metrics.text().contains(word), "{word}");
    }
    assert_eq!(nobody.get("/admin/v1/stats").status, 401);
}
