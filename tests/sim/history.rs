//! Everything that went into the shard and came out of it, as one number, and the end of it as text.
//!
//! Never keeps the whole: a failing seed is run again.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

use posthaste::model::{EndpointId, EventId, Outcome, Timestamp};

/// Steps that are shown of a run that failed.
const SHOWN_MAX: usize = 60;

/// One call of the shard, with what matters of its arguments or answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Begin { life: u32 },
    Crash,
    Mended,
    Jump { ms: i64 },
    Open { endpoint: EndpointId, gate: u8, backlog: bool },
    Accept { endpoint: EndpointId, event: EventId, due: Timestamp },
    Confirm { endpoint: EndpointId, event: EventId, due: Timestamp, status: u8 },
    Attempt { endpoint: EndpointId, event: EventId, due: Timestamp, number: u32 },
    Cancel { endpoint: EndpointId, event: EventId },
    Expire { endpoint: EndpointId, event: EventId },
    Move { endpoint: EndpointId, event: EventId, due: Timestamp },
    Refill { endpoint: EndpointId, from: (Timestamp, EventId), limit: usize },
    Page { endpoint: EndpointId, len: usize, more: bool },
    PageFailed { endpoint: EndpointId },
    Settle { endpoint: EndpointId, event: EventId, error: u8, status: u16, then: u8, at: Timestamp },
    GiveBack { endpoint: EndpointId, event: EventId },
    Recall { endpoint: EndpointId, event: EventId, found: &'static str },
    Rest { wake: Option<Timestamp>, in_flight: usize, settling: usize, windowed: usize, payload_bytes: usize },
}

/// The history of one run.
#[derive(Debug)]
pub(crate) struct History {
    hash: Fnv,
    len: u64,
    last: VecDeque<(Timestamp, Step)>,
}

impl History {
    pub(crate) fn new() -> History {
        History { hash: Fnv(0xcbf2_9ce4_8422_2325), len: 0, last: VecDeque::new() }
    }

    pub(crate) fn note(&mut self, now: Timestamp, step: Step) {
        (now, step).hash(&mut self.hash);
        self.len += 1;
        if self.last.back().is_some_and(|(_, last)| *last == step) {
            return;
        }
        if self.last.len() == SHOWN_MAX {
            self.last.pop_front();
        }
        self.last.push_back((now, step));
    }

    /// The hash of every step, and their number.
    pub(crate) fn sum(&self) -> (u64, u64) {
        (self.hash.finish(), self.len)
    }

    /// The end of it, one step a line.
    pub(crate) fn tail(&self) -> String {
        self.last.iter().map(|(now, step)| format!("  {} {step:?}\n", now.as_ms())).collect()
    }
}

/// An outcome's error and status as numbers.
pub(crate) fn coded(outcome: &Outcome) -> (u8, u16) {
    (outcome.error().map_or(u8::MAX, |error| error.code()), outcome.status().unwrap_or(0))
}

/// FNV-1a: the same in every process.
#[derive(Debug)]
struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}
