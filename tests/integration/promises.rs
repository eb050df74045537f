//! The page that merchants read, sentence by sentence (M1 to M12); the dashboard's have their own tests.
//!
//! Each test is named for the sentence that it proves.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Appliance, Receiver, Reply, eventually};

const QUICK: &[(&str, &str)] = &[("DELIVERY__RETRY_SCHEDULE", "100ms,100ms"), ("DELIVERY__RETRY_JITTER", "0")];

/// The types of the page, in its order.
const EVENT_TYPES: [&str; 4] = ["card_transaction", "account_transaction", "account_topup", "card_state"];

#[test]
fn m01_events_are_forwarded_in_real_time() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    let merchant = appliance.merchant_at("acme", &receiver);
    for n in 1..=20 {
        appliance.submit(&merchant, "card_transaction", &json!({ "n": n }));
        receiver.wait_for(n);
    }
    // Generous on a busy machine, and still a hundred times shorter than a polling interval would be.
    let mut merchant = merchant;
    let page = eventually("all are recorded as delivered", || {
        let page = merchant.api.get("/api/v2/webhooks/events?status=delivered").expect(200);
        (page["data"].as_array()?.len() == 20).then_some(page)
    });
    let mut waits_ms: Vec<i64> = page["data"].as_array().expect("a list").iter().map(first_attempt_after_ms).collect();
    waits_ms.sort_unstable();
    assert!(waits_ms[10] <= 50, "half of the first attempts leave within 50 ms of acceptance: {waits_ms:?}");
}

/// Milliseconds from acceptance to the beginning of the newest attempt.
fn first_attempt_after_ms(item: &Value) -> i64 {
    let ms = |value: &Value| {
        let text = value.as_str().expect("a time");
        let moment: jiff::Timestamp = text.parse().expect("RFC 3339");
        moment.as_millisecond()
    };
    ms(&item["last_attempt"]["at"]) - ms(&item["created_at"])
}

#[test]
fn m02_the_payload_is_the_resource_as_the_producer_gave_it() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    let merchant = appliance.merchant_at("acme", &receiver);
    let resource = r#"{ "id":"txn_1",  "amount" : 12.50, "meta":{"z":1,"a":[1, 2]} }"#;
    let event = format!(r#"{{"type":"card_transaction","merchant_id":"{}","data":{resource}}}"#, merchant.id);
    let headers = [("content-type", "application/json")];
    appliance.producer().send("POST", "/v1/events", &headers, event.as_bytes()).expect(202);
    let received = receiver.first();
    assert_eq!(String::from_utf8_lossy(&received.body), resource, "no second schema, no envelope");
    assert_eq!(received.header("content-type"), Some("application/json"));
    assert!(received.head.starts_with("POST /hook HTTP/1.1\r\n"), "{}", received.head);
}

#[test]
fn m03_the_endpoint_is_configured_with_put() {
    let (appliance, before, after) = (Appliance::start(&[]), Receiver::start(), Receiver::start());
    let mut merchant = appliance.merchant("acme");
    assert_eq!(merchant.api.get("/api/v2/webhooks/config").expect(404)["code"], "webhook_not_configured");
    assert_eq!(merchant.api.put("/api/v2/webhooks/config", &json!({ "url": before.url() })).status, 201);
    appliance.submit(&merchant, "card_state", &json!({ "n": 1 }));
    before.wait_for(1);
    assert_eq!(merchant.api.put("/api/v2/webhooks/config", &json!({ "url": after.url() })).status, 200);
    appliance.submit(&merchant, "card_state", &json!({ "n": 2 }));
    after.wait_for(1);
    assert_eq!(before.count(), 1, "nothing goes to the old URL any more");
}

#[test]
fn m04_the_merchant_is_found_by_id_by_card_by_account_and_in_the_data() {
    let (appliance, acme_receiver, globex_receiver) = (Appliance::start(&[]), Receiver::start(), Receiver::start());
    let acme = appliance.merchant_at("acme", &acme_receiver);
    let globex = appliance.merchant_at("globex", &globex_receiver);
    let mut producer = appliance.producer();
    for (path, owner) in [("card/c1", &acme), ("account/a1", &acme), ("card/c2", &globex)] {
        producer.put(&format!("/v1/owners/{path}"), &json!({ "merchant_id": owner.id })).expect(200);
    }
    for (event, owner) in [
        (json!({ "type": "card_state", "merchant_id": "acme", "data": {} }), "acme"),
        (json!({ "type": "card_transaction", "card_id": "c1", "data": {} }), "acme"),
        (json!({ "type": "account_topup", "account_id": "a1", "data": {} }), "acme"),
        (json!({ "type": "account_transaction", "card_id": "c2", "account_id": "a1", "data": {} }), "globex"),
        (json!({ "type": "card_transaction", "data": { "id": "t", "card_id": "c2" } }), "globex"),
        (json!({ "type": "account_topup", "data": { "id": "t", "account_id": "a1" } }), "acme"),
        (json!({ "type": "card_state", "data": { "id": "c2" } }), "globex"),
        (json!({ "type": "card_state", "merchant_id": "globex", "card_id": "c1", "data": {} }), "globex"),
    ] {
        let accepted = producer.post("/v1/events", &event).expect(202);
        assert_eq!(accepted["merchant_id"], owner, "{event}");
    }
    acme_receiver.wait_for(4);
    globex_receiver.wait_for(4);
}

#[test]
fn m05_nothing_on_the_path_polls() {
    // With the shortest interval that a poller would have, a second, twenty deliveries one after the other
    // would take ten seconds on average.
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    let merchant = appliance.merchant_at("acme", &receiver);
    let begun = std::time::Instant::now();
    for n in 1..=20 {
        appliance.submit(&merchant, "account_topup", &json!({ "n": n }));
        receiver.wait_for(n);
    }
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[test]
fn m06_each_request_is_signed_and_none_without_a_secret() {
    let (appliance, receiver) =
        (Appliance::start(QUICK), Receiver::scripted(|r| Reply::Status([500, 200][r.number.min(1)])));
    let mut merchant = appliance.merchant("acme");
    merchant.configure(&json!({ "url": receiver.url(), "secret": "correct horse" }));
    appliance.submit(&merchant, "card_state", &json!({ "a": 1 }));
    for received in receiver.wait_for(2) {
        let expected = crate::signatures::hex_hmac(b"correct horse", &received.body);
        assert_eq!(received.header("x-webhook-signature"), Some(expected.as_str()), "also on the retry");
    }
    merchant.configure(&json!({ "url": receiver.url(), "secret": null }));
    appliance.submit(&merchant, "card_state", &json!({ "a": 2 }));
    assert_eq!(receiver.wait_for(3)[2].header("x-webhook-signature"), None);
}

#[test]
fn m07_only_2xx_is_success_and_everything_else_is_tried_again() {
    let statuses = [200, 201, 204, 299, 301, 302, 304, 307, 400, 401, 404, 429, 500, 503];
    let receiver = Receiver::scripted(move |r| {
        let answers: Value = serde_json::from_slice(&r.body).expect("our own payload");
        let first = r.header("x-webhook-attempt") == Some("1");
        let status = u16::try_from(answers["answer"].as_u64().expect("a status")).expect("a status");
        Reply::full(if first { status } else { 200 }, &[("location", "http://127.0.0.1:1/elsewhere")], b"")
    });
    let appliance = Appliance::start(QUICK);
    let mut merchant = appliance.merchant_at("acme", &receiver);
    for status in statuses {
        let id = appliance.submit(&merchant, "card_transaction", &json!({ "answer": status }));
        let event = merchant.wait_for_status(&id, "delivered");
        let expected = if (200..300).contains(&status) { 1 } else { 2 };
        assert_eq!(event["attempt_count"], expected, "{status}");
        assert_eq!(event["attempts"][0]["status_code"], status);
        let code = match status {
            200..=299 => Value::Null,
            300..=399 => json!("redirect"),
            _ => json!("http_status"),
        };
        assert_eq!(event["attempts"][0]["error_code"], code, "{status}");
    }
}

#[test]
fn m08_the_history_is_filtered_by_status_and_by_event_type() {
    let receiver =
        Receiver::scripted(|r| Reply::Status(if r.body.windows(4).any(|w| w == b"fail") { 500 } else { 200 }));
    let appliance = Appliance::start(QUICK);
    let mut merchant = appliance.merchant_at("acme", &receiver);
    for event_type in EVENT_TYPES {
        for kind in ["ok", "fail", "ok"] {
            appliance.submit(&merchant, event_type, &json!({ "kind": kind }));
        }
    }
    let mut count = |query: &str| {
        let page = merchant.api.get(&format!("/api/v2/webhooks/events?{query}")).expect(200);
        page["data"].as_array().expect("a list").len()
    };
    eventually("all have ended", || (count("status=delivered&status=failed") == 12).then_some(()));
    assert_eq!(count(""), 12);
    assert_eq!(count("status=failed"), 4);
    assert_eq!(count("status=delivered"), 8);
    assert_eq!(count("event_type=card_state"), 3);
    assert_eq!(count("event_type=card_state&event_type=account_topup"), 6);
    assert_eq!(count("event_type=card_state&status=failed"), 1);
    assert_eq!(count("status=pending&status=retrying"), 0);
}

#[test]
fn m09_the_form_is_url_secret_types_and_enabled() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    let mut merchant = appliance.merchant("acme");
    let config = json!({
        "url": receiver.url(), "secret": "a long enough secret", "event_types": ["card_state", "account_topup"],
        "enabled": true,
    });
    merchant.configure(&config);
    let shown = merchant.api.get("/api/v2/webhooks/config").expect(200);
    assert_eq!(shown["url"], receiver.url());
    assert_eq!(shown["event_types"], json!(["account_topup", "card_state"]));
    assert_eq!((&shown["enabled"], &shown["secret_set"]), (&json!(true), &json!(true)));
    assert_eq!(shown["secret_hint"], "…cret");
    assert!(!shown.to_string().contains("a long enough secret"));
    let skipped = appliance.submit(&merchant, "card_transaction", &json!({}));
    let delivered = appliance.submit(&merchant, "card_state", &json!({}));
    merchant.wait_for_status(&delivered, "delivered");
    assert_eq!(merchant.event(&skipped)["status"], "skipped");
    assert_eq!(receiver.count(), 1);
}

#[test]
fn m10_a_paused_webhook_keeps_its_events_and_delivers_them_when_resumed() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    let mut merchant = appliance.merchant("acme");
    let paused = merchant.configure(&json!({ "url": receiver.url(), "enabled": false }));
    assert_eq!((&paused["enabled"], &paused["state"]), (&json!(false), &json!("paused")));
    let ids: Vec<String> =
        (0..10).map(|n| appliance.submit(&merchant, "card_transaction", &json!({ "n": n }))).collect();
    // A delivery to somebody else shows that the appliance is at work all the while.
    let other_receiver = Receiver::start();
    let other = appliance.merchant_at("globex", &other_receiver);
    appliance.submit(&other, "card_transaction", &json!({}));
    other_receiver.wait_for(1);
    for id in &ids {
        let event = merchant.event(id);
        assert_eq!(
            (&event["status"], &event["attempt_count"]),
            (&json!("pending"), &json!(0)),
            "no attempt is used up"
        );
    }
    assert_eq!(receiver.count(), 0);
    merchant.configure(&json!({ "url": receiver.url(), "enabled": true }));
    receiver.wait_for(10);
    for id in &ids {
        merchant.wait_for_status(id, "delivered");
    }
}

#[test]
fn m11_there_are_four_event_types() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    let merchant = appliance.merchant_at("acme", &receiver);
    for event_type in EVENT_TYPES {
        appliance.submit(&merchant, event_type, &json!({ "of": event_type }));
    }
    let mut heard: Vec<String> =
        receiver.wait_for(4).iter().map(|r| r.header("x-webhook-event").expect("a type").to_owned()).collect();
    heard.sort();
    let mut all = EVENT_TYPES;
    all.sort_unstable();
    assert_eq!(heard, all);
    let event = json!({ "type": "card_refund", "merchant_id": "acme", "data": {} });
    assert_eq!(appliance.producer().post("/v1/events", &event).expect(422)["errors"][0]["field"], "type");
}

#[test]
fn m12_the_configuration_api_is_get_put_delete_and_the_history_get() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    let mut merchant = appliance.merchant_at("acme", &receiver);
    let id = appliance.submit(&merchant, "card_state", &json!({}));
    merchant.wait_for_status(&id, "delivered");
    merchant.api.get("/api/v2/webhooks/config").expect(200);
    assert_eq!(merchant.api.delete("/api/v2/webhooks/config").status, 204);
    merchant.api.get("/api/v2/webhooks/config").expect(404);
    assert_eq!(merchant.api.delete("/api/v2/webhooks/config").status, 204, "deleting again changes nothing");
    let page = merchant.api.get("/api/v2/webhooks/events").expect(200);
    assert_eq!(page["data"][0]["id"], id, "the history stays");
    assert_eq!(merchant.api.get("/api/v2/webhooks").status, 404);
    assert_eq!(merchant.api.post("/api/v2/webhooks/config", &json!({})).status, 405);
}

#[test]
fn receivers_without_a_secret_may_skip_verification() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    let merchant = appliance.merchant_at("acme", &receiver);
    appliance.submit(&merchant, "card_state", &json!({}));
    let received = receiver.first();
    for name in ["x-webhook-signature", "x-webhook-signature-previous", "webhook-signature"] {
        assert_eq!(received.header(name), None, "{name}");
    }
    assert!(received.header("webhook-timestamp").is_some());
}
