//! The real binary in dev mode, and a merchant of it.
//!
//! Never outlives its test.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::RwLockReadGuard;
use std::thread::JoinHandle;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Client, Receiver, beside_others, eventually};

/// Keys such as `DELIVERY__RETRY_SCHEDULE` and their values.
type Settings<'a> = &'a [(&'a str, &'a str)];

/// A running appliance.
pub(crate) struct Appliance {
    child: Child,
    ready: Value,
    log: Option<JoinHandle<String>>,
    dir: PathBuf,
    _temporary: Option<TempDir>,
    _share: Option<RwLockReadGuard<'static, ()>>,
}

/// A merchant with a key of its own.
pub(crate) struct Merchant {
    pub(crate) id: String,
    pub(crate) key: String,
    pub(crate) api: Client,
}

impl Appliance {
    /// With a data directory of its own.
    pub(crate) fn start(settings: Settings<'_>) -> Appliance {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let dir = temporary.path().join("data");
        let mut appliance = Appliance::start_in(&dir, settings);
        appliance._temporary = Some(temporary);
        appliance
    }

    /// With a data directory that may hold something already.
    pub(crate) fn start_in(dir: &Path, settings: Settings<'_>) -> Appliance {
        Appliance::try_start_in(dir, settings).unwrap_or_else(|log| panic!("the appliance did not start:\n{log}"))
    }

    /// On a disk that fails: no file can grow beyond `blocks` of 512 bytes.
    pub(crate) fn start_on_failing_disk(dir: &Path, blocks: u32) -> Appliance {
        let mut shell = Command::new("sh");
        // The signal that comes with the limit would end the process before it sees the error.
        let limited = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        shell.args(["-c", &limited, env!("CARGO_BIN_EXE_posthaste")]);
        Appliance::launch(shell, dir, &[]).unwrap_or_else(|log| panic!("the appliance did not start:\n{log}"))
    }

    /// On a host that allows so many open files.
    pub(crate) fn start_with_files_max(dir: &Path, files_max: u32) -> Appliance {
        let mut shell = Command::new("sh");
        let limited = format!("ulimit -n {files_max}; exec \"$0\" \"$@\"");
        shell.args(["-c", &limited, env!("CARGO_BIN_EXE_posthaste")]);
        Appliance::launch(shell, dir, &[]).unwrap_or_else(|log| panic!("the appliance did not start:\n{log}"))
    }

    /// `Err` is what it wrote to standard error.
    pub(crate) fn try_start_in(dir: &Path, settings: Settings<'_>) -> Result<Appliance, String> {
        Appliance::launch(Command::new(env!("CARGO_BIN_EXE_posthaste")), dir, settings)
    }

    fn launch(mut command: Command, dir: &Path, settings: Settings<'_>) -> Result<Appliance, String> {
        let share = beside_others();
        command.args(["serve", "--dev", "--json", "--data-dir"]).arg(dir);
        command.env("POSTHASTE__LOG__LEVEL", "info");
        command.envs(settings.iter().map(|(key, value)| (format!("POSTHASTE__{key}"), value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary is built");
        let mut stderr = child.stderr.take().expect("it is piped");
        let log = std::thread::spawn(move || {
            let mut text = String::new();
            // What is not UTF-8 ends the log; a test that needs it will say so.
            let _ = stderr.read_to_string(&mut text);
            text
        });
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("standard output is UTF-8");
        let Ok(ready) = serde_json::from_str(&line) else {
            let _ = child.wait();
            return Err(log.join().expect("reading does not panic"));
        };
        Ok(Appliance { child, ready, log: Some(log), dir: dir.to_owned(), _temporary: None, _share: share })
    }

    /// A field of the line that it prints when it is ready.
    #[track_caller]
    pub(crate) fn says(&self, field: &str) -> &str {
        self.ready[field].as_str().unwrap_or_else(|| panic!("{field} is a string in {}", self.ready))
    }

    /// The whole line.
    pub(crate) fn ready(&self) -> &Value {
        &self.ready
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn producer(&self) -> Client {
        Client::new(self.says("ingest"), Some(self.says("producer_key")))
    }

    pub(crate) fn operator(&self) -> Client {
        Client::new(self.says("admin"), Some(self.says("operator_key")))
    }

    /// The merchant that dev mode makes.
    pub(crate) fn dev_merchant(&self) -> Merchant {
        let (id, key) = (self.says("merchant_id").to_owned(), self.says("merchant_key").to_owned());
        let api = Client::new(self.says("public"), Some(&key));
        Merchant { id, key, api }
    }

    /// A new merchant.
    pub(crate) fn merchant(&self, id: &str) -> Merchant {
        let mut operator = self.operator();
        let put = operator.put(&format!("/admin/v1/merchants/{id}"), &json!({}));
        assert!(matches!(put.status, 200 | 201), "{}", put.text());
        let made = operator.post(&format!("/admin/v1/merchants/{id}/keys"), &json!({})).expect(201);
        let key = made["key"].as_str().expect("a key is shown when it is made").to_owned();
        let api = Client::new(self.says("public"), Some(&key));
        Merchant { id: id.to_owned(), key, api }
    }

    /// A new merchant whose endpoint is `receiver`.
    pub(crate) fn merchant_at(&self, id: &str, receiver: &Receiver) -> Merchant {
        let mut merchant = self.merchant(id);
        merchant.configure(&json!({ "url": receiver.url() }));
        merchant
    }

    /// Hands in an event; its id.
    #[track_caller]
    pub(crate) fn submit(&self, merchant: &Merchant, event_type: &str, data: &Value) -> String {
        let event = json!({ "type": event_type, "merchant_id": merchant.id, "data": data });
        let accepted = self.producer().post("/v1/events", &event).expect(202);
        accepted["id"].as_str().expect("an accepted event has an id").to_owned()
    }

    /// SIGKILL: what it had not written is lost.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(sent.expect("kill is there").success(), "the appliance runs");
    }

    /// SIGTERM, and how it ended.
    pub(crate) fn stop(mut self) -> (ExitStatus, String) {
        self.signal("TERM");
        self.ended()
    }

    /// Waits for its end: how it ended, and what it logged.
    pub(crate) fn ended(&mut self) -> (ExitStatus, String) {
        let status = eventually("the appliance ends", || self.child.try_wait().expect("it can be waited for"));
        let log = self.log.take().map(|log| log.join().expect("reading does not panic")).unwrap_or_default();
        (status, log)
    }

    /// Resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// One figure of `/metrics`, by its name with labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.operator().get("/metrics").text();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("{name} is in\n{text}")).parse().expect("a number")
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Merchant {
    /// Sets the webhook's config.
    #[track_caller]
    pub(crate) fn configure(&mut self, config: &Value) -> Value {
        let put = self.api.put("/api/v2/webhooks/config", config);
        assert!(matches!(put.status, 200 | 201), "{}", put.text());
        put.json()
    }

    /// The event with everything about it.
    #[track_caller]
    pub(crate) fn event(&mut self, id: &str) -> Value {
        self.api.get(&format!("/api/v2/webhooks/events/{id}")).expect(200)
    }

    /// Waits until the event has this status.
    #[track_caller]
    pub(crate) fn wait_for_status(&mut self, id: &str, status: &str) -> Value {
        eventually(&format!("{id} is {status}"), || Some(self.event(id)).filter(|event| event["status"] == status))
    }
}
