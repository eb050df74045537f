//! One appliance with its merchants, their receivers and the ledger; what every case begins with.
//!
//! Never judges by itself: `judge` does.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::access::Access;
use crate::appliance::{Addresses, Appliance, Ended, Launch};
use crate::dice::Dice;
use crate::judge::{self, Verdict};
use crate::ledger::{Evidence, Ledger, Moments};
use crate::receivers::{Manner, Receivers};

/// How long a backlog may take to drain, on a busy machine, in a debug build.
const DRAIN_PATIENCE: Duration = Duration::from_secs(180);

/// Attempts before a delivery has failed.
pub(crate) const ATTEMPTS_MAX: u64 = 6;

/// What history may take where it is dropped: as little as may be set.
pub(crate) const RETENTION_BYTES: u64 = 4 << 20;

/// A merchant of the scene.
#[derive(Clone, Debug)]
pub(crate) struct Merchant {
    pub(crate) name: String,
    pub(crate) manner: Manner,
    pub(crate) fate: Fate,
    /// Events of a hundred that go to it.
    pub(crate) share: u64,
    pub(crate) key: String,
}

/// What becomes of a merchant's config in the course of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Nothing.
    Steady,
    /// Paused from the start; resumed by the case, where it wants.
    Paused,
    /// Its URL changes.
    Moving,
    /// Its config is removed and made again.
    Leaving,
}

/// The usual cast: name, manner, fate, share.
pub(crate) const CAST: [(&str, Manner, Fate, u64); 8] = [
    ("prompt", Manner::Prompt, Fate::Steady, 30),
    ("other", Manner::Prompt, Fate::Steady, 20),
    ("flapping", Manner::Flapping, Fate::Steady, 15),
    ("slow", Manner::Slow, Fate::Steady, 5),
    ("failing", Manner::Failing, Fate::Steady, 5),
    ("paused", Manner::Prompt, Fate::Paused, 5),
    ("moving", Manner::Prompt, Fate::Moving, 10),
    ("leaving", Manner::Prompt, Fate::Leaving, 10),
];

pub(crate) struct Scene {
    pub(crate) launch: Launch,
    /// Without what the case adds to it.
    pub(crate) plain: Launch,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) receivers: Receivers,
    pub(crate) merchants: Vec<Merchant>,
    pub(crate) producer_key: String,
    pub(crate) whereabouts: Arc<Whereabouts>,
    pub(crate) access: Access,
    pub(crate) drain_patience: Duration,
    /// Whether history is dropped.
    pub(crate) forgets: bool,
    pub(crate) root: TempDir,
}

/// Where the appliance is right now, for those who talk to it over its restarts.
#[derive(Default)]
pub(crate) struct Whereabouts {
    addresses: Mutex<Option<Addresses>>,
    changed: Condvar,
}

impl Whereabouts {
    fn set(&self, addresses: Option<Addresses>) {
        *self.addresses.lock().expect("no panic while held") = addresses;
        self.changed.notify_all();
    }

    /// Waits until there is an appliance, but not for ever.
    pub(crate) fn get(&self) -> Option<Addresses> {
        let addresses = self.addresses.lock().expect("no panic while held");
        let waited = self.changed.wait_timeout_while(addresses, Duration::from_secs(1), |now| now.is_none());
        waited.expect("no panic while held").0.clone()
    }
}

impl Scene {
    /// Makes merchants, keys and configs in a first run, and ends that run.
    pub(crate) fn set(
        cast: &[(&str, Manner, Fate, u64)],
        dice: &mut Dice,
        launch: impl FnOnce(Launch) -> Launch,
    ) -> Scene {
        Scene::set_in(directory(), cast, dice, launch, Box::new(|| 0))
    }

    /// The same in a directory and with moments of the case's own. `launch` is for all runs but the first.
    pub(crate) fn set_in(
        root: TempDir,
        cast: &[(&str, Manner, Fate, u64)],
        dice: &mut Dice,
        launch: impl FnOnce(Launch) -> Launch,
        moments: Moments,
    ) -> Scene {
        let ledger = Arc::new(Ledger::new(moments));
        let manners = cast.iter().map(|(_, manner, _, _)| *manner).collect();
        let receivers = Receivers::open(manners, Arc::clone(&ledger), dice.split());
        let access = Access::new();
        let plain = quick(Launch::under(root.path()));
        let appliance = plain.start().unwrap_or_else(|ended| panic!("it does not start: {ended:?}"));
        let at = &appliance.addresses;
        let producer_key = access.make_producer(at).expect("an appliance at rest answers");
        let merchants: Vec<Merchant> = (cast.iter().enumerate())
            .map(|(nth, (name, manner, fate, share))| {
                let key = access.make_merchant(at, name).expect("an appliance at rest answers");
                let put = access.put_config(at, &key, &receivers.url(nth, 0), *fate != Fate::Paused);
                put.expect("an appliance at rest answers").expect(201);
                Merchant { name: (*name).to_owned(), manner: *manner, fate: *fate, share: *share, key }
            })
            .collect();
        let ended = appliance.terminate();
        assert_eq!(ended.code, Some(0), "{}", ended.log);
        let launch = launch(plain.clone());
        Scene {
            launch,
            plain,
            ledger,
            receivers,
            merchants,
            producer_key,
            whereabouts: Arc::default(),
            access,
            drain_patience: DRAIN_PATIENCE,
            forgets: false,
            root,
        }
    }

    /// Starts the appliance for all who talk to it.
    pub(crate) fn start(&self) -> Appliance {
        self.try_start(&self.launch).unwrap_or_else(|ended| panic!("it does not start: {ended:?}"))
    }

    /// Starts it in some way, for all who talk to it.
    pub(crate) fn try_start(&self, launch: &Launch) -> Result<Appliance, Ended> {
        let appliance = launch.start()?;
        self.whereabouts.set(Some(appliance.addresses.clone()));
        Ok(appliance)
    }

    pub(crate) fn kill(&self, appliance: Appliance) {
        appliance.kill();
        self.gone();
    }

    pub(crate) fn terminate(&self, appliance: Appliance) -> Ended {
        let ended = appliance.terminate();
        self.gone();
        ended
    }

    /// How it has ended, or will.
    pub(crate) fn ended(&self, appliance: Appliance) -> Ended {
        let ended = appliance.process.ended();
        self.gone();
        ended
    }

    /// What it wrote to its log in this run.
    pub(crate) fn kill_and_read(&self, appliance: Appliance) -> String {
        let log = appliance.process.log();
        self.kill(appliance);
        log
    }

    /// Nobody shall look for it at the old place.
    pub(crate) fn gone(&self) {
        self.whereabouts.set(None);
    }

    /// Waits until nothing is owed but to the paused merchants; what is still owed then.
    pub(crate) fn drain(&self, appliance: &Appliance) -> Result<u64, String> {
        self.drain_within(appliance, self.drain_patience)
    }

    /// The same with a patience of its own.
    pub(crate) fn drain_within(&self, appliance: &Appliance, patience: Duration) -> Result<u64, String> {
        let deadline = Instant::now() + patience;
        loop {
            let at = &appliance.addresses;
            let owed = self.access.waiting(at)?;
            let held = self.held_by_paused(appliance)?;
            if owed == held {
                return Ok(owed);
            }
            if Instant::now() > deadline {
                return Err(format!("the backlog does not drain: {owed} are owed, {held} of them to paused merchants"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn held_by_paused(&self, appliance: &Appliance) -> Result<u64, String> {
        let mut held = 0;
        for merchant in self.merchants.iter().filter(|merchant| merchant.fate == Fate::Paused) {
            let config = self.access.config(&appliance.addresses, &merchant.key)?.expect(200);
            if config["state"] == "paused" {
                let items = self.access.history(&appliance.addresses, &merchant.key)?;
                held += items.iter().filter(|item| judge::is_waiting(&item.status)).count() as u64;
            }
        }
        Ok(held)
    }

    /// Lets the paused merchants have what waits for them.
    pub(crate) fn resume(&self, appliance: &Appliance) {
        for (nth, merchant) in self.merchants.iter().enumerate().filter(|(_, m)| m.fate == Fate::Paused) {
            let url = self.receivers.url(nth, 0);
            let put = self.access.put_config(&appliance.addresses, &merchant.key, &url, true);
            put.expect("an appliance at rest answers").expect(200);
        }
    }

    /// Compares what the appliance says with what the world knows; whatever cannot be read is a fault.
    pub(crate) fn verdict(&self, appliance: &Appliance) -> Verdict {
        self.verdict_by(appliance, &self.ledger.evidence())
    }

    /// The same with a part of what the world knows.
    pub(crate) fn verdict_by(&self, appliance: &Appliance, evidence: &Evidence) -> Verdict {
        let mut verdict = self.compare(appliance, evidence);
        for what in std::mem::take(&mut verdict.unreadable) {
            verdict.note(what);
        }
        verdict
    }

    /// The same, with what cannot be read apart.
    pub(crate) fn compare(&self, appliance: &Appliance, evidence: &Evidence) -> Verdict {
        judge::judge(self, &appliance.addresses, evidence)
    }
}

/// Settings under which history is dropped all the time.
pub(crate) fn forgetful(launch: Launch) -> Launch {
    launch
        .with("POSTHASTE__STORAGE__RETENTION_BYTES_MAX", format!("{RETENTION_BYTES}B"))
        .with("POSTHASTE__STORAGE__RETENTION_EVERY", "20ms")
}

/// A directory for a case; it stays behind where that is asked for.
pub(crate) fn directory() -> TempDir {
    let mut root = tempfile::Builder::new().prefix("posthaste-crash-").tempdir().expect("a directory");
    root.disable_cleanup(std::env::var_os("POSTHASTE_CRASH_KEEP").is_some());
    root
}

/// Settings that let a case end soon: short waits after a failure, small segments, a quick index.
fn quick(launch: Launch) -> Launch {
    launch
        .with("POSTHASTE__DELIVERY__RETRY_SCHEDULE", ["100ms"; ATTEMPTS_MAX as usize - 1].join(","))
        .with("POSTHASTE__DELIVERY__BREAKER_WAIT", "5ms")
        .with("POSTHASTE__DELIVERY__BREAKER_WAIT_MAX", "10ms")
        .with("POSTHASTE__STORAGE__SEGMENT_BYTES", "1MiB")
        .with("POSTHASTE__EVENTS__BATCH_BYTES_MAX", "1MiB")
        .with("POSTHASTE__STORAGE__INDEX_FLUSH", "200ms")
        .with("POSTHASTE__STORAGE__NAMES_UNWRITTEN_MAX", "50")
}
