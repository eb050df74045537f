//! What the outside world knows: what was handed in, what was acknowledged, what arrived.
//!
//! Never asks the appliance; it is what the appliance is measured by.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use sha2::{Digest as _, Sha256};

/// One event that a producer has handed in, once or more often.
#[derive(Clone, Debug)]
pub(crate) struct Submitted {
    /// To which merchant, by its place in the scene.
    pub(crate) merchant: usize,
    /// SHA-256 of the payload.
    pub(crate) digest: [u8; 32],
    /// Every acknowledgement.
    pub(crate) acks: Vec<Ack>,
}

/// A 202, or the 200 of a repetition.
#[derive(Clone, Debug)]
pub(crate) struct Ack {
    pub(crate) id: String,
    pub(crate) sequence: u64,
    pub(crate) moment: u64,
}

/// One request that a receiver got.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) id: String,
    pub(crate) sequence: u64,
    pub(crate) merchant: usize,
    pub(crate) digest: [u8; 32],
    /// Whether the receiver answered 2xx.
    pub(crate) is_taken: bool,
    pub(crate) moment: u64,
}

/// A copy of the books.
#[derive(Clone, Debug, Default)]
pub(crate) struct Evidence {
    /// By resource id.
    pub(crate) submitted: HashMap<String, Submitted>,
    pub(crate) arrivals: Vec<Arrival>,
    /// Owners of cards whose change was acknowledged: card, merchant, moment.
    pub(crate) owners: BTreeMap<String, (usize, u64)>,
    /// Answers that said to come again, by status.
    pub(crate) refusals: BTreeMap<u16, u64>,
    /// What was plainly wrong when it happened.
    pub(crate) faults: Vec<String>,
}

/// Tells the moment: whatever the case orders its happenings by, such as the length of a record.
pub(crate) type Moments = Box<dyn Fn() -> u64 + Send + Sync>;

pub(crate) struct Ledger {
    books: Mutex<Evidence>,
    moments: Moments,
}

impl Evidence {
    /// Only what had happened by the moments that `is_past` holds for.
    pub(crate) fn known_by(mut self, is_past: impl Fn(u64) -> bool) -> Evidence {
        for event in self.submitted.values_mut() {
            event.acks.retain(|ack| is_past(ack.moment));
        }
        self.arrivals.retain(|arrival| is_past(arrival.moment));
        self.owners.retain(|_, (_, moment)| is_past(*moment));
        self
    }
}

impl Ledger {
    pub(crate) fn new(moments: Moments) -> Ledger {
        Ledger { books: Mutex::default(), moments }
    }

    fn books(&self) -> std::sync::MutexGuard<'_, Evidence> {
        self.books.lock().expect("no panic while held")
    }

    pub(crate) fn evidence(&self) -> Evidence {
        self.books().clone()
    }

    /// Acknowledgements so far.
    pub(crate) fn acks(&self) -> usize {
        self.books().submitted.values().map(|event| event.acks.len()).sum()
    }

    pub(crate) fn submitting(&self, resource: &str, merchant: usize, payload: &str) {
        let event = Submitted { merchant, digest: digest(payload.as_bytes()), acks: Vec::new() };
        self.books().submitted.insert(resource.to_owned(), event);
    }

    pub(crate) fn acknowledged(&self, resource: &str, id: String, sequence: u64) {
        // Taken after the fact became known: it had happened by then.
        let moment = (self.moments)();
        let mut books = self.books();
        let event = books.submitted.get_mut(resource).expect("it was handed in");
        event.acks.push(Ack { id, sequence, moment });
    }

    pub(crate) fn arrived(&self, arrival: Arrival) {
        let moment = (self.moments)();
        self.books().arrivals.push(Arrival { moment, ..arrival });
    }

    pub(crate) fn owned(&self, card: String, merchant: usize) {
        let moment = (self.moments)();
        self.books().owners.insert(card, (merchant, moment));
    }

    pub(crate) fn refused(&self, status: u16) {
        *self.books().refusals.entry(status).or_default() += 1;
    }

    /// Answers of this status so far.
    pub(crate) fn refused_as(&self, status: u16) -> u64 {
        self.books().refusals.get(&status).copied().unwrap_or(0)
    }

    pub(crate) fn fault(&self, what: String) {
        self.books().faults.push(what);
    }
}

pub(crate) fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}
