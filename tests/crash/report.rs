//! How much a case does, and the line that it prints.
//!
//! Never decides whether a case has passed.

use std::env;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Instant, SystemTime};

use serde_json::{Map, Value, json};

/// Whether the long form of each case is asked for.
pub(crate) fn is_long() -> bool {
    env::var_os("POSTHASTE_CRASH_LONG").is_some_and(|value| value != "0")
}

/// Rounds of a case: as asked for, else by the form.
pub(crate) fn rounds(short: u64, long: u64) -> u64 {
    let asked = env::var("POSTHASTE_CRASH_CYCLES").ok();
    let asked = asked.map(|text| text.parse().expect("POSTHASTE_CRASH_CYCLES is a number"));
    asked.unwrap_or(if is_long() { long } else { short })
}

/// What happened in one case.
pub(crate) struct Report {
    case: String,
    pub(crate) seed: u64,
    begun: Instant,
    figures: Map<String, Value>,
}

impl Report {
    pub(crate) fn begin(case: &str) -> Report {
        let asked = env::var("POSTHASTE_CRASH_SEED").ok();
        let seed = match asked {
            Some(text) => text.parse().expect("POSTHASTE_CRASH_SEED is a number"),
            None => {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
                u64::from(now.subsec_nanos()) ^ (now.as_secs() << 20)
            }
        };
        Report { case: case.to_owned(), seed, begun: Instant::now(), figures: Map::new() }
    }

    pub(crate) fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.figures.insert(name.to_owned(), value.into());
    }

    /// Adds to a figure that is a count.
    pub(crate) fn add(&mut self, name: &str, more: u64) {
        let before = self.figures.get(name).and_then(Value::as_u64).unwrap_or(0);
        self.set(name, before + more);
    }

    /// Prints the line and fails the test where `faults` has any.
    pub(crate) fn end(self, faults: &[String]) {
        let mut line = json!({ "case": self.case, "commit": commit(), "seed": self.seed });
        let fields = line.as_object_mut().expect("an object");
        fields.extend(self.figures);
        fields.insert("seconds".into(), json!(self.begun.elapsed().as_millis() as f64 / 1000.0));
        fields.insert("ok".into(), json!(faults.is_empty()));
        let text = format!("{line}\n");
        // Straight to the stream: the test harness keeps back what passes through the macros.
        std::io::stdout().write_all(text.as_bytes()).expect("standard output takes a line");
        if let Some(path) = env::var_os("POSTHASTE_CRASH_REPORT") {
            let file = OpenOptions::new().create(true).append(true).open(path);
            file.and_then(|mut file| file.write_all(text.as_bytes())).expect("the report takes a line");
        }
        assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
    }
}

/// What is checked out, `+` where it was changed since.
fn commit() -> &'static str {
    static COMMIT: OnceLock<String> = OnceLock::new();
    COMMIT.get_or_init(|| {
        let said = Command::new("git")
            .args(["describe", "--always", "--exclude=*", "--dirty=+"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output();
        let said = said.ok().filter(|output| output.status.success());
        said.map_or("unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    })
}
