//! Power cuts: of a recorded run, what a disk would hold had the power gone at some moment of it.
//!
//! Never counts an acknowledgement that came after the cut, nor spares one that came before.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::dice::Dice;
use crate::faults::{Faults, Slot};
use crate::ledger::Evidence;
use crate::load::{Load, Pace};
use crate::report::{Report, rounds};
use crate::scene::{CAST, Scene, directory};
use crate::survivor::Disk;

/// Cuts of one recorded run.
const CUTS: u64 = 12;

/// Moments from here on are those of the starts after a cut.
const AFTER: u64 = 1 << 60;

#[test]
fn every_acknowledged_event_survives_power_cuts() {
    let mut report = Report::begin("power_cut");
    let mut dice = Dice::new(report.seed);
    let cuts = rounds(24, 500);
    let mut faults = Vec::new();
    for begun in (0..cuts).step_by(usize::try_from(CUTS).expect("small")) {
        faults.extend(flight(&mut report, &mut dice, CUTS.min(cuts - begun), &[]));
    }
    report.set("n", cuts);
    report.end(&faults);
}

/// One run, recorded, and some cuts of it; what was wrong. `lies` are told by the disk in the run.
pub(crate) fn flight(report: &mut Report, dice: &mut Dice, cuts: u64, lies: &[Slot]) -> Vec<String> {
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
    let mut scene = Scene::set_in(root, &CAST, dice, |launch| faults.around(launch), moments);
    let mut disk = Disk::read(&scene.launch.data_dir);
    if !lies.is_empty() {
        // What is broken need not drain; that it is seen to be broken is enough.
        scene.drain_patience = Duration::from_secs(3);
    }
    for lie in lies {
        faults.set(*lie, 1);
    }
    let appliance = scene.start();
    let load = Load::begin(&scene, dice, Pace { singles: 2, batches: 1, bytes_max: 12_000, churn: true });
    std::thread::sleep(Duration::from_millis(dice.within(400..1200)));
    scene.kill(appliance);
    load.abandon();
    let record = fs::read(&record).expect("a readable record");
    let mut moments: Vec<u64> = (0..cuts).map(|_| dice.within(0..record.len() as u64 + 1)).collect();
    moments.sort_unstable();
    let (mut seen, mut wrong) = (0, Vec::new());
    for (nth, moment) in moments.into_iter().enumerate() {
        let cut = usize::try_from(moment).expect("it was a usize");
        seen = cut - disk.replay(&record[seen..cut]).len();
        after.store(nth as u64 + 1, Ordering::Release);
        let is_past = |at: u64| at <= moment || at == AFTER + nth as u64 + 1;
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
