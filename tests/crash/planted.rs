//! The test of the tests: known bugs, planted one at a time, each of which a case must catch.
//!
//! Never in the product's source: a disk that lies stands for a sync that was left out, and the bugs in
//! `planted/` are put into a copy of the tree, built and run in the long form only.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::dice::Dice;
use crate::errors;
use crate::faults::Slot;
use crate::kills;
use crate::power::{self, Product};
use crate::report::{Report, is_long};
use crate::retention;

/// Tries that may pass before the bug has to be caught.
const TRIES_MAX: u64 = 12;

#[test]
fn a_journal_that_is_not_synced_is_caught() {
    let product = Product { lies: vec![Slot::LieSync], ..Product::default() };
    caught("planted_skip_sync", |report, dice| power::flight(report, dice, 6, &product));
}

#[test]
fn a_directory_that_is_not_synced_is_caught() {
    let product = Product { lies: vec![Slot::LieDirSync], ..Product::default() };
    caught("planted_forget_directory_sync", |report, dice| power::flight(report, dice, 6, &product));
}

#[test]
fn the_planted_bugs_have_their_place() {
    let bugs = Bug::all();
    assert!(bugs.len() >= 4, "bugs were planted here");
    for bug in bugs {
        for (file, _, _) in &bug.edits {
            bug.plant_in(&root().join(file), file);
        }
    }
}

#[test]
fn an_answer_before_the_commit_is_caught() {
    planted("acknowledge_before_commit", |report, dice, product| power::flight(report, dice, 12, product));
}

#[test]
fn a_failed_sync_that_is_ignored_is_caught() {
    planted("ignore_failed_sync", errors::some_places);
}

#[test]
fn a_replay_from_the_wrong_sequence_is_caught() {
    planted("replay_from_wrong_sequence", |report, dice, product| kills::under_load(report, dice, 10, product));
}

#[test]
fn a_record_that_is_trimmed_too_many_is_caught() {
    planted("trim_one_record_too_many", |report, dice, product| power::flight(report, dice, 12, product));
}

#[test]
fn an_owed_event_that_is_not_copied_forward_is_caught() {
    planted("forget_to_copy_forward", |report, dice, product| retention::under_kills(report, dice, 10, product));
}

/// Builds the product with a bug and lets a case catch it; in the long form only.
fn planted(name: &str, attempt: impl Fn(&mut Report, &mut Dice, &Product) -> Vec<String>) {
    if !is_long() {
        return;
    }
    let bug = Bug::all().into_iter().find(|bug| bug.name == name).expect("the bug is kept");
    let product = Product { program: Some(bug.build()), ..Product::default() };
    caught(&format!("planted_{name}"), |report, dice| attempt(report, dice, &product));
}

/// Tries until something is wrong, be it that the harness itself gives up.
fn caught(case: &str, attempt: impl Fn(&mut Report, &mut Dice) -> Vec<String>) {
    let mut report = Report::begin(case);
    let mut dice = Dice::new(report.seed);
    for tries in 1..=TRIES_MAX {
        let wrong = catch_unwind(AssertUnwindSafe(|| attempt(&mut report, &mut dice)));
        let wrong = wrong.unwrap_or_else(|_| vec!["the harness gave up".to_owned()]);
        if let Some(first) = wrong.first() {
            report.set("caught_after", tries);
            report.set("caught_by", first.chars().take(160).collect::<String>());
            report.end(&[]);
            return;
        }
    }
    report.end(&[format!("{case} is not caught in {TRIES_MAX} tries")]);
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A bug as it is kept: a sentence, then edits of files; each text stands exactly once in its file.
struct Bug {
    name: String,
    edits: Vec<(String, String, String)>,
}

impl Bug {
    fn all() -> Vec<Bug> {
        let mut paths: Vec<PathBuf> = fs::read_dir(root().join("tests/crash/planted"))
            .expect("the bugs are kept there")
            .map(|entry| entry.expect("a readable entry").path())
            .collect();
        paths.sort();
        paths.iter().map(|path| Bug::read(path)).collect()
    }

    fn read(path: &Path) -> Bug {
        let text = fs::read_to_string(path).expect("a readable file");
        let mut edits = Vec::new();
        for edit in text.split("=== src/").skip(1) {
            let (file, texts) = edit.split_once('\n').expect("a text follows the file");
            let (before, after) = texts.split_once("=== becomes\n").expect("a text becomes another");
            let trimmed = |text: &str| text.trim_end_matches('\n').to_owned();
            edits.push((format!("src/{file}"), trimmed(before), trimmed(after)));
        }
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a plain name");
        Bug { name: name.to_owned(), edits }
    }

    /// The text of a file with the bug in it.
    fn plant_in(&self, path: &Path, file: &str) -> String {
        let mut text = fs::read_to_string(path).expect("a readable file");
        for (_, before, after) in self.edits.iter().filter(|(of, _, _)| of == file) {
            let places = text.matches(before.as_str()).count();
            assert_eq!(places, 1, "planted/{}.bug: this stands {places} times in {file}:\n{before}", self.name);
            text = text.replace(before.as_str(), after);
        }
        text
    }

    /// Builds a copy of the tree with the bug in it; the binary.
    fn build(&self) -> PathBuf {
        static BUILDING: Mutex<()> = Mutex::new(());
        let _one_at_a_time = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("planted");
        let tree = dir.join("tree");
        // There from the last bug.
        let _ = fs::remove_dir_all(&tree);
        for part in ["src", "config", "benches", "Cargo.toml", "Cargo.lock"] {
            crate::damage::copy(&root().join(part), &tree.join(part));
        }
        for (file, _, _) in &self.edits {
            fs::write(tree.join(file), self.plant_in(&root().join(file), file)).expect("a file of ours");
        }
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--offline", "--bin", "posthaste"]).current_dir(&tree);
        let built = cargo.env("CARGO_TARGET_DIR", dir.join("target")).output().expect("cargo runs");
        assert!(built.status.success(), "{}: {}", self.name, String::from_utf8_lossy(&built.stderr));
        let program = dir.join(&self.name);
        fs::copy(dir.join("target/debug/posthaste"), &program).expect("the binary was built");
        program
    }
}
