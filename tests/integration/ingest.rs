//! Producers: idempotency, batches, the directory of owners, back-pressure.
//!
//! Never checks what a wrong field is answered with: that is in the table of bad input.

use serde_json::{Value, json};

use crate::harness::{Answer, Appliance, Client, Receiver};

const JSON: (&str, &str) = ("content-type", "application/json");
const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");

fn batch(producer: &mut Client, lines: &[Value]) -> Answer {
    let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
    producer.send("POST", "/v1/events/batch", &[NDJSON], lines.join("\n").as_bytes())
}

#[test]
fn handing_in_an_event_again_is_harmless() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    appliance.merchant_at("acme", &receiver);
    appliance.merchant("globex");
    let mut producer = appliance.producer();
    let event = |merchant: &str, id: &str, n: u32| json!({ "type": "card_state", "merchant_id": merchant, "id": id, "data": { "n": n } });
    let first = producer.post("/v1/events", &event("acme", "k1", 1)).expect(202);
    assert_eq!((&first["sequence"], &first["duplicate"]), (&json!(1), &json!(false)));
    let again = producer.post("/v1/events", &event("acme", "k1", 1)).expect(200);
    assert_eq!((&again["id"], &again["sequence"]), (&first["id"], &json!(1)));
    assert_eq!(again["duplicate"], true);
    let other = producer.post("/v1/events", &event("acme", "k1", 2)).expect(409);
    assert_eq!(other["code"], "idempotency_conflict");
    let foreign = producer.post("/v1/events", &event("globex", "k1", 3)).expect(202);
    assert_eq!(foreign["sequence"], 1, "a key means something else at every merchant");
    assert_eq!(producer.post("/v1/events", &event("acme", "k2", 1)).expect(202)["sequence"], 2);
    receiver.wait_for(2);
    assert_eq!(receiver.count(), 2);
}

#[test]
fn the_idempotency_key_may_come_in_a_header() {
    let appliance = Appliance::start(&[]);
    appliance.merchant("acme");
    let mut producer = appliance.producer();
    let body = |id: Option<&str>| {
        let mut event = json!({ "type": "card_state", "merchant_id": "acme", "data": {} });
        if let Some(id) = id {
            event["id"] = json!(id);
        }
        event.to_string()
    };
    let key = ("idempotency-key", "k1");
    let first = producer.send("POST", "/v1/events", &[JSON, key], body(None).as_bytes()).expect(202);
    let again = producer.send("POST", "/v1/events", &[JSON, key], body(None).as_bytes()).expect(200);
    assert_eq!(again["id"], first["id"]);
    let field = producer.send("POST", "/v1/events", &[JSON], body(Some("k1")).as_bytes()).expect(200);
    assert_eq!(field["id"], first["id"], "field and header are one thing");
    let both = producer.send("POST", "/v1/events", &[JSON, key], body(Some("k1")).as_bytes()).expect(200);
    assert_eq!(both["id"], first["id"]);
    let differing = producer.send("POST", "/v1/events", &[JSON, key], body(Some("k2")).as_bytes()).expect(422);
    assert_eq!(differing["errors"][0]["code"], "conflicting_ids");
}

#[test]
fn a_key_is_remembered_over_a_restart() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let event = json!({ "type": "card_state", "merchant_id": "dev", "id": "k", "data": {} });
    let first = {
        let appliance = Appliance::start_in(temporary.path(), &[]);
        let first = appliance.producer().post("/v1/events", &event).expect(202);
        appliance.kill();
        first
    };
    let appliance = Appliance::start_in(temporary.path(), &[]);
    let again = appliance.producer().post("/v1/events", &event).expect(200);
    assert_eq!((&again["id"], &again["duplicate"]), (&first["id"], &json!(true)));
}

#[test]
fn one_bad_line_of_a_batch_does_not_harm_the_others() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    appliance.merchant_at("acme", &receiver);
    let mut producer = appliance.producer();
    let good =
        |n: u32| json!({ "type": "card_state", "merchant_id": "acme", "id": format!("k{n}"), "data": { "n": n } });
    let lines = [
        good(1),
        json!({ "type": "card_state", "merchant_id": "nobody", "data": {} }),
        json!({ "type": "card_state" }),
        good(1),
        json!({ "type": "card_state", "merchant_id": "acme", "id": "k1", "data": { "n": 9 } }),
        json!("no object"),
        good(2),
    ];
    let answer = batch(&mut producer, &lines);
    assert_eq!(answer.status, 200);
    let answers = answer.lines();
    let statuses: Vec<u64> = answers.iter().map(|line| line["status"].as_u64().expect("a number")).collect();
    assert_eq!(statuses, [202, 422, 422, 200, 409, 422, 202], "{}", answer.text());
    assert_eq!(answers[3]["id"], answers[0]["id"], "a repetition within the batch is recognised");
    assert_eq!(
        (&answers[1]["code"], &answers[1]["errors"][0]["field"]),
        (&json!("unknown_merchant"), &json!("merchant_id"))
    );
    assert_eq!(answers[2]["errors"][0]["field"], "data");
    assert_eq!(answers[4]["code"], "idempotency_conflict");
    receiver.wait_for(2);
    assert_eq!(receiver.count(), 2);
}

#[test]
fn a_thousand_lines_are_a_batch_and_one_more_is_not() {
    let appliance = Appliance::start(&[]);
    let mut producer = appliance.producer();
    let line = json!({ "type": "card_state", "merchant_id": "dev", "data": {} });
    let full = batch(&mut producer, &vec![line.clone(); 1000]);
    let sequences: Vec<u64> = full.lines().iter().map(|line| line["sequence"].as_u64().expect("a number")).collect();
    assert_eq!(sequences, (1..=1000).collect::<Vec<u64>>(), "in the order of the lines");
    let over = batch(&mut producer, &vec![line; 1001]);
    assert_eq!(over.expect(413)["code"], "too_many_lines");
    let empty = producer.send("POST", "/v1/events/batch", &[NDJSON], b"\n\n");
    assert_eq!((empty.status, empty.body.len()), (200, 0));
}

#[test]
fn owners_are_set_read_forgotten_and_set_in_bulk() {
    let appliance = Appliance::start(&[]);
    for merchant in ["acme", "globex"] {
        appliance.merchant(merchant);
    }
    let mut producer = appliance.producer();
    assert_eq!(producer.get("/v1/owners/card/c1").expect(404)["code"], "unknown_owner");
    let set = producer.put("/v1/owners/card/c1", &json!({ "merchant_id": "acme" })).expect(200);
    assert_eq!(set, json!({ "kind": "card", "id": "c1", "merchant_id": "acme" }));
    assert_eq!(producer.get("/v1/owners/card/c1").expect(200), set);
    assert_eq!(producer.get("/v1/owners/account/c1").status, 404, "cards and accounts are apart");
    producer.put("/v1/owners/card/c1", &json!({ "merchant_id": "globex" })).expect(200);
    assert_eq!(producer.get("/v1/owners/card/c1").expect(200)["merchant_id"], "globex");
    producer.put("/v1/owners/card/a%2Fb%20%C3%A9", &json!({ "merchant_id": "acme" })).expect(200);
    assert_eq!(producer.get("/v1/owners/card/a%2Fb%20%C3%A9").expect(200)["id"], "a/b é");
    let lines = [
        json!({ "kind": "card", "id": "c2", "merchant_id": "acme" }),
        json!({ "kind": "account", "id": "a2", "merchant_id": "nobody" }),
        json!({ "kind": "account", "id": "a3", "merchant_id": "globex" }),
    ];
    let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
    let answer = producer.send("POST", "/v1/owners", &[NDJSON], lines.join("\n").as_bytes());
    let statuses: Vec<u64> = answer.lines().iter().map(|line| line["status"].as_u64().expect("a number")).collect();
    assert_eq!(statuses, [200, 422, 200]);
    assert_eq!(producer.get("/v1/owners/account/a3").expect(200)["merchant_id"], "globex");
    assert_eq!(producer.get("/v1/owners/account/a2").status, 404);
    assert_eq!(producer.delete("/v1/owners/card/c1").status, 204);
    assert_eq!(producer.get("/v1/owners/card/c1").status, 404);
    let event = json!({ "type": "card_state", "card_id": "c1", "data": {} });
    assert_eq!(producer.post("/v1/events", &event).expect(422)["errors"][0]["code"], "unknown_owner");
}

#[test]
fn a_producers_trace_context_reaches_the_receiver() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    appliance.merchant_at("acme", &receiver);
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let event = json!({ "type": "card_state", "merchant_id": "acme", "data": {} }).to_string();
    let mut producer = appliance.producer();
    producer.send("POST", "/v1/events", &[JSON, ("traceparent", trace)], event.as_bytes()).expect(202);
    assert_eq!(receiver.first().header("traceparent"), Some(trace));
    producer.send("POST", "/v1/events", &[JSON, ("traceparent", "nonsense")], event.as_bytes()).expect(202);
    assert_eq!(receiver.nth(1).header("traceparent"), None, "what is no trace context is not passed on");
}

#[test]
fn a_nearly_full_disk_refuses_events_while_deliveries_go_on() {
    let receiver = Receiver::start();
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let id = {
        let appliance = Appliance::start_in(temporary.path(), &[]);
        let mut merchant = appliance.merchant("acme");
        merchant.configure(&json!({ "url": receiver.url(), "enabled": false }));
        appliance.submit(&merchant, "card_state", &json!({}))
    };
    let appliance = Appliance::start_in(temporary.path(), &[("STORAGE__FREE_BYTES_MIN", "1023GiB")]);
    let event = json!({ "type": "card_state", "merchant_id": "acme", "data": {} });
    let refused = appliance.producer().post("/v1/events", &event);
    assert_eq!(refused.expect(507)["code"], "disk_full");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(appliance.metric("posthaste_events_refused_total{reason=\"disk_full\"}"), 1.0);
    let mut merchant = appliance.merchant("acme");
    merchant.configure(&json!({ "url": receiver.url() }));
    assert_eq!(receiver.first().id(), id);
    merchant.wait_for_status(&id, "delivered");
}

#[test]
fn more_than_the_disk_can_take_is_refused_and_not_kept() {
    let appliance = Appliance::start(&[("STORAGE__COMMIT_QUEUE_MAX", "8")]);
    let mut producer = appliance.producer();
    let line = json!({ "type": "card_state", "merchant_id": "dev", "data": {} });
    let (mut accepted, mut refused) = (0, 0);
    // A batch is handed over faster than a disk syncs, so that more than eight wait at some moment.
    for _ in 0..50 {
        for line in batch(&mut producer, &vec![line.clone(); 1000]).lines() {
            match line["status"].as_u64() {
                Some(202) => accepted += 1,
                Some(503) => {
                    assert_eq!(line["code"], "overloaded");
                    refused += 1;
                }
                other => panic!("{other:?} in {line}"),
            }
        }
        if refused > 0 {
            break;
        }
    }
    assert!(refused > 0, "the limit was never reached");
    let next = producer.post("/v1/events", &line).expect(202);
    assert_eq!(next["sequence"], accepted + 1, "what was refused took no number");
}
