//! Input at the edge of what is legal: what is just accepted, and what just not.
//!
//! Never about a field that is plainly wrong: that is in the table of bad input.

use serde_json::{Value, json};

use crate::harness::{Appliance, Client, Receiver, Reply};

const CONFIG: &str = "/api/v2/webhooks/config";
const EVENTS: &str = "/api/v2/webhooks/events";
const JSON: (&str, &str) = ("content-type", "application/json");
const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");

fn event(change: &Value) -> Value {
    let mut event = json!({ "type": "card_state", "merchant_id": "dev", "data": {} });
    for (name, value) in change.as_object().expect("an object") {
        event[name] = value.clone();
    }
    event
}

#[test]
fn times_of_any_year_that_has_four_digits_are_shown_as_they_were_given() {
    let appliance = Appliance::start(&[]);
    let (mut producer, mut merchant) = (appliance.producer(), appliance.dev_merchant());
    for (given, shown) in [
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00.000Z"),
        ("2026-01-31T12:00:00.123456789Z", "2026-01-31T12:00:00.123Z"),
        ("2026-01-31T23:30:00-01:00", "2026-02-01T00:30:00.000Z"),
        ("1969-07-20T20:17:40Z", "1969-07-20T20:17:40.000Z"),
        ("1969-12-31T23:59:59.999Z", "1969-12-31T23:59:59.999Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000Z"),
        ("9999-12-30T00:00:00Z", "9999-12-30T00:00:00.000Z"),
    ] {
        let accepted = producer.post("/v1/events", &event(&json!({ "occurred_at": given }))).expect(202);
        let event = merchant.event(accepted["id"].as_str().expect("an id"));
        assert_eq!(event["occurred_at"], shown, "{given}");
    }
    for given in [
        "2026-02-30T00:00:00Z",
        "2026-01-31T12:00:00",
        "-009998-01-01T00:00:00Z",
        "20260131",
        "2026-01-31T24:00:00Z",
        "",
    ] {
        let refused = producer.post("/v1/events", &event(&json!({ "occurred_at": given }))).expect(422);
        assert_eq!(refused["errors"][0]["field"], "occurred_at", "{given}");
    }
}

/// Every member whose name says that it is a moment, with its path.
fn moments(path: &str, value: &Value, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let path = format!("{path}.{name}");
                match value {
                    Value::String(text) if name == "at" || name.ends_with("_at") => found.push((path, text.clone())),
                    value => moments(&path, value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| moments(path, item, found)),
        _ => {}
    }
}

#[test]
fn moments_are_utc_with_milliseconds_wherever_they_are_shown() {
    let receiver = Receiver::scripted(|r| Reply::Status(if r.number == 0 { 200 } else { 500 }));
    let appliance = Appliance::start(&[("DELIVERY__RETRY_SCHEDULE", "1h")]);
    let mut merchant = appliance.merchant_at("acme", &receiver);
    let delivered = appliance.submit(&merchant, "card_state", &json!({}));
    merchant.wait_for_status(&delivered, "delivered");
    let retrying = appliance.submit(&merchant, "card_state", &json!({}));
    merchant.wait_for_status(&retrying, "retrying");
    let mut operator = appliance.operator();
    let mut found = Vec::new();
    for answer in [
        merchant.api.get(CONFIG),
        merchant.api.get(EVENTS),
        merchant.api.get(&format!("{EVENTS}/{delivered}")),
        merchant.api.get(&format!("{EVENTS}/{retrying}")),
        operator.get("/admin/v1/merchants"),
        operator.get("/admin/v1/merchants/acme/keys"),
        operator.get("/admin/v1/endpoints"),
    ] {
        moments("", &answer.expect(200), &mut found);
    }
    assert!(found.len() > 15, "{found:?}");
    for (path, text) in found {
        let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "0000-00-00T00:00:00.000Z", "{path}: {text}");
    }
}

#[test]
fn ranges_of_time_may_lie_anywhere() {
    let appliance = Appliance::start(&[]);
    let mut merchant = appliance.dev_merchant();
    let id = appliance.submit(&merchant, "card_state", &json!({}));
    for (query, count) in [
        ("created[lt]=1960-01-01T00:00:00Z", 0),
        ("created[lte]=1970-01-01T00:00:00Z", 0),
        ("created[gte]=1960-01-01T00:00:00Z", 1),
        ("created[gt]=0001-01-01T00:00:00Z", 1),
        ("created[lte]=9999-12-30T00:00:00Z", 1),
        ("created[gt]=9999-12-30T00:00:00Z", 0),
        ("created[gte]=2999-01-01T00:00:00Z&created[lte]=2000-01-01T00:00:00Z", 0),
    ] {
        for order in ["asc", "desc"] {
            let page = merchant.api.get(&format!("{EVENTS}?{query}&order={order}")).expect(200);
            assert_eq!(page["data"].as_array().expect("a list").len(), count, "{query} {order}");
        }
    }
    merchant.wait_for_status(&id, "delivered");
}

#[test]
fn a_header_that_is_given_twice_is_refused_and_not_guessed() {
    let appliance = Appliance::start(&[]);
    let mut producer = appliance.producer();
    let body = event(&json!({})).to_string();
    let twice = [JSON, ("idempotency-key", "a"), ("idempotency-key", "b")];
    let refused = producer.send("POST", "/v1/events", &twice, body.as_bytes()).expect(400);
    assert_eq!(refused["code"], "invalid_idempotency_key");
    let mut merchant = appliance.dev_merchant();
    let config = json!({ "url": "http://127.0.0.1:9/" }).to_string();
    let before = merchant.api.get(CONFIG);
    let tag = before.header("etag").expect("a tag");
    let contrary = [JSON, ("if-match", tag), ("if-none-match", "*")];
    let refused = merchant.api.send("PUT", CONFIG, &contrary, config.as_bytes()).expect(400);
    assert_eq!(refused["code"], "invalid_precondition");
    let stale = [JSON, ("if-match", "\"stale\""), ("if-match", "\"older\"")];
    assert_eq!(merchant.api.send("PUT", CONFIG, &stale, config.as_bytes()).status, 412);
    assert_eq!(merchant.api.get(CONFIG).header("etag"), Some(tag), "nothing changed");
    let listed = [JSON, ("if-match", "\"stale\""), ("if-match", tag)];
    let set = merchant.api.send("PUT", CONFIG, &listed, config.as_bytes());
    assert_eq!(set.status, 200, "one list in two lines is one list (RFC 9110, 5.3): {}", set.text());
    assert_eq!(appliance.metric("posthaste_events_accepted_total"), 0.0);
}

#[test]
fn one_of_many_writers_with_the_same_tag_wins() {
    const WRITERS: usize = 8;
    let appliance = Appliance::start(&[]);
    let merchant = appliance.dev_merchant();
    let (public, key) = (appliance.says("public"), merchant.key.as_str());
    let tag = Client::new(public, Some(key)).get(CONFIG).header("etag").expect("a tag").to_owned();
    let tag = tag.as_str();
    let write = |n: usize| {
        let body = json!({ "url": format!("http://127.0.0.1:9/{n}") }).to_string();
        Client::new(public, Some(key)).send("PUT", CONFIG, &[JSON, ("if-match", tag)], body.as_bytes()).status
    };
    let write = &write;
    let mut statuses: Vec<u16> = std::thread::scope(|scope| {
        let writing: Vec<_> = (0..WRITERS).map(|n| scope.spawn(move || write(n))).collect();
        writing.into_iter().map(|thread| thread.join().expect("answered")).collect()
    });
    statuses.sort_unstable();
    assert_eq!(statuses, [&[200][..], &[412; WRITERS - 1]].concat());
}

#[test]
fn ids_may_hold_anything_that_is_text() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    let mut merchant = appliance.merchant_at("acme", &receiver);
    let mut producer = appliance.producer();
    let longest = "é".repeat(127) + "x";
    for (n, resource) in [longest.as_str(), "a b&c=d#e", "\u{0}\n\"\\", "😀", "%41", "+"].into_iter().enumerate() {
        let handed = json!({ "merchant_id": "acme", "resource_id": resource, "id": resource });
        let accepted = producer.post("/v1/events", &event(&handed)).expect(202);
        let again = producer.post("/v1/events", &event(&handed)).expect(200);
        assert_eq!(again["id"], accepted["id"], "{resource:?}");
        let encoded: String = resource.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let page = merchant.api.get(&format!("{EVENTS}?resource_id={encoded}")).expect(200);
        assert_eq!(page["data"][0]["id"], accepted["id"], "{resource:?}");
        assert_eq!(page["data"].as_array().expect("a list").len(), 1, "{resource:?}");
        assert_eq!(merchant.event(accepted["id"].as_str().expect("an id"))["resource_id"], resource);
        receiver.wait_for(n + 1);
    }
}

#[test]
fn filters_that_are_not_utf_8_are_refused() {
    let appliance = Appliance::start(&[]);
    let mut merchant = appliance.dev_merchant();
    for query in ["resource_id=%ff", "resource_id=a%C3", "status=%80", "%ff=1"] {
        let refused = merchant.api.get(&format!("{EVENTS}?{query}")).expect(400);
        assert!(refused["errors"].as_array().is_some_and(|errors| !errors.is_empty()), "{query}: {refused}");
    }
}

#[test]
fn host_names_are_stored_in_their_ascii_form() {
    let appliance = Appliance::start(&[]);
    let mut merchant = appliance.merchant("acme");
    for (given, stored) in [
        ("https://bücher.example/hook", Some("https://xn--bcher-kva.example/hook")),
        ("https://EXAMPLE.com/Hook", Some("https://example.com/Hook")),
        ("https://example.com.", Some("https://example.com/")),
        ("https://example.com", Some("https://example.com/")),
        ("https://xn--bcher-kva.example/", Some("https://xn--bcher-kva.example/")),
        ("https://xn--a.example/", None),
        ("https://-bad.example/", None),
        ("https://a..example/", None),
        ("https://exa\u{200d}mple.com/", None),
        ("https://１２７.0.0.1.example.com/", Some("https://127.0.0.1.example.com/")),
    ] {
        let answer = merchant.api.put(CONFIG, &json!({ "url": given }));
        match stored {
            Some(stored) => {
                assert!(matches!(answer.status, 200 | 201), "{given}: {}", answer.text());
                assert_eq!(answer.json()["url"], stored, "{given}");
            }
            None => assert_eq!(answer.expect(422)["errors"][0]["field"], "url", "{given}"),
        }
    }
}

#[test]
fn lines_of_a_batch_are_bounded_each_for_itself() {
    let appliance = Appliance::start(&[]);
    let mut producer = appliance.producer();
    let sized = |bytes: usize| {
        let frame = event(&json!({ "data": { "p": "" } })).to_string().len();
        event(&json!({ "data": { "p": "x".repeat(bytes - frame) } })).to_string()
    };
    let good = event(&json!({})).to_string();
    let lines = [
        sized(256 << 10),
        sized((256 << 10) + 1),
        good.clone(),
        format!("{good}\r"),
        String::new(),
        format!("  {good}\t"),
    ];
    let mut body = lines.join("\n").into_bytes();
    body.extend_from_slice(b"\n\xff\xfe\n");
    let answer = producer.send("POST", "/v1/events/batch", &[NDJSON], &body);
    let answers = answer.lines();
    let statuses: Vec<u64> = answers.iter().map(|line| line["status"].as_u64().expect("a number")).collect();
    assert_eq!(statuses, [202, 413, 202, 202, 202, 400], "{}", answer.text());
    assert_eq!((&answers[1]["code"], &answers[5]["code"]), (&json!("body_too_large"), &json!("not_utf8")));
    let sequences: Vec<&Value> = answers.iter().map(|line| &line["sequence"]).filter(|s| !s.is_null()).collect();
    assert_eq!(sequences, [1, 2, 3, 4], "what was refused took no number");
    let over = vec![sized(250_000); 17].join("\n");
    assert!(over.len() > 4 << 20);
    assert_eq!(
        producer.send("POST", "/v1/events/batch", &[NDJSON], over.as_bytes()).expect(413)["code"],
        "body_too_large"
    );
    assert_eq!(appliance.metric("posthaste_events_accepted_total"), 4.0);
}

#[test]
fn a_revoked_key_of_any_role_opens_nothing_from_that_moment() {
    let appliance = Appliance::start(&[]);
    let mut operator = appliance.operator();
    for (role, listener, target) in
        [("producer", "ingest", "/v1/owners/card/none"), ("operator", "admin", "/admin/v1/stats")]
    {
        let made = operator.post("/admin/v1/keys", &json!({ "role": role })).expect(201);
        let mut holder = Client::new(appliance.says(listener), Some(made["key"].as_str().expect("shown once")));
        assert!(matches!(holder.get(target).status, 200 | 404), "{role}");
        assert_eq!(operator.delete(&format!("/admin/v1/keys/{}", made["id"].as_str().expect("an id"))).status, 204);
        assert_eq!(holder.get(target).status, 401, "{role}, on the connection that is open already");
    }
    let mut scheme = Client::new(appliance.says("public"), None);
    let key = appliance.says("merchant_key");
    for (value, status) in [
        (format!("bearer {key}"), 200),
        (format!("BEARER  {key}"), 200),
        (key.to_owned(), 401),
        (format!("Bearer {key} {key}"), 401),
        ("Bearer".to_owned(), 401),
        (format!("Bearer {}", "k".repeat(5_000)), 401),
    ] {
        assert_eq!(scheme.send("GET", CONFIG, &[("authorization", &value)], b"").status, status, "{value}");
    }
}

#[test]
fn json_as_deep_as_is_accepted_arrives_and_one_level_more_is_refused() {
    const LEVELS: usize = 126;
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    appliance.merchant_at("acme", &receiver);
    let mut producer = appliance.producer();
    let data = |levels: usize| format!(r#"{{"d":{}{}}}"#, "[".repeat(levels - 1), "]".repeat(levels - 1));
    let handed = |data: &str| format!(r#"{{"type":"card_state","merchant_id":"acme","data":{data}}}"#);
    producer.send("POST", "/v1/events", &[JSON], handed(&data(LEVELS)).as_bytes()).expect(202);
    assert_eq!(receiver.first().body, data(LEVELS).as_bytes());
    let refused = producer.send("POST", "/v1/events", &[JSON], handed(&data(LEVELS + 1)).as_bytes());
    assert_eq!(refused.expect(400)["code"], "too_deep");
}
