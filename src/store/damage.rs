//! Damaged records that readers came upon: each is told once, by the log and by a figure.
//!
//! Never mends anything and never hides anything: whoever reads decides what to show.

use std::collections::BTreeSet;
use std::sync::Mutex;

use metrics::Counter;

use super::StoreError;
use crate::model::EventId;

/// Events of which it is remembered that they were told. Where more are damaged, what else would be said helps nobody.
const TOLD_MAX: usize = 1024;

/// What was met so far.
pub(super) struct Damage {
    told: Mutex<BTreeSet<EventId>>,
    met: Counter,
}

impl Damage {
    pub(super) fn new(met: Counter) -> Damage {
        Damage { told: Mutex::default(), met }
    }

    /// An event of which a record cannot be read.
    pub(super) fn met(&self, event: EventId, error: &StoreError) {
        let mut told = self.told.lock().expect("no panic while held");
        if error.is_damage() && told.len() < TOLD_MAX && told.insert(event) {
            self.met.increment(1);
            tracing::error!(%event, %error, "a record of an event is damaged: see `posthaste store verify`");
        }
    }
}
