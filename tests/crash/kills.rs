//! kill -9: at random under load, and while the last kill is being recovered from.
//!
//! Never waits for a good moment.

use std::time::{Duration, Instant};

use crate::dice::Dice;
use crate::load::{Load, Pace};
use crate::report::{Report, rounds};
use crate::scene::{CAST, Scene};

#[test]
fn every_acknowledged_event_survives_kills_under_load() {
    let mut report = Report::begin("kill_under_load");
    let mut dice = Dice::new(report.seed);
    let scene = Scene::set(&CAST, &mut dice, |launch| launch);
    let pace = Pace { singles: 3, batches: 1, bytes_max: 1200, churn: true };
    let load = Load::begin(&scene, &mut dice, pace);
    let cycles = rounds(50, 1000);
    let mut restart_ms = Vec::new();
    for _ in 0..cycles {
        let begun = Instant::now();
        let appliance = scene.start();
        restart_ms.push(begun.elapsed().as_millis() as u64);
        std::thread::sleep(Duration::from_millis(dice.within(10..300)));
        scene.kill(appliance);
    }
    let appliance = scene.start();
    let moves = load.end();
    let drained = scene.drain(&appliance);
    let mut verdict = scene.verdict(&appliance);
    verdict.faults.extend(drained.err());
    verdict.faults.extend(moves.check(&scene, &appliance.addresses));
    let waited = verdict.waiting;
    scene.resume(&appliance);
    verdict.faults.extend(scene.drain(&appliance).err());
    let end = scene.verdict(&appliance);
    verdict.faults.extend(end.faults.iter().cloned());
    if end.waiting > 0 || waited == 0 {
        verdict.note(format!("{waited} waited for a paused merchant, {} after it was resumed", end.waiting));
    }
    restart_ms.sort_unstable();
    report.set("n", cycles);
    report.set("restart_ms_p50", restart_ms[restart_ms.len() / 2]);
    report.set("restart_ms_max", restart_ms[restart_ms.len() - 1]);
    verdict.add_to(&mut report);
    report.end(&verdict.faults);
}
