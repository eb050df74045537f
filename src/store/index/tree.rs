//! The only file that names sled.
//!
//! sled 0.34.7 is kept inside what was measured to be safe: one tree, one writer, small batches of small
//! values, our own `fdatasync` because its `flush` is none, leftovers of a killed recovery swept before
//! it opens, and its panics caught. Never the only copy of anything.

use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::store::StoreError;

/// Operations in one sled batch: larger ones were measured to hold gigabytes.
const BATCH_OPERATIONS_MAX: usize = 256;

/// sled counts its pages as they are on disk. In memory they were measured to take more than twice as much.
const CACHE_SIZE_FACTOR: u64 = 2;

/// sled moves greater values to files that it never syncs.
const VALUE_LEN_MAX: usize = 64 << 10;

/// What sled says of a file that is still open.
const IN_USE: &str = "could not acquire lock";

/// How often and after which pause such a file is tried again: for 10 s.
const LOAD_TRIES_MAX: u32 = 1_000;
const LOAD_PAUSE: Duration = Duration::from_millis(10);

/// Bytes of a value for which one look is taken at its page.
const LOOK_BYTES: usize = 1 << 10;

/// A key and its new value; `None` removes it.
pub(crate) type Write = (Vec<u8>, Option<Vec<u8>>);

/// A key and its value.
pub(crate) type Pair = (Vec<u8>, Vec<u8>);

/// Stands in the directory of a tree that was found damaged while in use.
const SUSPECT: &str = "SUSPECT";

/// The tree, and the file under it for our own syncs.
#[derive(Debug)]
pub(crate) struct Tree {
    /// There until dropped.
    opened: Option<Opened>,
    file: File,
    guard: Guard,
}

#[derive(Debug)]
struct Opened {
    tree: sled::Tree,
    db: sled::Db,
}

/// Turns sled's panics into errors, and remembers that it is not to be trusted after one: the mark in its
/// directory makes the next start set it aside.
#[derive(Clone, Debug)]
struct Guard {
    marker: Arc<PathBuf>,
    fault: Arc<OnceLock<String>>,
}

impl Guard {
    fn new(dir: &Path) -> Guard {
        Guard { marker: Arc::new(dir.join(SUSPECT)), fault: Arc::default() }
    }

    fn run<T>(&self, work: impl FnOnce() -> Result<T, sled::Error>) -> Result<T, StoreError> {
        let (text, suspect) = match catch_unwind(AssertUnwindSafe(work)) {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => (error.to_string(), !matches!(error, sled::Error::Io(_))),
            Err(_) => ("sled panicked".to_owned(), true),
        };
        if suspect {
            // Where even this cannot be written, the next start finds the damage as this one did.
            let _ = fs::write(&*self.marker, &text);
        }
        let _ = self.fault.set(text.clone());
        Err(StoreError::Index(text))
    }
}

impl Tree {
    /// Opens or makes the tree in `dir`. An error means that its content cannot be used.
    pub(crate) fn open(dir: &Path, cache_bytes: u64) -> Result<Tree, StoreError> {
        fs::create_dir_all(dir).map_err(|source| failed("making", dir, source))?;
        sweep(dir).map_err(|source| failed("sweeping", dir, source))?;
        if dir.join(SUSPECT).exists() {
            return Err(StoreError::Index("it was found damaged while in use".into()));
        }
        let (db, tree) = match load(dir, cache_bytes) {
            Ok(pair) => pair,
            // A snapshot only shortens recovery: without it sled reads its whole log.
            Err(error) if remove(dir, |name| name.starts_with("snap.")).is_ok_and(|removed| removed > 0) => {
                tracing::warn!(%error, "the index does not open with its snapshot: trying without");
                load(dir, cache_bytes)?
            }
            Err(error) => return Err(error),
        };
        let opened = Opened { tree, db };
        match durable(dir) {
            Ok(file) => Ok(Tree { opened: Some(opened), file, guard: Guard::new(dir) }),
            Err(error) => {
                close(opened);
                Err(error)
            }
        }
    }

    fn opened(&self) -> &Opened {
        self.opened.as_ref().expect("there until dropped")
    }

    /// What went wrong with sled, where something did: nothing it says can be relied on any more.
    pub(crate) fn fault(&self) -> Option<StoreError> {
        self.guard.fault.get().map(|text| StoreError::Index(text.clone()))
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.guard.run(|| self.opened().tree.get(key))?.map(|value| value.to_vec()))
    }

    /// The pairs from `from` (inclusive) to `to` (exclusive); the iterator runs from either end.
    pub(crate) fn range(&self, from: &[u8], to: &[u8]) -> Range {
        Range {
            tree: Some(self.opened().tree.clone()),
            from: Bound::Included(from.to_vec()),
            to: Bound::Excluded(to.to_vec()),
            guard: self.guard.clone(),
        }
    }

    /// Writes in order, a batch at a time; a crash may leave any number of whole batches.
    pub(crate) fn apply(&self, writes: impl IntoIterator<Item = Write>) -> Result<(), StoreError> {
        self.apply_groups(writes.into_iter().map(|write| [write]))
    }

    /// Writes in order; whoever reads sees all of a group or none of it in one step, and so does the start after a crash.
    pub(crate) fn apply_groups<G>(&self, groups: impl IntoIterator<Item = G>) -> Result<(), StoreError>
    where
        G: IntoIterator<Item = Write, IntoIter: ExactSizeIterator>,
    {
        let mut batch = sled::Batch::default();
        let mut operations = 0;
        for group in groups {
            let group = group.into_iter();
            assert!(group.len() <= BATCH_OPERATIONS_MAX, "a group goes in one batch");
            if operations + group.len() > BATCH_OPERATIONS_MAX {
                let full = std::mem::take(&mut batch);
                self.guard.run(|| self.opened().tree.apply_batch(full))?;
                operations = 0;
            }
            operations += group.len();
            for (key, value) in group {
                match value {
                    Some(value) => {
                        assert!(value.len() <= VALUE_LEN_MAX, "values stay small, or sled would not sync them");
                        batch.insert(key, value);
                    }
                    None => batch.remove(key),
                }
            }
        }
        if operations > 0 {
            self.guard.run(|| self.opened().tree.apply_batch(batch))?;
        }
        Ok(())
    }

    /// Makes everything written so far durable. sled's own flush leaves that to chance.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        self.guard.run(|| self.opened().db.flush())?;
        self.file.sync_data().map_err(|source| StoreError::Io { context: "syncing the index".into(), source })
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.opened.take().into_iter().for_each(close);
    }
}

/// sled panics where its last sync fails. By then all that it holds is in the journal.
fn close(opened: Opened) {
    if catch_unwind(AssertUnwindSafe(|| drop(opened))).is_err() {
        tracing::error!("the index could not be closed: the next start checks it");
    }
}

/// The file under the tree, its name in the directory made durable.
fn durable(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("db");
    let file = File::open(&path).map_err(|source| failed("opening", &path, source))?;
    File::open(dir).and_then(|d| d.sync_all()).map_err(|source| failed("syncing", dir, source))?;
    Ok(file)
}

/// Pairs in order, from either end. Ends after an error.
pub(crate) struct Range {
    /// There until an error.
    tree: Option<sled::Tree>,
    from: Bound<Vec<u8>>,
    to: Bound<Vec<u8>>,
    guard: Guard,
}

impl Range {
    /// Looks each pair up anew, and once more for each further KiB of it. sled evicts nothing before 64 looks were taken at
    /// pages of one of the 256 parts of its cache, whatever their size; its own iterator takes one look at a page, and was
    /// measured to leave 450 MiB behind.
    fn step(
        &mut self,
        step: impl FnOnce(&mut sled::Iter) -> Option<sled::Result<(sled::IVec, sled::IVec)>>,
    ) -> Option<Result<Pair, StoreError>> {
        let tree = self.tree.as_ref()?;
        let bounds = (self.from.as_ref().map(Vec::as_slice), self.to.as_ref().map(Vec::as_slice));
        let pair = self.guard.run(|| step(&mut tree.range::<&[u8], _>(bounds)).transpose()).transpose()?;
        let pair = pair.and_then(|(key, value)| {
            for _ in 0..value.len() / LOOK_BYTES {
                self.guard.run(|| tree.get(&key))?;
            }
            Ok((key, value))
        });
        if pair.is_err() {
            self.tree = None;
        }
        Some(pair.map(|(key, value)| (key.to_vec(), value.to_vec())))
    }
}

impl Iterator for Range {
    type Item = Result<Pair, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let pair = self.step(Iterator::next)?;
        if let Ok((key, _)) = &pair {
            self.from = Bound::Excluded(key.clone());
        }
        Some(pair)
    }
}

impl DoubleEndedIterator for Range {
    fn next_back(&mut self) -> Option<Self::Item> {
        let pair = self.step(DoubleEndedIterator::next_back)?;
        if let Ok((key, _)) = &pair {
            self.to = Bound::Excluded(key.clone());
        }
        Some(pair)
    }
}

/// Opens sled. What closed it a moment ago may not have let go of its file yet: a thread of sled's ends when it likes. That
/// nobody else has the directory is certain before.
fn load(dir: &Path, cache_bytes: u64) -> Result<(sled::Db, sled::Tree), StoreError> {
    let mut tries = 1;
    loop {
        match load_once(dir, cache_bytes) {
            Err(StoreError::Index(text)) if text.contains(IN_USE) && tries < LOAD_TRIES_MAX => tries += 1,
            opened => return opened,
        }
        std::thread::sleep(LOAD_PAUSE);
    }
}

/// It panics on a damaged file; a thread of its own turns that into an error.
fn load_once(dir: &Path, cache_bytes: u64) -> Result<(sled::Db, sled::Tree), StoreError> {
    let path = dir.to_owned();
    let opened = std::thread::Builder::new()
        .name("index-open".into())
        .spawn(move || {
            let db = sled::Config::new()
                .path(&path)
                .cache_capacity(cache_bytes / CACHE_SIZE_FACTOR)
                .flush_every_ms(None)
                .use_compression(false)
                .open()?;
            let tree = db.open_tree(b"posthaste")?;
            Ok::<_, sled::Error>((db, tree))
        })
        .map_err(|source| failed("opening", dir, source))?
        .join();
    match opened {
        Ok(Ok(pair)) => Ok(pair),
        Ok(Err(error)) => Err(StoreError::Index(error.to_string())),
        Err(_) => Err(StoreError::Index("sled panicked while opening".into())),
    }
}

/// Moves a tree that cannot be used out of the way, in place of the one moved last; where to. One is enough to
/// look at, and a disk that rots must not fill up with them.
pub(crate) fn set_aside(dir: &Path) -> Result<PathBuf, StoreError> {
    let aside = dir.with_extension("broken");
    match fs::remove_dir_all(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("removing", &aside, error)),
        _ => {}
    }
    match fs::rename(dir, &aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("moving aside", dir, error)),
        _ => Ok(aside),
    }
}

/// A kill during sled's recovery leaves a snapshot half written, which sled then takes for the newest
/// and refuses to open (spacejam/sled#1527).
fn sweep(dir: &Path) -> io::Result<()> {
    remove(dir, |name| name.starts_with("snap.") && name.ends_with(".generating")).map(drop)
}

/// Removes the files whose name is `unwanted`; how many there were.
fn remove(dir: &Path, unwanted: impl Fn(&str) -> bool) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(&unwanted) {
            fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn failed(doing: &str, path: &Path, source: io::Error) -> StoreError {
    StoreError::Io { context: format!("{doing} {}", path.display()), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let tree = Tree::open(dir.path(), 1 << 20).expect("a fresh tree opens");
        (dir, tree)
    }

    #[test]
    fn a_panic_of_sled_is_an_error_and_the_next_start_distrusts_the_tree() {
        let (dir, tree) = tree();
        let broken: Result<(), _> = tree.guard.run(|| panic!("as sled does on a damaged page"));
        assert!(matches!(broken, Err(StoreError::Index(_))));
        assert!(tree.fault().is_some());
        drop(tree);
        assert!(Tree::open(dir.path(), 1 << 20).is_err());
        set_aside(dir.path()).expect("it can be moved");
        assert!(Tree::open(dir.path(), 1 << 20).is_ok(), "a fresh one takes its place");
    }

    #[test]
    fn what_still_has_the_file_is_waited_for() {
        let (dir, tree) = tree();
        let path = dir.path().to_owned();
        let opening = std::thread::spawn(move || Tree::open(&path, 1 << 20).map(drop));
        // Longer than it takes to find the file in use, shorter than is waited.
        std::thread::sleep(LOAD_PAUSE * 20);
        drop(tree);
        opening.join().expect("no panic").expect("it opens once the file is let go");
    }

    #[test]
    fn a_full_disk_does_not_make_the_tree_suspect() {
        let (dir, tree) = tree();
        let full: Result<(), _> = tree.guard.run(|| Err(sled::Error::Io(io::ErrorKind::StorageFull.into())));
        assert!(full.is_err() && tree.fault().is_some());
        drop(tree);
        assert!(Tree::open(dir.path(), 1 << 20).is_ok());
    }

    #[test]
    fn leftovers_of_a_killed_recovery_are_swept_before_opening() {
        let (dir, tree) = tree();
        tree.apply([(b"k".to_vec(), Some(b"v".to_vec()))]).expect("written");
        tree.sync().expect("synced");
        drop(tree);
        fs::write(dir.path().join("snap.00000000FFFFFFFF.generating"), b"").expect("written");
        let tree = Tree::open(dir.path(), 1 << 20).expect("opens all the same");
        assert_eq!(tree.get(b"k").expect("readable"), Some(b"v".to_vec()));
    }

    #[test]
    fn a_torn_snapshot_costs_time_and_not_the_tree() {
        let (dir, tree) = tree();
        tree.apply([(b"k".to_vec(), Some(b"v".to_vec()))]).expect("written");
        tree.sync().expect("synced");
        drop(tree);
        fs::write(dir.path().join("snap.00000000FFFFFFFF"), b"torn").expect("written");
        let tree = Tree::open(dir.path(), 1 << 20).expect("opens all the same");
        assert_eq!(tree.get(b"k").expect("readable"), Some(b"v".to_vec()));
    }

    #[test]
    fn only_the_newest_broken_tree_is_kept() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let index = dir.path().join("index");
        for round in ["1", "2"] {
            fs::create_dir(&index).expect("made");
            fs::write(index.join(round), b"").expect("written");
            set_aside(&index).expect("it can be moved");
        }
        let left: Vec<_> = fs::read_dir(dir.path()).expect("readable").map(|e| e.expect("readable").path()).collect();
        assert_eq!(left, [dir.path().join("index.broken")]);
        assert!(left[0].join("2").exists());
    }
}
