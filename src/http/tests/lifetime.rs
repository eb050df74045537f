//! Connections: how many, from whom, until when.
//!
//! Never relies on the order in which the kernel hands out connections.

use super::*;
use metrics::{Counter, CounterFn};
use std::sync::atomic::{AtomicU64, Ordering};

/// A counter that a test can read.
#[derive(Default)]
pub(super) struct Tally(AtomicU64);

impl Tally {
    pub(super) fn pair() -> (Counter, Arc<Tally>) {
        let tally = Arc::new(Tally::default());
        (Counter::from_arc(Arc::clone(&tally)), tally)
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl CounterFn for Tally {
    fn increment(&self, value: u64) {
        self.0.fetch_add(value, Ordering::SeqCst);
    }

    fn absolute(&self, value: u64) {
        self.0.store(value, Ordering::SeqCst);
    }
}

const HELLO: &str = "GET /hello/a HTTP/1.1\r\nHost: h\r\n\r\n";

#[tokio::test]
async fn one_address_has_so_many_connections_and_no_more() {
    let (refused, tally) = Tally::pair();
    let hooks = Hooks { connections_refused: refused, ..Hooks::default() };
    let rig = Rig::start_with(Limits { connections_per_ip_max: 10, ..Limits::default() }, None, hooks).await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = rig.connect().await;
        client.send(HELLO).await;
        client.answer().await;
        clients.push(client);
    }
    assert_eq!(rig.exchange(HELLO).await, "", "the eleventh is closed");
    assert_eq!(tally.get(), 1);
    clients.pop();
    let again = async {
        loop {
            let mut client = rig.connect().await;
            client.send("GET /hello/a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
            if !client.rest().await.is_empty() {
                break;
            }
        }
    };
    timeout(LIVENESS, again).await.expect("a place that is free can be taken");
    rig.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_instead_of_failing() {
    let rig = Rig::start(Limits { connections_max: 2, ..Limits::default() }).await;
    let mut first = rig.connect().await;
    let mut second = rig.connect().await;
    for client in [&mut first, &mut second] {
        client.send(HELLO).await;
        client.answer().await;
    }
    let mut third = rig.connect().await;
    third.send(HELLO).await;
    let mut byte = [0; 1];
    let early = timeout(Duration::from_millis(100), third.0.peek(&mut byte)).await;
    assert!(early.is_err(), "nobody has accepted the third");
    drop(first);
    assert!(third.answer().await.contains("200 OK"));
    rig.stop().await;
}

#[tokio::test]
async fn a_drain_answers_what_is_under_way_and_closes_what_is_idle() {
    let rig = Rig::start(Limits::default()).await;
    let mut idle = rig.connect().await;
    idle.send(HELLO).await;
    idle.answer().await;
    let mut busy = rig.connect().await;
    busy.send("GET /slow HTTP/1.1\r\nHost: h\r\n\r\n").await;
    rig.stage.entered.notified().await;
    rig.stop.send(()).expect("the server listens");
    assert_eq!(idle.rest().await, "", "idle connections end at once");
    assert!(!rig.served.is_finished(), "a request is under way");
    rig.stage.release.notify_one();
    let answer = busy.rest().await;
    assert!(answer.ends_with("\"done\""), "{answer}");
    assert_eq!(header(&answer, "connection"), Some("close"));
    let drained = timeout(LIVENESS, rig.served).await.expect("ends").expect("no panic");
    assert_eq!(drained, Drained { abandoned: 0 });
}

#[tokio::test]
async fn a_drain_does_not_wait_for_ever() {
    let rig = Rig::start(Limits { drain_ms_max: 100, ..Limits::default() }).await;
    let mut busy = rig.connect().await;
    busy.send("GET /slow HTTP/1.1\r\nHost: h\r\n\r\n").await;
    rig.stage.entered.notified().await;
    assert_eq!(rig.stop().await, Drained { abandoned: 1 });
    assert_eq!(busy.rest().await, "");
}

#[tokio::test]
async fn a_panic_ends_one_request_only() {
    let (server_errors, tally) = Tally::pair();
    let mut hooks = Hooks::default();
    hooks.answers[4] = server_errors;
    let rig = Rig::start_with(Limits::default(), None, hooks).await;
    let mut client = rig.connect().await;
    client.send("GET /panic HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!(statuses(&client.answer().await), [500]);
    client.send(HELLO).await;
    assert_eq!(statuses(&client.answer().await), [200]);
    assert_eq!(tally.get(), 1);
    rig.stop().await;
}
