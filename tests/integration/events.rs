//! `GET /api/v2/webhooks/events`: filters, pages, cursors, one event in full.
//!
//! Never relies on an order that the contract does not promise.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::{Answer, Appliance, Merchant, Receiver, Reply, eventually};

const EVENTS: &str = "/api/v2/webhooks/events";

fn list(merchant: &mut Merchant, query: &str) -> Vec<Value> {
    let page = merchant.api.get(&format!("{EVENTS}?{query}")).expect(200);
    page["data"].as_array().expect("a list").clone()
}

fn ids(items: &[Value]) -> Vec<String> {
    items.iter().map(|item| item["id"].as_str().expect("an id").to_owned()).collect()
}

/// Three hundred events in one paused webhook, in the order of their ids.
fn three_hundred(appliance: &Appliance) -> (Merchant, Vec<String>) {
    let receiver = Receiver::start();
    let mut merchant = appliance.merchant("acme");
    merchant.configure(&json!({ "url": receiver.url(), "enabled": false }));
    let types = ["card_transaction", "account_topup", "card_state"];
    let line = |n: usize| json!({ "type": types[n % 3], "merchant_id": "acme", "resource_id": format!("r{}", n % 7), "data": { "n": n } });
    let lines: Vec<String> = (0..300).map(|n| line(n).to_string()).collect();
    let headers = [("content-type", "application/x-ndjson")];
    let answer = appliance.producer().send("POST", "/v1/events/batch", &headers, lines.join("\n").as_bytes());
    (merchant, ids(&answer.lines()))
}

/// The target of a relation in a `Link` header (RFC 8288).
fn link(answer: &Answer, relation: &str) -> Option<String> {
    let links = answer.header("link")?.split(", ");
    let mut links = links.filter_map(|link| link.split_once("; "));
    let (target, _) = links.find(|(_, params)| *params == format!("rel=\"{relation}\""))?;
    Some(target.trim_matches(['<', '>']).to_owned())
}

#[test]
fn pages_walk_through_everything_once_in_both_directions() {
    let appliance = Appliance::start(&[]);
    let (mut merchant, all) = three_hundred(&appliance);
    for order in ["asc", "desc"] {
        let mut expected = all.clone();
        if order == "desc" {
            expected.reverse();
        }
        let mut pages = Vec::new();
        let mut next = Some(format!("{EVENTS}?limit=70&order={order}"));
        while let Some(target) = next {
            let answer = merchant.api.get(&target);
            let page = answer.expect(200);
            next = link(&answer, "next");
            assert_eq!(page["has_more"].as_bool().expect("a flag"), next.is_some());
            assert_eq!(page["next_cursor"].is_null(), next.is_none());
            pages.push((ids(page["data"].as_array().expect("a list")), link(&answer, "prev")));
        }
        assert_eq!(pages.iter().map(|(ids, _)| ids.len()).collect::<Vec<_>>(), [70, 70, 70, 70, 20]);
        assert_eq!(pages.iter().flat_map(|(ids, _)| ids.clone()).collect::<Vec<_>>(), expected);
        assert_eq!(pages[0].1, None, "nothing stands before the first page");
        for n in (1..pages.len()).rev() {
            let before = merchant.api.get(pages[n].1.as_ref().expect("a page before")).expect(200);
            assert_eq!(ids(before["data"].as_array().expect("a list")), pages[n - 1].0, "{order}, page {n}");
        }
    }
}

#[test]
fn what_comes_while_somebody_pages_shifts_nothing() {
    let appliance = Appliance::start(&[]);
    let (mut merchant, all) = three_hundred(&appliance);
    let first = merchant.api.get(&format!("{EVENTS}?limit=100")).expect(200);
    for n in 0..5 {
        appliance.submit(&merchant, "card_state", &json!({ "later": n }));
    }
    let cursor = first["next_cursor"].as_str().expect("more follow");
    let second = list(&mut merchant, &format!("limit=100&cursor={cursor}"));
    let expected: Vec<String> = all.iter().rev().skip(100).take(100).cloned().collect();
    assert_eq!(ids(&second), expected);
}

#[test]
fn each_filter_finds_exactly_what_it_names() {
    let appliance = Appliance::start(&[]);
    let (mut merchant, all) = three_hundred(&appliance);
    let mut count = |query: &str| list(&mut merchant, &format!("limit=250&{query}")).len();
    assert_eq!(count("event_type=card_state"), 100);
    assert_eq!(count("event_type=card_state&event_type=account_topup"), 200);
    assert_eq!(count("event_type=account_transaction"), 0);
    assert_eq!(count("resource_id=r3"), 43);
    assert_eq!(count("resource_id=r3&event_type=card_state"), 14);
    assert_eq!(count("resource_id=unheard-of"), 0);
    assert_eq!(count("status=delivered"), 0);
    assert_eq!(count("status=pending&event_type=card_state"), 100);
    let sequences: Vec<u64> = list(&mut merchant, "limit=250&order=asc")
        .iter()
        .map(|item| item["sequence"].as_u64().expect("a number"))
        .collect();
    assert_eq!(sequences, (1..=250).collect::<Vec<u64>>(), "gapless");
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 300);
}

#[test]
fn ranges_of_time_bound_what_is_shown() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    let mut merchant = appliance.merchant_at("acme", &receiver);
    let mut created = Vec::new();
    for n in 0..3 {
        let id = appliance.submit(&merchant, "card_state", &json!({ "n": n }));
        let event = merchant.wait_for_status(&id, "delivered");
        created.push(event["created_at"].as_str().expect("a time").to_owned());
    }
    assert!(created.windows(2).all(|pair| pair[0] < pair[1]), "each was awaited: {created:?}");
    let mut count = |query: &str| list(&mut merchant, query).len();
    let middle = &created[1];
    assert_eq!(count(&format!("created[gte]={middle}")), 2);
    assert_eq!(count(&format!("created[gt]={middle}")), 1);
    assert_eq!(count(&format!("created[lte]={middle}")), 2);
    assert_eq!(count(&format!("created[lt]={middle}")), 1);
    let after = middle.replace('Z', "5Z");
    for (bound, expected) in [("gte", 1), ("gt", 1), ("lte", 2), ("lt", 2)] {
        assert_eq!(count(&format!("created[{bound}]={after}")), expected, "{bound} half a millisecond after it");
    }
    assert_eq!(count(&format!("created%5Bgte%5D={middle}&created%5Blte%5D={middle}")), 1);
    assert_eq!(count("created[gte]=2999-01-01T00:00:00Z"), 0);
    assert_eq!(count("created[lt]=2999-01-01T00:00:00%2B02:00"), 3);
}

#[test]
fn every_status_is_reached_and_found() {
    let receiver = Receiver::scripted(|r| match r.body.as_slice() {
        body if body.ends_with(b"\"ok\"}") => Reply::Status(200),
        _ => Reply::Status(500),
    });
    let appliance = Appliance::start(&[("DELIVERY__RETRY_SCHEDULE", "1h")]);
    let exhausting = Appliance::start(&[("DELIVERY__RETRY_SCHEDULE", "")]);
    let mut merchant = appliance.merchant("acme");
    let skipped = appliance.submit(&merchant, "card_state", &json!({ "n": "nobody" }));
    merchant.configure(&json!({ "url": receiver.url() }));
    let delivered = appliance.submit(&merchant, "card_state", &json!({ "n": "ok" }));
    let retrying = appliance.submit(&merchant, "card_state", &json!({ "n": "bad" }));
    merchant.wait_for_status(&delivered, "delivered");
    merchant.wait_for_status(&retrying, "retrying");
    merchant.configure(&json!({ "url": receiver.url(), "enabled": false }));
    let pending = appliance.submit(&merchant, "card_state", &json!({ "n": "ok" }));
    for (status, id) in
        [("skipped", &skipped), ("delivered", &delivered), ("retrying", &retrying), ("pending", &pending)]
    {
        assert_eq!(ids(&list(&mut merchant, &format!("status={status}"))), *std::slice::from_ref(id), "{status}");
    }
    merchant.api.delete("/api/v2/webhooks/config");
    eventually("what waited is canceled", || (list(&mut merchant, "status=canceled").len() == 2).then_some(()));
    let mut other = exhausting.merchant_at("acme", &receiver);
    let failed = exhausting.submit(&other, "card_state", &json!({ "n": "bad" }));
    other.wait_for_status(&failed, "failed");
    assert_eq!(ids(&list(&mut other, "status=failed")), [failed]);
}

#[test]
fn one_event_is_shown_with_everything_about_it() {
    let receiver = Receiver::scripted(|r| match r.number {
        0 => Reply::full(500, &[("X-Trace", "abc"), ("Content-Type", "text/plain")], b"try later"),
        1 => Reply::full(502, &[], &[0xff, 0xfe, 0x00]),
        _ => Reply::full(200, &[], &[b'y'; 5000]),
    });
    let appliance = Appliance::start(&[("DELIVERY__RETRY_SCHEDULE", "100ms,100ms"), ("DELIVERY__RETRY_JITTER", "0")]);
    let mut merchant = appliance.merchant_at("acme", &receiver);
    let event = json!({
        "type": "card_transaction", "merchant_id": "acme", "resource_id": "txn_9",
        "occurred_at": "2026-01-31T12:00:00+01:00", "data": { "id": "ignored", "amount": "1.00" },
    });
    let accepted = appliance.producer().post("/v1/events", &event).expect(202);
    let id = accepted["id"].as_str().expect("an id").to_owned();
    let shown = merchant.wait_for_status(&id, "delivered");
    assert_eq!(shown["sequence"], 1);
    assert_eq!((&shown["event_type"], &shown["resource_id"]), (&json!("card_transaction"), &json!("txn_9")));
    assert_eq!(shown["occurred_at"], "2026-01-31T11:00:00.000Z");
    assert_eq!(shown["payload"], json!({ "id": "ignored", "amount": "1.00" }));
    assert!(shown["delivered_at"].is_string() && shown["next_attempt_at"].is_null());
    let attempts = shown["attempts"].as_array().expect("a list");
    assert_eq!(attempts.iter().map(|a| a["number"].as_u64().expect("a number")).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(attempts[0]["status_code"], 500);
    assert_eq!(
        (&attempts[0]["response_body"], &attempts[0]["response_truncated"]),
        (&json!("try later"), &json!(false))
    );
    let headers = attempts[0]["response_headers"].as_array().expect("a list");
    assert!(headers.contains(&json!(["x-trace", "abc"])), "{headers:?}");
    assert_eq!(attempts[1]["response_body"], "//4A", "what is not UTF-8 is base64");
    assert_eq!(attempts[1]["response_body_encoding"], "base64");
    assert_eq!(attempts[2]["response_body"].as_str().expect("text").len(), 4096);
    assert_eq!(attempts[2]["response_truncated"], true);
    assert!(attempts[0]["phases"]["connect_ms"].is_number());
    let last = &shown["last_attempt"];
    assert_eq!((&last["status_code"], &last["error_code"]), (&json!(200), &json!(null)));
}
