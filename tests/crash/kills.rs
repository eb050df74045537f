//! kill -9: at random under load, and while the last kill is being recovered from.
//!
//! Never waits for a good moment.

use std::time::{Duration, Instant};

use crate::appliance::Appliance;
use crate::dice::Dice;
use crate::judge::Verdict;
use crate::load::{Load, Pace};
use crate::power::Product;
use crate::report::{Report, rounds};
use crate::scene::{CAST, Scene};

/// Kills in a row while one run is being recovered from.
const RECOVERIES: u64 = 25;

#[test]
fn every_acknowledged_event_survives_kills_under_load() {
    let mut report = Report::begin("kill_under_load");
    let mut dice = Dice::new(report.seed);
    let faults = under_load(&mut report, &mut dice, rounds(50, 1000), &Product::default());
    report.end(&faults);
}

/// Kills and starts under load, then lets everything drain; what was wrong.
pub(crate) fn under_load(report: &mut Report, dice: &mut Dice, cycles: u64, product: &Product) -> Vec<String> {
    let mut scene = Scene::set(&CAST, dice, |launch| product.launch(launch));
    if product.is_planted() {
        scene.drain_patience = Duration::from_secs(3);
    }
    let load = Load::begin(&scene, dice, Pace { singles: 3, batches: 1, bytes_max: 1200, churn: true });
    let mut restart_ms = Vec::new();
    for _ in 0..cycles {
        let begun = Instant::now();
        let appliance = scene.start();
        restart_ms.push(u64::try_from(begun.elapsed().as_millis()).expect("short"));
        std::thread::sleep(Duration::from_millis(dice.within(10..300)));
        scene.kill(appliance);
    }
    let appliance = scene.start();
    let (mut verdict, left) = at_rest(&scene, &appliance, load);
    if left > 0 || verdict.waiting == 0 {
        verdict.note(format!("{} waited for a paused merchant, {left} after it was resumed", verdict.waiting));
    }
    restart_ms.sort_unstable();
    report.set("n", cycles);
    report.set("restart_ms_p50", restart_ms[restart_ms.len() / 2]);
    report.set("restart_ms_max", restart_ms[restart_ms.len() - 1]);
    verdict.add_to(report);
    verdict.faults
}

/// Ends the load and lets everything drain, then what paused merchants have, too. The verdict before these were resumed
/// with the faults of both, and how much waits at the end.
pub(crate) fn at_rest(scene: &Scene, appliance: &Appliance, load: Load) -> (Verdict, u64) {
    let moves = load.end();
    let drained = scene.drain(appliance);
    let mut verdict = scene.verdict(appliance);
    verdict.faults.extend(drained.err());
    verdict.faults.extend(moves.check(scene, &appliance.addresses));
    scene.resume(appliance);
    verdict.faults.extend(scene.drain(appliance).err());
    let end = scene.verdict(appliance);
    verdict.faults.extend(end.faults);
    (verdict, end.waiting)
}

#[test]
fn every_acknowledged_event_survives_kills_during_recovery() {
    let mut report = Report::begin("kill_during_recovery");
    let mut dice = Dice::new(report.seed);
    let scene = Scene::set(&CAST, &mut dice, |launch| launch);
    let pace = Pace { singles: 2, batches: 1, bytes_max: 1200, churn: true };
    let cycles = rounds(150, 5000);
    let mut kills = 0;
    let mut faults = Vec::new();
    while kills < cycles && faults.is_empty() {
        // A run that leaves something to recover, then kills while it is.
        let load = Load::begin(&scene, &mut dice, pace);
        let appliance = scene.start();
        std::thread::sleep(Duration::from_millis(dice.within(100..400)));
        scene.kill(appliance);
        for _ in 0..RECOVERIES.min(cycles - kills) {
            let process = scene.launch.spawn();
            std::thread::sleep(Duration::from_millis(dice.within(4..51)));
            if process.is_alive() {
                process.kill();
            } else {
                let ended = process.ended();
                faults.push(format!("a start after a kill ends with {:?}: {}", ended.code, ended.log));
            }
            kills += 1;
        }
        let appliance = scene.start();
        load.end();
        faults.extend(scene.drain(&appliance).err());
        faults.extend(scene.verdict(&appliance).faults);
        report.add("index_rebuilds", scene.kill_and_read(appliance).matches("making it anew").count() as u64);
    }
    let appliance = scene.start();
    faults.extend(scene.drain(&appliance).err());
    let verdict = scene.verdict(&appliance);
    report.set("n", kills);
    verdict.add_to(&mut report);
    faults.extend(verdict.faults);
    report.end(&faults);
}
