//! Attempts: what is read for them, what is recorded and measured of them.
//!
//! Never asserts how long anything took.

use std::thread;

use super::{Scene, answer, eventually, lock};
use crate::clock::{Clock, SystemClock};
use crate::dispatcher::Resent;
use crate::model::{Status, Timestamp};
use crate::shard::Limits;

async fn time_after(moment: Timestamp) {
    eventually("time", || (SystemClock.now() > moment).then_some(())).await;
}

#[tokio::test]
async fn events_that_cannot_be_read_hold_nobody_up_and_leave_no_false_history() {
    // No payload stays in memory, and the unreadable ones could take every place.
    let limits = Limits { in_flight_per_endpoint_max: 2, payload_bytes_max: 0, ..Limits::default() };
    let scene = Scene::set(Vec::new(), limits).await;
    scene.configure(false).await;
    let mut events = Vec::new();
    for _ in 0..4 {
        events.push(scene.accept().await);
    }
    let [one, two, three, four] = events[..] else { unreachable!("there are four") };
    lock(&scene.store.unreadable).extend([one, two]);
    let endpoint = scene.configure(true).await;
    for event in [three, four] {
        scene.wait_for_status(event, Status::Delivered).await;
    }
    for event in [one, two] {
        let was_due = event.accepted_at();
        let is_put_off = || Some(scene.dossier(event)).filter(|d| d.item.next_attempt_at > Some(was_due));
        let dossier = eventually("it is put off", is_put_off).await;
        assert_eq!((dossier.item.status, dossier.item.attempts), (Status::Pending, 0), "no attempt was made");
        assert!(dossier.attempts.is_empty());
    }
    let put_off = |line: &&str| line.starts_with("posthaste_payloads_unreadable_total ");
    let text = scene.metrics.render();
    assert!(text.lines().find(put_off).is_some_and(|line| !line.ends_with(" 0")), "{text}");
    lock(&scene.store.unreadable).clear();
    for event in [one, two] {
        assert_eq!(answer(scene.resend(event)).await, Resent::Queued);
        scene.wait_for_status(event, Status::Delivered).await;
    }
    let numbers: Vec<_> = scene.receivers.sent().iter().map(|(_, at, number)| (*at, *number)).collect();
    assert_eq!(numbers, [(endpoint, 1); 4]);
}

#[tokio::test]
async fn no_worker_of_the_runtime_waits_for_the_disk() {
    let limits = Limits { window_per_endpoint_max: 1, payload_bytes_max: 0, ..Limits::default() };
    let scene = Scene::set(Vec::new(), limits).await;
    scene.configure(false).await;
    let first = scene.accept().await;
    let last = scene.accept().await;
    scene.configure(true).await;
    for event in [first, last] {
        scene.wait_for_status(event, Status::Delivered).await;
    }
    assert_eq!(answer(scene.resend(first)).await, Resent::Queued);
    let readers = lock(&scene.store.readers).clone();
    assert!(readers.len() >= 4, "pages, payloads and the event that was resent were read: {readers:?}");
    assert!(!readers.contains(&thread::current().id()), "this thread runs the dispatcher");
}

#[tokio::test]
async fn an_event_is_delivered_when_the_head_of_the_answer_comes() {
    let scene = Scene::set(Vec::new(), Limits::default()).await;
    scene.configure(true).await;
    scene.receivers.is_silent.send_replace(true);
    let event = scene.accept().await;
    scene.wait_for_sent(1).await;
    // The body drags on.
    time_after(SystemClock.now().plus_ms(20)).await;
    scene.receivers.is_silent.send_replace(false);
    let dossier = scene.wait_for_status(event, Status::Delivered).await;
    let attempt = &dossier.attempts[0];
    assert_eq!(dossier.item.delivered_at, Some(attempt.started_at.plus_ms(attempt.duration_ms.into())));
}

#[tokio::test]
async fn the_way_to_the_first_attempt_is_measured_only_where_nothing_stood_in_it() {
    let scene = Scene::set(Vec::new(), Limits::default()).await;
    let measured = |count: u64| {
        let line = format!("posthaste_first_attempt_latency_seconds_count {count}");
        let text = scene.metrics.render();
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    };
    let skipped = scene.accept().await;
    scene.configure(false).await;
    let paused = scene.accept().await;
    // What is resent or resumed in the very millisecond of its acceptance did not wait.
    time_after(paused.accepted_at()).await;
    scene.configure(true).await;
    scene.wait_for_status(paused, Status::Delivered).await;
    assert_eq!(answer(scene.resend(skipped)).await, Resent::Queued);
    scene.wait_for_status(skipped, Status::Delivered).await;
    measured(0);
    let prompt = scene.accept().await;
    scene.wait_for_status(prompt, Status::Delivered).await;
    measured(1);
}
