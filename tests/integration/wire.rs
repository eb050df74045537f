//! What a receiver sees of a delivery, byte by byte and connection by connection, and what it may answer.
//!
//! Never relies on a receiver that behaves.

use serde_json::json;

use crate::harness::{Appliance, Receiver, Reply};

#[test]
fn a_delivery_has_exactly_these_headers() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    let mut merchant = appliance.merchant("acme");
    merchant.configure(&json!({ "url": format!("{}/%C3%A9?a=b&c=%20d", receiver.url()), "secret": "s" }));
    let id = appliance.submit(&merchant, "account_topup", &json!({ "a": "é" }));
    let received = receiver.first();
    let mut lines = received.head.trim_end().split("\r\n");
    assert_eq!(lines.next(), Some("POST /hook/%C3%A9?a=b&c=%20d HTTP/1.1"), "path and query as they were configured");
    let names: Vec<String> =
        lines.map(|line| line.split_once(": ").expect("a header").0.to_ascii_lowercase()).collect();
    assert_eq!(
        names,
        [
            "host",
            "content-type",
            "user-agent",
            "x-webhook-signature",
            "x-webhook-event",
            "x-webhook-attempt",
            "x-webhook-sequence",
            "webhook-id",
            "webhook-timestamp",
            "webhook-signature",
            "accept-encoding",
            "content-length",
        ]
    );
    let host = format!("127.0.0.1:{}", receiver.port());
    let agent = format!("Posthaste/{}", env!("CARGO_PKG_VERSION"));
    for (name, value) in [
        ("host", host.as_str()),
        ("content-type", "application/json"),
        ("user-agent", &agent),
        ("x-webhook-event", "account_topup"),
        ("x-webhook-attempt", "1"),
        ("x-webhook-sequence", "1"),
        ("webhook-id", &id),
        ("accept-encoding", "identity"),
        ("content-length", "10"),
    ] {
        assert_eq!(received.header(name), Some(value), "{name}");
    }
    let signature = received.header("x-webhook-signature").expect("signed");
    assert!(signature.len() == 64 && signature.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
    let sent_s: i64 = received.header("webhook-timestamp").expect("a time").parse().expect("seconds");
    assert!((jiff::Timestamp::now().as_second() - sent_s).abs() < 120, "{sent_s}");
}

#[test]
fn deliveries_follow_each_other_on_one_connection() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    let mut merchant = appliance.merchant_at("acme", &receiver);
    for n in 0..10 {
        let id = appliance.submit(&merchant, "card_state", &json!({ "n": n }));
        assert_eq!(receiver.nth(n).connection, 0, "delivery {n}");
        // A connection is free for the next one once its answer has been read.
        merchant.wait_for_status(&id, "delivered");
    }
}

#[test]
fn a_connection_that_its_receiver_has_closed_costs_no_attempt() {
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec();
    let receiver = Receiver::scripted(move |_| Reply::Last(answer.clone()));
    let appliance = Appliance::start(&[("DELIVERY__RETRY_SCHEDULE", "")]);
    let mut merchant = appliance.merchant_at("acme", &receiver);
    for n in 0..20 {
        let id = appliance.submit(&merchant, "card_state", &json!({ "n": n }));
        assert_eq!(receiver.nth(n).id(), id);
        assert_eq!(merchant.wait_for_status(&id, "delivered")["attempt_count"], 1);
    }
    assert_eq!(receiver.count(), 20, "and none is sent twice");
}

#[test]
fn odd_but_legal_answers_are_understood() {
    let appliance = Appliance::start(&[("DELIVERY__RETRY_SCHEDULE", "")]);
    let gzip = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let zipped = format!("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", gzip.len());
    for (n, (reply, body)) in [
        (Reply::Bytes(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n".to_vec()), ""),
        (
            Reply::Bytes(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n".to_vec(),
            ),
            "abcde",
        ),
        (Reply::Last(b"HTTP/1.1 202 Accepted\r\nConnection: close\r\n\r\nuntil the end".to_vec()), "until the end"),
        (Reply::Last(b"HTTP/1.0 200 OK\r\n\r\nold".to_vec()), "old"),
        (Reply::Bytes(b"HTTP/1.1 299 \r\nContent-Length: 0\r\n\r\n".to_vec()), ""),
        (Reply::Bytes([zipped.as_bytes(), &gzip].concat()), "H4sIAAAAAAAAAwMAAAAAAAAAAAA="),
    ]
    .into_iter()
    .enumerate()
    {
        let receiver = Receiver::scripted(move |_| reply.clone());
        let mut merchant = appliance.merchant_at(&format!("m{n}"), &receiver);
        let id = appliance.submit(&merchant, "card_state", &json!({}));
        let event = merchant.wait_for_status(&id, "delivered");
        assert_eq!(event["attempts"][0]["response_body"], body, "answer {n}: {event}");
    }
}

#[test]
fn what_lies_in_a_connection_after_an_answer_is_nobody_elses_answer() {
    let poison =
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 500 Poison\r\nContent-Length: 0\r\n\r\n".to_vec();
    let receiver = Receiver::scripted(move |_| Reply::Bytes(poison.clone()));
    let appliance = Appliance::start(&[("DELIVERY__RETRY_SCHEDULE", "")]);
    let mut merchant = appliance.merchant_at("acme", &receiver);
    for n in 0..5 {
        let id = appliance.submit(&merchant, "card_state", &json!({ "n": n }));
        let event = merchant.wait_for_status(&id, "delivered");
        assert_eq!(event["last_attempt"]["status_code"], 200);
    }
}

#[test]
fn a_long_answer_is_kept_in_part() {
    let body = format!("x{}", "é".repeat(3_000));
    let headers: Vec<(String, String)> = (0..90).map(|n| (format!("X-Header-{n}"), "v".repeat(120))).collect();
    let fields: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let reply = Reply::full(200, &fields, body.as_bytes());
    let receiver = Receiver::scripted(move |_| reply.clone());
    let appliance = Appliance::start(&[]);
    let mut merchant = appliance.merchant_at("acme", &receiver);
    let id = appliance.submit(&merchant, "card_state", &json!({}));
    let event = merchant.wait_for_status(&id, "delivered");
    let attempt = &event["attempts"][0];
    let kept = attempt["response_body"].as_str().expect("text, though it was cut within a character");
    assert!(body.starts_with(kept) && (4_094..=4_096).contains(&kept.len()), "{} bytes", kept.len());
    assert_eq!((&attempt["response_truncated"], &attempt["response_body_encoding"]), (&json!(true), &json!("utf-8")));
    let kept = attempt["response_headers"].as_array().expect("a list");
    assert!((50..90).contains(&kept.len()), "{} headers", kept.len());
    assert_eq!(kept[0], json!(["x-header-0", "v".repeat(120)]));
}

#[test]
fn an_answer_with_hundreds_of_headers_is_too_large() {
    let fields: String = (0..300).map(|n| format!("X-{n}: 1\r\n")).collect();
    let reply = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 0\r\n\r\n").into_bytes();
    let receiver = Receiver::scripted(move |_| Reply::Bytes(reply.clone()));
    let appliance = Appliance::start(&[("DELIVERY__RETRY_SCHEDULE", "")]);
    let mut merchant = appliance.merchant_at("acme", &receiver);
    let id = appliance.submit(&merchant, "card_state", &json!({}));
    let event = merchant.wait_for_status(&id, "failed");
    assert_eq!(event["last_attempt"]["error_code"], "response_too_large");
}

#[test]
fn an_answer_before_the_body_was_read_counts() {
    // Whoever refuses what is too large for it may do so before it has read it, and hang up.
    let receiver = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}/", receiver.local_addr().expect("bound"));
    std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        for mut stream in receiver.incoming().flatten() {
            let mut begun = [0; 64];
            // A connection that breaks shows in what the appliance records.
            let _ = stream.read(&mut begun);
            let _ = stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = stream.shutdown(std::net::Shutdown::Write);
            while stream.read(&mut begun).is_ok_and(|count| count > 0) {}
        }
    });
    let appliance = Appliance::start(&[("DELIVERY__RETRY_SCHEDULE", "")]);
    let mut merchant = appliance.merchant("acme");
    merchant.configure(&json!({ "url": url }));
    let id = appliance.submit(&merchant, "card_state", &json!({ "s": "x".repeat(200_000) }));
    let event = merchant.wait_for_status(&id, "failed");
    assert_eq!(
        (&event["last_attempt"]["status_code"], &event["last_attempt"]["error_code"]),
        (&json!(413), &json!("http_status"))
    );
}
