//! What a shard may use, and the rules by which it treats endpoints.
//!
//! Never reads a configuration.

use std::num::NonZeroU32;

use crate::policy::retry::Schedule;
use crate::policy::{breaker, failing, pacing};

/// How much a shard does at once and keeps in memory. A limit of 0 counts as 1, save for the payloads'.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Attempts in flight in all.
    pub in_flight_max: usize,
    /// Attempts in flight for one merchant.
    pub in_flight_per_merchant_max: usize,
    /// Attempts in flight for one endpoint.
    pub in_flight_per_endpoint_max: usize,
    /// Whether an endpoint earns its attempts at a time one by one, or has them from the beginning.
    pub adaptive: bool,
    /// Deliveries that settle at once; past it nothing leaves until the store catches up. It is also how
    /// many attempts a crash can repeat, beside those in flight.
    pub settling_max: usize,
    /// Waiting deliveries of one endpoint in memory.
    pub window_per_endpoint_max: usize,
    /// Waiting deliveries in memory in all. Each endpoint may have one beyond it.
    pub window_max: usize,
    /// Bytes of payload kept in memory with waiting deliveries; the others' are read from disk.
    pub payload_bytes_max: usize,
    /// Pages outstanding.
    pub refills_max: usize,
    /// Deliveries of one page.
    pub page_max: usize,
    /// Deliveries of one ordered endpoint that are out of their order on disk and hence remembered in
    /// memory. Past it first attempts are made there one at a time, and only while none of these can leave.
    pub parked_per_endpoint_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            in_flight_max: 2048,
            in_flight_per_merchant_max: 32,
            in_flight_per_endpoint_max: 8,
            adaptive: true,
            settling_max: 16_384,
            window_per_endpoint_max: 256,
            window_max: 100_000,
            payload_bytes_max: 64 << 20,
            refills_max: 4,
            page_max: 128,
            parked_per_endpoint_max: 10_000,
        }
    }
}

impl Limits {
    pub(super) fn at_least_one(self) -> Limits {
        Limits {
            in_flight_max: self.in_flight_max.max(1),
            in_flight_per_merchant_max: self.in_flight_per_merchant_max.max(1),
            in_flight_per_endpoint_max: self.in_flight_per_endpoint_max.max(1),
            adaptive: self.adaptive,
            settling_max: self.settling_max.max(1),
            window_per_endpoint_max: self.window_per_endpoint_max.max(1),
            window_max: self.window_max.max(1),
            payload_bytes_max: self.payload_bytes_max,
            refills_max: self.refills_max.max(1),
            page_max: self.page_max.max(1),
            parked_per_endpoint_max: self.parked_per_endpoint_max.max(1),
        }
    }
}

/// How endpoints are treated, the same for all of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// When what failed is tried again.
    pub schedule: Schedule,
    /// When an endpoint is left alone.
    pub breaker: breaker::Limits,
    /// When an endpoint that only fails is switched off.
    pub failing: failing::Limits,
    /// Answers later than this earn an endpoint no more attempts at a time.
    pub slow_ms: u64,
    /// The most attempts a second to one endpoint, whatever its merchant asks for.
    pub rate_max: Option<NonZeroU32>,
    /// How long an endpoint is left alone after a fault of our own; doubled with each further one.
    pub fault_wait_ms: u64,
    /// The longest wait after a fault of our own.
    pub fault_wait_ms_max: u64,
    /// A delivery that has been due for so long without leaving has failed; 0: never.
    pub overdue_ms_max: u64,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            schedule: Schedule::default(),
            breaker: breaker::Limits::default(),
            failing: failing::Limits::default(),
            slow_ms: pacing::SLOW_MS,
            rate_max: None,
            fault_wait_ms: 1_000,
            fault_wait_ms_max: 30_000,
            overdue_ms_max: 30 * 86_400_000,
        }
    }
}
