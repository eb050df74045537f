//! A data directory that is not as it was left: found, named, and mended or given up, never taken for sound.
//!
//! Never through a running store: each case works on a copy of what one left behind.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use posthaste::entropy::Entropy;
use posthaste::model::{DueKey, EndpointId, EventId, EventType, OwnerKind};
use posthaste::store::embedded::{EmbeddedStore, Limits, Probes, Surroundings};
use posthaste::store::export::export;
use posthaste::store::rebuild::rebuild;
use posthaste::store::verify::{Findings, verify};
use posthaste::store::{Acceptance, Change, HistoryQuery, NewEvent, Store};

use crate::disk::{copied, open, scratch, small};
use crate::samples::{ACME, GLOBEX, delivered, endpoint, event, everything, merchant, name, retried, unrouted};
use crate::subject::{BEGINNING, FIRST_KEY, NoticeLog, TestClock, TestEntropy};

/// A data directory and what was acknowledged in it.
pub(crate) struct Left {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) acknowledged: Vec<EventId>,
}

/// What is done to the files of a journal.
type Damage = fn(&[PathBuf]);

fn limits() -> Limits {
    Limits { segment_bytes: 16 << 10, ..small() }
}

fn put_two_merchants(store: &EmbeddedStore) {
    let changes = vec![
        Change::PutMerchant(merchant("acme")),
        Change::PutEndpoint(endpoint(ACME, "acme")),
        Change::PutMerchant(merchant("globex")),
        Change::PutEndpoint(endpoint(GLOBEX, "globex")),
        Change::PutOwner(OwnerKind::Card, "c1".into(), name("acme")),
    ];
    store.change(changes).wait().expect("an open store takes changes");
}

/// A store that lived for a while: several segments, some delivered, some waiting.
fn left_behind() -> Left {
    let (dir, clock, notices) = (scratch(), Arc::new(TestClock::default()), Arc::new(NoticeLog::default()));
    let store = open(dir.path(), &limits(), &notices, &clock, 2);
    put_two_merchants(&store);
    let mut acknowledged = Vec::new();
    for n in 0..160_usize {
        let (merchant, endpoint) = if n % 3 == 0 { ("globex", GLOBEX) } else { ("acme", ACME) };
        let new = NewEvent {
            payload: Bytes::from(vec![b'1' + u8::try_from(n % 9).expect("small"); 200]),
            event_type: EventType::ALL[n % 4],
            resource_id: Some(format!("r{}", n % 5).into()),
            ..if n % 7 == 0 { unrouted(merchant) } else { event(merchant, endpoint) }
        };
        let answer = store.accept(new).wait().expect("an open store takes events");
        let Acceptance::Fresh { id, .. } = answer else { panic!("{answer:?}") };
        acknowledged.push(id);
        let Some(owed) = notices.accepted(id) else { continue };
        match n % 4 {
            0 => store.settle(delivered(&owed, BEGINNING)),
            1 => store.settle(retried(&owed, BEGINNING.plus_ms(n as u64))),
            _ => {}
        }
    }
    store.close();
    drop(store);
    Left { dir, clock, acknowledged }
}

impl Left {
    fn copy(&self) -> tempfile::TempDir {
        copied(self.dir.path())
    }

    pub(crate) fn verify(&self, dir: &Path) -> Findings {
        verify(dir, &limits()).expect("the directory can be verified")
    }

    pub(crate) fn try_open(&self, dir: &Path) -> Result<EmbeddedStore, String> {
        let notices = Arc::new(NoticeLog::default());
        let around = Surroundings {
            clock: self.clock.clone(),
            entropy: Arc::new(TestEntropy::seeded(9)),
            sink: notices.sink(),
            fatal: Arc::new(|error| panic!("the store failed: {error}")),
            probes: Probes::default(),
        };
        EmbeddedStore::open(dir, limits(), around).map_err(|fault| fault.to_string())
    }

    /// Everything that a store shows, as text; every line of it can be read.
    pub(crate) fn picture(&self, dir: &Path) -> Vec<String> {
        let store = self.try_open(dir).expect("the store opens");
        let mut lines = vec![format!("{:?}", store.catalog().expect("readable"))];
        for merchant in ["acme", "globex"] {
            let page = store.page(&HistoryQuery { limit: 1000, ..everything(merchant) });
            for item in page.expect("readable").items {
                let dossier = store.dossier(&name(merchant), item.id).expect("readable").expect("listed");
                lines.push(format!("{:?} {item:?} {:?}", dossier.event, dossier.attempts));
            }
        }
        for line in store.backlog().expect("readable") {
            let owed = all_owed(&store, line.endpoint, FIRST_KEY);
            assert_eq!(owed.len() as u64, line.waiting, "as much is owed as is counted");
            lines.extend(owed);
        }
        lines
    }
}

pub(crate) fn all_owed(store: &EmbeddedStore, endpoint: EndpointId, from: DueKey) -> Vec<String> {
    let page = store.due(endpoint, from, 10_000).expect("readable");
    page.deliveries.iter().map(|d| format!("{} {:?} {} {}", d.event, d.due, d.attempts, d.status)).collect()
}

pub(crate) fn segments(dir: &Path) -> Vec<PathBuf> {
    files(&dir.join("journal"), "seg")
}

/// The files in a directory with such an ending, in order.
pub(crate) fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("a directory");
    let mut found: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
    found.retain(|path| path.extension().is_some_and(|extension| extension == ending));
    found.sort();
    found
}

pub(crate) fn change_bytes(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(file).expect("readable");
    change(&mut bytes);
    fs::write(file, bytes).expect("writable");
}

fn with_index<T>(dir: &Path, work: impl FnOnce(&sled::Tree) -> T) -> T {
    let db = sled::open(dir.join("index")).expect("the index opens");
    let done = work(&db.open_tree("posthaste").expect("its tree opens"));
    db.flush().expect("flushed");
    done
}

#[test]
fn a_sound_directory_is_found_sound_and_stays_as_it_is() {
    let left = left_behind();
    let before = left.picture(left.copy().path());
    let findings = left.verify(left.dir.path());
    assert!(findings.is_sound(), "{findings}");
    assert!(findings.segments > 3 && findings.records > 200, "{findings}");
    assert_eq!(left.picture(left.dir.path()), before);
    assert!(!left.dir.path().join("index.verify").exists());
}

#[test]
fn rebuilding_gives_the_same_answers() {
    let left = left_behind();
    let before = left.picture(left.copy().path());
    let rebuilt = rebuild(left.dir.path(), &limits(), &*left.clock, false).expect("nothing is lost");
    assert!(rebuilt.lost.is_empty());
    assert!(left.verify(left.dir.path()).is_sound());
    assert_eq!(left.picture(left.dir.path()), before);
}

#[test]
fn every_flipped_bit_of_the_journal_is_found_and_the_rest_survives_its_loss() {
    let left = left_behind();
    let dice = TestEntropy::seeded(5);
    for round in 0..30 {
        let copy = left.copy();
        let files = segments(copy.path());
        let file = &files[usize::try_from(dice.below(files.len() as u64)).expect("small")];
        let len = fs::metadata(file).expect("there").len();
        let at = usize::try_from(dice.below(len)).expect("small");
        change_bytes(file, |bytes| bytes[at] ^= 1 << dice.below(8));
        let what = format!("round {round}: byte {at} of {}", file.display());
        let findings = left.verify(copy.path());
        assert!(!findings.damage.is_empty(), "{what}: {findings}");
        let text = findings.to_string();
        assert!(text.contains("store rebuild --accept-loss"), "{what}: {text}");
        let refused = rebuild(copy.path(), &limits(), &*left.clock, false);
        assert!(refused.is_err(), "{what}: a loss is not accepted by itself");
        let rebuilt = rebuild(copy.path(), &limits(), &*left.clock, true).expect(&what);
        assert!(!rebuilt.lost.is_empty(), "{what}");
        let findings = left.verify(copy.path());
        assert!(findings.is_sound(), "{what}: {findings}");
        let kept = left.picture(copy.path());
        // A record holds one event at most, a commit a handful.
        let listed = kept.iter().filter(|line| line.starts_with("Event ")).count();
        assert!(listed + 8 >= left.acknowledged.len(), "{what}: {listed} of {}", left.acknowledged.len());
        let beside = fs::read_dir(copy.path().join("journal")).expect("a journal");
        let kept_aside =
            beside.filter(|e| e.as_ref().expect("readable").path().to_string_lossy().ends_with(".damaged"));
        assert!(kept_aside.count() <= 1);
    }
}

#[test]
fn a_segment_that_is_missing_or_short_or_headless_is_refused_and_can_be_given_up() {
    let left = left_behind();
    let damages: [(&str, Damage); 5] = [
        ("the first is missing", |files| fs::remove_file(&files[0]).expect("removed")),
        ("two in the middle are missing", |files| {
            files[1..3].iter().for_each(|f| fs::remove_file(f).expect("removed"))
        }),
        ("one in the middle is cut short", |files| change_bytes(&files[1], |bytes| bytes.truncate(5_000))),
        ("one in the middle is empty", |files| change_bytes(&files[1], Vec::clear)),
        ("a head is overwritten", |files| change_bytes(&files[2], |bytes| bytes[..24].fill(0xff))),
    ];
    for (what, damage) in damages {
        let copy = left.copy();
        damage(&segments(copy.path()));
        let findings = left.verify(copy.path());
        assert!(!findings.damage.is_empty(), "{what}: {findings}");
        // What was read before is in the index; without one, every record is needed.
        fs::remove_dir_all(copy.path().join("index")).expect("removed");
        let refused = left.try_open(copy.path()).map(drop).expect_err(what);
        assert!(refused.contains("store rebuild --accept-loss"), "{what}: {refused}");
        rebuild(copy.path(), &limits(), &*left.clock, true).expect(what);
        let findings = left.verify(copy.path());
        assert!(findings.is_sound(), "{what}: {findings}");
        left.picture(copy.path());
    }
}

#[test]
fn a_journal_that_ends_too_early_is_refused_and_numbers_are_never_given_out_twice() {
    let left = left_behind();
    let copy = left.copy();
    let files = segments(copy.path());
    for file in &files[files.len() / 2..] {
        fs::remove_file(file).expect("removed");
    }
    let refused = left.try_open(copy.path()).map(drop).expect_err("acknowledged records are gone");
    assert!(refused.contains("--accept-loss"), "{refused}");
    assert!(rebuild(copy.path(), &limits(), &*left.clock, false).is_err());
    let rebuilt = rebuild(copy.path(), &limits(), &*left.clock, true).expect("accepted");
    assert_eq!(rebuilt.lost.len(), 1, "{rebuilt}");
    let store = left.try_open(copy.path()).expect("the store opens");
    let answer = store.accept(unrouted("acme")).wait().expect("taken");
    let Acceptance::Fresh { id, sequence } = answer else { panic!("{answer:?}") };
    assert!(id > *left.acknowledged.last().expect("some"));
    let seen = (0..160).filter(|n| n % 3 != 0).count() as u64;
    assert_eq!(sequence, seen + 1);
}

#[test]
fn a_last_segment_cut_below_what_the_index_covers_is_refused() {
    let left = left_behind();
    let copy = left.copy();
    let last = segments(copy.path()).pop().expect("a segment");
    let len = fs::metadata(&last).expect("it is there").len();
    change_bytes(&last, |bytes| bytes.truncate(bytes.len() - 1));
    let refused = left.try_open(copy.path()).map(drop).expect_err("acknowledged records are gone");
    let lost = format!("to {len} are gone");
    assert!(refused.contains(&format!("{}: bytes ", last.display())) && refused.contains(&lost), "{refused}");
}

#[test]
fn something_owed_that_the_index_lost_is_found_at_the_start_and_mended() {
    let left = left_behind();
    let before = left.picture(left.copy().path());
    let copy = left.copy();
    with_index(copy.path(), |tree| {
        let (key, _) = tree.scan_prefix(b"d").next().expect("something is owed").expect("readable");
        tree.remove(key).expect("removed");
    });
    assert_eq!(left.picture(copy.path()), before);
    assert!(copy.path().join("index.broken").exists(), "what was wrong is kept to be looked at");
}

#[test]
fn what_the_index_says_otherwise_than_the_journal_is_told_and_mended() {
    let left = left_behind();
    let before = left.picture(left.copy().path());
    for prefix in [b"h", b"d", b"q", b"m", b"o", b"e"] {
        let copy = left.copy();
        with_index(copy.path(), |tree| {
            let (key, _) = tree.scan_prefix(prefix).next().expect("there is one").expect("readable");
            tree.remove(key).expect("removed");
        });
        let findings = left.verify(copy.path());
        assert!(findings.disagreements > 0 && findings.damage.is_empty(), "{findings}");
        assert!(findings.examples[0].contains("in the journal, but not in the index"), "{findings}");
        assert!(findings.to_string().contains("`posthaste store rebuild`"), "{findings}");
        rebuild(copy.path(), &limits(), &*left.clock, false).expect("nothing is lost");
        assert_eq!(left.picture(copy.path()), before);
    }
}

#[test]
fn what_a_newer_version_wrote_is_refused_and_never_cut_off() {
    let left = left_behind();
    let newer_head = left.copy();
    change_bytes(&segments(newer_head.path())[0], |bytes| {
        bytes[7] = 2;
        let crc = crc32c::crc32c(&bytes[..20]);
        bytes[20..24].copy_from_slice(&crc.to_le_bytes());
    });
    let refused = left.try_open(newer_head.path()).map(drop).expect_err("format 2");
    assert!(refused.contains("written by a newer version (format 2)"), "{refused}");

    let newer_record = left.copy();
    let last = segments(newer_record.path()).pop().expect("a segment");
    let (mut len, mut number) = (0, 0);
    change_bytes(&last, |bytes| {
        // The last record stands alone in its commit or not; the next number follows from a full walk.
        number = left.verify(newer_record.path()).records + 1;
        let mut header = [0; 32];
        header[6] = 200;
        header[7] = 1;
        header[8..12].copy_from_slice(&u32::try_from(bytes.len()).expect("small").to_le_bytes());
        header[16..24].copy_from_slice(&number.to_le_bytes());
        let meta_crc = crc32c::crc32c(&header[..24]);
        header[24..28].copy_from_slice(&meta_crc.to_le_bytes());
        bytes.extend_from_slice(&header);
        len = bytes.len() as u64;
    });
    let refused = left.try_open(newer_record.path()).map(drop).expect_err("kind 200");
    assert!(refused.contains("newer version"), "{refused}");
    assert_eq!(fs::metadata(&last).expect("there").len(), len, "not a byte is cut off");
}

#[test]
fn a_torn_end_is_cut_and_nothing_before_it() {
    let left = left_behind();
    let before = left.picture(left.copy().path());
    let dice = TestEntropy::seeded(3);
    for len in [1, 31, 32, 33, 500, 5_000] {
        let copy = left.copy();
        let last = segments(copy.path()).pop().expect("a segment");
        let mut garbage = vec![0; len];
        dice.fill(&mut garbage);
        change_bytes(&last, |bytes| bytes.extend_from_slice(&garbage));
        let findings = left.verify(copy.path());
        assert!(findings.is_sound() && findings.torn.is_some(), "{findings}");
        assert_eq!(left.picture(copy.path()), before);
        assert!(left.verify(copy.path()).torn.is_none());
    }
}

#[test]
fn an_export_holds_every_event_and_no_secret() {
    let left = left_behind();
    let mut bytes = Vec::new();
    let done = export(left.dir.path(), &limits(), &*left.clock, &mut bytes).expect("exported");
    assert_eq!(done.events, left.acknowledged.len() as u64);
    let text = String::from_utf8(bytes).expect("JSON is UTF-8");
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    let mut ids = Vec::new();
    for line in text.lines() {
        let value: serde_json::Value = serde_json::from_str(line).expect("each line is an object");
        *kinds.entry(value["kind"].as_str().expect("a kind").to_owned()).or_default() += 1;
        if value["kind"] == "event" {
            ids.push(value["id"].as_str().expect("an id").parse::<EventId>().expect("a legal id"));
            assert!(value["payload"].is_number(), "200 digits are a number: {line}");
        }
    }
    ids.sort_unstable();
    assert_eq!(ids, left.acknowledged);
    assert_eq!(kinds.values().sum::<u64>(), done.lines);
    assert_eq!((kinds["merchant"], kinds["endpoint"], kinds["owner"], kinds["sequence"]), (2, 2, 1, 2));
}

#[test]
fn a_directory_in_use_is_left_alone() {
    let left = left_behind();
    let store = left.try_open(left.dir.path()).expect("the store opens");
    let busy = [
        verify(left.dir.path(), &limits()).map(drop),
        rebuild(left.dir.path(), &limits(), &*left.clock, true).map(drop),
    ];
    for answer in busy {
        let refused = answer.expect_err("another has it").to_string();
        assert!(refused.contains("in use by another"), "{refused}");
    }
    assert!(left.try_open(left.dir.path()).is_err());
    // A closed store is still open to be read, and its index is not to be taken from it.
    store.close();
    assert!(left.try_open(left.dir.path()).is_err());
    drop(store);
    assert!(left.try_open(left.dir.path()).is_ok());
}
