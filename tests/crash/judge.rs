//! The oracle: what was acknowledged must be delivered, waiting or finally failed; and nothing else may be.
//!
//! Never believes a count that it did not take itself.

use std::collections::{HashMap, HashSet};

use crate::access::Item;
use crate::appliance::Addresses;
use crate::ledger::{Evidence, digest};
use crate::report::Report;
use crate::scene::{ATTEMPTS_MAX, Fate, Merchant, Scene};

/// More faults than this say nothing more.
const FAULTS_SHOWN_MAX: usize = 20;

/// Events of each merchant whose stored payload is looked at.
const PAYLOADS_READ_MAX: usize = 25;

/// The status of what is not in the history any more.
const DROPPED: &str = "dropped";

/// What the comparison found.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) submitted: u64,
    pub(crate) acked: u64,
    pub(crate) delivered: u64,
    pub(crate) waiting: u64,
    pub(crate) failed: u64,
    /// Canceled or skipped because of what the merchant did.
    pub(crate) withdrawn: u64,
    /// Past its time and not in the history any more; nothing was owed of it.
    pub(crate) dropped: u64,
    /// Acknowledged, and not in the history.
    pub(crate) lost: u64,
    /// Said to be delivered, and no receiver has taken it.
    pub(crate) false_deliveries: u64,
    /// Taken by a receiver more often than once.
    pub(crate) duplicates: u64,
    pub(crate) faults: Vec<String>,
    /// What the appliance could not read, and said so.
    pub(crate) unreadable: Vec<String>,
}

pub(crate) fn is_waiting(status: &str) -> bool {
    matches!(status, "pending" | "retrying")
}

impl Verdict {
    pub(crate) fn note(&mut self, what: String) {
        if self.faults.len() < FAULTS_SHOWN_MAX {
            self.faults.push(what);
        }
    }

    pub(crate) fn add_to(&self, report: &mut Report) {
        for (name, figure) in [
            ("submitted", self.submitted),
            ("acked", self.acked),
            ("delivered", self.delivered),
            ("waiting", self.waiting),
            ("failed", self.failed),
            ("withdrawn", self.withdrawn),
            ("dropped", self.dropped),
            ("lost", self.lost),
            ("false_deliveries", self.false_deliveries),
            ("duplicates", self.duplicates),
        ] {
            report.add(name, figure);
        }
    }
}

/// Reads every history and compares it with the evidence. The appliance has to be at rest.
pub(crate) fn judge(scene: &Scene, at: &Addresses, evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict { submitted: evidence.submitted.len() as u64, ..Verdict::default() };
    for fault in &evidence.faults {
        verdict.note(fault.clone());
    }
    let mut stored: HashMap<String, Item> = HashMap::new();
    let mut by_resource: HashMap<String, String> = HashMap::new();
    let mut unread = HashSet::new();
    let is_known_whole = !scene.forgets || evidence.submitted.values().all(|event| !event.acks.is_empty());
    for (nth, merchant) in scene.merchants.iter().enumerate() {
        match scene.access.history(at, &merchant.key) {
            Ok(mut items) => {
                complete(&mut verdict, evidence, merchant, &mut items);
                if scene.forgets {
                    items.extend(dropped(evidence, nth, merchant, &items));
                    items.sort_unstable_by(|left, right| left.id.cmp(&right.id));
                }
                check_sequences(&mut verdict, merchant, &items, is_known_whole);
                for item in &items {
                    check_origin(&mut verdict, evidence, nth, item, &mut by_resource);
                }
                check_payloads(&mut verdict, scene, at, evidence, merchant, &items);
                stored.extend(items.into_iter().map(|item| (item.id.clone(), item)));
            }
            Err(fault) => {
                unread.insert(nth);
                verdict.unreadable.push(format!("{}: {fault}", merchant.name));
            }
        }
    }
    let mut evidence = evidence.clone();
    evidence.submitted.retain(|_, event| !unread.contains(&event.merchant));
    evidence.arrivals.retain(|arrival| !unread.contains(&arrival.merchant));
    let evidence = &evidence;
    check_acks(&mut verdict, evidence, &stored);
    check_arrivals(&mut verdict, evidence, &stored);
    check_states(&mut verdict, scene, evidence, &stored);
    if unread.is_empty() {
        check_counters(&mut verdict, scene, at);
    }
    check_owners(&mut verdict, scene, at, evidence);
    verdict
}

/// What was acknowledged, is not in the history and need not be: nothing was owed of it any more, as far as the
/// world can know.
fn dropped(evidence: &Evidence, nth: usize, merchant: &Merchant, items: &[Item]) -> Vec<Item> {
    let stored: HashSet<&str> = items.iter().map(|item| item.id.as_str()).collect();
    let mut arrivals: HashMap<&str, (u64, bool)> = HashMap::new();
    for arrival in &evidence.arrivals {
        let (count, is_taken) = arrivals.entry(arrival.id.as_str()).or_default();
        (*count, *is_taken) = (*count + 1, *is_taken | arrival.is_taken);
    }
    let acked = evidence.submitted.iter().filter(|(_, event)| event.merchant == nth);
    let acked = acked.filter_map(|(resource, event)| Some((resource, event.acks.first()?)));
    let gone = acked.filter(|(_, ack)| !stored.contains(ack.id.as_str()));
    gone.filter(|(_, ack)| {
        let (attempts, is_taken) = arrivals.get(ack.id.as_str()).copied().unwrap_or_default();
        is_taken || merchant.fate == Fate::Leaving || (merchant.manner.fails() && attempts >= ATTEMPTS_MAX)
    })
    .map(|(resource, ack)| Item {
        id: ack.id.clone(),
        sequence: ack.sequence,
        status: DROPPED.to_owned(),
        resource: resource.clone(),
        attempts: 0,
        damaged: false,
    })
    .collect()
}

/// Of what says itself that it is damaged, puts in what the world knows of it where it has nothing to say.
fn complete(verdict: &mut Verdict, evidence: &Evidence, merchant: &Merchant, items: &mut [Item]) {
    let mut due = 1;
    for item in items {
        if item.damaged {
            verdict.unreadable.push(format!("{}: {} is damaged", merchant.name, item.id));
            let known = evidence.submitted.iter().find(|(_, event)| event.acks.iter().any(|ack| ack.id == item.id));
            let ack = known.map(|(resource, event)| (resource.as_str(), event.acks[0].sequence));
            let (resource, sequence) = ack.unwrap_or(("", due));
            if item.sequence == 0 {
                item.sequence = sequence;
            }
            if item.resource.is_empty() {
                resource.clone_into(&mut item.resource);
            }
        }
        due = item.sequence + 1;
    }
}

/// Without a gap, from one, in the order of the ids. Where events were dropped of which the world does not know,
/// there may be gaps.
fn check_sequences(verdict: &mut Verdict, merchant: &Merchant, items: &[Item], is_known_whole: bool) {
    let mut due = 1;
    for item in items {
        let (id, found) = (&item.id, item.sequence);
        if found != due && (is_known_whole || found < due) {
            verdict.note(format!("{}: {id} has sequence {found} where {due} is due", merchant.name));
            return;
        }
        due = found + 1;
    }
    if let Some(pair) = items.windows(2).find(|pair| pair[0].id >= pair[1].id) {
        verdict.note(format!("{}: {} does not come before {}", merchant.name, pair[0].id, pair[1].id));
    }
}

/// Everything stored was handed in, for this merchant, and is stored once.
fn check_origin(
    verdict: &mut Verdict,
    evidence: &Evidence,
    merchant: usize,
    item: &Item,
    by_resource: &mut HashMap<String, String>,
) {
    match evidence.submitted.get(&item.resource) {
        // Nobody knows which one it was.
        None if item.damaged => return,
        None => verdict.note(format!("{} of {:?} was never handed in", item.id, item.resource)),
        Some(event) if event.merchant != merchant => {
            verdict.note(format!("{} of {} is in another merchant's history", item.id, item.resource));
        }
        Some(_) => {}
    }
    if let Some(first) = by_resource.insert(item.resource.clone(), item.id.clone()) {
        verdict.note(format!("{} was handed in under one key and is both {first} and {}", item.resource, item.id));
    }
}

/// What is stored is what was handed in, and is found by its resource.
fn check_payloads(
    verdict: &mut Verdict,
    scene: &Scene,
    at: &Addresses,
    evidence: &Evidence,
    merchant: &Merchant,
    items: &[Item],
) {
    let step = items.len().div_ceil(PAYLOADS_READ_MAX).max(1);
    for item in items.iter().rev().step_by(step).filter(|item| item.status != DROPPED) {
        match scene.access.payload(at, &merchant.key, &item.id) {
            Ok(payload) => {
                let expected = evidence.submitted.get(&item.resource).map(|event| event.digest);
                if expected.is_some_and(|expected| expected != digest(payload.as_bytes())) {
                    verdict.note(format!("{}: the stored payload of {} is another", item.id, item.resource));
                }
            }
            Err(fault) => verdict.unreadable.push(fault),
        }
    }
    for item in items.iter().step_by(step).filter(|item| item.status != DROPPED && !item.damaged) {
        match scene.access.of_resource(at, &merchant.key, &item.resource) {
            Ok(found) if found == [item.id.as_str()] => {}
            Ok(found) => verdict.note(format!("{}: of {} the history finds {found:?}", item.id, item.resource)),
            Err(fault) => verdict.unreadable.push(fault),
        }
    }
}

/// Everything acknowledged is stored, as what it was acknowledged.
fn check_acks(verdict: &mut Verdict, evidence: &Evidence, stored: &HashMap<String, Item>) {
    for (resource, event) in &evidence.submitted {
        let Some(first) = event.acks.first() else { continue };
        verdict.acked += 1;
        if let Some(other) = event.acks.iter().find(|ack| (&ack.id, ack.sequence) != (&first.id, first.sequence)) {
            verdict.note(format!("{resource} was acknowledged as {} and as {}", first.id, other.id));
        }
        match stored.get(&first.id) {
            None => {
                verdict.lost += 1;
                verdict.note(format!("LOST: {resource}, acknowledged as {}", first.id));
            }
            Some(item) if item.sequence != first.sequence || item.resource != *resource => {
                verdict.note(format!("{resource} was acknowledged as {} {} and is {item:?}", first.id, first.sequence));
            }
            Some(_) => {}
        }
    }
}

/// Everything that arrived is stored, and arrived as it was handed in.
fn check_arrivals(verdict: &mut Verdict, evidence: &Evidence, stored: &HashMap<String, Item>) {
    let mut taken = HashSet::new();
    for arrival in &evidence.arrivals {
        let Some(item) = stored.get(&arrival.id) else {
            verdict.note(format!("{} was delivered and is not in the history", arrival.id));
            continue;
        };
        let event = evidence.submitted.get(&item.resource);
        if event.is_some_and(|event| event.digest != arrival.digest || event.merchant != arrival.merchant) {
            verdict.note(format!("{} was delivered with other bytes or to another merchant", arrival.id));
        }
        if arrival.sequence != item.sequence {
            verdict.note(format!("{} was delivered with sequence {}", arrival.id, arrival.sequence));
        }
        if arrival.is_taken && !taken.insert(&arrival.id) {
            verdict.duplicates += 1;
        }
    }
}

/// Every state is one that the merchant's manner can lead to, and true.
fn check_states(verdict: &mut Verdict, scene: &Scene, evidence: &Evidence, stored: &HashMap<String, Item>) {
    let taken: HashSet<&str> =
        evidence.arrivals.iter().filter(|arrival| arrival.is_taken).map(|arrival| arrival.id.as_str()).collect();
    for item in stored.values() {
        let Some(merchant) = evidence.submitted.get(&item.resource).map(|event| &scene.merchants[event.merchant])
        else {
            continue;
        };
        match item.status.as_str() {
            "delivered" | "failed" if item.attempts == 0 && !item.damaged => {
                verdict.note(format!("{} is {} without an attempt", item.id, item.status));
            }
            "delivered" if taken.contains(item.id.as_str()) => verdict.delivered += 1,
            "delivered" => {
                verdict.false_deliveries += 1;
                verdict.note(format!("FALSE: {} is said to be delivered to {}", item.id, merchant.name));
            }
            "failed" if merchant.manner.fails() => verdict.failed += 1,
            "canceled" | "skipped" if merchant.fate == Fate::Leaving => verdict.withdrawn += 1,
            status if is_waiting(status) => verdict.waiting += 1,
            DROPPED => verdict.dropped += 1,
            status => verdict.note(format!("{} of {} is {status}", item.id, merchant.name)),
        }
    }
}

/// What the appliance counts is what its histories hold.
fn check_counters(verdict: &mut Verdict, scene: &Scene, at: &Addresses) {
    match scene.access.waiting(at) {
        Ok(counted) if counted == verdict.waiting => {}
        Ok(counted) => {
            let scanned = verdict.waiting;
            verdict.note(format!("{counted} deliveries are counted as waiting, {scanned} are found in the histories"));
        }
        Err(fault) => verdict.note(fault),
    }
}

fn check_owners(verdict: &mut Verdict, scene: &Scene, at: &Addresses, evidence: &Evidence) {
    for (card, (merchant, _)) in &evidence.owners {
        let expected = scene.merchants[*merchant].name.as_str();
        let known = scene.access.owner(at, &scene.producer_key, card);
        let is_known = known.as_ref().is_ok_and(|a| a.status == 200 && a.json()["merchant_id"] == expected);
        if !is_known {
            verdict.lost += 1;
            verdict.note(format!("LOST: the owner of {card}, {known:?} instead of {expected}"));
        }
    }
}
