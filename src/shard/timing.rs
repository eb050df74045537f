//! When to look at an endpoint again, and how much of its outbox to keep in memory.
//!
//! Never changes anything: each question is answered from the queue and the limits.

use std::collections::BTreeSet;

use crate::model::{EndpointId, Timestamp};

use super::queue::Queue;
use super::{Gate, Limits, Policy};

/// When the endpoint's next delivery may leave; `None` where it waits for something else than time.
pub(super) fn attempt_at(queue: &Queue, limits: &Limits) -> Option<Timestamp> {
    let free = queue.flow.admits(queue.weight().in_flight, limits);
    let due = queue.next_due(limits.parked_per_endpoint_max);
    due.filter(|_| queue.gate.leaves() && free && !queue.places.ready)
}

/// When the endpoint's next page is needed; `None` where the window is not low, or nothing is on disk.
/// A closed endpoint needs it at once.
pub(super) fn page_at(queue: &Queue, limits: &Limits, windowed: usize) -> Option<Timestamp> {
    let low = limits.page_max.min(limits.window_per_endpoint_max).div_ceil(4);
    let wanted =
        !is_shut(queue) && !queue.places.wanted && queue.window_len() < low && page_room(queue, limits, windowed) > 0;
    queue.page_due().filter(|_| wanted)
}

/// When something may be overdue: in memory, or, at a held endpoint, on disk. A closed one has no such time.
pub(super) fn expiry_at(queue: &Queue, limits: &Limits, policy: &Policy) -> Option<Timestamp> {
    let on_disk = queue.page_due().filter(|_| queue.gate == Gate::Held && !queue.expiring);
    let due = queue.first_due().into_iter().chain(on_disk).min();
    let wanted = policy.overdue_ms_max > 0
        && queue.gate != Gate::Closed
        && !queue.places.ending
        && has_room_to_end(queue, limits);
    due.filter(|_| wanted).map(|due| due.plus_ms(policy.overdue_ms_max))
}

/// Whether an endpoint gets no pages: held, and nothing that may be overdue is left to be read.
pub(super) fn is_shut(queue: &Queue) -> bool {
    queue.gate == Gate::Held && !(queue.expiring && queue.window_len() == 0)
}

/// How many deliveries a page may bring: what the window has room for.
pub(super) fn page_room(queue: &Queue, limits: &Limits, windowed: usize) -> usize {
    window_room(queue, limits, windowed).saturating_sub(queue.weight().windowed).min(limits.page_max)
}

/// How long the window may be: at least one delivery, so that no endpoint starves for another's window;
/// but none for a held endpoint, which may be held for months.
pub(super) fn window_room(queue: &Queue, limits: &Limits, windowed: usize) -> usize {
    if queue.gate == Gate::Held && !queue.expiring {
        return 0;
    }
    let others = windowed - queue.places.counted.windowed;
    limits.window_max.saturating_sub(others).clamp(1, limits.window_per_endpoint_max)
}

/// Whether a closed endpoint has something to cancel now.
pub(super) fn wants_cancel(queue: &Queue, limits: &Limits) -> bool {
    queue.gate == Gate::Closed && queue.weight().windowed > 0 && has_room_to_end(queue, limits)
}

/// What ends without an attempt is paced: a million deliveries are not handed to the store at once.
pub(super) fn has_room_to_end(queue: &Queue, limits: &Limits) -> bool {
    queue.weight().settling < limits.in_flight_per_merchant_max.saturating_mul(4)
}

/// Moves an endpoint's one entry in an ordered set.
pub(super) fn move_entry(
    set: &mut BTreeSet<(Timestamp, EndpointId)>,
    endpoint: EndpointId,
    entry: &mut Option<Timestamp>,
    to: Option<Timestamp>,
) {
    if *entry == to {
        return;
    }
    if let Some(at) = entry.take() {
        set.remove(&(at, endpoint));
    }
    if let Some(at) = to {
        set.insert((at, endpoint));
    }
    *entry = to;
}
