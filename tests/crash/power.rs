//! Power cuts: of a recorded run, what a disk would hold had the power gone at some moment of it.
//!
//! Never counts an acknowledgement that came after the cut, nor spares one that came before.

use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::access::Access;
use crate::appliance::Launch;
use crate::dice::Dice;
use crate::faults::{Faults, Slot};
use crate::ledger::Evidence;
use crate::load::{Load, Pace};
use crate::report::{Report, rounds};
use crate::scene::{CAST, Scene, directory, forgetful};
use crate::survivor::{self, Disk};

/// Cuts of one recorded run.
const CUTS: u64 = 12;

/// How long the record of a run becomes: segments of the journal are closed in it.
const RECORD_BYTES: Range<u64> = 1 << 20..6 << 20;

/// Moments from here on are those of the starts after a cut.
const AFTER: u64 = 1 << 60;

#[test]
fn every_acknowledged_event_survives_power_cuts() {
    let mut report = Report::begin("power_cut");
    let mut dice = Dice::new(report.seed);
    let cuts = rounds(24, 500);
    let mut faults = Vec::new();
    for begun in (0..cuts).step_by(usize::try_from(CUTS).expect("small")) {
        faults.extend(flight(&mut report, &mut dice, CUTS.min(cuts - begun), &Product::default()));
    }
    report.set("n", cuts);
    report.end(&faults);
}

#[test]
fn a_power_cut_in_the_first_start_leaves_what_can_be_started() {
    let mut report = Report::begin("power_cut_first_start");
    let mut dice = Dice::new(report.seed);
    let root = directory();
    let plain = Launch::under(root.path());
    fs::create_dir(&plain.data_dir).expect("a fresh directory");
    let faults = Faults::under(root.path()).recording(root.path());
    let mut disk = Disk::read(&plain.data_dir);
    let appliance = faults.around(plain.clone()).start().unwrap_or_else(|ended| panic!("it does not start: {ended:?}"));
    let access = Access::new();
    let key = access.make_merchant(&appliance.addresses, "first").expect("an appliance at rest answers");
    let acked = fs::metadata(faults.record()).expect("the record is there").len();
    appliance.kill();
    let record = fs::read(faults.record()).expect("a readable record");
    let cuts = rounds(12, 200);
    let (mut seen, mut wrong) = (0, Vec::new());
    for (nth, cut) in survivor::moments(&record, cuts, &mut dice).into_iter().enumerate() {
        let rest = disk.replay(&record[seen..cut]);
        assert!(rest.is_empty(), "a moment is the end of a change");
        seen = cut;
        let mut launch = plain.clone();
        launch.data_dir = root.path().join(format!("cut-{nth}"));
        disk.cut(&launch.data_dir, &mut dice);
        match launch.start() {
            Ok(appliance) if cut as u64 >= acked => {
                let known = access.config(&appliance.addresses, &key).expect("an appliance at rest answers");
                if known.status != 404 {
                    report.add("lost", 1);
                    wrong.push(format!("LOST: a merchant's key; with it {known:?}"));
                }
            }
            Ok(_) => {}
            Err(ended) => wrong.push(format!("after a power cut in its first start it does not start: {}", ended.log)),
        }
    }
    report.set("n", cuts);
    report.end(&wrong);
}

/// What is put to the test: the product, unless a bug is planted in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Product {
    /// Another binary than the product's.
    pub(crate) program: Option<PathBuf>,
    /// Lies that its disk tells.
    pub(crate) lies: Vec<Slot>,
    /// Whether it drops history all the time.
    pub(crate) forgets: bool,
}

impl Product {
    pub(crate) fn launch(&self, launch: Launch) -> Launch {
        match &self.program {
            Some(program) => launch.with_program(program),
            None => launch,
        }
    }

    pub(crate) fn is_planted(&self) -> bool {
        self.program.is_some() || !self.lies.is_empty()
    }
}

/// One run, recorded, and some cuts of it; what was wrong.
pub(crate) fn flight(report: &mut Report, dice: &mut Dice, cuts: u64, product: &Product) -> Vec<String> {
    let root = directory();
    let faults = Faults::under(root.path()).recording(root.path());
    let record = faults.record().to_owned();
    let after = Arc::new(AtomicU64::new(0));
    let moments = {
        let (record, after) = (record.clone(), Arc::clone(&after));
        Box::new(move || match after.load(Ordering::Acquire) {
            0 => fs::metadata(&record).expect("the record is there").len(),
            nth => AFTER + nth,
        })
    };
    let around = |launch: Launch| {
        let launch = faults.around(product.launch(launch));
        if product.forgets { forgetful(launch) } else { launch }
    };
    let mut scene = Scene::set_in(root, &CAST, dice, around, moments);
    scene.forgets = product.forgets;
    scene.plain = product.launch(scene.plain);
    let mut disk = Disk::read(&scene.launch.data_dir);
    if product.is_planted() {
        // What is broken need not drain; that it is seen to be broken is enough.
        scene.drain_patience = Duration::from_secs(3);
    }
    for lie in &product.lies {
        faults.set(*lie, 1);
    }
    let appliance = scene.start();
    faults.set(Slot::SyncDelayMs, dice.within(0..8));
    let (times, seconds) = if product.forgets { (4, 15) } else { (1, 4) };
    let load = Load::begin(&scene, dice, Pace { singles: 2, batches: 1, bytes_max: 12_000, churn: true });
    let enough = dice.within(RECORD_BYTES) * times;
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while fs::metadata(&record).expect("the record is there").len() < enough && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    scene.kill(appliance);
    load.abandon();
    let record = fs::read(&record).expect("a readable record");
    let (mut seen, mut wrong) = (0, Vec::new());
    for (nth, cut) in survivor::moments(&record, cuts, dice).into_iter().enumerate() {
        let rest = disk.replay(&record[seen..cut]);
        assert!(rest.is_empty(), "a moment is the end of a change");
        seen = cut;
        after.store(nth as u64 + 1, Ordering::Release);
        let is_past = |at: u64| at <= cut as u64 || at == AFTER + nth as u64 + 1;
        wrong.extend(survive(report, &scene, dice, &disk, nth, is_past));
    }
    wrong
}

/// Starts on what the cut leaves and compares.
fn survive(
    report: &mut Report,
    scene: &Scene,
    dice: &mut Dice,
    disk: &Disk,
    nth: usize,
    is_past: impl Fn(u64) -> bool,
) -> Vec<String> {
    let mut launch = scene.plain.clone();
    launch.data_dir = scene.root.path().join(format!("cut-{nth}"));
    disk.cut(&launch.data_dir, dice);
    let appliance = match scene.try_start(&launch) {
        Ok(appliance) => appliance,
        Err(ended) => {
            report.add("refused", 1);
            return vec![format!("after a power cut it does not start: {}", ended.log)];
        }
    };
    let load = Load::begin(scene, dice, Pace { singles: 1, batches: 0, bytes_max: 1200, churn: false });
    let before = scene.ledger.acks();
    while scene.ledger.acks() < before + 3 {
        std::thread::sleep(Duration::from_millis(1));
    }
    load.end();
    let drained = scene.drain(&appliance);
    let evidence: Evidence = scene.ledger.evidence().known_by(is_past);
    let mut verdict = scene.verdict_by(&appliance, &evidence);
    verdict.faults.extend(drained.err());
    verdict.add_to(report);
    let log = scene.kill_and_read(appliance);
    report.add("index_rebuilds", log.matches("making it anew").count() as u64);
    if verdict.faults.is_empty() {
        fs::remove_dir_all(&launch.data_dir).expect("a directory of ours");
    }
    verdict.faults
}
