//! `/api/v2/webhooks/config`: one resource, read, set whole, removed.
//!
//! Never checks what a wrong field is answered with: that is in the table of bad input.

use serde_json::{Value, json};

use crate::harness::{Appliance, Client, Merchant, Receiver, Reply};

const CONFIG: &str = "/api/v2/webhooks/config";

#[test]
fn a_put_sets_the_whole_config_with_its_defaults() {
    let appliance = Appliance::start(&[]);
    let mut merchant = appliance.merchant("acme");
    let made = merchant.api.put(CONFIG, &json!({ "url": "http://127.0.0.1:9/a?b=c" })).expect(201);
    assert_eq!(made["url"], "http://127.0.0.1:9/a?b=c");
    assert_eq!((&made["event_types"], &made["enabled"]), (&json!("all"), &json!(true)));
    assert_eq!((&made["secret_set"], &made["secret_hint"]), (&json!(false), &json!(null)));
    assert_eq!((&made["state"], &made["state_reason"]), (&json!("active"), &json!(null)));
    let full = json!({ "url": "http://127.0.0.1:9/", "event_types": ["card_state"], "enabled": false, "secret": "x" });
    let set = merchant.api.put(CONFIG, &full).expect(200);
    assert_eq!((&set["event_types"], &set["state"]), (&json!(["card_state"]), &json!("paused")));
    assert_eq!(set["created_at"], made["created_at"]);
    let reset = merchant.api.put(CONFIG, &json!({ "url": "http://127.0.0.1:9/" })).expect(200);
    assert_eq!((&reset["event_types"], &reset["enabled"]), (&json!("all"), &json!(true)), "defaults apply again");
    assert_eq!(reset["secret_set"], true, "but the secret is kept");
    assert_eq!(merchant.api.get(CONFIG).expect(200), reset, "GET shows what PUT answered");
}

#[test]
fn a_secret_is_kept_replaced_and_removed_and_never_shown() {
    let appliance = Appliance::start(&[]);
    let mut merchant = appliance.merchant("acme");
    let mut put = |secret: Value| {
        let mut config = json!({ "url": "http://127.0.0.1:9/" });
        if secret != json!("absent") {
            config["secret"] = secret;
        }
        let answer = merchant.api.put(CONFIG, &config);
        assert!(!answer.text().contains("very secret"), "{}", answer.text());
        answer.json()
    };
    assert_eq!(put(json!("a very secret word"))["secret_hint"], "…word");
    assert_eq!(put(json!("absent"))["secret_set"], true);
    assert_eq!(put(json!("short"))["secret_hint"], "…", "a short secret is not hinted at");
    assert_eq!(put(json!("x".repeat(256)))["secret_set"], true);
    let removed = put(json!(null));
    assert_eq!((&removed["secret_set"], &removed["secret_hint"]), (&json!(false), &json!(null)));
}

#[test]
fn etags_guard_against_lost_updates() {
    let appliance = Appliance::start(&[]);
    let mut merchant = appliance.merchant("acme");
    let json = ("content-type", "application/json");
    let body = |path: &str| json!({ "url": format!("http://127.0.0.1:9/{path}") }).to_string();
    let absent = merchant.api.send("PUT", CONFIG, &[json, ("if-match", "*")], body("a").as_bytes());
    assert_eq!(absent.expect(412)["code"], "precondition_failed");
    let made = merchant.api.send("PUT", CONFIG, &[json, ("if-none-match", "*")], body("a").as_bytes());
    let first = made.header("etag").expect("a tag").to_owned();
    assert_eq!(made.status, 201);
    assert_eq!(merchant.api.get(CONFIG).header("etag"), Some(first.as_str()));
    let again = merchant.api.send("PUT", CONFIG, &[json, ("if-none-match", "*")], body("b").as_bytes());
    assert_eq!(again.status, 412);
    let set = merchant.api.send("PUT", CONFIG, &[json, ("if-match", &first)], body("b").as_bytes());
    assert_eq!(set.status, 200);
    let second = set.header("etag").expect("a tag").to_owned();
    assert_ne!(first, second);
    let stale = merchant.api.send("PUT", CONFIG, &[json, ("if-match", &first)], body("c").as_bytes());
    assert_eq!(stale.status, 412);
    assert_eq!(merchant.api.send("DELETE", CONFIG, &[("if-match", &first)], b"").status, 412);
    assert_eq!(merchant.api.get(CONFIG).expect(200)["url"], "http://127.0.0.1:9/b");
    assert_eq!(merchant.api.send("DELETE", CONFIG, &[("if-match", &second)], b"").status, 204);
}

#[test]
fn deleting_cancels_what_waits_also_between_retries_and_keeps_the_history() {
    let receiver = Receiver::scripted(|_| Reply::Status(500));
    let appliance = Appliance::start(&[("DELIVERY__RETRY_SCHEDULE", "1h")]);
    let mut merchant = appliance.merchant_at("acme", &receiver);
    let retrying = appliance.submit(&merchant, "card_state", &json!({}));
    merchant.wait_for_status(&retrying, "retrying");
    merchant.configure(&json!({ "url": receiver.url(), "enabled": false }));
    let paused = appliance.submit(&merchant, "card_state", &json!({}));
    assert_eq!(merchant.api.delete(CONFIG).status, 204);
    for id in [&retrying, &paused] {
        let event = merchant.wait_for_status(id, "canceled");
        assert_eq!(event["next_attempt_at"], json!(null));
    }
    let later = appliance.submit(&merchant, "card_state", &json!({}));
    assert_eq!(merchant.event(&later)["status"], "skipped", "nobody is there to be told");
    assert_eq!(merchant.event(&retrying)["attempts"].as_array().expect("a list").len(), 1);
    assert_eq!(receiver.count(), 1);
}

#[test]
fn a_mended_url_and_secret_rescue_what_waits() {
    let broken = Receiver::scripted(|_| Reply::Status(404));
    let mended = Receiver::start();
    let appliance = Appliance::start(&[("DELIVERY__RETRY_SCHEDULE", "1s"), ("DELIVERY__RETRY_JITTER", "0")]);
    let mut merchant = appliance.merchant_at("acme", &broken);
    let id = appliance.submit(&merchant, "card_state", &json!({}));
    broken.wait_for(1);
    merchant.configure(&json!({ "url": mended.url(), "secret": "fresh" }));
    let received = mended.first();
    assert_eq!(received.id(), id);
    assert_eq!(
        received.header("x-webhook-signature"),
        Some(crate::signatures::hex_hmac(b"fresh", &received.body).as_str())
    );
    merchant.wait_for_status(&id, "delivered");
}

#[test]
fn merchants_see_only_themselves() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    let mut acme = appliance.merchant_at("acme", &receiver);
    let mut globex = appliance.merchant("globex");
    let id = appliance.submit(&acme, "card_state", &json!({}));
    acme.wait_for_status(&id, "delivered");
    assert_eq!(globex.api.get(CONFIG).status, 404);
    assert_eq!(globex.api.get("/api/v2/webhooks/events").expect(200)["data"], json!([]));
    let unknown = globex.api.get("/api/v2/webhooks/events/evt_00000000000000000000000000").expect(404);
    let foreign = globex.api.get(&format!("/api/v2/webhooks/events/{id}")).expect(404);
    assert_eq!(foreign, unknown, "what belongs to another is the same as what is not there");
    assert_eq!(globex.api.post(&format!("/api/v2/webhooks/events/{id}/resend"), &json!({})).status, 409);
    globex.configure(&json!({ "url": receiver.url() }));
    assert_eq!(globex.api.post(&format!("/api/v2/webhooks/events/{id}/resend"), &json!({})).status, 404);
}

#[test]
fn addresses_that_are_not_public_are_refused_in_production() {
    // As in production: no address range is open, HTTPS only.
    let appliance =
        Appliance::start(&[("EGRESS__ALLOW", ""), ("EGRESS__ALLOW_HTTP", "false"), ("EGRESS__PORTS", "443")]);
    let mut merchant = appliance.merchant("acme");
    for (url, code) in [
        ("http://example.com/", "url_scheme"),
        ("https://127.0.0.1/", "destination_not_allowed"),
        ("https://localhost/", "destination_not_allowed"),
        ("https://10.0.0.1/", "destination_not_allowed"),
        ("https://169.254.169.254/latest/meta-data", "destination_not_allowed"),
        ("https://[::1]/", "destination_not_allowed"),
        ("https://[::ffff:10.0.0.1]/", "destination_not_allowed"),
        ("https://metadata.google.internal/", "destination_not_allowed"),
        ("https://printer.local/", "destination_not_allowed"),
        ("https://example.com:8080/", "url_port"),
        ("https://user:pass@example.com/", "url_userinfo"),
        ("ftp://example.com/", "url_scheme"),
        ("https://0x7f.1/", ""),
        ("https://2130706433/", ""),
        ("example.com/hook", "url_invalid"),
    ] {
        let refused = merchant.api.put(CONFIG, &json!({ "url": url })).expect(422);
        assert_eq!(refused["errors"][0]["field"], "url", "{url}");
        let given = refused["errors"][0]["code"].as_str().expect("a code");
        assert!(code.is_empty() || given == code, "{url}: {given}, expected {code}");
    }
    merchant.api.put(CONFIG, &json!({ "url": "https://example.com/webhooks/incoming" })).expect(201);
}

#[test]
fn a_stored_url_that_the_rules_no_longer_allow_is_never_dialled() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let receiver = Receiver::scripted(|_| Reply::Status(500));
    let (id, key) = {
        let appliance = Appliance::start_in(temporary.path(), &[("DELIVERY__RETRY_SCHEDULE", "1h")]);
        let mut merchant = appliance.merchant_at("acme", &receiver);
        let id = appliance.submit(&merchant, "card_state", &json!({}));
        merchant.wait_for_status(&id, "retrying");
        let key = merchant.key.clone();
        assert!(appliance.stop().0.success());
        (id, key)
    };
    let closed = [("EGRESS__ALLOW", "10.0.0.0/8"), ("DELIVERY__RETRY_SCHEDULE", "")];
    let appliance = Appliance::start_in(temporary.path(), &closed);
    let api = Client::new(appliance.says("public"), Some(&key));
    let mut merchant = Merchant { id: "acme".to_owned(), key, api };
    merchant.api.post(&format!("/api/v2/webhooks/events/{id}/resend"), &json!({})).expect(202);
    let event = merchant.wait_for_status(&id, "failed");
    assert_eq!(event["last_attempt"]["error_code"], "blocked_destination");
    assert_eq!(receiver.count(), 1, "only the attempt that was allowed");
}
