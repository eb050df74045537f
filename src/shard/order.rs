//! Who must wait for whom at an ordered endpoint: deliveries of one resource leave one after the other, in
//! the order of their sequence.
//!
//! Never holds a delivery, only what must be known of it. On disk a queue is ordered by due time. A delivery
//! that failed is due later than those that follow it, and so is one that was moved behind it: they are out
//! of their order there, and are *parked*. Every parked delivery stays known here, whether it is in memory
//! or not; every other one is known while it is in memory. Hence nothing that is on disk only and unknown
//! has a follower in memory. What is sent again by hand is outside of all order.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Delivery, DueKey};

/// What is known of one endpoint's deliveries.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// By resource and sequence: the key, and whether it is parked.
    known: BTreeMap<u64, BTreeMap<u64, (DueKey, bool)>>,
    parked: usize,
    /// Found not to be first of their resource when their turn came.
    blocked: BTreeMap<u64, BTreeSet<DueKey>>,
}

/// Whether a delivery may leave.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Precedence {
    /// It may.
    First,
    /// One with this key comes first, and later on disk: it has to be moved behind that.
    Behind(DueKey),
    /// One comes first that is in memory, or under way. It is told of by `release`.
    Blocked,
}

impl Order {
    /// A delivery is in memory, or has a new key.
    pub(super) fn learn(&mut self, delivery: &Delivery) {
        if !is_ordered(delivery) {
            return;
        }
        let parked = is_parked(delivery);
        let line = self.known.entry(delivery.resource).or_default();
        let before = line.insert(delivery.sequence, (delivery.key(), parked));
        self.parked += usize::from(parked);
        self.parked -= usize::from(before.is_some_and(|(_, parked)| parked));
    }

    /// A delivery has left memory, and is still owed.
    pub(super) fn part_from(&mut self, delivery: &Delivery) {
        if !is_parked(delivery) {
            self.forget(delivery);
        } else if let Some(keys) = self.blocked.get_mut(&delivery.resource) {
            keys.remove(&delivery.key());
        }
    }

    /// Nothing is owed of a delivery any more.
    pub(super) fn forget(&mut self, delivery: &Delivery) {
        if let Some(keys) = self.blocked.get_mut(&delivery.resource) {
            keys.remove(&delivery.key());
            if keys.is_empty() {
                self.blocked.remove(&delivery.resource);
            }
        }
        let Some(line) = self.known.get_mut(&delivery.resource) else { return };
        if let Some((_, parked)) = line.remove(&delivery.sequence) {
            self.parked -= usize::from(parked);
        }
        if line.is_empty() {
            self.known.remove(&delivery.resource);
        }
    }

    /// Whether a delivery in memory, whose turn it is, may leave.
    pub(super) fn precedence(&mut self, delivery: &Delivery) -> Precedence {
        if !is_ordered(delivery) {
            return Precedence::First;
        }
        let first = self.known.get(&delivery.resource).and_then(|line| line.first_key_value());
        let (&sequence, &(key, _)) = first.expect("what is in memory is known");
        if sequence == delivery.sequence {
            return Precedence::First;
        }
        if delivery.key() < key {
            return Precedence::Behind(key);
        }
        self.blocked.entry(delivery.resource).or_default().insert(delivery.key());
        Precedence::Blocked
    }

    /// The deliveries that were blocked for one of this resource, after it has changed.
    pub(super) fn release(&mut self, resource: u64) -> BTreeSet<DueKey> {
        self.blocked.remove(&resource).unwrap_or_default()
    }

    /// How many are out of their order on disk.
    pub(super) fn parked(&self) -> usize {
        self.parked
    }
}

/// Whether a delivery is to be remembered though it is on disk only.
pub(super) fn is_parked(delivery: &Delivery) -> bool {
    is_ordered(delivery) && (delivery.attempts > 0 || delivery.due > delivery.event.accepted_at())
}

fn is_ordered(delivery: &Delivery) -> bool {
    delivery.resource != 0 && delivery.attempts_before == 0
}
