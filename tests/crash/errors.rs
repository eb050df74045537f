//! The n-th write or sync fails, is short or is interrupted.
//!
//! Never believes that what a failed sync was asked for is on the disk: the next start may be on what a power
//! cut leaves.

use std::fs;
use std::time::{Duration, Instant};

use crate::appliance::{Appliance, Ended, PATIENCE};
use crate::dice::Dice;
use crate::faults::{Fault, Faults, Slot, Target};
use crate::load::{Load, Pace};
use crate::report::{Report, is_long};
use crate::scene::{CAST, Scene, directory};
use crate::survivor::Disk;

/// The exit code of a process whose disk failed (EX_IOERR of sysexits.h).
const EXIT_DISK: i32 = 74;

/// Rounds on one data directory before a fresh one is taken.
const ROUNDS_MAX: u64 = 25;

/// Places that the short form looks at.
const SAMPLES: u64 = 7;

#[test]
fn a_failed_write_ends_the_process_and_loses_nothing() {
    at_every_place("eio_at_nth_write", Fault::Broken, Target::Write);
}

#[test]
fn a_failed_sync_ends_the_process_and_loses_nothing() {
    at_every_place("eio_at_nth_sync", Fault::Broken, Target::Sync);
}

#[test]
fn a_short_write_is_completed() {
    at_every_place("short_nth_write", Fault::Short, Target::Write);
}

#[test]
fn an_interrupted_write_is_repeated() {
    at_every_place("eintr_at_nth_write", Fault::Interrupted, Target::Write);
}

#[test]
fn an_interrupted_sync_is_repeated() {
    at_every_place("eintr_at_nth_sync", Fault::Interrupted, Target::Sync);
}

fn at_every_place(case: &str, fault: Fault, target: Target) {
    let mut report = Report::begin(case);
    let mut dice = Dice::new(report.seed);
    let mut bench = Bench::set(&mut dice);
    let places = bench.count(&mut dice, target);
    report.set("places", places);
    let mut wrong = Vec::new();
    let step = if is_long() { 1 } else { (places / SAMPLES).max(1) };
    let mut place = 1;
    for rounds in 1.. {
        if rounds % ROUNDS_MAX == 0 {
            bench = Bench::set(&mut dice);
        }
        report.add("n", 1);
        let found = bench.round(&mut report, &mut dice, fault, target, place);
        wrong.extend(found.into_iter().map(|what| format!("{fault:?} at {target:?} {place}: {what}")));
        // In the short form densely where the process starts.
        place += if is_long() { 1 } else { 1 + dice.within(0..(2 * step).min(place)) };
        if place > places {
            break;
        }
    }
    report.end(&wrong);
}

/// A scene with the library between it and its disk.
struct Bench {
    scene: Scene,
    faults: Faults,
}

impl Bench {
    fn set(dice: &mut Dice) -> Bench {
        let root = directory();
        let faults = Faults::under(root.path()).recording(root.path());
        let scene = Scene::set_in(root, &CAST, dice, |launch| faults.around(launch), Box::new(|| 0));
        Bench { scene, faults }
    }

    /// Operations of a run without a fault.
    fn count(&self, dice: &mut Dice, target: Target) -> u64 {
        self.faults.reset();
        let appliance = self.scene.start();
        self.work(dice, &appliance);
        let ended = self.scene.terminate(appliance);
        assert_eq!(ended.code, Some(0), "{}", ended.log);
        self.faults.get(match target {
            Target::Write => Slot::Writes,
            Target::Sync => Slot::Syncs,
        })
    }

    /// Hands in a few events, as long as the appliance is there.
    fn work(&self, dice: &mut Dice, appliance: &Appliance) {
        let load = Load::begin(&self.scene, dice, Pace { singles: 1, batches: 1, bytes_max: 3000, churn: true });
        let wanted = self.scene.ledger.acks() + 60;
        let deadline = Instant::now() + PATIENCE;
        while self.scene.ledger.acks() < wanted && Instant::now() < deadline && appliance.is_alive() {
            std::thread::sleep(Duration::from_millis(2));
        }
        load.abandon();
    }

    fn round(&mut self, report: &mut Report, dice: &mut Dice, fault: Fault, target: Target, place: u64) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut disk = Disk::read(&self.scene.launch.data_dir);
        fs::write(self.faults.record(), []).expect("a file for the record");
        self.faults.reset();
        // An interruption that lasts is no interruption.
        self.faults.arm(fault, target, place, fault != Fault::Interrupted && dice.percent(50));
        let ended = match self.scene.try_start(&self.scene.launch) {
            Ok(appliance) => {
                self.work(dice, &appliance);
                if appliance.is_alive() { self.scene.terminate(appliance) } else { self.scene.ended(appliance) }
            }
            Err(ended) => ended,
        };
        let fired = self.faults.get(Slot::Fired) > 0;
        report.add("fired", u64::from(fired));
        wrong.extend(check_end(&ended, fired && fault == Fault::Broken));
        self.faults.reset();
        if fault == Fault::Broken && dice.percent(50) {
            report.add("power_cuts", 1);
            disk.replay(&fs::read(self.faults.record()).expect("a readable record"));
            fs::remove_dir_all(&self.scene.launch.data_dir).expect("a directory of ours");
            disk.cut(&self.scene.launch.data_dir, dice);
        }
        match self.scene.try_start(&self.scene.plain) {
            Ok(appliance) => {
                wrong.extend(self.scene.drain(&appliance).err());
                let verdict = self.scene.verdict(&appliance);
                report.set("acked", verdict.acked);
                report.add("lost", verdict.lost);
                report.set("duplicates", verdict.duplicates);
                wrong.extend(verdict.faults);
                self.scene.kill(appliance);
            }
            Err(ended) => wrong.push(format!("afterwards it does not start: {}", ended.log)),
        }
        wrong
    }
}

/// A process whose disk failed says so by its exit code; in its log where the index alone was hit and could be made
/// anew, or where everything was written already. Any other ends in peace.
fn check_end(ended: &Ended, is_broken: bool) -> Option<String> {
    let is_mended = ["making it anew", "the index could not be closed"].iter().any(|said| ended.log.contains(said));
    let is_expected = match ended.code {
        Some(0) => !is_broken || is_mended,
        code => is_broken && code == Some(EXIT_DISK),
    };
    (!is_expected).then(|| format!("it ends with {:?}: {}", ended.code, ended.log))
}
