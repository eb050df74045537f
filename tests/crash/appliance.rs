//! The real binary: started, waited for, killed, ended.
//!
//! Never looks into the process: only its exit, its output and its sockets.

use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Far more than any start or stop may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The operators' key, given by the environment so that it is there before any other.
pub(crate) const OPERATOR_KEY: &str = "pho_an-operator-key-for-nothing-but-tests-0";

/// How to start the appliance.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) data_dir: PathBuf,
    log: PathBuf,
    environment: Vec<(String, String)>,
    files_max: Option<u32>,
}

/// Where the listeners are.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    pub(crate) public: String,
    pub(crate) ingest: String,
    pub(crate) admin: String,
}

/// A process that has ended by itself.
#[derive(Debug)]
pub(crate) struct Ended {
    /// None where a signal ended it.
    pub(crate) code: Option<i32>,
    /// What it wrote to standard error in this run.
    pub(crate) log: String,
}

impl Launch {
    /// A start in `root/data`, with the log beside it.
    pub(crate) fn under(root: &Path) -> Launch {
        let launch =
            Launch { data_dir: root.join("data"), log: root.join("log"), environment: Vec::new(), files_max: None };
        launch.with("POSTHASTE__AUTH__OPERATOR_KEY", OPERATOR_KEY)
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Launch {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// A process that may have only so many files open.
    pub(crate) fn with_files_max(self, max: u32) -> Launch {
        Launch { files_max: Some(max), ..self }
    }

    /// A process that has just been started and may not be ready.
    pub(crate) fn spawn(&self) -> Process {
        let log_from = fs::metadata(&self.log).map_or(0, |meta| meta.len());
        let log = OpenOptions::new().create(true).append(true).open(&self.log).expect("a log file");
        let program = env!("CARGO_BIN_EXE_posthaste");
        let mut command = Command::new(if self.files_max.is_some() { "sh" } else { program });
        if let Some(max) = self.files_max {
            command.args(["-c", &format!("ulimit -n {max}; exec \"$0\" \"$@\""), program]);
        }
        command.args(["serve", "--dev", "--json", "--data-dir"]).arg(&self.data_dir);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::from(log));
        let child = command.spawn().expect("the binary starts");
        Process { child, log: self.log.clone(), log_from }
    }

    /// Starts and waits until it serves, or until it has ended.
    pub(crate) fn start(&self) -> Result<Appliance, Ended> {
        self.spawn().ready()
    }
}

/// A running process.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
    log_from: u64,
}

impl Process {
    /// Waits for the line that says where it listens.
    pub(crate) fn ready(mut self) -> Result<Appliance, Ended> {
        let output = self.child.stdout.take().expect("standard output is a pipe");
        let (line_out, line_in) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            // Nothing at all where it ended first.
            let _ = BufReader::new(output).read_line(&mut line);
            let _ = line_out.send(line);
        });
        let line = line_in.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("not ready in time:\n{}", self.log()));
        if line.is_empty() {
            return Err(self.ended());
        }
        let ready: serde_json::Value = serde_json::from_str(&line).expect("one line of JSON");
        let at = |name: &str| ready[name].as_str().expect("an address").to_owned();
        let addresses = Addresses { public: at("public"), ingest: at("ingest"), admin: at("admin") };
        Ok(Appliance { process: self, addresses })
    }

    /// Waits for its end, however that comes.
    pub(crate) fn ended(mut self) -> Ended {
        let deadline = Instant::now() + PATIENCE;
        let status: ExitStatus = loop {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        };
        Ended { code: status.code(), log: self.log() }
    }

    /// Whether it has not ended by itself.
    pub(crate) fn is_alive(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        // After the name in brackets comes the state; a zombie has ended.
        stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
    }

    /// SIGKILL: what a crash of the process leaves.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("a child of ours");
        self.child.wait().expect("a child of ours");
    }

    /// What it has written to standard error in this run.
    pub(crate) fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let from = usize::try_from(self.log_from).expect("a log is short");
        String::from_utf8_lossy(bytes.get(from..).unwrap_or_default()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Has ended already, in most cases.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process that serves.
#[derive(Debug)]
pub(crate) struct Appliance {
    pub(crate) process: Process,
    pub(crate) addresses: Addresses,
}

impl Appliance {
    pub(crate) fn kill(self) {
        self.process.kill();
    }

    /// Whether it has not ended by itself.
    pub(crate) fn is_alive(&self) -> bool {
        self.process.is_alive()
    }

    /// SIGTERM, and what came of it.
    pub(crate) fn terminate(self) -> Ended {
        self.signal_term();
        self.process.ended()
    }

    /// SIGTERM alone.
    pub(crate) fn signal_term(&self) {
        let pid = self.process.child.id().to_string();
        let sent = Command::new("sh").args(["-c", "kill -TERM \"$0\"", &pid]).status().expect("a shell");
        assert!(sent.success(), "the process is there to be told");
    }
}
