//! Resend: once more, by hand, through the same queue.
//!
//! Never a new event: the id stays and the attempts go on counting.

use serde_json::json;

use crate::harness::{Appliance, Client, Merchant, Receiver, Reply};

#[test]
fn a_failed_event_is_sent_again_with_the_same_id_and_the_next_number() {
    let receiver = Receiver::scripted(|r| Reply::Status(if r.number < 2 { 500 } else { 200 }));
    let appliance = Appliance::start(&[("DELIVERY__RETRY_SCHEDULE", "100ms"), ("DELIVERY__RETRY_JITTER", "0")]);
    let mut merchant = appliance.merchant_at("acme", &receiver);
    let id = appliance.submit(&merchant, "card_state", &json!({ "a": 1 }));
    merchant.wait_for_status(&id, "failed");
    let resent = merchant.api.post(&format!("/api/v2/webhooks/events/{id}/resend"), &json!({})).expect(202);
    assert_eq!(resent["id"], id);
    let received = receiver.wait_for(3).swap_remove(2);
    assert_eq!((received.id(), received.header("x-webhook-attempt")), (id.as_str(), Some("3")));
    let event = merchant.wait_for_status(&id, "delivered");
    assert_eq!(event["attempts"].as_array().expect("a list").len(), 3);
}

#[test]
fn a_resend_begins_a_schedule_of_its_own() {
    let receiver = Receiver::scripted(|_| Reply::Status(500));
    let appliance = Appliance::start(&[("DELIVERY__RETRY_SCHEDULE", "100ms"), ("DELIVERY__RETRY_JITTER", "0")]);
    let mut merchant = appliance.merchant_at("acme", &receiver);
    let id = appliance.submit(&merchant, "card_state", &json!({}));
    merchant.wait_for_status(&id, "failed");
    merchant.api.post(&format!("/api/v2/webhooks/events/{id}/resend"), &json!({})).expect(202);
    receiver.wait_for(4);
    let event = merchant.wait_for_status(&id, "failed");
    assert_eq!(event["attempt_count"], 4);
}

#[test]
fn what_was_delivered_skipped_or_waits_is_sent_at_once() {
    let receiver =
        Receiver::scripted(|r| Reply::Status(if r.body.ends_with(b"\"slow\"}") && r.number < 2 { 500 } else { 200 }));
    let appliance = Appliance::start(&[("DELIVERY__RETRY_SCHEDULE", "1h")]);
    let mut merchant = appliance.merchant("acme");
    let skipped = appliance.submit(&merchant, "card_state", &json!({ "n": "skipped" }));
    merchant.configure(&json!({ "url": receiver.url() }));
    let delivered = appliance.submit(&merchant, "card_state", &json!({ "n": "fast" }));
    merchant.wait_for_status(&delivered, "delivered");
    let waiting = appliance.submit(&merchant, "card_state", &json!({ "n": "slow" }));
    merchant.wait_for_status(&waiting, "retrying");
    for (n, id) in [&skipped, &delivered, &waiting].into_iter().enumerate() {
        merchant.api.post(&format!("/api/v2/webhooks/events/{id}/resend"), &json!({})).expect(202);
        let received = receiver.wait_for(3 + n).swap_remove(2 + n);
        assert_eq!(received.id(), id);
        merchant.wait_for_status(id, "delivered");
    }
}

#[test]
fn a_paused_webhook_keeps_a_resend_waiting() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    let mut merchant = appliance.merchant_at("acme", &receiver);
    let id = appliance.submit(&merchant, "card_state", &json!({}));
    merchant.wait_for_status(&id, "delivered");
    merchant.configure(&json!({ "url": receiver.url(), "enabled": false }));
    merchant.api.post(&format!("/api/v2/webhooks/events/{id}/resend"), &json!({})).expect(202);
    merchant.wait_for_status(&id, "retrying");
    merchant.configure(&json!({ "url": receiver.url() }));
    receiver.wait_for(2);
    merchant.wait_for_status(&id, "delivered");
}

#[test]
fn without_a_webhook_there_is_nowhere_to_send_to() {
    let appliance = Appliance::start(&[]);
    let mut merchant = appliance.merchant("acme");
    let id = appliance.submit(&merchant, "card_state", &json!({}));
    let refused = merchant.api.post(&format!("/api/v2/webhooks/events/{id}/resend"), &json!({})).expect(409);
    assert_eq!(refused["code"], "webhook_not_configured");
}

#[test]
fn a_resend_that_was_answered_survives_a_kill() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let receiver = Receiver::scripted(|r| Reply::Status(if r.number == 0 { 500 } else { 200 }));
    // What an attempt's result may wait for is long enough to be caught in it.
    let settings = [("DELIVERY__RETRY_SCHEDULE", ""), ("STORAGE__SETTLE_DELAY", "1s")];
    let appliance = Appliance::start_in(temporary.path(), &settings);
    let mut merchant = appliance.merchant_at("acme", &receiver);
    let id = appliance.submit(&merchant, "card_state", &json!({}));
    merchant.wait_for_status(&id, "failed");
    // Paused, so that it is still owed when the process dies.
    merchant.configure(&json!({ "url": receiver.url(), "enabled": false }));
    let resent = merchant.api.post(&format!("/api/v2/webhooks/events/{id}/resend"), &json!({})).expect(202);
    appliance.kill();
    assert_eq!(resent["state"], "queued");

    let appliance = Appliance::start_in(temporary.path(), &settings);
    let api = Client::new(appliance.says("public"), Some(&merchant.key));
    let mut merchant = Merchant { api, ..merchant };
    assert_eq!(merchant.event(&id)["status"], "retrying", "it is owed");
    merchant.configure(&json!({ "url": receiver.url() }));
    assert_eq!(receiver.nth(1).header("x-webhook-attempt"), Some("2"));
    merchant.wait_for_status(&id, "delivered");
}
