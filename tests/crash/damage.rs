//! Rot: bits flipped, pages zeroed, ends cut off, files gone, in the journal and in the index.
//!
//! Never lets the appliance get away with saying nothing: it mends it, refuses with the place and what to do, or
//! tells the place when it comes upon it.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::appliance::Launch;
use crate::dice::Dice;
use crate::judge::Verdict;
use crate::ledger::Evidence;
use crate::load::{Load, Pace};
use crate::report::{Report, rounds};
use crate::scene::{CAST, Scene, directory};

/// Rounds on one undamaged original.
const ROUNDS: u64 = 7;

/// Within which what is whole is delivered, on a machine that has other things to do.
const DRAIN_PATIENCE: Duration = Duration::from_secs(30);

/// What is done to one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    Flip,
    Zero,
    Truncate,
    Remove,
}

/// What the appliance makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Response {
    /// Everything is there.
    Mended,
    /// It does not start, and says where and what to do.
    Refused,
    /// It serves, and says of what cannot be read where it stands.
    Told,
    /// Something is missing and nobody is told, or not enough.
    Silent,
}

#[test]
fn damage_to_the_journal_is_never_silent() {
    let mut report = Report::begin("journal_damage");
    run(&mut report, "journal", rounds(14, 500), |dice| match dice.within(0..10) {
        0..6 => Damage::Flip,
        6..8 => Damage::Zero,
        _ => Damage::Truncate,
    })
    .conclude(report);
}

#[test]
fn damage_to_the_index_is_mended() {
    let mut report = Report::begin("index_damage");
    run(&mut report, "index", rounds(14, 500), |dice| match dice.within(0..10) {
        0..6 => Damage::Flip,
        6..8 => Damage::Zero,
        8 => Damage::Truncate,
        _ => Damage::Remove,
    })
    .conclude(report);
}

#[test]
fn a_segment_that_is_missing_in_the_middle_is_refused() {
    let mut report = Report::begin("segment_missing");
    let mut dice = Dice::new(report.seed);
    let original = Original::make(&mut dice);
    let segments = files(&original.dir().join("journal"));
    let mut faults = Vec::new();
    for segment in &segments[..segments.len() - 1] {
        let name = segment.file_name().expect("a name");
        let launch = original.copy();
        fs::remove_file(launch.data_dir.join("journal").join(name)).expect("it was copied");
        report.add("n", 1);
        let name = name.to_str().expect("a plain name");
        let (response, what) = original.respond(&launch, name, 0..u64::MAX, false);
        report.add(&format!("{response:?}").to_lowercase(), 1);
        // Retention may have removed the first ones; of those, what is read is told.
        let is_right = response == Response::Refused || (response == Response::Told && *segment == segments[0]);
        if !is_right {
            faults.push(format!("without {name} it is {response:?}: {what}"));
        }
    }
    report.end(&faults);
}

#[test]
fn an_index_that_is_gone_is_made_anew() {
    let mut report = Report::begin("index_deleted");
    let mut dice = Dice::new(report.seed);
    let original = Original::make(&mut dice);
    let launch = original.copy();
    fs::remove_dir_all(launch.data_dir.join("index")).expect("it was copied");
    let (response, what) = original.respond(&launch, "", 0..0, true);
    report.set("response", format!("{response:?}"));
    report.end(&if response == Response::Mended { Vec::new() } else { vec![what] });
}

/// Some rounds of damage.
struct Outcome {
    faults: Vec<String>,
}

impl Outcome {
    fn conclude(self, report: Report) {
        report.end(&self.faults);
    }
}

fn run(report: &mut Report, part: &str, rounds: u64, choose: impl Fn(&mut Dice) -> Damage) -> Outcome {
    let mut dice = Dice::new(report.seed);
    let mut faults = Vec::new();
    report.set("n", rounds);
    for response in ["mended", "refused", "told", "silent"] {
        report.set(response, 0);
    }
    let mut original = Original::make(&mut dice);
    for round in 0..rounds {
        if round > 0 && round % ROUNDS == 0 {
            original = Original::make(&mut dice);
        }
        let launch = original.copy();
        let mut all = files(&launch.data_dir.join(part));
        if part == "journal" && !original.is_settled {
            // Of what the index has not heard of, damage to the end cannot be told from a torn tail.
            all.pop();
        }
        let file = &all[usize::try_from(dice.number()).unwrap_or(0) % all.len()];
        let damage = choose(&mut dice);
        let name = file.strip_prefix(&launch.data_dir).expect("below").display().to_string();
        let Some(place) = inflict(file, damage, &mut dice) else { continue };
        let (response, what) = original.respond(&launch, &name, place.clone(), part == "index");
        report.add("index_rebuilds", u64::from(what.contains("making it anew")));
        report.add(&format!("{response:?}").to_lowercase(), 1);
        if response == Response::Silent {
            faults.push(format!("{damage:?} at {place:?} of {name}: {what}"));
        }
    }
    Outcome { faults }
}

/// Damages a file; which bytes, or `None` where there are none.
fn inflict(file: &Path, damage: Damage, dice: &mut Dice) -> Option<Range<u64>> {
    let mut bytes = fs::read(file).expect("a readable file");
    let len = bytes.len() as u64;
    if len == 0 {
        return None;
    }
    let at = dice.within(0..len);
    let range = match damage {
        Damage::Flip => at..at + 1,
        Damage::Zero => at / 4096 * 4096..(at / 4096 * 4096 + 4096).min(len),
        Damage::Truncate => at..len,
        Damage::Remove => 0..len,
    };
    let place = |at: u64| usize::try_from(at).expect("files are small");
    match damage {
        Damage::Flip => bytes[place(at)] ^= 1 << dice.within(0..8),
        Damage::Zero => bytes[place(range.start)..place(range.end)].fill(0),
        Damage::Truncate => bytes.truncate(place(at)),
        Damage::Remove => {
            fs::remove_file(file).expect("a file of ours");
            return Some(range);
        }
    }
    fs::write(file, bytes).expect("a file of ours");
    Some(range)
}

/// An undamaged data directory and what the world knows of it.
struct Original {
    scene: Scene,
    evidence: Evidence,
    /// Whether the index has heard of everything.
    is_settled: bool,
}

impl Original {
    /// Several segments, a backlog, an index that lags behind or does not.
    fn make(dice: &mut Dice) -> Original {
        let mends_soon = |launch: Launch| launch.with("POSTHASTE__STORAGE__RETENTION_EVERY", "100ms");
        let mut scene = Scene::set_in(directory(), &CAST, dice, mends_soon, Box::new(|| 0));
        scene.drain_patience = Duration::from_secs(5);
        let appliance = scene.start();
        let load = Load::begin(&scene, dice, Pace { singles: 2, batches: 1, bytes_max: 24_000, churn: true });
        while scene.ledger.acks() < 350 {
            std::thread::sleep(Duration::from_millis(1));
        }
        load.end();
        let is_settled = dice.percent(50);
        if is_settled {
            scene.terminate(appliance);
        } else {
            scene.kill(appliance);
        }
        let evidence = scene.ledger.evidence();
        Original { scene, evidence, is_settled }
    }

    fn dir(&self) -> &Path {
        &self.scene.plain.data_dir
    }

    /// A launch on a copy.
    fn copy(&self) -> Launch {
        let mut launch = self.scene.plain.clone();
        launch.data_dir = self.scene.root.path().join("copy");
        // There from the last round.
        let _ = fs::remove_dir_all(&launch.data_dir);
        copy(self.dir(), &launch.data_dir);
        launch
    }

    fn respond(&self, launch: &Launch, file: &str, place: Range<u64>, must_mend: bool) -> (Response, String) {
        let appliance = match self.scene.try_start(launch) {
            Ok(appliance) => appliance,
            Err(ended) if !must_mend && is_clear(&ended.log, file, &place) && ended.code == Some(74) => {
                return advised(launch, file, &place, Response::Refused, ended.log);
            }
            Err(ended) => return (Response::Silent, format!("it ends with {:?}: {}", ended.code, ended.log)),
        };
        // What lost a payload never drains, so that waiting long for it would only take long; what must be whole does.
        let patience = if must_mend { DRAIN_PATIENCE } else { self.scene.drain_patience };
        let drained = self.scene.drain_within(&appliance, patience);
        let mut evidence = self.scene.ledger.evidence();
        evidence.submitted.clone_from(&self.evidence.submitted);
        let mut verdict: Verdict = self.scene.compare(&appliance, &evidence);
        // What is damaged of the index is found when it is looked at, and mended soon.
        let until = Instant::now() + patience;
        while must_mend && !verdict.unreadable.is_empty() && Instant::now() < until {
            verdict = self.scene.compare(&appliance, &evidence);
        }
        let log = self.scene.kill_and_read(appliance);
        let is_sound = verdict.faults.is_empty();
        if is_sound && verdict.unreadable.is_empty() && drained.is_ok() {
            return (Response::Mended, log);
        }
        if is_sound && !must_mend && is_clear(&log, file, &place) {
            return advised(launch, file, &place, Response::Told, log);
        }
        let said: Vec<&str> = log.lines().take(8).collect();
        (Response::Silent, format!("{:?} {:?} {drained:?}\n{}", verdict.faults, verdict.unreadable, said.join("\n")))
    }
}

/// Whether it is also known what to do: `store verify` shows the same place and what to type, and what it says to type
/// leads to an appliance that starts. Otherwise it is no answer.
fn advised(launch: &Launch, file: &str, place: &Range<u64>, response: Response, log: String) -> (Response, String) {
    let (code, findings) = launch.store(&["verify"]);
    let is_shown = code == Some(1) && is_clear(&findings, file, place);
    if !is_shown || !findings.contains("posthaste store rebuild --accept-loss") {
        return (
            Response::Silent,
            format!(
                "{log}
`store verify` ends with {code:?}: {findings}"
            ),
        );
    }
    let (code, said) = launch.store(&["rebuild", "--accept-loss"]);
    match launch.start() {
        Ok(_) if code == Some(0) => (response, log),
        Ok(_) => (Response::Silent, format!("`store rebuild --accept-loss` ends with {code:?}: {said}")),
        Err(ended) => (
            Response::Silent,
            format!(
                "after `store rebuild --accept-loss`: {said}
{}",
                ended.log
            ),
        ),
    }
}

/// Whether a line names the file and bytes of it that the damage touches or, of a longer record, follows.
fn is_clear(log: &str, file: &str, place: &Range<u64>) -> bool {
    let number_after = |line: &str, word: &str| -> Option<u64> {
        let rest = &line[line.find(word)? + word.len()..];
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    let names = |line: &str| match (number_after(line, "bytes "), number_after(line, " to ")) {
        (Some(from), Some(to)) => from < place.end && to >= place.start,
        _ => number_after(line, "byte ").is_some_and(|at| at < place.end),
    };
    let is_missing = |line: &str| line.contains("is missing") && place.end == u64::MAX;
    log.lines().any(|line| is_missing(line) || (line.contains(file) && names(line)))
}

/// The files of a directory and below, in order.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a readable directory") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Copies a file or a directory with all that is in it.
pub(crate) fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).expect("a fresh directory");
        for entry in fs::read_dir(from).expect("a readable directory") {
            let entry = entry.expect("a readable entry");
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        fs::copy(from, to).expect("room for a copy");
    }
}
