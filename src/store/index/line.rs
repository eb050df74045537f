//! Who writes to sled, one after the other in the order in which they came.
//!
//! Never lets one overtake: the thread that writes behind comes again at once, and a plain lock was measured to keep the
//! retention thread waiting for as long as events came in.

use std::sync::{Condvar, Mutex, MutexGuard};

/// A line of those who wait.
#[derive(Debug, Default)]
pub(super) struct Line {
    numbers: Mutex<Numbers>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Numbers {
    next: u64,
    serving: u64,
}

/// The head of the line, until dropped.
#[derive(Debug)]
pub(super) struct Turn<'a>(&'a Line);

impl Line {
    /// Waits until everybody who came before has gone.
    pub(super) fn wait(&self) -> Turn<'_> {
        let mut numbers = self.numbers();
        let mine = numbers.next;
        numbers.next += 1;
        while numbers.serving != mine {
            numbers = self.moved.wait(numbers).expect("no panic while held");
        }
        Turn(self)
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().expect("no panic while held")
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.numbers().serving += 1;
        self.0.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn whoever_comes_again_at_once_comes_after_those_who_wait() {
        let line = Arc::new(Line::default());
        let was_served = Arc::new(AtomicBool::new(false));
        let first = line.wait();
        let other = {
            let (line, was_served) = (Arc::clone(&line), Arc::clone(&was_served));
            std::thread::spawn(move || {
                let _turn = line.wait();
                was_served.store(true, Ordering::Release);
            })
        };
        while line.numbers().next < 2 {
            std::thread::yield_now();
        }
        drop(first);
        let _again = line.wait();
        assert!(was_served.load(Ordering::Acquire), "the other one came first");
        other.join().expect("it ends in peace");
    }
}
