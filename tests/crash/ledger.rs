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
}

/// A copy of the books.
#[derive(Clone, Debug, Default)]
pub(crate) struct Evidence {
    /// By resource id.
    pub(crate) submitted: HashMap<String, Submitted>,
    pub(crate) arrivals: Vec<Arrival>,
    /// Owners of cards whose change was acknowledged: card, merchant.
    pub(crate) owners: BTreeMap<String, usize>,
    /// What was plainly wrong when it happened.
    pub(crate) faults: Vec<String>,
}

#[derive(Default)]
pub(crate) struct Ledger {
    books: Mutex<Evidence>,
}

impl Ledger {
    fn books(&self) -> std::sync::MutexGuard<'_, Evidence> {
        self.books.lock().expect("no panic while held")
    }

    pub(crate) fn evidence(&self) -> Evidence {
        self.books().clone()
    }

    pub(crate) fn submitting(&self, resource: &str, merchant: usize, payload: &str) {
        let event = Submitted { merchant, digest: digest(payload.as_bytes()), acks: Vec::new() };
        self.books().submitted.insert(resource.to_owned(), event);
    }

    pub(crate) fn acknowledged(&self, resource: &str, id: String, sequence: u64) {
        let mut books = self.books();
        let event = books.submitted.get_mut(resource).expect("it was handed in");
        event.acks.push(Ack { id, sequence });
    }

    pub(crate) fn arrived(&self, arrival: Arrival) {
        self.books().arrivals.push(arrival);
    }

    pub(crate) fn owned(&self, card: String, merchant: usize) {
        self.books().owners.insert(card, merchant);
    }

    pub(crate) fn fault(&self, what: String) {
        self.books().faults.push(what);
    }
}

pub(crate) fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}
