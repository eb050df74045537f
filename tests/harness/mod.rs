//! What the tests of the real binary have in common: the appliance, a client, a receiver, patience.
//!
//! Never knows the product's code: everything goes over processes, sockets and files. Never sleeps for a result;
//! it waits for a condition, and gives up after a time that is generous on a slow machine.

mod appliance;
mod client;
mod receiver;

use std::time::{Duration, Instant};

pub(crate) use appliance::{Appliance, Merchant, Settings};
pub(crate) use client::{Answer, Client};
pub(crate) use receiver::{Received, Receiver, Reply};

/// How long a test waits for something that should happen at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// The first value that `look` finds.
pub(crate) fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, look)
}

/// The same with another patience.
pub(crate) fn within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < patience, "waited {patience:?} in vain for: {what}");
        std::thread::sleep(LOOK);
    }
}
