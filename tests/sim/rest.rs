//! What must hold whenever the shard has said that there is nothing more to do now.
//!
//! Never looks into the shard.

use posthaste::model::{Ordering, Timestamp};
use posthaste::shard::{Figures, Gate};

use crate::care::terms;
use crate::oracle::{Line, Oracle};
use crate::outbox::Outbox;

/// What the shard says of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rest {
    pub(crate) now: Timestamp,
    pub(crate) wake: Option<Timestamp>,
    pub(crate) oldest_due: Option<Timestamp>,
    pub(crate) figures: Figures,
}

impl Oracle {
    /// The shard rests: rightly, and within its limits.
    pub(crate) fn rests(&mut self, outbox: &Outbox, rest: Rest) {
        self.figures_agree(outbox, rest.figures);
        self.nobody_waits_in_vain(outbox, rest.now);
        self.will_wake(rest);
        self.lose_places(rest.now);
        if let Some(due) = rest.oldest_due {
            let open = self.lines.iter().filter(|(_, line)| line.gate.leaves());
            let waits = open.flat_map(|(id, _)| outbox.waiting_of(*id)).any(|key| key.0 == due);
            assert!(waits, "figures: nothing that waits is due at {due:?}");
        }
    }

    /// Whether all is done that can be done while some endpoints are held.
    pub(crate) fn is_drained(&self, outbox: &Outbox) -> bool {
        let idle = outbox.is_written() && outbox.is_told() && self.settling == 0 && self.refills == 0;
        let held = |endpoint| self.lines.get(&endpoint).is_some_and(|line: &Line| line.gate == Gate::Held);
        idle && self.in_flight == 0
            && outbox.waiting().all(|(endpoint, (_, event))| held(endpoint) || self.is_spared(outbox, endpoint, event))
    }

    fn figures_agree(&self, outbox: &Outbox, figures: Figures) {
        let said = (figures.in_flight, figures.settling, figures.refills);
        let counted = (self.in_flight, self.settling, self.refills);
        assert!(said == counted, "figures: in flight, settling and pages are {counted:?}, not {said:?}");
        let limits = &self.limits;
        // A held endpoint may have a window while something of it is overdue.
        let windows_max = self.lines.values().filter(|line| line.gate != Gate::Held || self.care.on).count();
        let windowed_max =
            (limits.window_max + windows_max).min(windows_max.saturating_mul(limits.window_per_endpoint_max));
        assert!(figures.windowed <= windowed_max, "limits: {} wait in memory, not {windowed_max}", figures.windowed);
        let waiting = outbox.waiting().count();
        assert!(figures.windowed <= waiting, "figures: {} wait in memory, {waiting} in all", figures.windowed);
        let bytes = figures.payload_bytes;
        assert!(bytes <= limits.payload_bytes_max, "limits: {bytes} bytes of payload in memory");
        let (closed, living): (Vec<_>, Vec<_>) = self.lines.iter().partition(|(_, line)| line.gate == Gate::Closed);
        let owing = closed
            .iter()
            .filter(|(id, line)| !self.can_be_seen(line) || !line.busy.is_empty() || outbox.owes(**id))
            .count();
        let known = living.len()..=living.len() + owing;
        assert!(known.contains(&figures.endpoints), "figures: {} endpoints, not {known:?}", figures.endpoints);
    }

    /// Nothing waits that is due, may leave and has its permits; nothing waits to be canceled without need.
    fn nobody_waits_in_vain(&self, outbox: &Outbox, now: Timestamp) {
        let limits = &self.limits;
        let settles = self.settling < limits.settling_max;
        for (endpoint, line) in &self.lines {
            let may_leave =
                settles && self.in_flight < limits.in_flight_max && self.merchant_has_permits(&line.merchant);
            let idle = may_leave && self.can_leave(line, now);
            assert!(!idle, "nothing lost: {endpoint} could deliver {:?} and does not", line.waiting.first());
            let paced = line.settling() >= self.cancels_max();
            // An ordered endpoint is looked at as a whole first, once nothing of it is under way.
            let looked_at = terms(*endpoint, self.care.on).ordering == Ordering::Free || line.busy.is_empty();
            let seen = looked_at && settles && !paced && self.can_be_seen(line) && line.gate != Gate::Closed;
            let first = line.waiting.iter().find(|(_, event)| !self.is_spared(outbox, *endpoint, *event));
            let overdue = seen && first.is_some_and(|(due, _)| self.care.is_overdue(*due, now));
            assert!(!overdue, "overdue: {endpoint} keeps {first:?}");
            let left = line.gate == Gate::Closed && settles && !paced && self.can_be_seen(line);
            assert!(!left || line.waiting.is_empty(), "nothing lost: {endpoint} could cancel and does not");
        }
    }

    /// The shard wants to be woken in time, and not for nothing.
    fn will_wake(&self, rest: Rest) {
        let spins = rest.wake.is_some_and(|wake| wake <= rest.now);
        assert!(!spins, "wakes: it wants to be woken at {:?}, which was", rest.wake);
        let blocked = self.settling >= self.limits.settling_max || self.in_flight >= self.limits.in_flight_max;
        for (endpoint, line) in self.lines.iter().filter(|_| !blocked) {
            let free =
                line.in_flight < self.limits.in_flight_per_endpoint_max && self.merchant_has_permits(&line.merchant);
            let waits = !self.care.on && line.gate == Gate::Open && free && self.can_be_seen(line);
            let Some((due, _)) = line.waiting.first().filter(|_| waits) else { continue };
            let late = rest.wake.is_none_or(|wake| wake > *due);
            assert!(!late, "wakes: {endpoint} has something due at {due:?}, wake is {:?}", rest.wake);
        }
    }
}
