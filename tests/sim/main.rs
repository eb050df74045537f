//! The shard by seed, in virtual time: receivers fail, pages come late, the process dies, people meddle; and at
//! every step what was promised must hold.
//!
//! No runtime, no threads in a world, no clock: a seed is a history, to the byte. `POSTHASTE_SIM_SEEDS=20000`
//! runs the seeds below 20000; `POSTHASTE_SIM_SEEDS=17..18` runs one.

mod care;
mod dice;
mod history;
mod mutant;
mod oracle;
mod outage;
mod outbox;
mod people;
mod plan;
mod receiver;
mod rest;
mod seen;
mod shell;
mod subject;
mod world;

use std::any::Any;
use std::num::NonZero;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use mutant::{BUGS, Bug};
use seen::Seen;
use world::World;

const SEEDS: u64 = 300;
/// Every so many seeds one is run twice.
const TWICE_EVERY: u64 = 5;
/// A planted bug is found within so many seeds.
const SEEDS_PER_BUG_MAX: u64 = 200;

const ANOTHER_HISTORY: &str = "the same seed has another history";

/// What is left of a seed that kept every promise.
struct Kept {
    sum: (u64, u64),
    seen: Seen,
}

#[test]
fn every_seed_keeps_every_promise() {
    let seeds = seeds();
    let all = seeds == (0..SEEDS);
    let workers = thread::available_parallelism().map_or(1, NonZero::get) as u64;
    let (kept, broken): (Vec<_>, Vec<_>) = thread::scope(|scope| {
        let shares: Vec<_> = (0..workers)
            .map(|worker| {
                scope.spawn({
                    let seeds = seeds.clone();
                    move || share(seeds, worker, workers)
                })
            })
            .collect();
        shares.into_iter().map(|share| share.join().expect("a broken promise is caught")).unzip()
    });
    if let Some((seed, what)) = broken.into_iter().flatten().min() {
        panic!("seed {seed}: {what}\nPOSTHASTE_SIM_SEEDS={seed}..{} cargo test --test sim every_seed", seed + 1);
    }
    let kept: Vec<Kept> = kept.into_iter().flatten().collect();
    let steps: u64 = kept.iter().map(|kept| kept.sum.1).sum();
    let seen = kept.iter().map(|kept| kept.seen).fold(Seen::default(), Seen::plus);
    println!("{} seeds, {steps} steps: {seen:?}", kept.len());
    if all {
        let never = seen.never();
        assert!(never.is_empty(), "no seed came by {never:?}: what never happens is not tested");
    }
}

#[test]
fn every_planted_bug_is_found() {
    let mut faults = Vec::new();
    for (bug, said) in BUGS {
        let found = (0..SEEDS_PER_BUG_MAX).find_map(|seed| Some((seed, hunt(seed, bug)?)));
        let Some((seed, what)) = found else {
            faults.push(format!("{bug:?} was not found within {SEEDS_PER_BUG_MAX} seeds"));
            continue;
        };
        println!("{bug:?}: seed {seed}: {}", what.lines().next().unwrap_or(""));
        if !said.iter().any(|said| what.starts_with(said)) {
            faults.push(format!("{bug:?} was found for another reason: {what}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Runs a worker's share of the seeds until one breaks a promise.
fn share(seeds: Range<u64>, worker: u64, workers: u64) -> (Vec<Kept>, Option<(u64, String)>) {
    let mut kept = Vec::new();
    for seed in seeds.filter(|seed| seed % workers == worker) {
        match keep(seed) {
            Ok(one) => kept.push(one),
            Err(what) => return (kept, Some((seed, what))),
        }
    }
    (kept, None)
}

/// Runs a seed, some of them twice.
fn keep(seed: u64) -> Result<Kept, String> {
    let first = live(seed, None)?;
    if seed.is_multiple_of(TWICE_EVERY) && live(seed, None)?.sum != first.sum {
        return Err(ANOTHER_HISTORY.to_owned());
    }
    Ok(first)
}

/// What is said of the bug in this seed; `None`: nothing.
fn hunt(seed: u64, bug: Bug) -> Option<String> {
    let first = match live(seed, Some(bug)) {
        Ok(kept) => kept,
        Err(what) => return Some(what),
    };
    match live(seed, Some(bug)) {
        Ok(second) => (first.sum != second.sum).then(|| ANOTHER_HISTORY.to_owned()),
        Err(_) => Some(ANOTHER_HISTORY.to_owned()),
    }
}

/// One seed's life; `Err`: the promise that was broken, and the end of the history.
fn live(seed: u64, bug: Option<Bug>) -> Result<Kept, String> {
    let mut world = World::new(seed, bug);
    let lived = catch_unwind(AssertUnwindSafe(|| world.run()));
    match lived {
        Ok(()) => Ok(Kept { sum: world.history.sum(), seen: world.oracle.seen }),
        Err(panic) => Err(format!("{}\n{}", sentence(panic.as_ref()), world.history.tail())),
    }
}

fn sentence(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

fn seeds() -> Range<u64> {
    let text = std::env::var("POSTHASTE_SIM_SEEDS").unwrap_or_else(|_| SEEDS.to_string());
    let number = |text: &str| text.parse().expect("POSTHASTE_SIM_SEEDS is a number or a range like 17..18");
    match text.split_once("..") {
        Some((first, end)) => number(first)..number(end),
        None => 0..number(&text),
    }
}
