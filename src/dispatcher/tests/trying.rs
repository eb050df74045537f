//! Attempts: what is read for them, what is recorded and measured of them.
//!
//! Never asserts how long anything took.

use std::thread;

use super::{Scene, answer, lock};
use crate::dispatcher::Resent;
use crate::model::Status;
use crate::shard::Limits;

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
