//! SIGTERM while a thousand attempts are under way.
//!
//! Never lets one of them end before the signal was sent.

use std::time::{Duration, Instant};

use crate::appliance::PATIENCE;
use crate::dice::Dice;
use crate::load::{Load, Pace};
use crate::receivers::Manner;
use crate::report::{Report, rounds};
use crate::scene::{Fate, Scene};

const ATTEMPTS: usize = 1000;

#[test]
fn a_stop_records_a_thousand_attempts_under_way() {
    let mut report = Report::begin("sigterm_under_attempts");
    let mut dice = Dice::new(report.seed);
    let cycles = rounds(1, 100).min(100);
    report.set("n", cycles);
    let mut faults = Vec::new();
    for _ in 0..cycles {
        stop(&mut report, &mut dice, &mut faults);
    }
    report.end(&faults);
}

fn stop(report: &mut Report, dice: &mut Dice, faults: &mut Vec<String>) {
    let cast = [("one", Manner::Holding, Fate::Steady, 50), ("two", Manner::Holding, Fate::Steady, 50)];
    let scene = Scene::set(&cast, dice, |launch| {
        launch
            .with("POSTHASTE__DELIVERY__ADAPTIVE", "false")
            .with("POSTHASTE__DELIVERY__IN_FLIGHT_PER_ENDPOINT_MAX", "2048")
            .with("POSTHASTE__DELIVERY__IN_FLIGHT_PER_MERCHANT_MAX", "2048")
            .with("POSTHASTE__DELIVERY__WINDOW_MAX", "4096")
    });
    let appliance = scene.start();
    let pace = Pace { singles: 0, batches: 4, bytes_max: 1200, churn: false };
    let load = Load::begin(&scene, dice, pace);
    let deadline = Instant::now() + PATIENCE;
    while scene.receivers.held() < ATTEMPTS {
        assert!(Instant::now() < deadline, "only {} attempts are under way", scene.receivers.held());
        std::thread::sleep(Duration::from_millis(1));
    }
    // What is handed in from here on may be refused; it is handed in again after the start.
    appliance.signal_term();
    scene.receivers.release();
    let ended = appliance.process.ended();
    scene.gone();
    if ended.code != Some(0) {
        faults.push(format!("the stop ends with {ended:?}"));
    }
    let appliance = scene.start();
    load.end();
    faults.extend(scene.drain(&appliance).err());
    let verdict = scene.verdict(&appliance);
    report.add("under_way", ATTEMPTS as u64);
    verdict.add_to(report);
    if verdict.duplicates > 0 {
        faults.push(format!("{} attempts were not recorded and made again", verdict.duplicates));
    }
    faults.extend(verdict.faults);
}
