//! Recoveries beside what merchants do meanwhile: they send by hand, stop, remove their webhook, and wait for endpoints
//! that are switched off.
//!
//! Never asserts how long anything takes.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::harness::{Appliance, Merchant, Receiver, eventually};

const CONFIG: &str = "/api/v2/webhooks/config";
const RECOVER: &str = "/api/v2/webhooks/events/recover";

/// A merchant with so many events that have failed, whose webhook is switched off since.
fn switched_off(appliance: &Appliance, id: &str, receiver: &Receiver, events: usize) -> (Merchant, Vec<String>) {
    let mut merchant = appliance.merchant_at(id, receiver);
    let ids: Vec<String> = (0..events).map(|n| appliance.submit(&merchant, "card_state", &json!({ "n": n }))).collect();
    for id in &ids {
        merchant.wait_for_status(id, "failed");
    }
    merchant.configure(&json!({ "url": receiver.url(), "enabled": false }));
    (merchant, ids)
}

fn ended(merchant: &mut Merchant, state: &str) -> Value {
    eventually(state, || {
        let progress = merchant.api.get(RECOVER).expect(200);
        (progress["state"] == state).then_some(progress)
    })
}

#[test]
fn what_was_sent_by_hand_meanwhile_is_not_recovered_once_more() {
    let (receiver, says) = Receiver::moody(500);
    let appliance = Appliance::start(&[("DELIVERY__RETRY_SCHEDULE", "")]);
    let (mut merchant, ids) = switched_off(&appliance, "acme", &receiver, 3);
    says.store(200, Ordering::Relaxed);
    merchant.api.post(RECOVER, &json!({})).expect(202);
    merchant.api.post(&format!("/api/v2/webhooks/events/{}/resend", ids[0]), &json!({})).expect(202);
    // What the recovery has read of them grows old.
    let begun = std::time::Instant::now();
    eventually("time passes", || (begun.elapsed().as_secs() >= 2).then_some(()));
    merchant.configure(&json!({ "url": receiver.url() }));
    let done = ended(&mut merchant, "done");
    for id in &ids {
        assert_eq!(merchant.wait_for_status(id, "delivered")["attempt_count"], 2, "once more, and not twice");
    }
    assert_eq!(done["queued"], 2);
}

#[test]
fn a_recovery_ends_with_the_webhook_for_which_it_began() {
    let ((receiver, _), other) = (Receiver::moody(500), Receiver::start());
    let appliance = Appliance::start(&[("DELIVERY__RETRY_SCHEDULE", "")]);
    let (mut merchant, ids) = switched_off(&appliance, "acme", &receiver, 2);
    merchant.api.post(RECOVER, &json!({})).expect(202);
    assert_eq!(merchant.api.delete(CONFIG).status, 204);
    merchant.configure(&json!({ "url": other.url() }));
    assert_eq!(ended(&mut merchant, "failed")["queued"], 0);
    assert_eq!(merchant.event(&ids[0])["status"], "failed");
    let after = appliance.submit(&merchant, "card_state", &json!({}));
    merchant.wait_for_status(&after, "delivered");
    assert_eq!(other.count(), 1, "nothing of the old webhook's goes to the other one");
}

#[test]
fn a_recovery_that_waits_for_a_webhook_that_is_off_keeps_nobody_else_from_recovering() {
    let (receiver, says) = Receiver::moody(500);
    let appliance = Appliance::start(&[("DELIVERY__RETRY_SCHEDULE", ""), ("DELIVERY__RECOVERIES_MAX", "1")]);
    let (mut held, _) = switched_off(&appliance, "acme", &receiver, 1);
    let (mut other, ids) = switched_off(&appliance, "globex", &receiver, 1);
    other.configure(&json!({ "url": receiver.url() }));
    says.store(200, Ordering::Relaxed);
    held.api.post(RECOVER, &json!({})).expect(202);
    other.api.post(RECOVER, &json!({})).expect(202);
    other.wait_for_status(&ids[0], "delivered");
    ended(&mut other, "done");
    ended(&mut held, "failed");
    held.configure(&json!({ "url": receiver.url() }));
    held.api.post(RECOVER, &json!({})).expect(202);
    ended(&mut held, "done");
}

#[test]
fn a_recovery_that_was_stopped_can_be_begun_anew_at_once() {
    let (receiver, says) = Receiver::moody(500);
    let appliance = Appliance::start(&[("DELIVERY__RETRY_SCHEDULE", "")]);
    let (mut merchant, ids) = switched_off(&appliance, "acme", &receiver, 1);
    merchant.api.post(RECOVER, &json!({})).expect(202);
    merchant.api.post(RECOVER, &json!({})).expect(409);
    assert_eq!(merchant.api.delete(RECOVER).status, 204);
    assert_eq!(merchant.api.get(RECOVER).expect(200)["state"], "canceled");
    merchant.api.post(RECOVER, &json!({})).expect(202);
    says.store(200, Ordering::Relaxed);
    merchant.configure(&json!({ "url": receiver.url() }));
    ended(&mut merchant, "done");
    assert_eq!(merchant.wait_for_status(&ids[0], "delivered")["attempt_count"], 2);
}
