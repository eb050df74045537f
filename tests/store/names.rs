//! What is found by name, which are producers' keys and resources, whatever becomes of the files that help to find it.
//!
//! Never asks the files: only the store.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use posthaste::model::{EventId, EventType};
use posthaste::store::embedded::{EmbeddedStore, Limits};
use posthaste::store::{Acceptance, Change, HistoryQuery, NewEvent, Refusal, Store};

use crate::damage::{change_bytes, files, segments};
use crate::disk::{copied, open, scratch, small};
use crate::samples::{ACME, endpoint, event, everything, keyed, merchant};
use crate::subject::{NoticeLog, TestClock};

const EVENTS: u8 = 200;

/// What is done to the sheets.
type Damage = fn(&[PathBuf]);

/// A directory in which each of some events has a key and a resource of its own.
struct Left {
    dir: tempfile::TempDir,
    clock: Arc<TestClock>,
    ids: Vec<EventId>,
}

fn limits() -> Limits {
    Limits { segment_bytes: 16 << 10, retention_every_ms: 3_600_000, ..small() }
}

fn new_event(n: u8) -> NewEvent {
    NewEvent {
        event_type: EventType::ALL[usize::from(n % 4)],
        resource_id: Some(format!("resource-{n}-").into()),
        payload: Bytes::from(vec![b'7'; 100]),
        ..keyed(event("acme", ACME), n, 1)
    }
}

fn left_behind() -> Left {
    let (dir, clock) = (scratch(), Arc::new(TestClock::default()));
    let store = open(dir.path(), &limits(), &Arc::new(NoticeLog::default()), &clock, 2);
    let changes = vec![Change::PutMerchant(merchant("acme")), Change::PutEndpoint(endpoint(ACME, "acme"))];
    store.change(changes).wait().expect("an open store takes changes");
    let mut ids = Vec::new();
    for n in 0..EVENTS {
        match store.accept(new_event(n)).wait().expect("an open store takes events") {
            Acceptance::Fresh { id, .. } => ids.push(id),
            other => panic!("{other:?}"),
        }
        if n % 20 == 19 {
            // So many that a start makes one of some.
            while sheets(dir.path()).len() < usize::from(n / 20) {
                std::thread::yield_now();
            }
        }
    }
    store.close();
    drop(store);
    assert!(sheets(dir.path()).len() >= 9);
    Left { dir, clock, ids }
}

impl Left {
    fn open(&self, dir: &Path) -> EmbeddedStore {
        open(dir, &limits(), &Arc::new(NoticeLog::default()), &self.clock, 4)
    }

    /// Of how many events neither the key nor the resource is known any more as it was.
    fn missing(&self, store: &EmbeddedStore) -> usize {
        let is_known = |n: u8| {
            let again = store.accept(new_event(n)).wait();
            let id = self.ids[usize::from(n)];
            let is_duplicate = matches!(again, Ok(Acceptance::Duplicate { id: first, .. }) if first == id);
            let resource_id = Some(format!("resource-{n}-"));
            let page = store.page(&HistoryQuery { resource_id, ..everything("acme") });
            let is_found = page.is_ok_and(|page| page.items.iter().map(|item| item.id).eq([id]));
            assert!(
                !matches!(again, Ok(Acceptance::Fresh { .. } | Acceptance::Conflict)),
                "{n} was taken twice: {again:?}"
            );
            is_duplicate && is_found
        };
        (0..EVENTS).filter(|n| !is_known(*n)).count()
    }
}

fn sheets(dir: &Path) -> Vec<PathBuf> {
    files(&dir.join("index/names"), "names")
}

fn flip(path: &Path, at: usize) {
    change_bytes(path, |bytes| bytes[at] ^= 1);
}

#[test]
fn names_survive_whatever_becomes_of_their_sheets_between_two_lives() {
    let left = left_behind();
    let damage: [(&str, Damage); 8] = [
        ("nothing", |_| {}),
        ("the first is gone", |sheets| fs::remove_file(&sheets[0]).expect("removed")),
        ("one in the middle is gone", |sheets| fs::remove_file(&sheets[2]).expect("removed")),
        ("the last is gone", |sheets| fs::remove_file(sheets.last().expect("some")).expect("removed")),
        ("all are gone", |sheets| sheets.iter().for_each(|sheet| fs::remove_file(sheet).expect("removed"))),
        ("their directory is gone", |sheets| fs::remove_dir_all(sheets[0].parent().expect("one")).expect("removed")),
        ("one is cut short", |sheets| change_bytes(&sheets[1], |bytes| bytes.truncate(4_100))),
        ("the end of one is another", |sheets| {
            flip(&sheets[1], fs::read(&sheets[1]).expect("readable").len() - 40);
        }),
    ];
    for (what, inflict) in damage {
        let copy = copied(left.dir.path());
        inflict(&sheets(copy.path()));
        for life in 1..3 {
            let store = left.open(copy.path());
            assert_eq!(left.missing(&store), 0, "{what}, life {life}");
            store.close();
        }
    }
}

#[test]
fn a_sheet_that_rots_while_in_use_is_told_and_mended() {
    let left = left_behind();
    sheets(left.dir.path()).iter().for_each(|sheet| flip(sheet, 100));
    let store = left.open(left.dir.path());
    let again = store.accept(new_event(1)).wait();
    assert_eq!(again, Err(Refusal::Mending), "it cannot be told whether it came before");
    assert!(left.missing(&store) > 0);
    store.retain().expect("it can be mended");
    assert_eq!(left.missing(&store), 0);
    store.close();
    drop(store);
    assert_eq!(left.missing(&left.open(left.dir.path())), 0);
}

#[test]
fn a_start_that_reads_much_again_goes_on_beside_a_sheet_that_rots() {
    let left = left_behind();
    let sheets = sheets(left.dir.path());
    flip(&sheets[0], 100);
    sheets[1..].iter().for_each(|sheet| fs::remove_file(sheet).expect("removed"));
    let store = left.open(left.dir.path());
    assert!(left.missing(&store) > 0, "so it was not made anew yet");
    store.retain().expect("it can be mended");
    assert_eq!(left.missing(&store), 0);
}

#[test]
fn a_key_whose_first_event_is_damaged_is_neither_a_duplicate_nor_new() {
    let left = left_behind();
    let files = segments(left.dir.path());
    let bytes = fs::read(&files[0]).expect("readable");
    let text = b"resource-3-";
    let at = bytes.windows(text.len()).position(|part| part == text).expect("it stands in the first segment");
    flip(&files[0], at);
    let store = left.open(left.dir.path());
    assert_eq!(store.accept(new_event(3)).wait(), Err(Refusal::Unreadable));
    assert!(matches!(store.accept(new_event(4)).wait(), Ok(Acceptance::Duplicate { .. })), "others are known");
    assert!(matches!(store.accept(new_event(EVENTS)).wait(), Ok(Acceptance::Fresh { .. })), "and taken");
}
