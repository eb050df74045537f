//! `serve --dev` as a person uses it: what it prints is pasted into a shell, and the event is seen to arrive.
//!
//! Never needs curl: a shell takes the pasted line apart, and the test's own client sends it.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver as Lines, channel};

use crate::harness::{Answer, Client, PATIENCE, eventually};

struct Dev {
    child: Child,
    lines: Lines<String>,
}

impl Dev {
    fn start() -> Dev {
        let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
        command.args(["serve", "--dev"]).env("POSTHASTE__LOG__LEVEL", "error");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the binary is built");
        let (said, lines) = channel();
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = said.send(line);
            }
        });
        Dev { child, lines }
    }

    /// The next line that begins so, with the lines that its backslashes join to it.
    fn line(&self, begin: &str) -> String {
        loop {
            let mut line = self.next();
            if line.trim_start().starts_with(begin) {
                while line.ends_with('\\') {
                    line.push('\n');
                    line.push_str(&self.next());
                }
                return line;
            }
        }
    }

    fn next(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("it prints on")
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Does what a shell with curl would do with the line.
fn paste(line: &str) -> Answer {
    let script = format!("curl() {{ for word in \"$@\"; do printf '%s\\0' \"$word\"; done; }}\n{line}\n");
    let output = Command::new("sh").args(["-c", &script]).output().expect("there is a shell");
    let words = String::from_utf8(output.stdout).expect("UTF-8");
    let mut words = words.split_terminator('\0');
    let (mut url, mut headers, mut body) = ("", Vec::new(), None);
    while let Some(word) = words.next() {
        match word {
            "-H" => headers.push(words.next().and_then(|field| field.split_once(": ")).expect("a header")),
            "-d" => body = words.next(),
            "-sS" => {}
            word => url = word,
        }
    }
    let (host, path) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).expect("a URL");
    let method = if body.is_some() { "POST" } else { "GET" };
    Client::new(host, None).send(method, &format!("/{path}"), &headers, body.unwrap_or("").as_bytes())
}

#[test]
fn the_printed_lines_hand_in_an_event_and_show_it_delivered() {
    let mut dev = Dev::start();
    let first = dev.line("Posthaste is ready");
    let dir = first.rsplit(' ').next().expect("it says where everything is").to_owned();
    assert!(Path::new(&dir).is_dir(), "{first}");
    let (hand_in, show) = (dev.line("curl"), dev.line("curl"));
    let accepted = paste(&hand_in).expect(202);
    let id = accepted["id"].as_str().expect("an id");
    assert_eq!(dev.line("received"), format!("received card_transaction {id}, attempt 1, signature verified"));
    assert_eq!(dev.next(), r#"  {"id":"txn_1","amount":"12.50"}"#);
    let shown = eventually("the history shows it delivered", || {
        let item = paste(&show).expect(200)["data"][0].clone();
        (item["status"] == "delivered").then_some(item)
    });
    assert_eq!(shown["id"], id);
    let sent = Command::new("kill").args(["-s", "TERM", &dev.child.id().to_string()]).status();
    assert!(sent.expect("kill is there").success());
    let status = eventually("it ends", || dev.child.try_wait().expect("it can be waited for"));
    assert_eq!(status.code(), Some(0));
    assert!(!Path::new(&dir).exists(), "a directory of this run only goes with it");
}
