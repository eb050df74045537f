//! The embedded store as a subject: a directory that is opened again after every ending.
//!
//! A crash is a copy of the files at that moment, opened in place of the original: what stood only in the
//! process's memory is not in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use posthaste::model::Merchant;
use posthaste::store::embedded::{EmbeddedStore, Limits, Probes, Surroundings};
use posthaste::store::{Change, Refusal, Store};

use crate::samples::merchant;
use crate::subject::{Ending, NoticeLog, Subject, TestClock, TestEntropy};

/// What retention the subjects of this file have that do have some.
pub(crate) const RETENTION_MS: i64 = 60 * 60 * 1000;

/// A fresh store in a directory of its own.
pub(crate) fn fresh() -> Subject {
    with(&small())
}

/// A fresh store that keeps history for `RETENTION_MS`, when asked to look.
pub(crate) fn fleeting() -> Subject {
    with(&Limits {
        segment_bytes: 8 << 10,
        retention_age_ms: RETENTION_MS.unsigned_abs(),
        retention_every_ms: 1_000_000,
        ..small()
    })
}

/// Small enough that segments roll, the index lags and generations change within every test.
pub(crate) fn small() -> Limits {
    Limits {
        segment_bytes: 64 << 10,
        settle_delay_ms: 1,
        unindexed_max: 400,
        loose_names_max: 20,
        index_cache_bytes: 8 << 20,
        free_bytes_min: 0,
        reserve_bytes: 0,
        ..Limits::default()
    }
}

/// A fresh store with these limits.
pub(crate) fn with(limits: &Limits) -> Subject {
    let notices = Arc::new(NoticeLog::default());
    let clock = Arc::new(TestClock::default());
    let mut dir = scratch();
    let store = Arc::new(open(dir.path(), limits, &notices, &clock, 1));
    let now = Arc::new(Mutex::new(Arc::downgrade(&store)));
    let (log, time, mut seed) = (notices.clone(), clock.clone(), 1);
    let (limits, present) = (*limits, now.clone());
    let revive = move |store: Arc<dyn Store>, ending| {
        seed += 1;
        if let Ending::Closed = ending {
            store.close();
            drop(store);
        } else {
            let left = still(dir.path());
            drop(store);
            dir = left;
        }
        if let Ending::Bereft = ending {
            fs::remove_dir_all(dir.path().join("index")).expect("there is an index");
        }
        let store = Arc::new(open(dir.path(), &limits, &log, &time, seed));
        *now.lock().expect("no test panics here") = Arc::downgrade(&store);
        store as Arc<dyn Store>
    };
    let retain = move || {
        let store = present.lock().expect("no test panics here").upgrade().expect("the store is open");
        store.retain().expect("what is past its time can be dropped");
    };
    let mut subject = Subject::new(store, notices, clock, Some(Box::new(revive)));
    subject.retain = Some(Box::new(retain));
    subject
}

/// Opens what is in a directory.
pub(crate) fn open(
    dir: &Path,
    limits: &Limits,
    notices: &Arc<NoticeLog>,
    clock: &Arc<TestClock>,
    seed: u64,
) -> EmbeddedStore {
    let around = Surroundings {
        clock: clock.clone(),
        entropy: Arc::new(TestEntropy::seeded(seed)),
        sink: notices.sink(),
        fatal: Arc::new(|error| panic!("the store failed: {error}")),
        probes: Probes::default(),
    };
    // Every other life ends with much that only the journal has.
    let limits = Limits { index_flush_ms: if seed.is_multiple_of(2) { 5 } else { 60_000 }, ..*limits };
    EmbeddedStore::open(dir, limits, around).expect("the store opens")
}

/// A directory of its own, in memory where the system has such: what a process leaves in its files survives it
/// there, too, and a power cut is not tried here.
pub(crate) fn scratch() -> tempfile::TempDir {
    let in_memory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    in_memory.expect("a temporary directory")
}

/// A copy of a directory.
pub(crate) fn copied(dir: &Path) -> tempfile::TempDir {
    let target = scratch();
    copy(dir, target.path());
    target
}

/// A copy of a directory as it was at one moment: one that a second copy finds unchanged.
fn still(dir: &Path) -> tempfile::TempDir {
    loop {
        let [first, second] = [(); 2].map(|()| copied(dir));
        if contents(first.path()) == contents(second.path()) {
            return first;
        }
    }
}

fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("a readable directory") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            let inside = contents(&path).into_iter();
            let name = path.file_name().map(PathBuf::from).expect("a name");
            found.extend(inside.map(|(file, bytes)| (name.join(file), bytes)));
        } else {
            let name = path.file_name().map(PathBuf::from).expect("a name");
            found.insert(name, fs::read(&path).expect("a readable file"));
        }
    }
    found
}

pub(crate) fn copy(from: &Path, to: &Path) {
    let entries = fs::read_dir(from).expect("a readable directory");
    let mut entries: Vec<_> = entries.map(|entry| entry.expect("a readable entry")).collect();
    // The index before the journal: on a disk, too, the index is never ahead of the journal.
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a file type").is_dir() {
            fs::create_dir(&target).expect("a fresh directory");
            copy(&entry.path(), &target);
        } else if let Err(error) = fs::copy(entry.path(), target) {
            // sled replaces its snapshots while it runs.
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
        }
    }
}

#[test]
fn what_is_longer_than_a_record_is_refused_for_good_and_harms_nothing() {
    let (dir, notices, clock) = (scratch(), Arc::new(NoticeLog::default()), Arc::new(TestClock::default()));
    let store = open(dir.path(), &small(), &notices, &clock, 1);
    let long = Merchant { name: Some("x".repeat(40 << 20).into()), ..merchant("acme") };
    let refused = store.change(vec![Change::PutMerchant(merchant("globex")), Change::PutMerchant(long)]).wait();
    assert_eq!(refused, Err(Refusal::TooLarge));
    store.change(vec![Change::PutMerchant(merchant("initech"))]).wait().expect("taken");
    let kept = store.catalog().expect("readable").merchants;
    assert_eq!(kept, [merchant("initech")], "none of the list was");
}
