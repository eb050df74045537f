//! Start, restart, drain, and what a wrong configuration is told.
//!
//! Never a signal but to the appliance of the test itself.

use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::harness::{Appliance, Client, Receiver, Reply, eventually};

fn slow(ms: u64) -> Receiver {
    let answer = b"HTTP/1.1 200 -\r\nContent-Length: 0\r\n\r\n".to_vec();
    Receiver::scripted(move |_| Reply::Drip(vec![(Duration::from_millis(ms), answer.clone())]))
}

#[test]
fn sigterm_lets_what_is_under_way_end_and_exits_with_zero() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let receiver = slow(3_000);
    let mut appliance = Appliance::start_in(temporary.path(), &[]);
    let merchant = appliance.merchant_at("acme", &receiver);
    let id = appliance.submit(&merchant, "card_state", &json!({}));
    receiver.wait_for(1);
    let mut prober = Client::new(appliance.says("admin"), None);
    let mut producer = appliance.producer();
    appliance.signal("TERM");
    eventually("readiness ends while the attempt is under way", || (prober.get("/readyz").status == 503).then_some(()));
    assert_eq!(prober.get("/readyz").json()["code"], "stopping");
    assert_eq!(prober.get("/healthz").status, 200, "it lives");
    let late = json!({ "type": "card_state", "merchant_id": "acme", "data": {} }).to_string();
    let headers = [("content-type", "application/json")];
    let refused = producer.try_send("POST", "/v1/events", &headers, late.as_bytes());
    assert!(refused.is_err() || refused.is_ok_and(|answer| answer.status == 503), "no more events are taken");
    let (status, log) = appliance.ended();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("drained"), "{log}");
    let appliance = Appliance::start_in(temporary.path(), &[]);
    let mut merchant = appliance.merchant("acme");
    let event = merchant.event(&id);
    assert_eq!((&event["status"], &event["attempt_count"]), (&json!("delivered"), &json!(1)));
    assert_eq!(receiver.count(), 1, "nothing is sent twice");
}

#[test]
fn a_second_signal_quits_at_once_and_the_attempt_is_repeated() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let receiver = Receiver::scripted(|r| if r.number == 0 { Reply::Never } else { Reply::Status(200) });
    let mut appliance = Appliance::start_in(temporary.path(), &[]);
    let merchant = appliance.merchant_at("acme", &receiver);
    let id = appliance.submit(&merchant, "card_state", &json!({}));
    receiver.wait_for(1);
    let mut prober = Client::new(appliance.says("admin"), None);
    appliance.signal("INT");
    eventually("the first signal is heard", || (prober.get("/readyz").status == 503).then_some(()));
    appliance.signal("INT");
    let (status, log) = appliance.ended();
    assert_eq!(status.code(), Some(130), "{log}");
    assert!(receiver.wait_for_hang_up() < Duration::from_secs(9), "it did not wait for the deadline");
    let appliance = Appliance::start_in(temporary.path(), &[]);
    assert_eq!(receiver.wait_for(2)[1].id(), id);
    appliance.merchant("acme").wait_for_status(&id, "delivered");
}

#[test]
fn a_restart_keeps_keys_config_history_and_what_waits() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let receiver = Receiver::start();
    let (before, key, delivered, waiting) = {
        let appliance = Appliance::start_in(temporary.path(), &[]);
        let mut merchant = appliance.merchant_at("acme", &receiver);
        let delivered = appliance.submit(&merchant, "card_state", &json!({ "n": 1 }));
        merchant.wait_for_status(&delivered, "delivered");
        merchant.configure(&json!({ "url": receiver.url(), "enabled": false, "secret": "s" }));
        let waiting = appliance.submit(&merchant, "card_state", &json!({ "n": 2 }));
        let before = appliance.ready().clone();
        let key = merchant.key.clone();
        appliance.kill();
        (before, key, delivered, waiting)
    };
    let appliance = Appliance::start_in(temporary.path(), &[]);
    for field in ["merchant_id", "merchant_key", "producer_key", "operator_key", "receiver_url", "secret", "data_dir"] {
        assert_eq!(appliance.ready()[field], before[field], "{field}");
    }
    let mut api = Client::new(appliance.says("public"), Some(&key));
    let config = api.get("/api/v2/webhooks/config").expect(200);
    assert_eq!((&config["state"], &config["secret_set"]), (&json!("paused"), &json!(true)));
    let mut status = |id: &str| api.get(&format!("/api/v2/webhooks/events/{id}")).expect(200)["status"].clone();
    assert_eq!((status(&delivered), status(&waiting)), (json!("delivered"), json!("pending")));
    api.put("/api/v2/webhooks/config", &json!({ "url": receiver.url() })).expect(200);
    let received = receiver.wait_for(2).swap_remove(1);
    assert_eq!(received.id(), waiting);
    assert_eq!(received.header("x-webhook-sequence"), Some("2"));
}

#[test]
fn dev_mode_prints_one_line_that_leads_everywhere() {
    let mut appliance = Appliance::start(&[]);
    let ready = appliance.ready().clone();
    assert_eq!((&ready["ready"], &ready["pid"]), (&json!(true), &json!(appliance.pid())));
    assert_eq!(ready["data_dir"], appliance.dir().display().to_string());
    let mut merchant = appliance.dev_merchant();
    let config = merchant.api.get("/api/v2/webhooks/config").expect(200);
    assert_eq!(config["url"], ready["receiver_url"]);
    let id = appliance.submit(&merchant, "card_transaction", &json!({ "id": "txn_1" }));
    let event = merchant.wait_for_status(&id, "delivered");
    assert_eq!(event["last_attempt"]["status_code"], 200);
    appliance.signal("TERM");
    let (status, log) = appliance.ended();
    assert_eq!(status.code(), Some(0));
    for secret in ["merchant_key", "producer_key", "operator_key", "secret"] {
        assert!(!log.contains(ready[secret].as_str().expect("text")), "{secret} stands in the log");
    }
}

#[test]
fn two_processes_never_share_a_directory() {
    let appliance = Appliance::start(&[]);
    let Err(log) = Appliance::try_start_in(appliance.dir(), &[]) else { panic!("the second one started") };
    assert!(log.contains("in use by another posthaste process") && log.contains("--data-dir"), "{log}");
}

#[test]
fn a_wrong_configuration_is_told_whole_before_anything_is_opened() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let (file, data) = (temporary.path().join("posthaste.toml"), temporary.path().join("data"));
    let run = |text: &str, arguments: &[&str]| {
        std::fs::write(&file, text).expect("writable");
        let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
        command.args(arguments).arg("--config").arg(&file).arg("--data-dir").arg(&data);
        let output = command.output().expect("the binary is built");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, told) = run("[delivery]\ntimeout = \"10\"\nsped = 1\n[public]\naddress = \"nowhere\"\n", &["serve"]);
    assert_eq!(code, Some(78), "{told}");
    for word in ["delivery.timeout", "delivery.sped", "public.address", "posthaste.toml:2"] {
        assert!(told.contains(word), "{word} in {told}");
    }
    let (code, told) = run("[public]\ntls_cert = \"/no/such.pem\"\ntls_key = \"/no/such.key\"\n", &["check-config"]);
    assert_eq!(code, Some(78));
    assert!(told.contains("/no/such.pem"), "{told}");
    let local =
        "[public]\naddress=\"127.0.0.1:0\"\n[ingest]\naddress=\"127.0.0.1:0\"\n[admin]\naddress=\"127.0.0.1:0\"\n";
    assert_eq!(run(local, &["check-config"]).0, Some(0));
    assert!(!data.exists(), "nothing was opened");
    let (code, told) = run(local, &["serve"]);
    assert_eq!(code, Some(78));
    assert!(told.contains("posthaste key"), "it says how to make the first operator key: {told}");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let Err(log) = Appliance::try_start_in(temporary.path(), &[("ADMIN__ADDRESS", &address)]) else {
        panic!("it started on a port that is taken")
    };
    assert!(log.contains("admin.address") && log.contains(&address), "{log}");
}

#[test]
fn the_manual_is_a_configuration_and_a_key_is_its_digest() {
    let run = |argument: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_posthaste")).arg(argument).output().expect("the binary is built");
        assert!(output.status.success());
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let file = temporary.path().join("posthaste.toml");
    std::fs::write(&file, run("manual")).expect("writable");
    let mut check = Command::new(env!("CARGO_BIN_EXE_posthaste"));
    assert!(check.args(["check-config", "--config"]).arg(&file).status().expect("the binary is built").success());
    let made = run("key");
    let key = made.lines().next().and_then(|line| line.split_whitespace().last()).expect("a key").to_owned();
    let digest = made.split('"').nth(1).expect("a digest in quotes").to_owned();
    let appliance = Appliance::start(&[("AUTH__OPERATOR_KEY", &digest)]);
    assert_eq!(Client::new(appliance.says("admin"), Some(&key)).get("/admin/v1/stats").status, 200);
}

#[test]
fn a_host_that_allows_too_few_open_files_is_told_at_the_start() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (status, log) = Appliance::start_with_files_max(dir.path(), 512).stop();
    assert!(status.success(), "it serves all the same: {log}");
    assert!(log.contains("allows fewer open files") && log.contains("allowed=512"), "{log}");
}
