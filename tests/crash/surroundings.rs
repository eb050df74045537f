//! What happens around the process: a slow disk, a full one, no more files, a clock that jumps, a second process.
//!
//! Never expects more than the contract: nothing acknowledged is lost, and once it is over all goes on.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::appliance::{Appliance, Launch, PATIENCE};
use crate::dice::Dice;
use crate::faults::{Faults, Slot};
use crate::load::{Load, Pace};
use crate::report::{Report, is_long};
use crate::scene::{CAST, Scene, directory};

const HOUR_MS: i64 = 3_600_000;

/// Files that the process may have open: some for itself, few for others.
const FILES_MAX: u32 = 96;

/// The small filesystem, and what is left of it when the appliance is to run into its end.
const DISK_BYTES: u64 = 64 << 20;
const SPACE_BYTES: u64 = 256 << 10;

#[test]
fn a_slow_disk_delays_and_loses_nothing() {
    for (case, delay_ms, acks) in [("slow_sync_200ms", 200, 40), ("slow_sync_2s", 2_000, 8)] {
        let report = Report::begin(case);
        let mut dice = Dice::new(report.seed);
        let (scene, faults) = faulty(&mut dice);
        let appliance = scene.start();
        faults.set(Slot::SyncDelayMs, delay_ms);
        let load = Load::begin(&scene, &mut dice, pace());
        gather_acks(&scene, acks);
        scene.kill(appliance);
        let appliance = scene.start();
        gather_acks(&scene, acks);
        faults.reset();
        load.end();
        conclude(report, &scene, &appliance, Vec::new());
    }
}

#[test]
fn a_clock_that_jumps_loses_nothing() {
    let mut report = Report::begin("clock_jumps");
    let mut dice = Dice::new(report.seed);
    let (scene, faults) = faulty(&mut dice);
    let mut appliance = scene.start();
    let load = Load::begin(&scene, &mut dice, pace());
    let jumps = if is_long() { 100 } else { 8 };
    report.set("n", jumps);
    let mut last_ms = 0;
    for nth in 0..jumps {
        // Never a day apart, after which a producer's key may mean another event.
        let offset_ms = i64::try_from(dice.within(0..22)).expect("small") * HOUR_MS - 11 * HOUR_MS;
        last_ms = last_ms.max(offset_ms);
        faults.set_clock(offset_ms);
        gather_acks(&scene, 30);
        if nth % 3 == 2 {
            scene.kill(appliance);
            appliance = scene.start();
        }
    }
    load.end();
    // What was put off while the clock was ahead is due by then.
    faults.set_clock(last_ms + HOUR_MS);
    conclude(report, &scene, &appliance, Vec::new());
}

#[test]
fn a_process_without_free_files_loses_nothing() {
    let mut report = Report::begin("emfile");
    let mut dice = Dice::new(report.seed);
    let scene = Scene::set(&CAST, &mut dice, |launch| launch.with_files_max(FILES_MAX));
    let appliance = scene.start();
    let load = Load::begin(&scene, &mut dice, Pace { bytes_max: 20_000, ..pace() });
    let rounds = if is_long() { 50 } else { 4 };
    report.set("n", rounds);
    let mut faults = Vec::new();
    for _ in 0..rounds {
        let address = appliance.addresses.public.trim_start_matches("http://").to_owned();
        let idle: Vec<TcpStream> = (0..FILES_MAX).filter_map(|_| TcpStream::connect(&address).ok()).collect();
        report.add("idle_connections", idle.len() as u64);
        let deadline = Instant::now() + Duration::from_millis(dice.within(200..600));
        while appliance.is_alive() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(idle);
        if !appliance.is_alive() {
            break;
        }
        gather_acks(&scene, 20);
    }
    let appliance = if appliance.is_alive() {
        appliance
    } else {
        let ended = scene.ended(appliance);
        faults.push(format!("it ends with {:?}: {}", ended.code, ended.log));
        scene.start()
    };
    load.end();
    conclude(report, &scene, &appliance, faults);
}

#[test]
fn a_second_process_on_the_same_directory_is_refused() {
    let mut report = Report::begin("two_processes");
    let mut dice = Dice::new(report.seed);
    let scene = Scene::set(&CAST, &mut dice, |launch| launch);
    let appliance = scene.start();
    let load = Load::begin(&scene, &mut dice, pace());
    let tries = if is_long() { 100 } else { 5 };
    report.set("n", tries);
    let mut faults = Vec::new();
    for _ in 0..tries {
        gather_acks(&scene, 5);
        match scene.plain.start() {
            Ok(_) => faults.push("a second process serves from the same directory".to_owned()),
            Err(ended) => {
                let is_clear = ended.code == Some(78) && ended.log.contains("in use by another posthaste process");
                if !is_clear {
                    faults.push(format!("the second ends with {:?}: {}", ended.code, ended.log));
                }
            }
        }
    }
    load.end();
    conclude(report, &scene, &appliance, faults);
}

#[test]
fn a_full_disk_that_is_freed_loses_nothing() {
    let mut report = Report::begin("enospc_shim");
    let mut dice = Dice::new(report.seed);
    let (scene, faults) = faulty(&mut dice);
    let mut appliance = scene.start();
    let load = Load::begin(&scene, &mut dice, pace());
    let rounds = if is_long() { 50 } else { 4 };
    report.set("n", rounds);
    let mut wrong = Vec::new();
    for _ in 0..rounds {
        gather_acks(&scene, 20);
        faults.limit_space(Some(dice.within(0..SPACE_BYTES)));
        let deadline = Instant::now() + Duration::from_secs(5);
        while appliance.is_alive() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        if !appliance.is_alive() {
            let ended = scene.ended(appliance);
            report.add("stopped", 1);
            if ended.code != Some(74) {
                wrong.push(format!("on a full disk it ends with {:?}: {}", ended.code, ended.log));
            }
            // Without space it may not start, but must not make things worse.
            if let Ok(appliance) = scene.try_start(&scene.launch) {
                scene.kill(appliance);
            }
            faults.limit_space(None);
            appliance = scene.start();
        }
        faults.limit_space(None);
    }
    load.end();
    conclude(report, &scene, &appliance, wrong);
}

#[test]
fn a_full_filesystem_refuses_events_and_delivers() {
    let mut report = Report::begin("enospc_tmpfs");
    let root = directory();
    let Some(mount) = Mount::tmpfs(root.path(), DISK_BYTES) else {
        report.set("skipped", "no filesystem can be mounted here; enospc_shim stands for it");
        report.end(&[]);
        return;
    };
    let mut dice = Dice::new(report.seed);
    let scene = Scene::set_in(root, &CAST, &mut dice, |launch| launch, Box::new(|| 0));
    let launch = scene.launch.clone().with("POSTHASTE__STORAGE__FREE_BYTES_MIN", "16MiB");
    let appliance = scene.try_start(&launch).unwrap_or_else(|ended| panic!("it does not start: {ended:?}"));
    let load = Load::begin(&scene, &mut dice, pace());
    gather_acks(&scene, 20);
    let mut faults = Vec::new();
    let filler = scene.root.path().join("filler");
    fs::write(&filler, vec![1; usize::try_from(DISK_BYTES - (12 << 20)).expect("small")]).expect("room for the filler");
    if !soon(|| scene.ledger.refused_as(507) > 0) {
        faults.push("no event is answered 507 though the disk is nearly full".to_owned());
    }
    faults.extend(scene.drain(&appliance).err().map(|what| format!("with the disk nearly full {what}")));
    fs::remove_file(&filler).expect("the filler is there");
    gather_acks(&scene, 20);
    load.end();
    report.set("refused_507", scene.ledger.refused_as(507));
    conclude(report, &scene, &appliance, faults);
    drop(appliance);
    drop(scene);
    drop(mount);
}

/// A scene with the library between it and its disk and clock.
fn faulty(dice: &mut Dice) -> (Scene, Faults) {
    let root = directory();
    let faults = Faults::under(root.path());
    let scene = Scene::set_in(root, &CAST, dice, |launch: Launch| faults.around(launch), Box::new(|| 0));
    (scene, faults)
}

fn pace() -> Pace {
    Pace { singles: 2, batches: 1, bytes_max: 3000, churn: false }
}

/// Waits for so many more acknowledgements: it goes on.
fn gather_acks(scene: &Scene, more: usize) {
    let wanted = scene.ledger.acks() + more;
    assert!(soon(|| scene.ledger.acks() >= wanted), "events are not acknowledged any more");
}

fn soon(condition: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

/// The faults are over: all must drain and agree.
fn conclude(mut report: Report, scene: &Scene, appliance: &Appliance, mut faults: Vec<String>) {
    faults.extend(scene.drain(appliance).err());
    let verdict = scene.verdict(appliance);
    verdict.add_to(&mut report);
    faults.extend(verdict.faults);
    report.end(&faults);
}

/// A filesystem in memory, unmounted when dropped.
struct Mount(PathBuf);

impl Mount {
    fn tmpfs(at: &Path, bytes: u64) -> Option<Mount> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "posthaste-crash"]).arg(at);
        mount.output().is_ok_and(|output| output.status.success()).then(|| Mount(at.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // At the end of the test nothing is lost where it stays.
        let _ = Command::new("umount").arg(&self.0).output();
        let _ = fs::remove_dir(&self.0);
    }
}
