//! A process without file descriptors goes on listening.
//!
//! The limit is the process's: the server runs in a child of the test, which is this same test with a variable set.

use std::io::{BufRead, BufReader, Read, Write, stdout};
use std::process::{Command, Stdio};

use rustix::process::{Resource, Rlimit, setrlimit};

use super::lifetime::Tally;
use super::*;

const CHILD: &str = "POSTHASTE_TEST_EXHAUSTION_CHILD";
const DESCRIPTORS: u64 = 40;

#[tokio::test]
async fn running_out_of_descriptors_neither_kills_nor_spins() {
    if std::env::var_os(CHILD).is_some() {
        return serve_with_few_descriptors().await;
    }
    let mut child = Command::new(std::env::current_exe().expect("a test has an executable"))
        .args(["--exact", "http::tests::exhaustion::running_out_of_descriptors_neither_kills_nor_spins", "--nocapture"])
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut next = |prefix: &str| {
        let mut texts = lines.by_ref().map(|line| line.expect("the child speaks"));
        texts.find_map(|line| line.split_once(prefix).map(|(_, rest)| rest.to_owned())).expect("the child lives")
    };
    let address: SocketAddr = next("ADDRESS ").parse().expect("an address");
    let mut crowd = Vec::new();
    for _ in 0..2 * DESCRIPTORS {
        crowd.push(connect(address).await);
    }
    next("FAILED");
    drop(crowd);
    let mut client = Client(connect(address).await);
    client.send("GET /hello/a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
    assert_eq!(statuses(&client.rest().await), [200]);
    drop(child.stdin.take());
    let calm = next("CALM ");
    assert_eq!(calm, "true", "failed accepts must be paced");
    assert!(child.wait().expect("the child ends").success());
}

/// Reports on standard output where it listens, that an accept failed, and at the end of standard input whether the
/// failures came no faster than the pause between them allows.
async fn serve_with_few_descriptors() {
    let limit = Rlimit { current: Some(DESCRIPTORS), maximum: Some(DESCRIPTORS) };
    setrlimit(Resource::Nofile, limit).expect("a limit can be lowered");
    let (failures, tally) = Tally::pair();
    let hooks = Hooks { accept_failures: failures, ..Hooks::default() };
    let rig = Rig::start_with(Limits::default(), None, hooks).await;
    writeln!(stdout(), "ADDRESS {}", rig.address).expect("the parent listens");
    let mut waited_ms = 0;
    while tally.get() < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        waited_ms += 10;
    }
    writeln!(stdout(), "FAILED").expect("the parent listens");
    writeln!(stdout(), "CALM {}", tally.get() <= 3 + waited_ms / 50).expect("the parent listens");
    let stdin = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    stdin.await.expect("read").expect("closed");
    rig.stop().await;
}
