//! The appliance as operators run it: from a configuration file and one operator key, without dev mode.
//!
//! Never uses anything that dev mode makes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use serde_json::{Value, json};

use crate::harness::{Client, PATIENCE, Receiver};
use crate::https::Authority;

const LISTENERS: &str = "\
[public]
address = \"127.0.0.1:0\"
[ingest]
address = \"127.0.0.1:0\"
[admin]
address = \"127.0.0.1:0\"
[log]
format = \"json\"
";

/// A running appliance that has read `posthaste.toml` in its directory.
struct Production {
    child: Child,
    /// The fields of the line that says that it is ready.
    ready: Value,
}

impl Production {
    fn start(dir: &Path, settings: &[(&str, &str)]) -> Production {
        let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
        command.arg("serve").arg("--config").arg(dir.join("posthaste.toml"));
        command.arg("--data-dir").arg(dir.join("data"));
        command.envs(settings.iter().map(|(key, value)| (format!("POSTHASTE__{key}"), value)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().expect("the binary is built");
        let mut production = Production { child, ready: Value::Null };
        let log = BufReader::new(production.child.stderr.take().expect("it is piped"));
        let (said, heard) = mpsc::channel();
        // Reads on to the end, so that the appliance can go on writing.
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                let line: Value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                let _ = said.send(line);
            }
        });
        loop {
            let line = heard.recv_timeout(PATIENCE).expect("the appliance says when it is ready");
            assert!(line.is_object(), "it did not start: {line}");
            if line["fields"]["message"] == "ready" {
                production.ready = line["fields"].clone();
                return production;
            }
        }
    }

    fn client(&self, listener: &str, key: Option<&str>) -> Client {
        Client::new(self.ready[listener].as_str().expect("an address"), key)
    }
}

impl Drop for Production {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A fresh operator key, and its digest as the command says to write it.
fn operator_key() -> (String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_posthaste")).arg("key").output().expect("the binary is built");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let key = text.lines().next().and_then(|line| line.split_whitespace().last()).expect("a key");
    let digest = text.split('"').nth(1).expect("a digest in quotes");
    (key.to_owned(), digest.to_owned())
}

#[test]
fn everything_is_made_from_one_operator_key_and_an_event_arrives_over_tls() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let (operator_key, digest) = operator_key();
    let authority = Authority::new();
    let receiver = Receiver::start_tls(authority.localhost());
    let text = format!(
        "{LISTENERS}[auth]\noperator_key = \"{digest}\"\n[egress]\nallow = [\"127.0.0.0/8\"]\nports = [{}]\nextra_ca_file = \"{}\"\n",
        receiver.port(),
        authority.file().display()
    );
    std::fs::write(temporary.path().join("posthaste.toml"), text).expect("writable");
    let (merchant_key, producer_key, id) = {
        let production = Production::start(temporary.path(), &[("STORAGE__FREE_BYTES_MIN", "16MiB")]);
        let mut operator = production.client("admin", Some(&operator_key));
        assert_eq!(operator.get("/admin/v1/merchants").expect(200)["data"], json!([]), "nobody is there yet");
        operator.put("/admin/v1/merchants/acme", &json!({})).expect(201);
        let made = |answer: Value| answer["key"].as_str().expect("shown once").to_owned();
        let merchant_key = made(operator.post("/admin/v1/merchants/acme/keys", &json!({})).expect(201));
        let producer_key = made(operator.post("/admin/v1/keys", &json!({ "role": "producer" })).expect(201));
        let mut merchant = production.client("public", Some(&merchant_key));
        let refused = merchant
            .put("/api/v2/webhooks/config", &json!({ "url": format!("http://127.0.0.1:{}/", receiver.port()) }));
        assert_eq!(refused.expect(422)["errors"][0]["code"], "url_scheme", "HTTPS only");
        let url = format!("https://localhost:{}/webhooks/incoming", receiver.port());
        merchant.put("/api/v2/webhooks/config", &json!({ "url": url, "secret": "s" })).expect(201);
        let mut producer = production.client("ingest", Some(&producer_key));
        producer.put("/v1/owners/card/card_7", &json!({ "merchant_id": "acme" })).expect(200);
        let event = json!({
            "type": "card_transaction", "id": "your-own-id-1",
            "data": { "id": "txn_1", "card_id": "card_7", "amount": "12.50" },
        });
        let accepted = producer.post("/v1/events", &event).expect(202);
        assert_eq!((&accepted["merchant_id"], &accepted["sequence"]), (&json!("acme"), &json!(1)));
        let received = receiver.first();
        assert_eq!(received.body, event["data"].to_string().as_bytes());
        assert_eq!(received.id(), accepted["id"]);
        (merchant_key, producer_key, accepted["id"].clone())
    };
    let production = Production::start(temporary.path(), &[("STORAGE__FREE_BYTES_MIN", "16MiB")]);
    let mut merchant = production.client("public", Some(&merchant_key));
    let page = merchant.get("/api/v2/webhooks/events?resource_id=txn_1").expect(200);
    assert_eq!(page["data"][0]["id"], id, "the history outlives the process");
    let owner = production.client("ingest", Some(&producer_key)).get("/v1/owners/card/card_7").expect(200);
    assert_eq!(owner["merchant_id"], "acme");
}

#[test]
fn the_operator_key_may_stand_in_a_file_or_in_the_environment() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(temporary.path().join("posthaste.toml"), LISTENERS).expect("writable");
    let (key, _) = operator_key();
    let (other, digest) = operator_key();
    let file = temporary.path().join("credential");
    let mut credential = std::fs::File::create(&file).expect("writable");
    writeln!(credential, "{key}").expect("written");
    for (settings, right, wrong) in [
        (
            [("AUTH__OPERATOR_KEY_FILE", file.to_str().expect("UTF-8")), ("STORAGE__FREE_BYTES_MIN", "16MiB")],
            &key,
            &other,
        ),
        ([("AUTH__OPERATOR_KEY", digest.as_str()), ("STORAGE__FREE_BYTES_MIN", "16MiB")], &other, &key),
        ([("AUTH__OPERATOR_KEY", key.as_str()), ("STORAGE__FREE_BYTES_MIN", "16MiB")], &key, &other),
    ] {
        let production = Production::start(temporary.path(), &settings);
        assert_eq!(production.client("admin", Some(right)).get("/admin/v1/stats").status, 200, "{}", settings[0].0);
        assert_eq!(production.client("admin", Some(wrong)).get("/admin/v1/stats").status, 401, "{}", settings[0].0);
    }
}
