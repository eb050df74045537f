//! When a failed delivery is tried again, as the history announces it and as the receiver sees it.
//!
//! Never waits for hours: what is far off is read from `next_attempt_at`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Appliance, Merchant, Receiver, Reply};

fn moment(value: &Value) -> jiff::Timestamp {
    value.as_str().expect("a time").parse().expect("RFC 3339")
}

/// Seconds from the end of the last attempt to the next. A little more than was planned where the machine is busy
/// between the end of an attempt and its being weighed.
fn wait_s(event: &Value) -> f64 {
    let last = &event["last_attempt"];
    let ended_ms = moment(&last["at"]).as_millisecond() + last["duration_ms"].as_i64().expect("a number");
    (moment(&event["next_attempt_at"]).as_millisecond() - ended_ms) as f64 / 1000.0
}

fn fail_once(appliance: &Appliance, merchant: &mut Merchant) -> Value {
    let id = appliance.submit(merchant, "card_state", &json!({}));
    merchant.wait_for_status(&id, "retrying")
}

#[test]
fn the_first_retry_comes_after_five_seconds_give_or_take_a_fifth() {
    let receiver = Receiver::scripted(|r| Reply::Status(if r.number == 0 { 500 } else { 200 }));
    let appliance = Appliance::start(&[]);
    let mut merchant = appliance.merchant_at("acme", &receiver);
    let event = fail_once(&appliance, &mut merchant);
    let announced_s = wait_s(&event);
    assert!((3.9..=9.0).contains(&announced_s), "{announced_s}");
    let received = receiver.wait_for(2);
    let waited = received[1].at - received[0].at;
    assert!(waited >= Duration::from_millis(3_900), "not before: {waited:?}");
    assert!(waited < Duration::from_secs(20), "and not much later: {waited:?}");
}

#[test]
fn retries_are_spread_by_their_jitter() {
    let receiver = Receiver::scripted(|_| Reply::Status(500));
    // Else it would be left alone before thirty have failed.
    let appliance = Appliance::start(&[("DELIVERY__RETRY_SCHEDULE", "1h"), ("DELIVERY__BREAKER_FAILURES", "0")]);
    let mut merchant = appliance.merchant_at("acme", &receiver);
    let mut waits_s: Vec<f64> = (0..30).map(|_| wait_s(&fail_once(&appliance, &mut merchant))).collect();
    waits_s.sort_by(f64::total_cmp);
    assert!(waits_s[0] >= 0.8 * 3600.0 - 1.0 && waits_s[29] <= 1.2 * 3600.0 + 5.0, "{waits_s:?}");
    assert!(waits_s[29] - waits_s[0] > 300.0, "thirty waits lie within {:?}", waits_s[29] - waits_s[0]);
}

#[test]
fn ten_attempts_are_made_and_no_more() {
    let schedule = ["100ms"; 9].join(",");
    let manual = include_str!("../../config/default.toml");
    assert!(manual.contains(r#"retry_schedule = ["5s", "5m", "30m", "2h", "5h", "10h", "14h", "20h", "24h"]"#));
    let receiver = Receiver::scripted(|_| Reply::Status(503));
    let appliance = Appliance::start(&[("DELIVERY__RETRY_SCHEDULE", &schedule)]);
    let mut merchant = appliance.merchant_at("acme", &receiver);
    let id = appliance.submit(&merchant, "card_state", &json!({}));
    let event = merchant.wait_for_status(&id, "failed");
    let numbers: Vec<u64> =
        event["attempts"].as_array().expect("a list").iter().map(|a| a["number"].as_u64().expect("a number")).collect();
    assert_eq!(numbers, (1..=10).collect::<Vec<u64>>());
    let sent: Vec<String> =
        receiver.wait_for(10).iter().map(|r| r.header("x-webhook-attempt").expect("numbered").to_owned()).collect();
    assert_eq!(sent, (1..=10).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn retry_after_is_seconds_or_a_date_between_the_plan_and_a_day() {
    let in_an_hour = jiff::Timestamp::now() + Duration::from_secs(3600);
    let date = in_an_hour.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let appliance = Appliance::start(&[("DELIVERY__RETRY_JITTER", "0")]);
    for (n, (status, asked, least_s, most_s)) in [
        (503, "600", 599.0, 605.0),
        (429, "1", 4.9, 9.0),
        (429, date.as_str(), 3_400.0, 3_605.0),
        (503, "99999999999999999999", 86_399.0, 86_405.0),
        (503, "Wed, 21 Oct 2015 07:28:00 GMT", 4.9, 9.0),
        (503, "soon", 4.9, 9.0),
        (500, "600", 4.9, 9.0),
        (302, "600", 4.9, 9.0),
    ]
    .into_iter()
    .enumerate()
    {
        let reply = Reply::full(status, &[("Retry-After", asked)], b"");
        let receiver = Receiver::scripted(move |_| reply.clone());
        let mut merchant = appliance.merchant_at(&format!("m{n}"), &receiver);
        let waits_s = wait_s(&fail_once(&appliance, &mut merchant));
        assert!((least_s..=most_s).contains(&waits_s), "{status} {asked}: {waits_s}");
    }
}

#[test]
fn a_retry_that_fell_due_while_the_appliance_was_down_is_made_after_the_start() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let receiver = Receiver::scripted(|r| Reply::Status(if r.number == 0 { 500 } else { 200 }));
    let settings = [("DELIVERY__RETRY_SCHEDULE", "1s"), ("DELIVERY__RETRY_JITTER", "0")];
    let (id, due) = {
        let appliance = Appliance::start_in(temporary.path(), &settings);
        let mut merchant = appliance.merchant_at("acme", &receiver);
        let event = fail_once(&appliance, &mut merchant);
        appliance.kill();
        (event["id"].as_str().expect("an id").to_owned(), moment(&event["next_attempt_at"]))
    };
    crate::harness::eventually("it is overdue", || (jiff::Timestamp::now() > due).then_some(()));
    assert_eq!(receiver.count(), 1);
    let appliance = Appliance::start_in(temporary.path(), &settings);
    assert_eq!((receiver.nth(1).id(), receiver.nth(1).header("x-webhook-attempt")), (id.as_str(), Some("2")));
    appliance.merchant("acme").wait_for_status(&id, "delivered");
}
