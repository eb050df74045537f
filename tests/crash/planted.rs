//! The test of the tests: known bugs, planted one at a time, each of which a case must catch.
//!
//! Never in the product's source: a disk that lies stands for a sync that was left out.

use crate::dice::Dice;
use crate::faults::Slot;
use crate::power::flight;
use crate::report::Report;

/// Runs that may pass before the bug has to be caught.
const FLIGHTS_MAX: u64 = 8;

#[test]
fn a_journal_that_is_not_synced_is_caught() {
    caught("planted_skipped_sync", &[Slot::LieSync], "LOST");
}

#[test]
fn a_directory_that_is_not_synced_is_caught() {
    caught("planted_skipped_directory_sync", &[Slot::LieDirSync], "LOST");
}

fn caught(case: &str, lies: &[Slot], sign: &str) {
    let mut report = Report::begin(case);
    let mut dice = Dice::new(report.seed);
    for flights in 1..=FLIGHTS_MAX {
        let wrong = flight(&mut report, &mut dice, 6, lies);
        if wrong.iter().any(|fault| fault.contains(sign)) {
            report.set("caught_after", flights);
            report.end(&[]);
            return;
        }
    }
    report.end(&[format!("{case} is not caught in {FLIGHTS_MAX} runs")]);
}
