//! Resends while something else happens to the event.
//!
//! Never lets an answer come before the disk has what it says.

use std::sync::atomic::Ordering;

use tokio::sync::oneshot::error::TryRecvError;

use super::{Scene, answer, lock};
use crate::dispatcher::{Control, ResendFault, Resent};
use crate::model::{EventId, Status};
use crate::registry::Precondition;
use crate::shard::Limits;

/// What was asked before is looked up by the time at which these are answered, one after the other.
async fn heard(scene: &Scene) {
    for _ in 0..8 {
        assert_eq!(answer(scene.resend(EventId::MIN)).await, Resent::Unknown);
    }
}

#[tokio::test]
async fn a_resend_is_answered_when_the_disk_has_it() {
    let scene = Scene::set(Vec::new(), Limits::default()).await;
    let skipped = scene.accept().await;
    let endpoint = scene.configure(true).await;
    scene.store.stop();
    let mut resent = scene.resend(skipped);
    scene.wait_for_stopped(1).await;
    let mut again = scene.resend(skipped);
    assert_eq!(resent.try_recv().unwrap_err(), TryRecvError::Empty, "nothing is on the disk");
    assert_eq!(again.try_recv().unwrap_err(), TryRecvError::Empty, "nothing is on the disk");
    scene.store.go_on();
    assert_eq!((answer(resent).await, answer(again).await), (Resent::Queued, Resent::Queued));
    scene.wait_for_status(skipped, Status::Delivered).await;
    assert_eq!(scene.receivers.sent(), [(skipped, endpoint, 1)], "asked for twice at once, sent once");
}

#[tokio::test]
async fn an_event_that_waits_for_a_config_that_is_gone_goes_to_the_new_one() {
    let scene = Scene::set(Vec::new(), Limits::default()).await;
    scene.configure(false).await;
    let waiting = scene.accept().await;
    // Its cancellation is on its way to the disk while the resend comes.
    scene.store.stop();
    let endpoint = scene.configure_anew().await;
    let resent = scene.resend(waiting);
    scene.wait_for_stopped(1).await;
    scene.store.go_on();
    assert_eq!(answer(resent).await, Resent::Queued);
    scene.wait_for_status(waiting, Status::Delivered).await;
    assert_eq!(scene.receivers.sent(), [(waiting, endpoint, 1)]);
}

#[tokio::test]
async fn an_attempt_under_way_to_a_config_that_is_gone_does_not_stand_for_a_resend() {
    let scene = Scene::set(Vec::new(), Limits::default()).await;
    let old = scene.configure(true).await;
    scene.receivers.is_failing.store(true, Ordering::SeqCst);
    scene.receivers.is_silent.send_replace(true);
    let event = scene.accept().await;
    scene.wait_for_sent(1).await;
    let under_way = scene.resend(event);
    assert_eq!(answer(under_way).await, Resent::UnderWay, "this attempt is the one that is asked for");
    let new = scene.configure_anew().await;
    let resent = scene.resend(event);
    scene.receivers.is_silent.send_replace(false);
    assert_eq!(answer(resent).await, Resent::Queued);
    assert_eq!(scene.wait_for_sent(2).await, [(event, old, 1), (event, new, 2)]);
}

#[tokio::test]
async fn a_resend_right_after_the_last_failure_is_followed_by_an_attempt() {
    let scene = Scene::set(Vec::new(), Limits::default()).await;
    let endpoint = scene.configure(true).await;
    scene.receivers.is_failing.store(true, Ordering::SeqCst);
    scene.store.stop();
    let event = scene.accept().await;
    // The failure is on its way to the disk.
    scene.wait_for_stopped(1).await;
    scene.receivers.is_failing.store(false, Ordering::SeqCst);
    let resent = scene.resend(event);
    heard(&scene).await;
    scene.store.go_on();
    assert_eq!(answer(resent).await, Resent::Queued);
    scene.wait_for_status(event, Status::Delivered).await;
    assert_eq!(scene.receivers.sent(), [(event, endpoint, 1), (event, endpoint, 2)]);
}

#[tokio::test]
async fn two_resends_with_another_config_between_them_end_at_the_newer_one() {
    let scene = Scene::set(Vec::new(), Limits::default()).await;
    let skipped = scene.accept().await;
    scene.configure(true).await;
    scene.store.stop();
    let first = scene.resend(skipped);
    scene.wait_for_stopped(1).await;
    let newer = scene.configure_anew().await;
    let second = scene.resend(skipped);
    heard(&scene).await;
    assert_eq!(lock(&scene.store.stopped).len(), 1, "the second waits for what becomes of the first");
    scene.store.go_on();
    assert_eq!((answer(first).await, answer(second).await), (Resent::Queued, Resent::Queued));
    scene.wait_for_status(skipped, Status::Delivered).await;
    assert_eq!(scene.receivers.sent(), [(skipped, newer, 1)]);
}

#[tokio::test]
async fn an_event_whose_config_went_while_it_was_resent_has_nowhere_to_go() {
    let scene = Scene::set(Vec::new(), Limits::default()).await;
    let skipped = scene.accept().await;
    scene.configure(true).await;
    scene.store.stop();
    let resent = scene.resend(skipped);
    scene.wait_for_stopped(1).await;
    let deleted = scene.registry.delete_config(&scene.merchant, &Precondition::None).await;
    assert!(deleted.expect("the store takes it"));
    scene.store.go_on();
    let answered = tokio::time::timeout(super::PATIENCE, resent).await.expect("it is answered");
    assert!(matches!(answered, Ok(Err(ResendFault::NoEndpoint))), "{answered:?}");
    scene.wait_for_status(skipped, Status::Canceled).await;
    assert!(scene.receivers.sent().is_empty());
}

#[tokio::test]
async fn a_drain_answers_what_the_disk_was_given_and_refuses_the_rest() {
    let scene = Scene::set(Vec::new(), Limits::default()).await;
    let skipped = scene.accept().await;
    scene.configure(false).await;
    scene.store.stop();
    let given = scene.resend(skipped);
    scene.wait_for_stopped(1).await;
    scene.controls.send(Control::Drain).expect("it runs");
    let late = scene.resend(skipped);
    assert!(late.await.is_err(), "no answer: the process is stopping");
    scene.store.go_on();
    assert_eq!(answer(given).await, Resent::Queued);
}
