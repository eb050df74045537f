//! What becomes of accepted events when the disk fails under the appliance.
//!
//! Never mocks the failure: the kernel refuses to let files grow.

use serde_json::{Value, json};

use crate::harness::{Appliance, Client, Receiver};

/// Two MiB: the journal reaches it after some twenty events.
const BLOCKS: u32 = 4096;

#[test]
fn a_disk_that_fails_ends_the_process_and_takes_nothing_that_was_acknowledged() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let receiver = Receiver::start();
    let mut appliance = Appliance::start_on_failing_disk(temporary.path(), BLOCKS);
    let mut merchant = appliance.merchant("acme");
    merchant.configure(&json!({ "url": receiver.url(), "enabled": false }));
    let key = merchant.key.clone();
    let (mut producer, padding) = (appliance.producer(), "x".repeat(100_000));
    let mut submit = |n: usize| {
        let event = json!({ "type": "card_state", "merchant_id": "acme", "data": { "n": n, "p": padding } });
        producer.try_send("POST", "/v1/events", &[("content-type", "application/json")], event.to_string().as_bytes())
    };
    let mut acknowledged = Vec::new();
    loop {
        assert!(acknowledged.len() < 100, "the disk never failed");
        match submit(acknowledged.len()) {
            Ok(answer) if answer.status == 202 => {
                acknowledged.push(answer.json()["id"].as_str().expect("an id").to_owned());
            }
            // The answer may still come before the process ends; it promises nothing.
            Ok(answer) if answer.status == 503 && answer.json()["code"] == "stopping" => break,
            Ok(answer) => panic!("neither acknowledged nor cut off: {}", answer.text()),
            Err(_) => break,
        }
    }
    assert!(acknowledged.len() > 5, "{}", acknowledged.len());
    let (status, log) = appliance.ended();
    assert_eq!(status.code(), Some(74), "{log}");
    assert!(log.contains("the disk failed"), "{log}");

    let appliance = Appliance::start_in(temporary.path(), &[]);
    let mut api = Client::new(appliance.says("public"), Some(&key));
    let page = api.get("/api/v2/webhooks/events?limit=250&order=asc").expect(200);
    let kept: Vec<&str> =
        page["data"].as_array().expect("a list").iter().map(|item| item["id"].as_str().expect("an id")).collect();
    assert!(kept.starts_with(&acknowledged.iter().map(String::as_str).collect::<Vec<_>>()), "{kept:?}");
    assert!(kept.len() <= acknowledged.len() + 1, "at most the one that was cut off beside them");
    api.put("/api/v2/webhooks/config", &json!({ "url": receiver.url() })).expect(200);
    let mut arrived: Vec<u64> = receiver
        .wait_for(kept.len())
        .iter()
        .map(|r| serde_json::from_slice::<Value>(&r.body).expect("whole")["n"].as_u64().expect("a number"))
        .collect();
    arrived.sort_unstable();
    assert_eq!(arrived, (0..kept.len() as u64).collect::<Vec<_>>());
}
