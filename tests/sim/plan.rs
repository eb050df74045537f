//! What a seed decides before anything happens: limits, schedule, merchants, and how much goes wrong.
//!
//! Never decides what happens when: the world does, by the same dice.

use posthaste::model::{EndpointId, MerchantId};
use posthaste::policy::retry::Schedule;
use posthaste::policy::{breaker, failing};
use posthaste::shard::{Limits, Policy};

use crate::dice::Dice;

/// How one seed's world is made.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) limits: Limits,
    pub(crate) policy: Policy,
    /// Whether the policy holds anything back.
    pub(crate) care: bool,
    /// The endpoints of the beginning, with their owners.
    pub(crate) endpoints: Vec<(EndpointId, MerchantId)>,
    /// How many merchants there are.
    pub(crate) merchants: usize,
    /// For how long things go wrong and events come.
    pub(crate) faults_ms: u64,
    /// Events that come.
    pub(crate) events_max: u64,
    /// One endpoint gets most of them.
    pub(crate) lopsided: bool,
    pub(crate) every: Every,
    pub(crate) slowest: Slowest,
}

/// The mean time between two of a kind; `None`: never.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Every {
    pub(crate) event_ms: u64,
    pub(crate) gate_ms: Option<u64>,
    pub(crate) resend_ms: Option<u64>,
    pub(crate) jump_ms: Option<u64>,
    pub(crate) crash_ms: Option<u64>,
}

/// The longest time that the parts round the shard take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slowest {
    pub(crate) commit_ms: u64,
    pub(crate) notice_ms: u64,
    pub(crate) control_ms: u64,
    pub(crate) page_ms: u64,
    /// Of so many pages one cannot be read.
    pub(crate) page_fails_in: u64,
}

impl Plan {
    pub(crate) fn of(dice: &mut Dice) -> Plan {
        let merchants = dice.count(2, 5);
        let mut endpoints: Vec<(EndpointId, MerchantId)> =
            (0..merchants).map(|n| (EndpointId(n as u64 + 1), format!("m{n}").parse().expect("a legal id"))).collect();
        // One merchant has two.
        let twice = dice.count(0, merchants - 1);
        endpoints.push((EndpointId(merchants as u64 + 1), endpoints[twice].1.clone()));
        let events_max = dice.between(10, 100);
        let faults_ms = dice.pick(&[20_000, 60_000, 240_000]);
        let sometimes = |dice: &mut Dice, ms: u64| (!dice.one_in(3)).then_some(ms);
        let care = dice.one_in(2);
        Plan {
            limits: Limits { adaptive: care, ..limits(dice) },
            policy: policy(dice, care),
            care,
            endpoints,
            merchants,
            faults_ms,
            events_max,
            lopsided: dice.one_in(3),
            every: Every {
                event_ms: faults_ms / (events_max * dice.between(1, 8)),
                gate_ms: sometimes(dice, faults_ms / 40),
                resend_ms: sometimes(dice, faults_ms / 40),
                jump_ms: sometimes(dice, faults_ms / 5),
                crash_ms: sometimes(dice, faults_ms / 4),
            },
            slowest: Slowest {
                commit_ms: dice.pick(&[0, 5, 60, 1_500]),
                notice_ms: dice.pick(&[0, 5, 60, 1_500]),
                control_ms: dice.pick(&[0, 5, 800]),
                page_ms: dice.pick(&[0, 50, 1_000, 5_000]),
                page_fails_in: dice.pick(&[3, 10, 1_000_000]),
            },
        }
    }
}

/// Mostly so tiny that everything overflows; sometimes so ample that nothing is ever read back.
fn limits(dice: &mut Dice) -> Limits {
    let ample = dice.one_in(5);
    let most = if dice.one_in(2) { 6 } else { 24 };
    Limits {
        in_flight_max: dice.count(1, 10),
        in_flight_per_merchant_max: dice.count(1, 5),
        in_flight_per_endpoint_max: dice.count(1, 3),
        settling_max: dice.count(1, 24),
        window_per_endpoint_max: if ample { 1_000 } else { dice.count(1, most) },
        window_max: if ample { 1_000 } else { dice.count(1, 3 * most) },
        payload_bytes_max: dice.count(0, 1_500),
        refills_max: dice.count(1, 3),
        page_max: if ample { 1_000 } else { dice.count(1, most) },
        parked_per_endpoint_max: dice.pick(&[1, 3, 1_000]),
        adaptive: true,
    }
}

fn policy(dice: &mut Dice, care: bool) -> Policy {
    let schedule = schedule(dice);
    let breaker = breaker::Limits {
        failures_to_open: if care { dice.between(1, 4) as u32 } else { 0 },
        successes_to_close: dice.between(1, 3) as u32,
        wait_ms: dice.pick(&[50, 2_000]),
        wait_ms_max: dice.pick(&[2_000, 8_000]),
    };
    let disable_after_ms = dice.pick(&[0, 0, 15_000]);
    Policy {
        schedule,
        breaker,
        failing: failing::Limits {
            shown_after_ms: 5_000,
            disable_after_ms: if care { disable_after_ms } else { 0 },
            spread_ms: 3_000,
        },
        fault_wait_ms: 500,
        fault_wait_ms_max: 4_000,
        overdue_ms_max: if care { dice.pick(&[0, 30_000, 120_000]) } else { 0 },
        ..Policy::default()
    }
}

fn schedule(dice: &mut Dice) -> Schedule {
    match dice.below(6) {
        0 => Schedule::default(),
        1 => Schedule { delays_ms: Vec::new(), ..Schedule::default() },
        2 => Schedule { delays_ms: vec![0; dice.count(1, 3)], jitter: 0.0, retry_after_ms_max: 0 },
        _ => Schedule {
            delays_ms: (0..dice.below(5)).map(|n| dice.between(1, 800) << (2 * n)).collect(),
            jitter: dice.pick(&[0.0, 0.2, 1.0]),
            retry_after_ms_max: dice.pick(&[500, 30_000, 86_400_000]),
        },
    }
}
