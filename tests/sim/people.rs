//! Merchants and operators: they pause, resume, delete, make anew and resend, at any moment.
//!
//! Never talks to the shard but as the product lets them.

use posthaste::model::{Delivery, EndpointId, MerchantId};
use posthaste::shard::{Gate, Recall};

use crate::world::{Happening, World};

/// Endpoints that there ever are, at most.
const ENDPOINTS_MAX: usize = 24;

impl World {
    /// Somebody changes an endpoint.
    pub(super) fn meddle(&mut self) {
        if self.mended {
            return;
        }
        self.book_soon(self.plan.every.gate_ms, Happening::Meddle);
        if self.subject.is_none() {
            return;
        }
        // Most can go wrong where something is under way.
        let mut endpoints = self.oracle.under_way();
        if endpoints.is_empty() || self.dice.one_in(2) {
            endpoints = self.outbox.catalog.keys().copied().collect();
        }
        let endpoint = self.dice.pick(&endpoints);
        let entry = self.outbox.catalog[&endpoint].clone();
        match entry.gate {
            Gate::Open if self.dice.one_in(6) => self.delete(endpoint, entry.merchant),
            Gate::Open if self.dice.one_in(3) => self.set_gate(endpoint, Gate::Ajar),
            Gate::Open => self.set_gate(endpoint, Gate::Held),
            Gate::Ajar if self.dice.one_in(6) => self.delete(endpoint, entry.merchant),
            Gate::Ajar if self.dice.one_in(3) => self.set_gate(endpoint, Gate::Held),
            Gate::Ajar => self.set_gate(endpoint, Gate::Open),
            Gate::Held if self.dice.one_in(4) => self.set_gate(endpoint, Gate::Ajar),
            Gate::Held if self.dice.one_in(8) => self.delete(endpoint, entry.merchant),
            Gate::Held => self.set_gate(endpoint, Gate::Open),
            Gate::Closed => self.make_anew(entry.merchant),
        }
    }

    /// Somebody wants an event tried again: found in memory, or looked up.
    pub(super) fn resend(&mut self) {
        if self.mended {
            return;
        }
        self.book_soon(self.plan.every.resend_ms, Happening::Resend);
        if self.subject.is_none() || self.outbox.events.is_empty() {
            return;
        }
        // What came last is most likely to be under way.
        let len = self.outbox.events.len() as u64;
        let back = if self.dice.one_in(2) { self.dice.below(len) } else { self.dice.below(len.min(4)) };
        let event = self.outbox.events[(len - 1 - back) as usize];
        if !self.dice.one_in(3) {
            return self.look_up(event);
        }
        let endpoint = self.outbox.deliveries[&event].endpoint;
        let recall = self.shard().recall(endpoint, event);
        self.recalled(endpoint, event, &recall);
        match recall {
            Recall::InFlight | Recall::Settling => {}
            Recall::Waiting(delivery) => self.taken_out(delivery),
            Recall::Unknown => {
                let in_ms = self.dice.between(0, 100);
                self.book(in_ms, Happening::LookUp { life: self.life, event });
            }
        }
    }

    /// Where an event goes that is owed to nobody: its merchant's newest endpoint, or where it went before.
    pub(super) fn readdressed(&mut self, known: Delivery) -> Delivery {
        let living = self.outbox.catalog.iter().rev().filter(|(_, entry)| entry.gate != Gate::Closed);
        let newest = living.filter(|(_, entry)| entry.merchant == known.merchant).map(|(id, _)| *id).next();
        let endpoint = newest.filter(|_| !self.dice.one_in(4)).unwrap_or(known.endpoint);
        Delivery { endpoint, ..known }
    }

    fn delete(&mut self, endpoint: EndpointId, merchant: MerchantId) {
        self.set_gate(endpoint, Gate::Closed);
        if self.dice.one_in(2) {
            self.make_anew(merchant);
        }
    }

    fn make_anew(&mut self, merchant: MerchantId) {
        let endpoint = EndpointId(self.outbox.catalog.len() as u64 + 1);
        if self.outbox.catalog.len() < ENDPOINTS_MAX {
            self.make(endpoint, merchant);
            self.announce(endpoint, Gate::Open);
        }
    }
}
