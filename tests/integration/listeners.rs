//! The three listeners as clients meet them: what every answer has, and what one flood leaves of the others.
//!
//! Never checks what a single field is answered with: that is in the table of bad input.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;

use serde_json::json;

use crate::harness::{Appliance, Client, PATIENCE, Receiver, eventually};

const JSON: (&str, &str) = ("content-type", "application/json");

fn connect(url: &str) -> TcpStream {
    let stream = TcpStream::connect(url.trim_start_matches("http://")).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a legal time");
    stream
}

/// The status of what comes back; 0 where the connection ends without an answer.
fn status(stream: &mut TcpStream) -> u16 {
    let mut answer = Vec::new();
    // A reset after the answer is the other side's right.
    let _ = stream.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer);
    text.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0)
}

#[test]
fn a_flood_on_one_listener_leaves_the_others_alone() {
    const CONNECTIONS_MAX: usize = 16;
    let settings = [("PUBLIC__CONNECTIONS_MAX", "16"), ("PUBLIC__CONNECTIONS_PER_IP_MAX", "16")];
    let (appliance, receiver) = (Appliance::start(&settings), Receiver::start());
    let merchant = appliance.merchant_at("acme", &receiver);
    let mut flood: Vec<TcpStream> = (0..CONNECTIONS_MAX * 2).map(|_| connect(appliance.says("public"))).collect();
    eventually("the listener is full", || {
        // The merchant's own connection may be among them.
        (appliance.metric("posthaste_connections{listener=\"public\"}") >= CONNECTIONS_MAX as f64).then_some(())
    });
    appliance.submit(&merchant, "card_state", &json!({}));
    receiver.wait_for(1);
    assert_eq!(appliance.operator().get("/readyz").status, 200);
    flood.clear();
    let mut merchant = merchant;
    eventually("the listener is open again", || {
        let answer = merchant.api.try_send("GET", "/api/v2/webhooks/config", &[], b"");
        answer.ok().filter(|answer| answer.status == 200)
    });
}

#[test]
fn a_body_that_is_cut_short_is_not_an_event() {
    let appliance = Appliance::start(&[("INGEST__BODY_TIMEOUT", "500ms")]);
    let key = appliance.says("producer_key");
    let event = r#"{"type":"card_state","merchant_id":"dev","data":{}}"#;
    let head = |fields: &str| {
        format!("POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n{fields}\r\n\r\n")
    };
    let cut = [
        format!("{}{event}", head("Content-Length: 1000")),
        format!("{}{:x}\r\n{event}\r\n", head("Transfer-Encoding: chunked"), event.len()),
        format!("{}zz\r\n{event}\r\n0\r\n\r\n", head("Transfer-Encoding: chunked")),
        format!("{}{:x}\r\n{event}", head("Transfer-Encoding: chunked"), event.len() + 7),
    ];
    for sent in &cut {
        let mut hangs_up = connect(appliance.says("ingest"));
        hangs_up.write_all(sent.as_bytes()).expect("written");
        hangs_up.shutdown(std::net::Shutdown::Write).expect("connected");
        assert!(matches!(status(&mut hangs_up), 0 | 400), "{sent}");
        let mut waits = connect(appliance.says("ingest"));
        waits.write_all(sent.as_bytes()).expect("written");
        assert!(matches!(status(&mut waits), 0 | 400 | 408), "{sent}");
    }
    assert_eq!(appliance.metric("posthaste_events_accepted_total"), 0.0);
    assert_eq!(appliance.producer().post("/v1/events", &serde_json::from_str(event).expect("JSON")).status, 202);
}

#[test]
fn bodies_that_fill_the_memory_for_them_are_refused_until_there_is_room() {
    let appliance = Appliance::start(&[("INGEST__BODY_BYTES_IN_FLIGHT_MAX", "4MiB")]);
    let key = appliance.says("producer_key");
    let head = format!(
        "POST /v1/events/batch HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: 4190000\r\n\r\n"
    );
    let event = json!({ "type": "card_state", "merchant_id": "dev", "data": { "p": "x".repeat(200_000) } });
    // Whichever comes last finds no room, so that it takes some tries until that is the event.
    let (begun, refused) = eventually("there is no room", || {
        let mut begun = connect(appliance.says("ingest"));
        let _ = begun.write_all(head.as_bytes()).and_then(|()| begun.write_all(&vec![b' '; 4_100_000]));
        let answer = appliance.producer().post("/v1/events", &event);
        (answer.status != 202).then_some((begun, answer))
    });
    assert_eq!(refused.expect(503)["code"], "overloaded");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(appliance.operator().get("/readyz").status, 200);
    assert_eq!(appliance.dev_merchant().api.get("/api/v2/webhooks/config").status, 200);
    drop(begun);
    eventually("there is room again", || {
        Some(appliance.producer().post("/v1/events", &event)).filter(|answer| answer.status == 202)
    });
}

#[test]
fn a_body_may_come_in_chunks_up_to_the_same_limit() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    appliance.merchant_at("acme", &receiver);
    let key = appliance.says("producer_key");
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    );
    let chunked = |body: &str| {
        let chunks = body.as_bytes().chunks(1000);
        let chunks: Vec<Vec<u8>> =
            chunks.map(|c| [format!("{:x}\r\n", c.len()).as_bytes(), c, b"\r\n"].concat()).collect();
        [head.as_bytes(), &chunks.concat(), b"0\r\n\r\n"].concat()
    };
    let padding = "x".repeat(100_000);
    let data = format!(r#"{{"s": "{padding}"}}"#);
    let mut stream = connect(appliance.says("ingest"));
    let event = format!(r#"{{"type":"card_state","merchant_id":"acme","data":{data}}}"#);
    stream.write_all(&chunked(&event)).expect("written");
    assert_eq!(status(&mut stream), 202);
    assert_eq!(receiver.first().body, data.as_bytes());
    let mut stream = connect(appliance.says("ingest"));
    // It may hang up before it has read all.
    let _ = stream.write_all(&chunked(&format!("{{\"data\":\"{}\"}}", "x".repeat(300_000))));
    assert_eq!(status(&mut stream), 413);
}

#[test]
fn a_client_that_asks_first_is_told_to_go_on_or_refused_before_it_sends() {
    let appliance = Appliance::start(&[]);
    let event = r#"{"type":"card_state","merchant_id":"dev","data":{}}"#;
    let asks = |key: &str| {
        let mut stream = connect(appliance.says("ingest"));
        let length = event.len();
        let head =
            format!("POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nExpect: 100-continue\r\n");
        let rest = format!("Content-Length: {length}\r\nConnection: close\r\n\r\n");
        stream.write_all([head, rest].concat().as_bytes()).expect("written");
        let mut told = [0; 12];
        stream.read_exact(&mut told).expect("told");
        (stream, String::from_utf8_lossy(&told).into_owned())
    };
    let (mut stream, told) = asks(appliance.says("producer_key"));
    assert_eq!(told, "HTTP/1.1 100");
    stream.write_all(event.as_bytes()).expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered and closed");
    assert!(answer.contains("HTTP/1.1 202 Accepted"), "{answer}");
    assert_eq!(asks("wrong").1, "HTTP/1.1 401");
}

#[test]
fn requests_may_follow_each_other_without_waiting() {
    let appliance = Appliance::start(&[]);
    let key = appliance.says("merchant_key");
    let request =
        |path: &str, last: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n{last}\r\n");
    let mut stream = connect(appliance.says("public"));
    let three = [
        request("/api/v2/webhooks/config", ""),
        request("/nothing", ""),
        request("/api/v2/webhooks/events", "Connection: close\r\n"),
    ];
    stream.write_all(three.concat().as_bytes()).expect("written");
    let mut answers = String::new();
    stream.read_to_string(&mut answers).expect("answered and closed");
    let statuses: Vec<&str> = answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["200", "404", "200"]);
}

#[test]
fn head_is_get_without_a_body() {
    let appliance = Appliance::start(&[]);
    let (mut public, mut admin) = (appliance.dev_merchant().api, appliance.operator());
    for target in ["/api/v2/webhooks/config", "/api/v2/webhooks/events", "/healthz", "/admin/v1/merchants/dev"] {
        let client = if target.starts_with("/api") { &mut public } else { &mut admin };
        let get = client.get(target);
        let head = client.send("HEAD", target, &[], b"");
        assert_eq!((head.status, head.body.len()), (200, 0), "{target}");
        assert_eq!(head.header("content-length"), get.header("content-length"), "{target}");
        assert_eq!(head.header("etag"), get.header("etag"), "{target}");
    }
}

#[test]
fn every_answer_may_not_be_stored_and_can_be_traced() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    let mut merchant = appliance.merchant_at("acme", &receiver);
    let id = appliance.submit(&merchant, "card_state", &json!({}));
    let mut ids = BTreeSet::new();
    let detail = format!("/api/v2/webhooks/events/{id}");
    let (mut producer, mut operator) = (appliance.producer(), appliance.operator());
    let event = json!({ "type": "card_state", "merchant_id": "acme", "data": {} }).to_string();
    for answer in [
        merchant.api.get("/api/v2/webhooks/config"),
        merchant.api.get("/api/v2/webhooks/events"),
        merchant.api.get(&detail),
        merchant.api.get("/nothing"),
        merchant.api.delete("/api/v2/webhooks/config"),
        producer.send("POST", "/v1/events", &[JSON], event.as_bytes()),
        producer.send("POST", "/v1/events/batch", &[("content-type", "application/x-ndjson")], event.as_bytes()),
        producer.send("PATCH", "/v1/events", &[JSON], b"{}"),
        operator.get("/healthz"),
        operator.get("/metrics"),
        operator.get("/admin/v1/stats"),
        Client::new(appliance.says("admin"), None).get("/admin/v1/stats"),
    ] {
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{answer:?}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{answer:?}");
        assert!(ids.insert(answer.header("request-id").expect("every answer has one").to_owned()), "{answer:?}");
    }
    let own = merchant.api.send("GET", "/api/v2/webhooks/config", &[("request-id", "order-66_A")], b"");
    assert_eq!(own.header("request-id"), Some("order-66_A"), "the client's own is kept");
    let odd = merchant.api.send("GET", "/api/v2/webhooks/config", &[("request-id", "a b;c")], b"");
    assert_ne!(odd.header("request-id"), Some("a b;c"), "what is no id is not repeated");
}

#[test]
fn many_producers_at_once_get_gapless_numbers_and_one_event_for_one_key() {
    const PRODUCERS: usize = 8;
    const EVENTS: usize = 50;
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    appliance.merchant_at("acme", &receiver);
    let hand_in = |n: usize| {
        let mut producer = appliance.producer();
        let mut accepted = Vec::new();
        for m in 0..EVENTS {
            let event = json!({ "type": "card_state", "merchant_id": "acme", "data": { "n": n, "m": m } });
            accepted.push(producer.post("/v1/events", &event).expect(202));
            let shared =
                json!({ "type": "card_state", "merchant_id": "acme", "id": format!("k{m}"), "data": { "m": m } });
            let answer = producer.post("/v1/events", &shared);
            assert!(matches!(answer.status, 200 | 202), "{}", answer.text());
            accepted.push(answer.json());
        }
        accepted
    };
    let hand_in = &hand_in;
    let accepted: Vec<serde_json::Value> = thread::scope(|scope| {
        let running: Vec<_> = (0..PRODUCERS).map(|n| scope.spawn(move || hand_in(n))).collect();
        running.into_iter().flat_map(|thread| thread.join().expect("no producer fails")).collect()
    });
    let fresh: Vec<_> = accepted.iter().filter(|answer| answer["duplicate"] == false).collect();
    let expected = EVENTS * PRODUCERS + EVENTS;
    assert_eq!(fresh.len(), expected, "each key makes one event");
    let mut sequences: Vec<u64> = fresh.iter().map(|answer| answer["sequence"].as_u64().expect("a number")).collect();
    sequences.sort_unstable();
    assert_eq!(sequences, (1..=expected as u64).collect::<Vec<_>>());
    let all: BTreeSet<_> = accepted.iter().map(|answer| answer["id"].as_str().expect("an id")).collect();
    assert_eq!(all.len(), expected);
    let received = receiver.wait_for(expected);
    assert_eq!(received.iter().map(|r| r.id()).collect::<BTreeSet<_>>(), all);
    assert_eq!(received.len(), expected, "none is delivered twice");
}

#[test]
fn what_an_event_is_about_is_found_where_the_operator_says() {
    let settings = [
        ("EVENTS__CARD_TRANSACTION__CARD", "/card/id,/old/card"),
        ("EVENTS__CARD_TRANSACTION__RESOURCE", "/meta/txn"),
        ("EVENTS__RECORD_SKIPPED", "false"),
    ];
    let appliance = Appliance::start(&settings);
    let mut merchant = appliance.merchant("acme");
    let mut producer = appliance.producer();
    producer.put("/v1/owners/card/c1", &json!({ "merchant_id": "acme" })).expect(200);
    let event = |data: serde_json::Value| json!({ "type": "card_transaction", "data": data });
    let skipped = producer.post("/v1/events", &event(json!({ "card": { "id": "c1" } }))).expect(202);
    assert_eq!(skipped["sequence"], json!(null), "nobody wants it and it is not kept");
    assert_eq!(merchant.api.get("/api/v2/webhooks/events").expect(200)["data"], json!([]));
    let receiver = Receiver::start();
    merchant.configure(&json!({ "url": receiver.url() }));
    let kept = producer.post("/v1/events", &event(json!({ "old": { "card": "c1" }, "meta": { "txn": 12.50 } })));
    let kept = kept.expect(202);
    assert_eq!((&kept["merchant_id"], &kept["sequence"]), (&json!("acme"), &json!(1)));
    let shown = merchant.event(kept["id"].as_str().expect("an id"));
    assert_eq!(shown["resource_id"], "12.5", "a number as it is written");
    let elsewhere = producer.post("/v1/events", &event(json!({ "card_id": "c1" }))).expect(422);
    assert_eq!(elsewhere["code"], "unknown_merchant");
}
