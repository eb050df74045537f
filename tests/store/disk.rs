//! The embedded store as a subject: a directory that is opened again after every ending.
//!
//! A crash is a copy of the files at that moment, opened in place of the original: what stood only in the
//! process's memory is not in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use posthaste::store::Store;
use posthaste::store::embedded::{EmbeddedStore, Limits, Probes, Surroundings};

use crate::subject::{Ending, NoticeLog, Subject, TestClock, TestEntropy};

/// A fresh store in a directory of its own.
pub(crate) fn fresh() -> Subject {
    let notices = Arc::new(NoticeLog::default());
    let clock = Arc::new(TestClock::default());
    let mut dir = tempfile::tempdir().expect("a temporary directory");
    let store = open(dir.path(), &notices, &clock, 1);
    let (log, time, mut seed) = (notices.clone(), clock.clone(), 1);
    let revive = move |store: Arc<dyn Store>, ending| {
        seed += 1;
        if let Ending::Crashed = ending {
            let left = still(dir.path());
            drop(store);
            dir = left;
        } else {
            store.close();
            drop(store);
        }
        open(dir.path(), &log, &time, seed)
    };
    Subject::new(store, notices, clock, Some(Box::new(revive)))
}

fn open(dir: &Path, notices: &Arc<NoticeLog>, clock: &Arc<TestClock>, seed: u64) -> Arc<dyn Store> {
    let around = Surroundings {
        clock: clock.clone(),
        entropy: Arc::new(TestEntropy::seeded(seed)),
        sink: notices.sink(),
        fatal: Arc::new(|error| panic!("the store failed: {error}")),
        probes: Probes::default(),
    };
    // Small enough that segments roll, the index lags and generations change within every test.
    let limits = Limits {
        segment_bytes: 64 << 10,
        settle_delay_ms: 1,
        // Every other life ends with much that only the journal has.
        index_flush_ms: if seed.is_multiple_of(2) { 5 } else { 60_000 },
        unindexed_max: 400,
        index_cache_bytes: 8 << 20,
        free_bytes_min: 0,
        ..Limits::default()
    };
    Arc::new(EmbeddedStore::open(dir, limits, around).expect("the store opens"))
}

/// A copy of a directory as it was at one moment: one that a second copy finds unchanged.
fn still(dir: &Path) -> tempfile::TempDir {
    loop {
        let [first, second] = [(); 2].map(|()| {
            let left = tempfile::tempdir().expect("a temporary directory");
            copy(dir, left.path());
            left
        });
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

fn copy(from: &Path, to: &Path) {
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
