//! Producers and churn: those who go on whatever happens to the appliance.
//!
//! Never gives an event up: what was not answered is handed in again under the same id until it is.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::access::{Access, Answer};
use crate::appliance::Addresses;
use crate::dice::Dice;
use crate::ledger::Ledger;
use crate::scene::{Fate, Merchant, Scene, Whereabouts};

/// How long producers may need to have everything answered once they are told to end.
const END_PATIENCE: Duration = Duration::from_secs(120);

/// Between two tries where the last was not answered or refused.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// Events that a producer may hand in a second time.
const PAST_MAX: usize = 50;

const TYPES: [&str; 4] = ["card_transaction", "account_transaction", "account_topup", "card_state"];

/// Everybody who sends.
pub(crate) struct Load {
    ending: Arc<AtomicBool>,
    abandoned: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
    churn: Option<JoinHandle<Moves>>,
}

/// How far the URL of the moving merchant has come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moves {
    acked: u64,
    tried: u64,
}

/// Who sends, and how much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) singles: u64,
    pub(crate) batches: u64,
    /// Of a payload.
    pub(crate) bytes_max: u64,
    pub(crate) churn: bool,
}

impl Load {
    pub(crate) fn begin(scene: &Scene, dice: &mut Dice, pace: Pace) -> Load {
        let ending = Arc::new(AtomicBool::new(false));
        let abandoned = Arc::new(AtomicBool::new(false));
        let numbers = Arc::new(AtomicU64::new(0));
        let tag = dice.within(0..1 << 24);
        let sender = || Sender {
            access: Access::new(),
            ledger: Arc::clone(&scene.ledger),
            whereabouts: Arc::clone(&scene.whereabouts),
            merchants: scene.merchants.clone(),
            producer_key: scene.producer_key.clone(),
            ending: Arc::clone(&ending),
            abandoned: Arc::clone(&abandoned),
            numbers: Arc::clone(&numbers),
            tag,
            bytes_max: pace.bytes_max,
        };
        let mut workers = Vec::new();
        for nth in 0..pace.singles + pace.batches {
            let (sender, dice) = (sender(), dice.split());
            let lines_max = if nth < pace.singles { 1 } else { 16 };
            workers.push(std::thread::spawn(move || sender.produce(dice, lines_max)));
        }
        let churn = pace.churn.then(|| {
            let (sender, dice) = (sender(), dice.split());
            let urls: Vec<String> = (0..scene.merchants.len()).map(|nth| scene.receivers.url(nth, 0)).collect();
            std::thread::spawn(move || sender.churn(dice, &urls))
        });
        Load { ending, abandoned, workers, churn }
    }

    /// Ends at once: what is not answered stays unknown.
    pub(crate) fn abandon(self) {
        self.abandoned.store(true, Ordering::Release);
        self.end();
    }

    /// Ends once everything handed in is answered; what the churn had come to.
    pub(crate) fn end(self) -> Moves {
        self.ending.store(true, Ordering::Release);
        for worker in self.workers {
            worker.join().expect("a producer ends in peace");
        }
        self.churn.map(|churn| churn.join().expect("the churn ends in peace")).unwrap_or_default()
    }
}

impl Moves {
    /// The config of the moving merchant is the last one acknowledged, or a later one.
    pub(crate) fn check(self, scene: &Scene, at: &Addresses) -> Option<String> {
        let mover = scene.merchants.iter().find(|merchant| merchant.fate == Fate::Moving)?;
        let config = scene.access.config(at, &mover.key).map(|answer| answer.expect(200));
        let url = config.as_ref().ok().and_then(|config| config["url"].as_str().map(str::to_owned));
        let turn = url.as_deref().and_then(|url| url.rsplit('/').next()?.parse::<u64>().ok());
        let is_right = turn.is_some_and(|turn| (self.acked..=self.tried).contains(&turn));
        (!is_right).then(|| format!("LOST: a config; {config:?}, acknowledged was {self:?}"))
    }
}

struct Sender {
    access: Access,
    ledger: Arc<Ledger>,
    whereabouts: Arc<Whereabouts>,
    merchants: Vec<Merchant>,
    producer_key: String,
    ending: Arc<AtomicBool>,
    abandoned: Arc<AtomicBool>,
    numbers: Arc<AtomicU64>,
    tag: u64,
    bytes_max: u64,
}

/// An event that is not answered yet, or was.
#[derive(Clone)]
struct Draft {
    resource: String,
    request: String,
}

impl Sender {
    fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    fn produce(&self, mut dice: Dice, lines_max: u64) {
        let mut past: Vec<Draft> = Vec::new();
        while !self.is_ending() {
            let lines = if lines_max == 1 { 1 } else { dice.within(1..lines_max) };
            let mut drafts: Vec<Draft> = (0..lines).map(|_| self.draft(&mut dice)).collect();
            if dice.percent(3)
                && let Some(old) = past.get(usize::try_from(dice.number() % PAST_MAX as u64).expect("small"))
            {
                drafts.push(old.clone());
            }
            self.see_through(&drafts, lines_max > 1);
            past.extend(drafts.into_iter().take(1));
            if past.len() > PAST_MAX {
                // Some stay for long.
                past.swap_remove(usize::try_from(dice.number() % PAST_MAX as u64).expect("small"));
            }
        }
    }

    fn draft(&self, dice: &mut Dice) -> Draft {
        let resource = format!("r{:x}-{}", self.tag, self.numbers.fetch_add(1, Ordering::Relaxed));
        let mut luck = dice.within(0..100);
        let merchant = self.merchants.iter().position(|merchant| {
            let is_it = luck < merchant.share;
            luck = luck.saturating_sub(merchant.share);
            is_it
        });
        let merchant = merchant.expect("the shares make a hundred");
        let pad = "x".repeat(usize::try_from(dice.within(0..self.bytes_max)).expect("small"));
        let event_type = TYPES[usize::try_from(dice.within(0..4)).expect("small")];
        // Spacing and numbers that no parser keeps: the bytes must arrive as they are.
        let payload = format!("{{ \"id\":\"{resource}\",\"amount\": 1.50e1,  \"pad\":\"{pad}\"}}");
        self.ledger.submitting(&resource, merchant, &payload);
        let name = &self.merchants[merchant].name;
        let request = format!(
            "{{\"type\":\"{event_type}\",\"merchant_id\":\"{name}\",\"id\":\"{resource}\",\"data\":{payload}}}"
        );
        Draft { resource, request }
    }

    /// Hands in until every draft is acknowledged.
    fn see_through(&self, drafts: &[Draft], as_batch: bool) {
        let mut open: Vec<&Draft> = drafts.iter().collect();
        let mut deadline = None;
        while !open.is_empty() && !self.abandoned.load(Ordering::Acquire) {
            if self.is_ending() {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + END_PATIENCE);
                assert!(Instant::now() < deadline, "{} events are never answered", open.len());
            }
            let Some(at) = self.whereabouts.get() else { continue };
            let before = open.len();
            if as_batch {
                self.send_batch(&at, &mut open);
            } else {
                open.retain(|draft| !self.send_one(&at, draft));
            }
            if open.len() == before {
                std::thread::sleep(RETRY_PAUSE);
            }
        }
    }

    fn send_one(&self, at: &Addresses, draft: &Draft) -> bool {
        match self.access.submit(at, &self.producer_key, draft.request.clone()) {
            Ok(Answer { status, text }) => self.answered(draft, status, &text),
            // Whether it was stored is not known.
            Err(_) => false,
        }
    }

    fn send_batch(&self, at: &Addresses, open: &mut Vec<&Draft>) {
        let mut lines = String::new();
        for draft in open.iter() {
            writeln!(lines, "{}", draft.request).expect("writing to a string succeeds");
        }
        match self.access.submit_batch(at, &self.producer_key, lines) {
            Ok(Answer { status: 200, text }) if text.lines().count() == open.len() => {
                let mut answers = text.lines();
                open.retain(|draft| {
                    let line = answers.next().expect("a line for each");
                    let status = serde_json::from_str::<Value>(line).ok().and_then(|line| line["status"].as_u64());
                    !self.answered(draft, u16::try_from(status.unwrap_or(0)).unwrap_or(0), line)
                });
            }
            Ok(answer) if is_refusal(answer.status) => {}
            Ok(answer) => self.ledger.fault(format!("a batch is answered {answer:?}")),
            Err(_) => {}
        }
    }

    /// Whether this is the end of it.
    fn answered(&self, draft: &Draft, status: u16, text: &str) -> bool {
        if is_refusal(status) {
            self.ledger.refused(status);
            return false;
        }
        let said: Value = serde_json::from_str(text).unwrap_or_default();
        match (status, said["id"].as_str(), said["sequence"].as_u64()) {
            (200 | 202, Some(id), Some(sequence)) => self.ledger.acknowledged(&draft.resource, id.into(), sequence),
            _ => self.ledger.fault(format!("{} is answered {status} {text}", draft.resource)),
        }
        true
    }

    /// Changes configs and owners until told to end; leaves everybody with a config.
    fn churn(&self, mut dice: Dice, urls: &[String]) -> Moves {
        let mut moves = Moves::default();
        let place = |fate| self.merchants.iter().position(|merchant| merchant.fate == fate);
        let (mover, leaver) = (place(Fate::Moving), place(Fate::Leaving));
        let mut cards = 0;
        while !self.is_ending() {
            let Some(at) = self.whereabouts.get() else { continue };
            match (dice.within(0..4), mover, leaver) {
                (0, Some(nth), _) => {
                    moves.tried += 1;
                    let url = format!("{}{}", urls[nth].trim_end_matches('0'), moves.tried);
                    let put = self.access.put_config(&at, &self.merchants[nth].key, &url, true);
                    if self.is_done("a config", put, &[200]) {
                        moves.acked = moves.tried;
                    }
                }
                (1, _, Some(nth)) => {
                    let deleted = self.access.delete_config(&at, &self.merchants[nth].key);
                    self.is_done("the end of a config", deleted, &[204]);
                }
                (2, _, Some(nth)) => {
                    let put = self.access.put_config(&at, &self.merchants[nth].key, &urls[nth], true);
                    self.is_done("a config", put, &[200, 201]);
                }
                _ => {
                    cards += 1;
                    let (card, merchant) = (format!("c{:x}-{cards}", self.tag), dice.number() as usize % urls.len());
                    let name = &self.merchants[merchant].name;
                    let put = self.access.put_owner(&at, &self.producer_key, &card, name);
                    if self.is_done("an owner", put, &[200]) {
                        self.ledger.owned(card, merchant);
                    }
                }
            }
            std::thread::sleep(Duration::from_millis(dice.within(5..60)));
        }
        moves
    }

    fn is_done(&self, what: &str, answer: Result<Answer, String>, expected: &[u16]) -> bool {
        match answer {
            Ok(answer) if expected.contains(&answer.status) => true,
            Ok(answer) if is_refusal(answer.status) => false,
            Ok(answer) => {
                self.ledger.fault(format!("{what} is answered {}", json!([answer.status, answer.text])));
                false
            }
            Err(_) => false,
        }
    }
}

/// Not stored, or not certain; come again.
fn is_refusal(status: u16) -> bool {
    matches!(status, 429 | 503 | 507)
}
