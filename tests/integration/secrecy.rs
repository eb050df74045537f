//! What must never be seen by those for whom it is not: keys, secrets, payloads.
//!
//! Looks wherever an outsider or an operator could look: logs, figures, answers, files.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::json;

use crate::harness::{Appliance, Receiver, Reply};

const SECRET: &str = "a-signing-secret-that-nobody-sees";
const PAYLOAD: &str = "a-balance-that-nobody-sees";

/// Every file below `dir` with its content.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push((path.display().to_string(), std::fs::read(&path).expect("readable")));
        }
    }
    found
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn the_log_holds_no_key_no_secret_and_no_payload_however_talkative_it_is() {
    let receiver = Receiver::scripted(|r| match r.number {
        0 => Reply::full(500, &[("X-Leak", "a-header-that-nobody-sees")], b"an-answer-that-nobody-sees"),
        _ => Reply::Status(200),
    });
    let settings = [("LOG__LEVEL", "trace"), ("DELIVERY__RETRY_SCHEDULE", "100ms")];
    let mut appliance = Appliance::start(&settings);
    let mut merchant = appliance.merchant("acme");
    let url = receiver.url().replace("/hook", "/a-path-that-nobody-sees?token=1");
    merchant.configure(&json!({ "url": url, "secret": SECRET }));
    let id =
        appliance.submit(&merchant, "card_transaction", &json!({ "id": "a-resource-that-nobody-sees", "b": PAYLOAD }));
    merchant.wait_for_status(&id, "delivered");
    merchant.api.get("/api/v2/webhooks/events?resource_id=a-resource-that-nobody-sees").expect(200);
    let bad = format!(r#"{{"type":"card_state","data":{{"p":"{PAYLOAD}"}},"secret":"{SECRET}"}}"#);
    appliance
        .producer()
        .send("POST", "/v1/events", &[("content-type", "application/json")], bad.as_bytes())
        .expect(422);
    let signature = receiver.first().header("x-webhook-signature").expect("signed").to_owned();
    appliance.signal("TERM");
    let (status, log) = appliance.ended();
    assert!(status.success());
    assert!(log.contains(&id), "it is talkative");
    let keys = ["merchant_key", "producer_key", "operator_key", "secret"].map(|name| appliance.says(name).to_owned());
    let more = [SECRET.to_owned(), merchant.key.clone(), signature];
    for word in keys.iter().chain(&more).map(String::as_str).chain([PAYLOAD, "that-nobody-sees"]) {
        let line = log.lines().find(|line| line.contains(word));
        assert_eq!(line, None, "{word} stands in the log");
    }
}

#[test]
fn a_refusal_does_not_repeat_what_it_refuses() {
    let appliance = Appliance::start(&[]);
    let mut merchant = appliance.merchant("acme");
    let long = SECRET.repeat(10);
    for config in [
        json!({ "url": "http://127.0.0.1:9/", "secret": long }),
        json!({ "url": format!("https://user:{SECRET}@example.com/") }),
        json!({ "url": "http://127.0.0.1:9/", "secret": [SECRET] }),
        json!({ "url": "http://127.0.0.1:9/", "event_types": SECRET }),
    ] {
        let refused = merchant.api.put("/api/v2/webhooks/config", &config);
        assert_eq!(refused.status, 422);
        assert!(!refused.text().contains(SECRET), "{}", refused.text());
    }
    let mut producer = appliance.producer();
    for body in [
        format!(r#"{{"type":"card_state","merchant_id":"acme","data":{{"p":"{PAYLOAD}"}}"#),
        format!(r#"{{"type":"card_state","merchant_id":"acme","data":"{PAYLOAD}"}}"#),
        format!(r#"{{"type":"card_state","merchant_id":"{PAYLOAD}","data":{{}}}}"#),
        format!(r#"{{"type":"{PAYLOAD}","merchant_id":"acme","data":{{}}}}"#),
    ] {
        let refused = producer.send("POST", "/v1/events", &[("content-type", "application/json")], body.as_bytes());
        assert!(matches!(refused.status, 400 | 422));
        assert!(!refused.text().contains(PAYLOAD), "{}", refused.text());
    }
}

#[test]
fn keys_are_on_disk_as_digests_only_and_the_directory_is_for_its_owner() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let dir = temporary.path().join("data");
    let key = {
        let appliance = Appliance::start_in(&dir, &[]);
        let merchant = appliance.merchant("acme");
        let key = merchant.key.clone();
        assert!(appliance.stop().0.success());
        key
    };
    let mode = std::fs::metadata(&dir).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
    let files = files(&dir);
    assert!(files.iter().any(|(_, content)| contains(content, "acme")), "this looks into the right files");
    for (name, content) in files {
        assert!(!contains(&content, &key), "{name}");
    }
}

#[test]
fn operators_see_no_secret_and_no_payload() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    let mut merchant = appliance.merchant("acme");
    merchant.configure(&json!({ "url": receiver.url(), "secret": SECRET }));
    let id = appliance.submit(&merchant, "card_state", &json!({ "p": PAYLOAD }));
    merchant.wait_for_status(&id, "delivered");
    let mut operator = appliance.operator();
    for target in [
        "/metrics",
        "/admin/v1/stats",
        "/admin/v1/endpoints",
        "/admin/v1/merchants",
        "/admin/v1/merchants/acme",
        "/admin/v1/merchants/acme/keys",
        "/admin/v1/keys",
    ] {
        let shown = operator.get(target).text();
        for word in [SECRET, PAYLOAD, &merchant.key, appliance.says("operator_key"), appliance.says("producer_key")] {
            assert!(!shown.contains(word), "{target}: {shown}");
        }
    }
}
