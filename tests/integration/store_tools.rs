//! `posthaste store verify | rebuild | export` as an operator types them: what they say, and their exit codes.
//!
//! Never looks into the files: only damages them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Appliance, Client, Receiver};

/// Payloads of the second and the third event, as they stand in the journal.
const SECOND: &str = "{\"card\":\"c1\",\"n\":1}";
const THIRD: &str = "{\"n\":2}";

/// What a command came to.
struct Said {
    code: Option<i32>,
    output: String,
    error: String,
}

fn store(words: &[&str], dir: &Path) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
    let done = command.arg("store").args(words).arg("--data-dir").arg(dir).output().expect("the binary is built");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Said { code: done.status.code(), output: text(done.stdout), error: text(done.stderr) }
}

/// A data directory with two events delivered and two that wait; its receiver's secret, the merchant's key.
struct Left {
    dir: TempDir,
    ids: Vec<String>,
    merchant_key: String,
}

impl Left {
    fn behind() -> Left {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let receiver = Receiver::start();
        let appliance = Appliance::start_in(dir.path(), &[]);
        let mut merchant = appliance.merchant("acme");
        merchant.configure(&json!({ "url": receiver.url(), "secret": "a very secret word" }));
        let mut ids = Vec::new();
        for n in 0..2 {
            let id = appliance.submit(&merchant, "card_state", &json!({ "n": n, "card": "c1" }));
            // Each record is to be a group of its own: what is damaged must never take a neighbour with it.
            merchant.wait_for_status(&id, "delivered");
            ids.push(id);
        }
        merchant.configure(&json!({ "url": receiver.url(), "enabled": false }));
        ids.extend((2..4).map(|n| appliance.submit(&merchant, "account_topup", &json!({ "n": n }))));
        let merchant_key = merchant.key.clone();
        let (status, log) = appliance.stop();
        assert!(status.success(), "{log}");
        Left { dir, ids, merchant_key }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn segment(&self) -> PathBuf {
        self.path().join("journal/0000000001.seg")
    }

    /// Changes the byte that stands so many before the end of a payload; where it stands.
    fn damage(&self, payload: &str, back: usize) -> usize {
        let mut bytes = fs::read(self.segment()).expect("a segment");
        let found = bytes.windows(payload.len()).position(|part| part == payload.as_bytes());
        let at = found.expect("payloads stand there as they came") + payload.len() - back;
        bytes[at] ^= 1;
        fs::write(self.segment(), bytes).expect("it is ours");
        at
    }

    /// The history as the merchant sees it after a start.
    fn history(&self) -> Vec<Value> {
        let appliance = Appliance::start_in(self.path(), &[]);
        let mut api = Client::new(appliance.says("public"), Some(&self.merchant_key));
        let page = api.get("/api/v2/webhooks/events?order=asc").expect(200);
        assert!(appliance.stop().0.success());
        page["data"].as_array().expect("a list").clone()
    }
}

#[test]
fn verify_finds_a_sound_directory_sound() {
    let left = Left::behind();
    let said = store(&["verify"], left.path());
    assert_eq!((said.code, said.error.as_str()), (Some(0), ""), "{}", said.output);
    assert!(said.output.contains("Journal and index agree."), "{}", said.output);
}

#[test]
fn damage_is_named_and_given_up_only_where_that_is_accepted() {
    let left = Left::behind();
    let at = left.damage(SECOND, 1);
    let found = store(&["verify"], left.path());
    assert_eq!(found.code, Some(1), "{}", found.output);
    let line = found.output.lines().find(|line| line.starts_with("LOST")).expect("the range is named");
    assert!(line.contains(left.segment().to_str().expect("a plain path")), "{line}");
    let numbers: Vec<usize> = line.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect();
    assert!(numbers.windows(2).any(|range| range[0] <= at && at < range[1]), "byte {at} in {line}");
    assert!(found.output.contains("posthaste store rebuild --accept-loss"), "{}", found.output);

    let refused = store(&["rebuild"], left.path());
    assert_eq!(refused.code, Some(74), "{}", refused.error);
    assert!(refused.error.contains("--accept-loss"), "{}", refused.error);
    let rebuilt = store(&["rebuild", "--accept-loss"], left.path());
    assert_eq!(rebuilt.code, Some(0), "{}", rebuilt.error);
    assert!(
        rebuilt.output.contains("GIVEN UP") && rebuilt.output.contains("2 deliveries are owed"),
        "{}",
        rebuilt.output
    );
    assert!(left.path().join("journal/0000000001.seg.damaged").exists(), "the file is kept as it was");
    assert_eq!(store(&["verify"], left.path()).code, Some(0));
    let kept: Vec<String> = left.history().iter().filter_map(|item| item["id"].as_str().map(str::to_owned)).collect();
    assert_eq!(kept, [&left.ids[..1], &left.ids[2..]].concat());
}

#[test]
fn rebuild_makes_the_same_index_anew() {
    let left = Left::behind();
    let before = left.history();
    assert_eq!(before.len(), 4);
    fs::remove_dir_all(left.path().join("index")).expect("it is there");
    let missing = store(&["verify"], left.path());
    assert_eq!(missing.code, Some(1), "{}", missing.output);
    assert!(missing.output.contains("Nothing is lost: `posthaste store rebuild`"), "{}", missing.output);
    let rebuilt = store(&["rebuild"], left.path());
    assert_eq!(rebuilt.code, Some(0), "{}", rebuilt.error);
    assert!(rebuilt.output.contains("2 deliveries are owed"), "{}", rebuilt.output);
    assert_eq!(left.history(), before);
}

#[test]
fn export_writes_every_event_on_a_line_and_no_secret() {
    let left = Left::behind();
    let said = store(&["export"], left.path());
    assert_eq!(said.code, Some(0), "{}", said.error);
    let lines: Vec<Value> = said.output.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    let events: Vec<&Value> = lines.iter().filter(|line| line["kind"] == "event").collect();
    let ids: Vec<&str> = events.iter().filter_map(|line| line["id"].as_str()).collect();
    assert_eq!(ids, left.ids);
    assert_eq!((&events[0]["status"], &events[2]["status"]), (&json!("delivered"), &json!("pending")));
    assert_eq!(events[0]["attempts"][0]["status_code"], 200);
    assert_eq!(events[1]["payload"], json!({ "n": 1, "card": "c1" }));
    for secret in ["a very secret word", left.merchant_key.as_str()] {
        assert!(!said.output.contains(secret), "an export is no place for secrets");
    }
}

#[test]
fn an_event_with_a_damaged_record_keeps_its_line_and_says_so() {
    let left = Left::behind();
    // The last byte before the payload belongs to what a line of history is made of.
    left.damage(SECOND, SECOND.len() + 1);
    left.damage(THIRD, THIRD.len() + 1);
    let appliance = Appliance::start_in(left.path(), &[]);
    assert_eq!(appliance.metric("posthaste_events_damaged_total"), 0.0);
    let mut api = Client::new(appliance.says("public"), Some(&left.merchant_key));
    let page = api.get("/api/v2/webhooks/events?order=asc").expect(200);
    let lines = page["data"].as_array().expect("a list");
    let ids: Vec<&str> = lines.iter().filter_map(|line| line["id"].as_str()).collect();
    assert_eq!(ids, left.ids, "one that is damaged does not take the others with it");
    let marked: Vec<&Value> = lines.iter().map(|line| &line["damaged"]).collect();
    assert_eq!(marked, [&json!(null), &json!(true), &json!(true), &json!(null)]);
    let sequences: Vec<&Value> = lines.iter().map(|line| &line["sequence"]).collect();
    assert_eq!(
        sequences,
        [&json!(1), &json!(2), &json!(null), &json!(4)],
        "the attempt of the second one says it, too"
    );
    assert_eq!((&lines[1]["status"], &lines[1]["last_attempt"]["status_code"]), (&json!("delivered"), &json!(200)));
    assert_eq!(lines[2]["status"], "pending");
    assert_eq!(api.get(&format!("/api/v2/webhooks/events/{}", left.ids[1])).status, 500);
    assert_eq!(api.get("/api/v2/webhooks/events?limit=1").expect(200)["data"][0]["sequence"], 4);
    assert_eq!(appliance.metric("posthaste_events_damaged_total"), 2.0, "each is told once");
    let (status, log) = appliance.stop();
    assert!(status.success() && log.matches("a record of an event is damaged").count() == 2, "{log}");

    let said = store(&["export"], left.path());
    assert_eq!(said.code, Some(1), "{}", said.error);
    assert!(said.error.contains("2 events of which a record is damaged"), "{}", said.error);
    let events = said.output.lines().filter(|line| line.contains("\"kind\":\"event\""));
    let marked: Vec<bool> = events.map(|line| line.contains("\"damaged\":true")).collect();
    assert_eq!(marked, [false, true, true, false]);
    assert_eq!(store(&["verify"], left.path()).code, Some(1));
}

#[test]
fn what_is_no_data_directory_or_is_in_use_is_refused() {
    let empty = tempfile::tempdir().expect("a temporary directory");
    let left = Left::behind();
    let appliance = Appliance::start_in(left.path(), &[]);
    for words in [&["verify"][..], &["rebuild", "--accept-loss"], &["export"]] {
        let said = store(words, empty.path());
        assert_eq!((said.code, said.output.as_str()), (Some(78), ""), "{words:?}: {}", said.error);
        assert!(said.error.contains("is not a data directory"), "{}", said.error);
        let said = store(words, left.path());
        assert_eq!((said.code, said.output.as_str()), (Some(78), ""), "{words:?}: {}", said.error);
        assert!(said.error.contains("in use by another posthaste process"), "{}", said.error);
    }
    drop(appliance);
}
