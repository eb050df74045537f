//! Everything at once: producers hand in, merchants change their minds, receivers have moods, the appliance restarts.
//! Afterwards, when all is well again, every event has come to one of its ends.
//!
//! Never the same twice: `POSTHASTE_TEST_SEED` repeats the dice of a run, `POSTHASTE_TEST_TURMOIL_S` makes it longer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::harness::{Appliance, Client, Merchant, Receiver, Reply, eventually};

const CONFIG: &str = "/api/v2/webhooks/config";
const MERCHANTS: usize = 6;
const ROUNDS: usize = 5;
const ROUND_S: u64 = 2;

/// Short times, small windows, few attempts at once: much happens in seconds.
const SETTINGS: [(&str, &str); 7] = [
    ("DELIVERY__TIMEOUT", "300ms"),
    ("DELIVERY__RETRY_SCHEDULE", "100ms,100ms,200ms,100ms,100ms,300ms,100ms,100ms"),
    ("DELIVERY__WINDOW_MAX", "8"),
    ("DELIVERY__IN_FLIGHT_PER_ENDPOINT_MAX", "3"),
    ("DELIVERY__SHARDS", "2"),
    ("STORAGE__SEGMENT_BYTES", "4MiB"),
    ("STORAGE__INDEX_FLUSH", "100ms"),
];

/// Numbers that a seed determines (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound as u64).expect("below a usize")
    }

    fn split(&mut self) -> Dice {
        Dice(self.below(1 << 30) as u64 | 1)
    }
}

/// A merchant's two receivers, which answer as their common mood is.
struct Party {
    id: String,
    key: Option<String>,
    mood: Arc<AtomicU8>,
    receivers: [Receiver; 2],
}

impl Party {
    fn new(id: String) -> Party {
        let mood = Arc::new(AtomicU8::new(0));
        let receivers = [(); 2].map(|()| {
            let mood = Arc::clone(&mood);
            Receiver::scripted(move |_| match mood.load(Ordering::Relaxed) {
                0..=2 => Reply::Status(200),
                3 => Reply::Status(500),
                4 => Reply::Status(410),
                5 => Reply::Never,
                6 => Reply::Close,
                _ => Reply::Drip(vec![(
                    Duration::from_millis(100),
                    b"HTTP/1.1 410 -\r\nContent-Length: 0\r\n\r\n".to_vec(),
                )]),
            })
        });
        Party { id, key: None, mood, receivers }
    }

    /// The merchant at this run of the appliance, with the key that it was first given.
    fn merchant(&mut self, appliance: &Appliance) -> Merchant {
        let id = self.id.clone();
        match &self.key {
            Some(key) => Merchant { id, key: key.clone(), api: Client::new(appliance.says("public"), Some(key)) },
            None => {
                let merchant = appliance.merchant(&id);
                self.key = Some(merchant.key.clone());
                merchant
            }
        }
    }

    /// One change of mind, or of mood.
    fn act(&self, merchant: &mut Merchant, accepted: &Mutex<Vec<(usize, String)>>, me: usize, dice: &mut Dice) {
        let url = self.receivers[dice.below(2)].url();
        let put = |merchant: &mut Merchant, config: Value| assert!(merchant.api.put(CONFIG, &config).status < 300);
        match dice.below(12) {
            0..=2 => put(merchant, json!({ "url": url })),
            3 => put(merchant, json!({ "url": url, "enabled": false })),
            4 => put(merchant, json!({ "url": url, "event_types": ["card_state"] })),
            5 => put(merchant, json!({ "url": url, "secret": "s", "secret_grace_seconds": 1 })),
            6 if dice.below(3) == 0 => assert_eq!(merchant.api.delete(CONFIG).status, 204),
            7..=8 => {
                let all = accepted.lock().expect("no panic while held");
                let own: Vec<&String> = all.iter().filter(|(whose, _)| *whose == me).map(|(_, id)| id).collect();
                let Some(id) = own.get(dice.below(own.len().max(1))).map(|id| (*id).clone()) else { return };
                drop(all);
                let resent = merchant.api.post(&format!("/api/v2/webhooks/events/{id}/resend"), &json!({}));
                assert!(matches!(resent.status, 202 | 409), "{}", resent.text());
            }
            _ => self.mood.store(u8::try_from(dice.below(9)).expect("small"), Ordering::Relaxed),
        }
        thread::sleep(Duration::from_millis(dice.below(40) as u64));
    }
}

/// Hands in events for anybody until told to stop.
fn hand_in(mut producer: Client, accepted: &Mutex<Vec<(usize, String)>>, stop: &AtomicBool, dice: &mut Dice) {
    while !stop.load(Ordering::Relaxed) {
        let whose: Vec<usize> = (0..=dice.below(20)).map(|_| dice.below(MERCHANTS)).collect();
        let line = |whose: &usize| {
            let event_type = ["card_state", "account_topup"][dice.below(2)];
            json!({ "type": event_type, "merchant_id": format!("m{whose}"), "data": { "for": whose } }).to_string()
        };
        let lines: Vec<String> = whose.iter().map(line).collect();
        let headers = [("content-type", "application/x-ndjson")];
        let answer = producer.send("POST", "/v1/events/batch", &headers, lines.join("\n").as_bytes());
        let ids = answer.lines().into_iter().map(|line| line["id"].as_str().expect("accepted").to_owned());
        accepted.lock().expect("no panic while held").extend(whose.into_iter().zip(ids));
        thread::sleep(Duration::from_millis(dice.below(30) as u64));
    }
}

fn round(
    appliance: &Appliance,
    parties: &mut [Party],
    accepted: &Mutex<Vec<(usize, String)>>,
    dice: &mut Dice,
    length: Duration,
) {
    let mut merchants: Vec<Merchant> = parties.iter_mut().map(|party| party.merchant(appliance)).collect();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let stop = &stop;
        let mut own = dice.split();
        scope.spawn(move || hand_in(appliance.producer(), accepted, stop, &mut own));
        for (me, (party, merchant)) in parties.iter().zip(&mut merchants).enumerate() {
            let mut own = dice.split();
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    party.act(merchant, accepted, me, &mut own);
                }
            });
        }
        let begun = Instant::now();
        eventually("the round is over", || (begun.elapsed() >= length).then_some(()));
        stop.store(true, Ordering::Relaxed);
    });
}

/// All receivers are well again, and whatever is owed is delivered. A config that says that it is active is left
/// alone: it must go on by itself.
fn calm_down(appliance: &Appliance, parties: &mut [Party]) {
    for party in parties.iter() {
        party.mood.store(0, Ordering::Relaxed);
    }
    // Whatever began in a bad mood has ended.
    eventually("no attempt is under way", || (appliance.metric("posthaste_attempts_in_flight") == 0.0).then_some(()));
    for party in parties.iter_mut() {
        let mut merchant = party.merchant(appliance);
        if merchant.api.get(CONFIG).json()["state"] != "active" {
            merchant.configure(&json!({ "url": party.receivers[0].url() }));
        }
    }
    eventually("nothing waits any more", || (appliance.metric("posthaste_deliveries_waiting") == 0.0).then_some(()));
}

/// The whole history, oldest first.
fn history(merchant: &mut Merchant) -> Vec<Value> {
    let (mut items, mut query) = (Vec::new(), Some("limit=250&order=asc".to_owned()));
    while let Some(target) = query {
        let page = merchant.api.get(&format!("/api/v2/webhooks/events?{target}")).expect(200);
        items.extend(page["data"].as_array().expect("a list").iter().cloned());
        query = page["next_cursor"].as_str().map(|cursor| format!("limit=250&order=asc&cursor={cursor}"));
    }
    items
}

fn judge(party: &Party, merchant: &mut Merchant, accepted: &BTreeSet<String>) {
    let items = history(merchant);
    let ids: BTreeSet<String> = items.iter().map(|item| item["id"].as_str().expect("an id").to_owned()).collect();
    assert_eq!(ids, *accepted, "{}: what was accepted is what is shown", party.id);
    let sequences: Vec<u64> = items.iter().map(|item| item["sequence"].as_u64().expect("a number")).collect();
    assert_eq!(sequences, (1..=items.len() as u64).collect::<Vec<_>>(), "{}: gapless", party.id);
    let mut arrived: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for received in party.receivers.iter().flat_map(|receiver| receiver.wait_for(0)) {
        let number = received.header("x-webhook-attempt").expect("numbered").parse().expect("a number");
        arrived.entry(received.id().to_owned()).or_default().push(number);
    }
    for item in &items {
        let (id, status) = (item["id"].as_str().expect("an id"), item["status"].as_str().expect("a word"));
        assert!(["delivered", "canceled", "skipped", "failed"].contains(&status), "{}: {item}", party.id);
        let mut numbers = arrived.remove(id).unwrap_or_default();
        assert!(status != "delivered" || !numbers.is_empty(), "{}: delivered to nobody: {item}", party.id);
        let made = item["attempt_count"].as_u64().expect("a number");
        assert!(numbers.iter().all(|number| (1..=made).contains(number)), "{}: {numbers:?} of {item}", party.id);
        numbers.sort_unstable();
        let distinct: BTreeSet<u64> = numbers.iter().copied().collect();
        assert_eq!(distinct.len(), numbers.len(), "{}: one number was used twice: {numbers:?} of {item}", party.id);
    }
    assert!(arrived.is_empty(), "{}: arrived and never accepted: {arrived:?}", party.id);
}

fn run(dir: &Path, seed: u64, length: Duration) {
    let mut dice = Dice(seed);
    let mut parties: Vec<Party> = (0..MERCHANTS).map(|n| Party::new(format!("m{n}"))).collect();
    let accepted = Mutex::new(Vec::new());
    for n in 0..ROUNDS {
        let appliance = Appliance::start_in(dir, &SETTINGS);
        round(&appliance, &mut parties, &accepted, &mut dice, length);
        if n % 2 == 0 {
            calm_down(&appliance, &mut parties);
        }
        let (status, log) = appliance.stop();
        assert!(status.success(), "{log}");
    }
    let appliance = Appliance::start_in(dir, &SETTINGS);
    calm_down(&appliance, &mut parties);
    let accepted = accepted.into_inner().expect("no panic while held");
    for (n, party) in parties.iter_mut().enumerate() {
        let own = accepted.iter().filter(|(whose, _)| *whose == n).map(|(_, id)| id.clone()).collect();
        let mut merchant = party.merchant(&appliance);
        judge(party, &mut merchant, &own);
    }
    println!("{} events", accepted.len());
}

#[test]
fn after_any_turmoil_every_event_has_come_to_an_end_and_no_attempt_was_made_twice() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let seed = number("POSTHASTE_TEST_SEED").unwrap_or(now.as_millis() as u64) | 1;
    println!("POSTHASTE_TEST_SEED={seed}");
    let temporary = tempfile::tempdir().expect("a temporary directory");
    run(temporary.path(), seed, Duration::from_secs(number("POSTHASTE_TEST_TURMOIL_S").unwrap_or(ROUND_S)));
}
