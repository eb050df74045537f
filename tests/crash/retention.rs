//! Dropping old history while the process is killed, or the power goes, at any moment of it.
//!
//! Never lets history be dropped while it is judged: what is gone by then was dropped under fire.

use std::fs;
use std::time::{Duration, Instant};

use crate::dice::Dice;
use crate::kills;
use crate::load::{Load, Pace};
use crate::power::{self, Product};
use crate::report::{Report, rounds};
use crate::scene::{CAST, RETENTION_BYTES, Scene, forgetful};

/// Cuts of one recorded run.
const CUTS: u64 = 12;

/// What the appliance says when it has dropped something.
const PASS: &str = "old segments were dropped";

/// How long a run may take to get there; then it is killed all the same.
const PASS_PATIENCE: Duration = Duration::from_secs(5);

#[test]
fn what_is_owed_outlives_its_segment_under_kills() {
    let mut report = Report::begin("retention_under_kills");
    let mut dice = Dice::new(report.seed);
    let faults = under_kills(&mut report, &mut dice, rounds(12, 500), &Product::default());
    report.end(&faults);
}

/// Kills and starts under load while history is dropped, then lets everything drain; what was wrong.
pub(crate) fn under_kills(report: &mut Report, dice: &mut Dice, cycles: u64, product: &Product) -> Vec<String> {
    let mut scene = Scene::set(&CAST, dice, |launch| forgetful(product.launch(launch)));
    scene.forgets = true;
    if product.is_planted() {
        scene.drain_patience = Duration::from_secs(3);
    }
    let load = Load::begin(&scene, dice, Pace { singles: 3, batches: 1, bytes_max: 60_000, churn: true });
    let (mut passes, mut moved) = (0, 0);
    for _ in 0..cycles {
        if dice.percent(30) {
            let process = scene.launch.spawn();
            std::thread::sleep(Duration::from_millis(dice.within(4..51)));
            process.kill();
        }
        let appliance = scene.start();
        // In half of the runs something is dropped before the kill, in the others it may be about to be.
        let wants_pass = dice.percent(50);
        let deadline = Instant::now() + PASS_PATIENCE;
        while (journal_bytes(&scene) <= RETENTION_BYTES || (wants_pass && !appliance.process.log().contains(PASS)))
            && Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(dice.within(0..400)));
        let log = scene.kill_and_read(appliance);
        passes += log.matches(PASS).count();
        moved += numbers_after(&log, "moved_bytes=").sum::<u64>();
    }
    let appliance = scene.try_start(&scene.plain).unwrap_or_else(|ended| panic!("it does not start: {ended:?}"));
    let (mut verdict, _) = kills::at_rest(&scene, &appliance, load);
    if verdict.dropped == 0 || moved == 0 {
        verdict.note(format!("{} events were dropped and {moved} bytes moved: nothing was tested", verdict.dropped));
    }
    scene.terminate(appliance);
    let (code, findings) = scene.plain.store(&["verify"]);
    if code != Some(0) {
        verdict.note(format!("`store verify` ends with {code:?}: {findings}"));
    }
    report.set("n", cycles);
    report.set("passes", passes as u64);
    report.set("moved_bytes", moved);
    verdict.add_to(report);
    verdict.faults
}

#[test]
fn what_is_owed_outlives_its_segment_under_power_cuts() {
    let mut report = Report::begin("retention_under_power_cuts");
    let mut dice = Dice::new(report.seed);
    let cuts = rounds(12, 500);
    let product = Product { forgets: true, ..Product::default() };
    let mut faults = Vec::new();
    for begun in (0..cuts).step_by(usize::try_from(CUTS).expect("small")) {
        faults.extend(power::flight(&mut report, &mut dice, CUTS.min(cuts - begun), &product));
    }
    report.set("n", cuts);
    report.end(&faults);
}

fn journal_bytes(scene: &Scene) -> u64 {
    let entries = fs::read_dir(scene.launch.data_dir.join("journal")).expect("a readable directory");
    // A segment may be gone by the time that it is asked for.
    entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum()
}

/// The numbers that follow a word.
fn numbers_after<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = u64> + 'a {
    text.split(word).skip(1).filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok())
}
