//! Ten seconds from the start of an attempt to the response head, and what else ends an attempt.
//!
//! The bounds asserted here are the product's promise, not a measure of speed.

use std::io::Write as _;
use std::time::Duration;

use serde_json::json;

use crate::harness::{Appliance, Receiver, Reply, eventually};

const ONCE: &[(&str, &str)] = &[("DELIVERY__RETRY_SCHEDULE", "")];
const QUICK: &[(&str, &str)] = &[("DELIVERY__RETRY_SCHEDULE", "100ms,100ms"), ("DELIVERY__RETRY_JITTER", "0")];

#[test]
fn a_receiver_that_never_answers_is_cut_at_ten_seconds() {
    let (appliance, receiver) = (Appliance::start(ONCE), Receiver::scripted(|_| Reply::Never));
    let mut merchant = appliance.merchant_at("acme", &receiver);
    let id = appliance.submit(&merchant, "card_state", &json!({}));
    let event = merchant.wait_for_status(&id, "failed");
    let attempt = &event["attempts"][0];
    assert_eq!(attempt["error_code"], "timeout");
    let duration_ms = attempt["duration_ms"].as_i64().expect("a number");
    assert!((9_750..=10_250).contains(&duration_ms), "{duration_ms}");
    let seen_ms = i64::try_from(receiver.wait_for_hang_up().as_millis()).expect("short");
    assert!((9_750..=10_250).contains(&seen_ms), "the receiver saw the end of the connection after {seen_ms} ms");
}

#[test]
fn a_success_after_nine_point_nine_seconds_is_a_success() {
    let late = Duration::from_millis(9_900);
    let answer = b"HTTP/1.1 200 -\r\nContent-Length: 0\r\n\r\n".to_vec();
    let receiver = Receiver::scripted(move |_| Reply::Drip(vec![(late, answer.clone())]));
    let appliance = Appliance::start(ONCE);
    let mut merchant = appliance.merchant_at("acme", &receiver);
    let id = appliance.submit(&merchant, "card_state", &json!({}));
    let event = merchant.wait_for_status(&id, "delivered");
    assert_eq!(event["attempt_count"], 1);
    assert!(event["attempts"][0]["duration_ms"].as_i64().expect("a number") >= 9_900);
}

#[test]
fn a_head_that_drips_past_the_deadline_is_a_timeout() {
    let mut pieces = vec![(Duration::ZERO, b"HTTP/1.1 200 -\r\nX-Slow: ".to_vec())];
    pieces.extend((0..30).map(|_| (Duration::from_millis(500), b"x".to_vec())));
    let receiver = Receiver::scripted(move |_| Reply::Drip(pieces.clone()));
    let appliance = Appliance::start(ONCE);
    let mut merchant = appliance.merchant_at("acme", &receiver);
    let id = appliance.submit(&merchant, "card_state", &json!({}));
    let event = merchant.wait_for_status(&id, "failed");
    assert_eq!(event["attempts"][0]["error_code"], "timeout");
    assert!(event["attempts"][0]["duration_ms"].as_i64().expect("a number") <= 10_250);
}

#[test]
fn a_body_that_never_ends_does_not_undo_a_success() {
    let mut pieces = vec![(Duration::ZERO, b"HTTP/1.1 200 -\r\nContent-Length: 1000\r\n\r\nbegun".to_vec())];
    pieces.extend((0..40).map(|_| (Duration::from_millis(500), b"x".to_vec())));
    let receiver = Receiver::scripted(move |_| Reply::Drip(pieces.clone()));
    let appliance = Appliance::start(ONCE);
    let mut merchant = appliance.merchant_at("acme", &receiver);
    let id = appliance.submit(&merchant, "card_state", &json!({}));
    let event = merchant.wait_for_status(&id, "delivered");
    assert_eq!(event["attempts"][0]["response_truncated"], true);
}

#[test]
fn a_redirect_is_a_failure_and_is_not_followed() {
    let elsewhere = Receiver::start();
    let location = elsewhere.url();
    let receiver = Receiver::scripted(move |_| Reply::full(307, &[("Location", &location)], b"over there"));
    let appliance = Appliance::start(QUICK);
    let mut merchant = appliance.merchant_at("acme", &receiver);
    let id = appliance.submit(&merchant, "card_state", &json!({}));
    let event = merchant.wait_for_status(&id, "failed");
    assert_eq!(event["attempt_count"], 3);
    for attempt in event["attempts"].as_array().expect("a list") {
        assert_eq!((&attempt["status_code"], &attempt["error_code"]), (&json!(307), &json!("redirect")));
        assert_eq!(attempt["response_body"], "over there");
    }
    assert_eq!(elsewhere.count(), 0);
}

#[test]
fn gone_disables_the_webhook_and_what_waits_is_kept() {
    let receiver = Receiver::scripted(|r| Reply::Status(if r.number == 0 { 410 } else { 200 }));
    let appliance = Appliance::start(QUICK);
    let mut merchant = appliance.merchant_at("acme", &receiver);
    let first = appliance.submit(&merchant, "card_state", &json!({ "n": 1 }));
    let config = eventually("the webhook is disabled", || {
        let config = merchant.api.get("/api/v2/webhooks/config").expect(200);
        (config["state"] == "disabled").then_some(config)
    });
    assert_eq!((&config["enabled"], &config["state_reason"]), (&json!(false), &json!("gone")));
    let second = appliance.submit(&merchant, "card_state", &json!({ "n": 2 }));
    let event = merchant.wait_for_status(&first, "retrying");
    assert_eq!(event["attempts"][0]["error_code"], "gone");
    assert_eq!(merchant.event(&second)["status"], "pending");
    merchant.configure(&json!({ "url": receiver.url() }));
    merchant.wait_for_status(&first, "delivered");
    merchant.wait_for_status(&second, "delivered");
}

#[test]
fn retry_after_is_honoured_and_every_attempt_counts() {
    let receiver = Receiver::scripted(|r| match r.number {
        0 => Reply::full(429, &[("Retry-After", "2")], b"slow down"),
        1 => Reply::full(500, &[("Retry-After", "3600")], b""),
        _ => Reply::Status(200),
    });
    let appliance = Appliance::start(QUICK);
    let mut merchant = appliance.merchant_at("acme", &receiver);
    let id = appliance.submit(&merchant, "card_state", &json!({}));
    let received = receiver.wait_for(3);
    assert!(received[1].at - received[0].at >= Duration::from_millis(1_900), "429 says when to come back");
    assert!(received[2].at - received[1].at < Duration::from_secs(30), "500 does not");
    let attempts: Vec<_> = received.iter().map(|r| r.header("x-webhook-attempt").expect("numbered")).collect();
    assert_eq!(attempts, ["1", "2", "3"]);
    assert!(received.iter().all(|r| r.id() == id), "the id is the same in every attempt");
    assert_eq!(merchant.wait_for_status(&id, "delivered")["attempt_count"], 3);
}

#[test]
fn an_exhausted_schedule_fails_for_good() {
    let (appliance, receiver) = (Appliance::start(QUICK), Receiver::scripted(|_| Reply::Status(503)));
    let mut merchant = appliance.merchant_at("acme", &receiver);
    let id = appliance.submit(&merchant, "card_state", &json!({}));
    let event = merchant.wait_for_status(&id, "failed");
    assert_eq!((&event["attempt_count"], &event["next_attempt_at"]), (&json!(3), &json!(null)));
    assert_eq!(receiver.count(), 3);
}

/// A listener that greets every connection with these bytes, whatever the other side says.
fn speaks_first(greeting: &'static [u8]) -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        let mut greeted = Vec::new();
        for mut stream in listener.incoming().flatten() {
            // Whoever has hung up is not greeted.
            let _ = stream.write_all(greeting);
            greeted.push(stream);
        }
    });
    address
}

#[test]
fn each_way_to_fail_has_its_code() {
    let appliance = Appliance::start(ONCE);
    let free_port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("bound").port()
    };
    let reset = Receiver::scripted(|_| Reply::Close);
    let junk = Receiver::scripted(|_| Reply::Bytes(b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec()));
    let huge = Receiver::scripted(|_| {
        Reply::Bytes([b"HTTP/1.1 200 -\r\nX-Huge: ".as_slice(), &[b'x'; 64 << 10], b"\r\n\r\n"].concat())
    });
    let plain_as_tls = format!("https://{}/", speaks_first(b"220 smtp.example.com ESMTP ready\r\n"));
    for (n, (url, code)) in [
        (format!("http://127.0.0.1:{free_port}/"), "connect_refused"),
        (reset.url(), "connect_reset"),
        (junk.url(), "protocol_error"),
        (huge.url(), "response_too_large"),
        (plain_as_tls, "tls_protocol"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut merchant = appliance.merchant(&format!("m{n}"));
        merchant.configure(&json!({ "url": url }));
        let id = appliance.submit(&merchant, "card_state", &json!({}));
        let event = merchant.wait_for_status(&id, "failed");
        assert_eq!(event["last_attempt"]["error_code"], code, "{url}");
        assert_eq!(event["last_attempt"]["status_code"], json!(null), "{url}");
    }
}
