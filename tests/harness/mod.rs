//! What the tests of the real binary have in common: the appliance, a client, a receiver, patience.
//!
//! Never knows the product's code: everything goes over processes, sockets and files. Never sleeps for a result;
//! it waits for a condition, and gives up after a time that is generous on a slow machine.

mod appliance;
mod client;
mod receiver;

use std::cell::Cell;
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

pub(crate) use appliance::{Appliance, Merchant};
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

static MACHINE: RwLock<()> = RwLock::new(());

thread_local! {
    static HAS_THE_MACHINE: Cell<bool> = const { Cell::new(false) };
}

/// Waits until no other test has an appliance, and keeps it so: for tests that compare times.
pub(crate) fn alone() -> RwLockWriteGuard<'static, ()> {
    // A test that failed while it held the lock has nothing to do with this one.
    let guard = MACHINE.write().unwrap_or_else(std::sync::PoisonError::into_inner);
    HAS_THE_MACHINE.set(true);
    guard
}

/// A share of the machine for a test that minds no company.
fn beside_others() -> Option<RwLockReadGuard<'static, ()>> {
    (!HAS_THE_MACHINE.get()).then(|| MACHINE.read().unwrap_or_else(std::sync::PoisonError::into_inner))
}
