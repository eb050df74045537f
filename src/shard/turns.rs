//! Whose turn it is: merchants with something due go round a ring, one delivery each.
//!
//! This is deficit round robin with equal weights, where every delivery costs one and the quantum is
//! one, so that no deficit is ever left to carry over. A merchant waits at most one delivery of every
//! other merchant for its own next one, however long their backlogs are. Within a merchant its endpoints
//! take turns likewise. Never looks into a queue and never knows the time.

use std::collections::{BTreeMap, VecDeque};

use crate::model::{EndpointId, MerchantId};

/// The ring and the merchants' permits.
#[derive(Debug)]
pub(super) struct Turns {
    per_merchant_max: usize,
    merchants: BTreeMap<MerchantId, Seat>,
    ring: VecDeque<MerchantId>,
}

#[derive(Debug, Default)]
struct Seat {
    /// Endpoints that are open in the shard.
    endpoints: usize,
    in_flight: usize,
    /// Endpoints with something due, first come first served. May hold some that no longer have.
    ready: VecDeque<EndpointId>,
    in_ring: bool,
}

impl Turns {
    pub(super) fn new(per_merchant_max: usize) -> Turns {
        Turns { per_merchant_max, merchants: BTreeMap::new(), ring: VecDeque::new() }
    }

    /// One more endpoint of `merchant` is open.
    pub(super) fn enter(&mut self, merchant: &MerchantId) {
        self.merchants.entry(merchant.clone()).or_default().endpoints += 1;
    }

    /// One endpoint of `merchant` is forgotten.
    pub(super) fn leave(&mut self, merchant: &MerchantId) {
        let seat = self.seat(merchant);
        seat.endpoints = seat.endpoints.checked_sub(1).expect("an endpoint that leaves had entered");
        if seat.endpoints == 0 && !seat.in_ring {
            assert!(seat.in_flight == 0, "an endpoint with an attempt in flight is not forgotten");
            self.merchants.remove(merchant);
        }
    }

    /// `endpoint` has something due and waits for its turn.
    pub(super) fn ready(&mut self, merchant: &MerchantId, endpoint: EndpointId) {
        self.seat(merchant).ready.push_back(endpoint);
        self.sit_down(merchant);
    }

    /// The endpoint whose turn it is. The merchant stays first until `start`.
    pub(super) fn next(&mut self) -> Option<(MerchantId, EndpointId)> {
        while let Some(merchant) = self.ring.front().cloned() {
            let seat = self.seat(&merchant);
            if let Some(endpoint) = seat.ready.pop_front() {
                return Some((merchant, endpoint));
            }
            seat.in_ring = false;
            if seat.endpoints == 0 {
                self.merchants.remove(&merchant);
            }
            self.ring.pop_front();
        }
        None
    }

    /// The merchant whose turn it is has used it.
    pub(super) fn start(&mut self, merchant: &MerchantId) {
        let first = self.ring.pop_front();
        assert!(first.as_ref() == Some(merchant), "an attempt is started in its merchant's turn");
        let per_merchant_max = self.per_merchant_max;
        let seat = self.seat(merchant);
        seat.in_ring = false;
        seat.in_flight += 1;
        assert!(seat.in_flight <= per_merchant_max, "a merchant at its limit is not in the ring");
        self.sit_down(merchant);
    }

    /// An attempt of `merchant` has ended.
    pub(super) fn finish(&mut self, merchant: &MerchantId) {
        let seat = self.seat(merchant);
        seat.in_flight = seat.in_flight.checked_sub(1).expect("an attempt that ends had begun");
        self.sit_down(merchant);
    }

    /// Puts the merchant last in the ring, where it has something to do there.
    fn sit_down(&mut self, merchant: &MerchantId) {
        let per_merchant_max = self.per_merchant_max;
        let seat = self.seat(merchant);
        if !seat.in_ring && !seat.ready.is_empty() && seat.in_flight < per_merchant_max {
            seat.in_ring = true;
            self.ring.push_back(merchant.clone());
        }
    }

    fn seat(&mut self, merchant: &MerchantId) -> &mut Seat {
        self.merchants.get_mut(merchant).expect("a merchant is known while one of its endpoints is open")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merchant(name: &str) -> MerchantId {
        name.parse().unwrap()
    }

    /// Serves `rounds` turns; every endpoint stays ready until its count is used up.
    fn serve(turns: &mut Turns, work: &mut BTreeMap<u64, (MerchantId, u32)>, rounds: usize) -> Vec<u64> {
        let mut served = Vec::new();
        for _ in 0..rounds {
            let Some((merchant, endpoint)) = turns.next() else { break };
            turns.start(&merchant);
            turns.finish(&merchant);
            served.push(endpoint.0);
            let (_, left) = work.get_mut(&endpoint.0).unwrap();
            *left -= 1;
            if *left > 0 {
                turns.ready(&merchant, endpoint);
            }
        }
        served
    }

    fn set_up(work: &[(u64, &str, u32)]) -> (Turns, BTreeMap<u64, (MerchantId, u32)>) {
        let mut turns = Turns::new(4);
        for (endpoint, name, _) in work {
            turns.enter(&merchant(name));
            turns.ready(&merchant(name), EndpointId(*endpoint));
        }
        (turns, work.iter().map(|(e, name, n)| (*e, (merchant(name), *n))).collect())
    }

    #[test]
    fn merchants_take_turns_whatever_their_backlogs() {
        let check = |work: &[(u64, &str, u32)], expect: &[u64]| {
            let (mut turns, mut work) = set_up(work);
            assert_eq!(serve(&mut turns, &mut work, expect.len() + 5), expect);
        };
        check(&[(1, "a", 4), (2, "b", 1), (3, "c", 2)], &[1, 2, 3, 1, 3, 1, 1]);
        check(&[(1, "a", 2), (11, "a", 2), (2, "b", 4)], &[1, 2, 11, 2, 1, 2, 11, 2]);
        check(&[(1, "a", 1)], &[1]);
        check(&[], &[]);
    }

    #[test]
    fn a_merchant_at_its_limit_leaves_the_ring_until_a_permit_frees() {
        let mut turns = Turns::new(1);
        for (name, endpoint) in [("a", 1), ("a", 11), ("b", 2)] {
            turns.enter(&merchant(name));
            turns.ready(&merchant(name), EndpointId(endpoint));
        }
        assert_eq!(turns.next(), Some((merchant("a"), EndpointId(1))));
        turns.start(&merchant("a"));
        assert_eq!(turns.next(), Some((merchant("b"), EndpointId(2))));
        turns.start(&merchant("b"));
        assert_eq!(turns.next(), None);
        turns.finish(&merchant("b"));
        assert_eq!(turns.next(), None);
        turns.finish(&merchant("a"));
        assert_eq!(turns.next(), Some((merchant("a"), EndpointId(11))));
    }

    #[test]
    fn a_turn_that_is_not_used_is_not_lost() {
        let (mut turns, _) = set_up(&[(1, "a", 1), (11, "a", 1), (2, "b", 1)]);
        assert_eq!(turns.next(), Some((merchant("a"), EndpointId(1))), "found to have nothing due after all");
        assert_eq!(turns.next(), Some((merchant("a"), EndpointId(11))));
    }

    #[test]
    fn a_merchant_without_endpoints_is_forgotten() {
        let (mut turns, _) = set_up(&[(1, "a", 1), (2, "b", 1)]);
        turns.leave(&merchant("a"));
        turns.leave(&merchant("b"));
        while turns.next().is_some() {}
        assert!(turns.merchants.is_empty());
        assert!(turns.ring.is_empty());
    }
}
