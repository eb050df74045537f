//! Bad input over all three listeners: each case with the status, the code and the field that it is answered with.
//!
//! Never leaves a trace in the product: the last thing that is checked is that nothing was stored.

use serde_json::{Value, json};

use crate::harness::{Answer, Appliance, Client};

const CONFIG: &str = "/api/v2/webhooks/config";
const EVENTS: &str = "/api/v2/webhooks/events";
const JSON: (&str, &str) = ("content-type", "application/json");
const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");

/// What every problem document has (RFC 9457, and the contract on top of it).
#[track_caller]
fn check(case: &str, answer: &Answer, status: u16, code: &str, field: Option<&str>) {
    assert_eq!(answer.status, status, "{case}: {}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{case}");
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{case}");
    assert!(answer.header("request-id").is_some_and(|id| !id.is_empty()), "{case}");
    let problem = answer.json();
    assert_eq!((&problem["status"], &problem["code"]), (&json!(status), &json!(code)), "{case}: {problem}");
    for name in ["type", "title", "detail"] {
        assert!(problem[name].as_str().is_some_and(|text| !text.is_empty()), "{case}: {name}");
    }
    match field {
        Some(field) => {
            let errors = problem["errors"].as_array().unwrap_or_else(|| panic!("{case}: {problem}"));
            let named = errors.iter().any(|error| error["field"] == field && error["detail"].is_string());
            assert!(named, "{case}: no error names {field}: {problem}");
        }
        None => assert!(problem["errors"].is_null(), "{case}: {problem}"),
    }
}

/// Sends each body to one target and checks what comes back.
fn each(client: &mut Client, method: &str, target: &str, cases: &[(Value, u16, &str, Option<&str>)]) {
    for (body, status, code, field) in cases {
        let answer = client.send(method, target, &[JSON], body.to_string().as_bytes());
        check(&format!("{method} {target} {body}"), &answer, *status, code, *field);
    }
}

fn events_stored(appliance: &Appliance) -> f64 {
    appliance.metric("posthaste_events_accepted_total")
}

#[test]
fn wrong_events_are_refused_by_field_and_nothing_is_stored() {
    let appliance = Appliance::start(&[]);
    let long = "x".repeat(256);
    let event = |change: Value| {
        let mut event = json!({ "type": "card_state", "merchant_id": "dev", "data": {} });
        for (name, value) in change.as_object().expect("an object") {
            event[name] = value.clone();
        }
        event
    };
    let mut producer = appliance.producer();
    each(
        &mut producer,
        "POST",
        "/v1/events",
        &[
            (json!([]), 422, "wrong_type", Some("")),
            (json!("text"), 422, "wrong_type", Some("")),
            (json!(null), 422, "wrong_type", Some("")),
            (json!({}), 422, "missing_field", Some("type")),
            (json!({}), 422, "missing_field", Some("data")),
            (event(json!({ "type": 7 })), 422, "wrong_type", Some("type")),
            (event(json!({ "type": "" })), 422, "unknown_event_type", Some("type")),
            (event(json!({ "type": "card" })), 422, "unknown_event_type", Some("type")),
            (event(json!({ "type": "CARD_STATE" })), 422, "unknown_event_type", Some("type")),
            (event(json!({ "data": [] })), 422, "wrong_type", Some("data")),
            (event(json!({ "data": "{}" })), 422, "wrong_type", Some("data")),
            (event(json!({ "data": 1 })), 422, "wrong_type", Some("data")),
            (event(json!({ "merchant_id": 1 })), 422, "wrong_type", Some("merchant_id")),
            (event(json!({ "merchant_id": "nobody" })), 422, "unknown_merchant", Some("merchant_id")),
            (event(json!({ "merchant_id": "../dev" })), 422, "unknown_merchant", Some("merchant_id")),
            (json!({ "type": "card_state", "data": {} }), 422, "unknown_merchant", Some("merchant_id")),
            (json!({ "type": "card_state", "card_id": "c", "data": {} }), 422, "unknown_owner", Some("card_id")),
            (json!({ "type": "card_state", "account_id": "a", "data": {} }), 422, "unknown_owner", Some("account_id")),
            (json!({ "type": "card_state", "data": { "id": "c" } }), 422, "unknown_owner", Some("data")),
            (event(json!({ "card_id": "" })), 422, "invalid_length", Some("card_id")),
            (event(json!({ "account_id": long })), 422, "invalid_length", Some("account_id")),
            (event(json!({ "resource_id": ["r"] })), 422, "wrong_type", Some("resource_id")),
            (event(json!({ "id": "" })), 422, "invalid_length", Some("id")),
            (event(json!({ "id": long })), 422, "invalid_length", Some("id")),
            (event(json!({ "id": 5 })), 422, "wrong_type", Some("id")),
            (event(json!({ "occurred_at": "yesterday" })), 422, "invalid_time", Some("occurred_at")),
            (event(json!({ "occurred_at": 1_700_000_000 })), 422, "wrong_type", Some("occurred_at")),
            (event(json!({ "payload": {} })), 422, "unknown_field", Some("payload")),
            (event(json!({ "Type": "card_state" })), 422, "unknown_field", Some("Type")),
        ],
    );
    let crowd: serde_json::Map<String, Value> = (0..10_000).map(|n| (format!("m{n}"), json!(0))).collect();
    each(&mut producer, "POST", "/v1/events", &[(Value::Object(crowd), 422, "too_many_fields", Some(""))]);
    assert_eq!(events_stored(&appliance), 0.0);
    let both = producer.post("/v1/events", &json!({ "type": 1, "data": 2, "extra": 3 })).expect(422);
    assert_eq!(both["errors"].as_array().expect("a list").len(), 3, "all faults are told together: {both}");
}

#[test]
fn bodies_that_are_no_json_are_refused() {
    let appliance = Appliance::start(&[]);
    let mut producer = appliance.producer();
    let deep =
        format!(r#"{{"type":"card_state","merchant_id":"dev","data":{}{}}}"#, "[".repeat(5000), "]".repeat(5000));
    for (body, status, code) in [
        (b"".as_slice(), 400, "invalid_json"),
        (b"{", 400, "invalid_json"),
        (br#"{"type":"card_state","merchant_id":"dev","data":{}"#, 400, "invalid_json"),
        (br#"{"type":"card_state","merchant_id":"dev","data":{}} x"#, 400, "invalid_json"),
        (br#"{"type":"card_state","merchant_id":"dev","data":{"a":01}}"#, 400, "invalid_json"),
        (br#"{"type":"card_state","merchant_id":"dev","data":{'a':1}}"#, 400, "invalid_json"),
        (br#"{"type":"card_state","merchant_id":"dev","data":{"a":NaN}}"#, 400, "invalid_json"),
        (br#"{"type":"card_state","merchant_id":"dev","data":{"a":"\ud800"}}"#, 0, ""),
        (b"{\"type\":\"card_state\",\"merchant_id\":\"dev\",\"data\":{\"a\":\"\xff\"}}", 400, "not_utf8"),
        (b"\xef\xbb\xbf{}", 400, "invalid_json"),
        (b"type=card_state&data=1", 400, "invalid_json"),
        (deep.as_bytes(), 400, "too_deep"),
    ] {
        let answer = producer.send("POST", "/v1/events", &[JSON], body);
        let case = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        if status == 0 {
            // A lone surrogate is JSON by its grammar (RFC 8259, 8.2); a receiver gets the bytes as they are.
            assert!(matches!(answer.status, 202 | 400), "{case}: {}", answer.text());
        } else {
            check(&case, &answer, status, code, None);
        }
    }
    assert!(events_stored(&appliance) <= 1.0);
}

#[test]
fn wrong_heads_are_refused() {
    let appliance = Appliance::start(&[]);
    let event = json!({ "type": "card_state", "merchant_id": "dev", "data": {} }).to_string();
    let event = event.as_bytes();
    let mut producer = appliance.producer();
    let long = "k".repeat(300);
    for (headers, status, code) in [
        (vec![("content-type", "text/xml")], 415, "unsupported_media_type"),
        (vec![("content-type", "application/json; charset=latin1")], 415, "unsupported_media_type"),
        (vec![JSON, ("content-encoding", "gzip")], 415, "unsupported_content_encoding"),
        (vec![JSON, ("idempotency-key", "")], 400, "invalid_idempotency_key"),
        (vec![JSON, ("idempotency-key", long.as_str())], 400, "invalid_idempotency_key"),
        (vec![JSON, ("idempotency-key", "caf\u{e9}")], 400, "invalid_idempotency_key"),
    ] {
        let answer = producer.send("POST", "/v1/events", &headers, event);
        check(&format!("{headers:?}"), &answer, status, code, None);
    }
    for (method, target, status, code) in [
        ("GET", "/v1/events", 405, "method_not_allowed"),
        ("DELETE", "/v1/events/batch", 405, "method_not_allowed"),
        ("POST", "/v1/event", 404, "not_found"),
        ("POST", "/v1/events/", 404, "not_found"),
        ("POST", "//v1/events", 404, "not_found"),
        ("GET", "/v1/owners/wallet/1", 404, "not_found"),
        ("GET", "/v1/owners/card/%ff", 400, "invalid_path"),
        ("GET", "/api/v2/webhooks/config", 404, "not_found"),
        ("GET", "/metrics", 404, "not_found"),
    ] {
        let answer = producer.send(method, target, &[JSON], b"{}");
        check(&format!("{method} {target}"), &answer, status, code, None);
    }
    let allowed = producer.send("GET", "/v1/events", &[], b"");
    assert_eq!(allowed.header("allow"), Some("POST"));
    assert_eq!(events_stored(&appliance), 0.0);
}

#[test]
fn wrong_keys_open_nothing() {
    let appliance = Appliance::start(&[]);
    let mut merchant = appliance.merchant("acme");
    merchant.configure(&json!({ "url": "http://127.0.0.1:9/" }));
    let keys = ["merchant_key", "producer_key", "operator_key"].map(|name| appliance.says(name).to_owned());
    let event = json!({ "type": "card_state", "merchant_id": "dev", "data": {} }).to_string();
    for (listener, method, target, own) in [
        ("public", "GET", CONFIG, 0),
        ("public", "DELETE", CONFIG, 0),
        ("public", "GET", EVENTS, 0),
        ("public", "POST", "/api/v2/webhooks/events/evt_0/resend", 0),
        ("ingest", "POST", "/v1/events", 1),
        ("ingest", "POST", "/v1/events/batch", 1),
        ("ingest", "GET", "/v1/owners/card/c", 1),
        ("admin", "GET", "/admin/v1/stats", 2),
        ("admin", "PUT", "/admin/v1/merchants/new", 2),
        ("admin", "POST", "/admin/v1/keys", 2),
    ] {
        let send = |key: Option<&str>| {
            Client::new(appliance.says(listener), key).send(method, target, &[JSON], event.as_bytes())
        };
        let case = format!("{method} {target}");
        let nobody = send(None);
        check(&case, &nobody, 401, "unauthorized", None);
        assert!(nobody.header("www-authenticate").is_some_and(|value| value.starts_with("Bearer")), "{case}");
        for wrong in ["x", "phm_", &keys[own][..keys[own].len() - 1], "a b"] {
            check(&format!("{case} with {wrong}"), &send(Some(wrong)), 401, "unauthorized", None);
        }
        for (n, key) in keys.iter().enumerate().filter(|(n, _)| *n != own) {
            check(&format!("{case} with key {n}"), &send(Some(key)), 403, "forbidden", None);
        }
    }
    let mut basic = Client::new(appliance.says("public"), None);
    let answer = basic.send("GET", CONFIG, &[("authorization", &format!("Basic {}", keys[0]))], b"");
    check("another scheme", &answer, 401, "unauthorized", None);
    let twice = [("authorization", format!("Bearer {}", keys[0])), ("authorization", format!("Bearer {}", keys[0]))];
    let twice: Vec<(&str, &str)> = twice.iter().map(|(name, value)| (*name, value.as_str())).collect();
    check("two keys", &basic.send("GET", CONFIG, &twice, b""), 401, "unauthorized", None);
    assert_eq!(events_stored(&appliance), 0.0);
    assert_eq!(appliance.operator().get("/admin/v1/merchants/new").status, 404);
}

#[test]
fn wrong_configs_are_refused_by_field_and_nothing_changes() {
    let appliance = Appliance::start(&[]);
    let mut merchant = appliance.merchant("acme");
    let before = merchant.configure(&json!({ "url": "http://127.0.0.1:9/", "secret": "kept kept kept kept" }));
    let config = |change: Value| {
        let mut config = json!({ "url": "http://127.0.0.1:9/changed" });
        for (name, value) in change.as_object().expect("an object") {
            config[name] = value.clone();
        }
        config
    };
    let long = format!("https://example.com/{}", "x".repeat(2048));
    each(
        &mut merchant.api,
        "PUT",
        CONFIG,
        &[
            (json!({}), 422, "missing_field", Some("url")),
            (json!([1]), 422, "wrong_type", Some("")),
            (config(json!({ "url": "" })), 422, "url_invalid", Some("url")),
            (config(json!({ "url": null })), 422, "missing_field", Some("url")),
            (config(json!({ "url": "nonsense" })), 422, "url_invalid", Some("url")),
            (config(json!({ "url": "ftp://example.com/" })), 422, "url_scheme", Some("url")),
            (config(json!({ "url": "https://user@example.com/" })), 422, "url_userinfo", Some("url")),
            (config(json!({ "url": "https://example.com/#part" })), 422, "url_fragment", Some("url")),
            (config(json!({ "url": "https://10.1.2.3/" })), 422, "destination_not_allowed", Some("url")),
            (config(json!({ "url": "https://169.254.169.254/" })), 422, "destination_not_allowed", Some("url")),
            (config(json!({ "url": "https://exa mple.com/" })), 422, "url_invalid", Some("url")),
            (config(json!({ "url": "https://example.com:0/" })), 422, "url_port", Some("url")),
            (config(json!({ "url": long })), 422, "url_too_long", Some("url")),
            (config(json!({ "event_types": [] })), 422, "empty_event_types", Some("event_types")),
            (config(json!({ "event_types": "some" })), 422, "unknown_event_type", Some("event_types")),
            (
                config(json!({ "event_types": ["card_state", "nope"] })),
                422,
                "unknown_event_type",
                Some("event_types[1]"),
            ),
            (config(json!({ "event_types": [1] })), 422, "wrong_type", Some("event_types[0]")),
            (config(json!({ "event_types": {} })), 422, "wrong_type", Some("event_types")),
            (config(json!({ "enabled": "yes" })), 422, "wrong_type", Some("enabled")),
            (config(json!({ "secret": "" })), 422, "invalid_length", Some("secret")),
            (config(json!({ "secret": "x".repeat(257) })), 422, "invalid_length", Some("secret")),
            (config(json!({ "secret": 5 })), 422, "wrong_type", Some("secret")),
            (config(json!({ "secret_grace_seconds": -1 })), 422, "wrong_type", Some("secret_grace_seconds")),
            (
                config(json!({ "secret_grace_seconds": 1_000_000_000 })),
                422,
                "out_of_range",
                Some("secret_grace_seconds"),
            ),
            (config(json!({ "state": "active" })), 422, "unknown_field", Some("state")),
        ],
    );
    for (name, value) in [("if-match", "unquoted"), ("if-none-match", "\"tag\"")] {
        let body = config(json!({})).to_string();
        let answer = merchant.api.send("PUT", CONFIG, &[JSON, (name, value)], body.as_bytes());
        check(name, &answer, 400, "invalid_precondition", None);
    }
    let huge = json!({ "url": "x".repeat(20 << 10) }).to_string();
    check("huge", &merchant.api.send("PUT", CONFIG, &[JSON], huge.as_bytes()), 413, "body_too_large", None);
    assert_eq!(merchant.api.get(CONFIG).expect(200), before, "nothing changed");
}

#[test]
fn wrong_questions_to_the_history_are_refused() {
    let appliance = Appliance::start(&[]);
    let mut merchant = appliance.merchant("acme");
    let mut other = appliance.merchant("globex");
    for merchant in [&merchant, &other] {
        for n in 0..3 {
            appliance.submit(merchant, "card_state", &json!({ "n": n }));
        }
    }
    let cursor = |client: &mut Client, query: &str| {
        let page = client.get(&format!("{EVENTS}?limit=1&{query}")).expect(200);
        page["next_cursor"].as_str().expect("more follow").to_owned()
    };
    let (own, foreign) = (cursor(&mut merchant.api, ""), cursor(&mut other.api, ""));
    let filtered = cursor(&mut merchant.api, "event_type=card_state");
    assert_eq!(merchant.api.get(&format!("{EVENTS}?limit=2&cursor={own}")).status, 200, "the limit may change");
    let broken = own.replace(own.chars().nth(10).expect("long"), "");
    for (query, code, field) in [
        ("status=done", "invalid_parameter", "status"),
        ("status=", "invalid_parameter", "status"),
        ("status=failed&status=DELIVERED", "invalid_parameter", "status"),
        ("event_type=card", "invalid_parameter", "event_type"),
        ("limit=0", "invalid_parameter", "limit"),
        ("limit=251", "invalid_parameter", "limit"),
        ("limit=-1", "invalid_parameter", "limit"),
        ("limit=ten", "invalid_parameter", "limit"),
        ("limit=1&limit=2", "duplicate_parameter", "limit"),
        ("order=newest", "invalid_parameter", "order"),
        ("created[gte]=yesterday", "invalid_parameter", "created[gte]"),
        ("created[eq]=2026-01-01T00:00:00Z", "unknown_parameter", "created[eq]"),
        ("resource_id=", "invalid_parameter", "resource_id"),
        ("page=2", "unknown_parameter", "page"),
        ("cursor=", "invalid_cursor", "cursor"),
        ("cursor=abc", "invalid_cursor", "cursor"),
        (&format!("cursor={broken}"), "invalid_cursor", "cursor"),
        (&format!("cursor={foreign}"), "invalid_cursor", "cursor"),
        (&format!("cursor={own}&status=failed"), "invalid_cursor", "cursor"),
        (&format!("cursor={own}&order=asc"), "invalid_cursor", "cursor"),
        (&format!("cursor={filtered}"), "invalid_cursor", "cursor"),
    ] {
        check(query, &merchant.api.get(&format!("{EVENTS}?{query}")), 400, code, Some(field));
    }
    for id in ["evt_0", "evt_00000000000000000000000000", "1", "..%2Fconfig", "%00"] {
        check(id, &merchant.api.get(&format!("{EVENTS}/{id}")), 404, "event_not_found", None);
        let resend = merchant.api.post(&format!("{EVENTS}/{id}/resend"), &json!({}));
        assert!(matches!(resend.status, 404 | 409), "{id}: {}", resend.text());
    }
}

#[test]
fn wrong_words_of_operators_and_about_owners_are_refused() {
    let appliance = Appliance::start(&[]);
    let mut operator = appliance.operator();
    let long = "m".repeat(65);
    for id in ["a%20b", "a.b", "%C3%A9", long.as_str(), "a%2Fb"] {
        let answer = operator.put(&format!("/admin/v1/merchants/{id}"), &json!({}));
        check(id, &answer, 422, "invalid_merchant_id", Some("id"));
    }
    each(
        &mut operator,
        "PUT",
        "/admin/v1/merchants/acme",
        &[
            (json!({ "name": "" }), 422, "invalid_length", Some("name")),
            (json!({ "name": 1 }), 422, "wrong_type", Some("name")),
            (json!({ "title": "x" }), 422, "unknown_field", Some("title")),
        ],
    );
    each(
        &mut operator,
        "POST",
        "/admin/v1/keys",
        &[
            (json!({}), 422, "missing_field", Some("role")),
            (json!({ "role": "merchant" }), 422, "unknown_role", Some("role")),
            (json!({ "role": "producer", "name": "x" }), 422, "unknown_field", Some("name")),
        ],
    );
    for (target, status, code, field) in [
        ("/admin/v1/merchants/nobody", 404, "merchant_not_found", None),
        ("/admin/v1/merchants/nobody/keys", 404, "merchant_not_found", None),
        ("/admin/v1/merchants?limit=0", 400, "invalid_parameter", Some("limit")),
        ("/admin/v1/merchants?cursor=a.b", 400, "invalid_parameter", Some("cursor")),
        ("/admin/v1/endpoints?state=happy", 400, "invalid_parameter", Some("state")),
        ("/admin/v1/stats?x=1", 0, "", None),
        ("/admin/v2/stats", 404, "not_found", None),
    ] {
        let answer = operator.get(target);
        if status != 0 {
            check(target, &answer, status, code, field);
        }
    }
    assert_eq!(operator.delete("/admin/v1/keys/key_1").expect(404)["code"], "key_not_found");
    assert_eq!(operator.delete("/admin/v1/keys/nonsense").expect(404)["code"], "key_not_found");
    assert_eq!(operator.get("/admin/v1/merchants/acme").status, 404, "nothing was made");
    let mut producer = appliance.producer();
    each(
        &mut producer,
        "PUT",
        "/v1/owners/card/c1",
        &[
            (json!({}), 422, "missing_field", Some("merchant_id")),
            (json!({ "merchant_id": "nobody" }), 422, "unknown_merchant", Some("merchant_id")),
            (json!({ "merchant_id": "" }), 422, "unknown_merchant", Some("merchant_id")),
            (json!({ "merchant_id": "dev", "kind": "card" }), 422, "unknown_field", Some("kind")),
        ],
    );
    let xml = producer.send("POST", "/v1/owners", &[("content-type", "text/xml")], b"<a/>");
    check("bulk owners as XML", &xml, 415, "unsupported_media_type", None);
    let lines = b"{\"kind\":\"wallet\",\"id\":\"1\",\"merchant_id\":\"dev\"}\n{\n";
    let answers = producer.send("POST", "/v1/owners", &[NDJSON], lines).lines();
    assert_eq!((&answers[0]["status"], &answers[0]["errors"][0]["field"]), (&json!(422), &json!("kind")));
    assert_eq!((&answers[1]["status"], &answers[1]["code"]), (&json!(400), &json!("invalid_json")));
    assert_eq!(producer.get("/v1/owners/card/c1").status, 404, "nothing was set");
}

#[test]
fn requests_that_are_no_http_or_too_large_are_refused_on_every_listener() {
    let appliance = Appliance::start(&[]);
    let large = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(3000));
    let fields: String = (0..100).map(|n| format!("X-{n}: 1\r\n")).collect();
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
    let fat = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Fat: {}\r\n\r\n", "x".repeat(20 << 10));
    for listener in ["public", "ingest", "admin"] {
        let client = Client::new(appliance.says(listener), None);
        let posted = if listener == "public" { (405, "method_not_allowed") } else { (404, "not_found") };
        for (bytes, (status, code)) in [
            (b"nonsense\r\n\r\n".as_slice(), (400, "malformed_request")),
            (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", (400, "malformed_request")),
            (b"GET / HTTP/1.1\r\nHost x\r\n\r\n", (400, "malformed_request")),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello\r\n\r\n", (400, "malformed_request")),
            (b"GET / HTTP/1.1\r\n\r\n", (400, "invalid_host")),
            (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", posted),
            (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", (400, "malformed_request")),
            (large.as_bytes(), (414, "uri_too_long")),
            (many.as_bytes(), (431, "head_too_large")),
            (fat.as_bytes(), (431, "head_too_large")),
        ] {
            let case = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
            let answer = client.raw(bytes).unwrap_or_else(|error| panic!("{listener}, {case}: {error}"));
            check(&format!("{listener}, {case}"), &answer, status, code, None);
        }
        assert_eq!(Client::new(appliance.says(listener), None).get("/nothing").status, 404, "{listener} goes on");
    }
}
