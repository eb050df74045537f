//! The rules of the house, as tests: floors, sizes, names, words, dependencies.
//!
//! Never needs more than the source text and the standard library. Every rule is tried on bad samples too, so
//! that it is known to fail.

mod samples;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use source::Source;

/// A module may name only modules of its own floor and below (docs/architecture.md).
const FLOORS: [&[&str]; 8] = [
    &["model"],
    &["policy"],
    &["shard"],
    &["clock", "entropy", "store", "transport", "metrics"],
    &["outbox", "history", "recovery", "registry", "portal", "feed", "dispatcher", "engine"],
    &["http"],
    &["ingest", "api", "admin", "dashboard"],
    &["config", "cli"],
];
/// The floors that decide and never act.
const CORE_FLOORS: usize = 3;
const SURFACE_FLOOR: usize = 6;
/// What no surface may name: it goes through the floor between.
const BELOW_SURFACES: [&str; 2] = ["store", "shard"];

const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 600;
const MAIN_LINES_MAX: usize = 120;
/// May only be lowered.
const DEPENDENCIES_MAX: usize = 37;
const REASON_LEN_MIN: usize = 8;
/// Tasks are started where they are drained. May only be lowered.
const SPAWNS_MAX: usize = 4;

const TOP_LEVEL: [&str; 9] =
    ["Cargo.toml", "Cargo.lock", "LICENSE-MIT", "LICENSE-APACHE", "README.md", "benches", "config", "docs", "src"];
const TOP_LEVEL_TOO: [&str; 2] = ["tests", "target"];
const FILE_NAMES_BANNED: [&str; 7] = ["util", "utils", "helper", "helpers", "common", "manager", "misc"];
const CORE_WORDS_BANNED: [(&str, &str); 13] = [
    ("async", "the shell awaits, the core returns what to do"),
    ("await", "the shell awaits, the core returns what to do"),
    ("tokio", "the shell runs tasks"),
    ("std::io", "the shell reads and writes"),
    ("std::fs", "the shell reads and writes"),
    ("TcpStream", "the shell connects"),
    ("HashMap", "its order differs from run to run; use BTreeMap"),
    ("HashSet", "its order differs from run to run; use BTreeSet"),
    ("SystemTime", "take a Timestamp as an argument"),
    ("Instant", "take a Timestamp as an argument"),
    ("rand", "take chance as an argument"),
    ("getrandom", "take chance as an argument"),
    ("std::thread", "the shell runs threads"),
];
const PRINTING: [&str; 5] = ["println!", "eprintln!", "print!", "eprint!", "dbg!"];

#[test]
fn modules_name_only_their_own_floor_and_below() {
    expect_none(floor_faults(&sources(&["src"])));
}

#[test]
fn the_core_is_free_of_clocks_chance_and_io() {
    expect_none(core_faults(&sources(&["src"])));
}

#[test]
fn files_and_functions_are_short_and_files_say_what_they_are() {
    expect_none(sources(&["src", "tests", "benches"]).iter().flat_map(shape_faults).collect());
}

#[test]
fn words_and_names_are_those_of_the_house() {
    expect_none(sources(&["src", "tests", "benches"]).iter().flat_map(word_faults).collect());
}

#[test]
fn tasks_are_started_in_few_places() {
    expect_none(spawn_faults(&sources(&["src"]), SPAWNS_MAX));
}

#[test]
fn no_file_is_dead() {
    expect_none(dead_files(&sources(&["src", "tests", "benches"])));
}

#[test]
fn every_dependency_has_a_reason_and_they_are_few() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml is readable");
    expect_none(dependency_faults(&manifest, DEPENDENCIES_MAX));
}

#[test]
fn the_top_level_fits_on_one_line() {
    let entries = fs::read_dir(root()).expect("the repository is readable");
    let names = entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned());
    expect_none(names.filter_map(|name| top_level_fault(&name)).collect());
}

fn floor_of(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

fn floor_faults(sources: &[Source]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for source in sources {
        let Some(module) = source.module() else {
            continue;
        };
        let Some(floor) = floor_of(module) else {
            faults.push(source.fault(1, &format!("`{module}` has no floor: add it to FLOORS in tests/tidy/main.rs")));
            continue;
        };
        for (named, line) in source.modules_named() {
            let Some(named_floor) = floor_of(named).filter(|_| named != module) else {
                continue;
            };
            let rule = if named_floor > floor {
                "is a floor above; move what both need down, or hand it in"
            } else if floor == SURFACE_FLOOR && named_floor == SURFACE_FLOOR {
                "is another surface; surfaces never name each other"
            } else if floor == SURFACE_FLOOR && BELOW_SURFACES.contains(&named) {
                "is not for surfaces; go through outbox, history, registry or engine"
            } else {
                if named_floor == floor {
                    edges.entry(module).or_default().insert(named);
                }
                continue;
            };
            faults.push(source.fault(line, &format!("`{module}` names `{named}`, which {rule}")));
        }
    }
    let cycles = edges.keys().filter(|module| reaches(&edges, module, module));
    faults.extend(cycles.map(|module| format!("src/{module}: is in a cycle with its own floor: cut one direction")));
    faults
}

fn reaches(edges: &BTreeMap<&str, BTreeSet<&str>>, from: &str, to: &str) -> bool {
    let (mut waiting, mut seen) = (vec![from], BTreeSet::new());
    while let Some(module) = waiting.pop() {
        for next in edges.get(module).into_iter().flatten() {
            if *next == to {
                return true;
            }
            if seen.insert(*next) {
                waiting.push(next);
            }
        }
    }
    false
}

fn core_faults(sources: &[Source]) -> Vec<String> {
    let mut faults = Vec::new();
    for source in sources.iter().filter(|s| s.module().and_then(floor_of).is_some_and(|f| f < CORE_FLOORS)) {
        for (word, instead) in CORE_WORDS_BANNED {
            let lines = source.lines_with(&source.production(), word);
            faults
                .extend(lines.into_iter().map(|line| source.fault(line, &format!("`{word}` in the core: {instead}"))));
        }
    }
    faults
}

fn shape_faults(source: &Source) -> Vec<String> {
    let mut faults = Vec::new();
    let lines = source.text.lines().count();
    if !source.text.starts_with("//! ") {
        faults.push(source.fault(1, "begin with `//!`: what this file is and what it never does"));
    }
    if lines > FILE_LINES_MAX {
        faults.push(source.fault(1, &format!("{lines} lines: split it, {FILE_LINES_MAX} is the most")));
    }
    if source.path == "src/main.rs" && lines > MAIN_LINES_MAX {
        faults.push(source.fault(1, &format!("{lines} lines: main is a table of contents, {MAIN_LINES_MAX} at most")));
    }
    for (name, line, length) in source.functions() {
        if length > FUNCTION_LINES_MAX {
            let what = format!("`fn {name}` has {length} lines: push pure pieces down, {FUNCTION_LINES_MAX} at most");
            faults.push(source.fault(line, &what));
        }
    }
    faults
}

fn word_faults(source: &Source) -> Vec<String> {
    let mut faults = Vec::new();
    let stem = source.path.rsplit('/').next().and_then(|name| name.strip_suffix(".rs")).unwrap_or("");
    if FILE_NAMES_BANNED.contains(&stem) {
        faults.push(source.fault(1, &format!("`{stem}` says nothing: name the file after what it holds")));
    }
    for word in ["#[allow(", "#![allow("] {
        let lines = source.lines_with(&source.code, word);
        faults.extend(
            lines.into_iter().map(|line| source.fault(line, "use #[expect(…, reason = \"…\")] instead of allow")),
        );
    }
    let lines = source.lines_with(&source.code, "super::super");
    faults.extend(lines.into_iter().map(|line| source.fault(line, "say `crate::…` instead of super::super")));
    let may_print = source.path == "src/main.rs" || source.module() == Some("cli") || !source.path.starts_with("src/");
    for word in PRINTING.iter().filter(|_| !may_print) {
        let lines = source.lines_with(&source.code, word);
        faults
            .extend(lines.into_iter().map(|line| source.fault(line, &format!("`{word}` is for the cli: use tracing"))));
    }
    faults
}

fn spawn_faults(sources: &[Source], max: usize) -> Vec<String> {
    let places: Vec<String> = sources
        .iter()
        .flat_map(|s| {
            s.lines_with(&s.production(), "tokio::spawn").into_iter().map(|line| format!("{}:{line}", s.path))
        })
        .collect();
    if places.len() <= max {
        return Vec::new();
    }
    vec![format!("{}: {} calls of tokio::spawn, {max} at most: use a JoinSet", places.join(", "), places.len())]
}

fn dead_files(sources: &[Source]) -> Vec<String> {
    let known: BTreeMap<&str, &Source> = sources.iter().map(|s| (s.path.as_str(), s)).collect();
    let mut alive: BTreeSet<&str> = sources.iter().filter(|s| s.is_root()).map(|s| s.path.as_str()).collect();
    let mut waiting: Vec<&str> = alive.iter().copied().collect();
    while let Some(path) = waiting.pop() {
        for child in known[path].children() {
            if let Some((path, _)) = known.get_key_value(child.as_str())
                && alive.insert(path)
            {
                waiting.push(path);
            }
        }
    }
    let dead = sources.iter().filter(|s| !alive.contains(s.path.as_str()));
    dead.map(|s| s.fault(1, "no `mod` leads here: declare it or delete it")).collect()
}

fn dependency_faults(manifest: &str, max: usize) -> Vec<String> {
    let (mut faults, mut section, mut count) = (Vec::new(), "", 0);
    for (i, line) in manifest.lines().enumerate() {
        if line.starts_with('[') {
            section = line.split('#').next().unwrap_or("").trim();
            continue;
        }
        let is_entry = line.contains('=') && !line.trim_start().starts_with('#');
        if !section.ends_with("dependencies]") || !is_entry {
            continue;
        }
        count += usize::from(section == "[dependencies]");
        if line.split_once(" # ").is_none_or(|(_, reason)| reason.trim().len() < REASON_LEN_MIN) {
            faults.push(format!("Cargo.toml:{}: say in a comment on this line why it is needed", i + 1));
        }
    }
    if count > max {
        faults.push(format!("Cargo.toml: {count} dependencies, {max} at most: do without one"));
    }
    faults
}

fn top_level_fault(name: &str) -> Option<String> {
    let is_known = name.starts_with('.') || TOP_LEVEL.contains(&name) || TOP_LEVEL_TOO.contains(&name);
    (!is_known)
        .then(|| format!("{name}: does not belong to the top level; move it into docs, config, tests or a dotfile"))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(directories: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    let mut waiting: Vec<_> = directories.iter().map(|d| root().join(d)).filter(|d| d.exists()).collect();
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).expect("a directory of ours is readable") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(root()).expect("found below the root").to_string_lossy().into_owned();
                found.push(Source::new(&name, &fs::read_to_string(&path).expect("source is UTF-8")));
            }
        }
    }
    assert!(!found.is_empty(), "there is nothing to check in {directories:?}");
    found
}

fn expect_none(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n\n{}\n", faults.join("\n"));
}
