//! The only file that names sled.
//!
//! sled 0.34.7 is kept inside what was measured to be safe: one tree, one writer, small batches of small
//! values, our own `fdatasync` because its `flush` is none, leftovers of a killed recovery swept before
//! it opens, and its panics caught. Never the only copy of anything.

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use crate::store::StoreError;

/// Operations in one sled batch: larger ones were measured to hold gigabytes.
const BATCH_OPERATIONS_MAX: usize = 256;

/// sled moves greater values to files that it never syncs.
const VALUE_LEN_MAX: usize = 64 << 10;

/// A key and its new value; `None` removes it.
pub(crate) type Write = (Vec<u8>, Option<Vec<u8>>);

/// A key and its value.
pub(crate) type Pair = (Vec<u8>, Vec<u8>);

/// The tree, and the file under it for our own syncs.
#[derive(Debug)]
pub(crate) struct Tree {
    /// There until dropped.
    opened: Option<Opened>,
    file: File,
}

#[derive(Debug)]
struct Opened {
    tree: sled::Tree,
    db: sled::Db,
}

impl Tree {
    /// Opens or makes the tree in `dir`. An error means that its content cannot be used.
    pub(crate) fn open(dir: &Path, cache_bytes: u64) -> Result<Tree, StoreError> {
        fs::create_dir_all(dir).map_err(|source| failed("making", dir, source))?;
        sweep(dir).map_err(|source| failed("sweeping", dir, source))?;
        let path = dir.to_owned();
        // sled panics on a damaged file; a thread of its own turns that into an error.
        let opened = std::thread::Builder::new()
            .name("index-open".into())
            .spawn(move || {
                let db = sled::Config::new()
                    .path(&path)
                    .cache_capacity(cache_bytes)
                    .flush_every_ms(None)
                    .use_compression(false)
                    .open()?;
                let tree = db.open_tree(b"posthaste")?;
                Ok::<_, sled::Error>((db, tree))
            })
            .map_err(|source| failed("opening", dir, source))?
            .join();
        let (db, tree) = match opened {
            Ok(Ok(pair)) => pair,
            Ok(Err(error)) => return Err(StoreError::Index(error.to_string())),
            Err(_) => return Err(StoreError::Index("sled panicked while opening".into())),
        };
        let file_path = dir.join("db");
        let file = File::open(&file_path).map_err(|source| failed("opening", &file_path, source))?;
        File::open(dir).and_then(|d| d.sync_all()).map_err(|source| failed("syncing", dir, source))?;
        Ok(Tree { opened: Some(Opened { tree, db }), file })
    }

    fn opened(&self) -> &Opened {
        self.opened.as_ref().expect("there until dropped")
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.opened().tree.get(key).map_err(refused)?.map(|value| value.to_vec()))
    }

    /// The pairs from `from` (inclusive) to `to` (exclusive); the iterator runs from either end.
    pub(crate) fn range(
        &self,
        from: &[u8],
        to: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<Pair, StoreError>> + use<> {
        self.opened().tree.range::<&[u8], _>(from..to).map(|pair| {
            let (key, value) = pair.map_err(refused)?;
            Ok((key.to_vec(), value.to_vec()))
        })
    }

    /// Writes in order, a batch at a time; a crash may leave any number of whole batches.
    pub(crate) fn apply(&self, writes: impl IntoIterator<Item = Write>) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        let mut operations = 0;
        for (key, value) in writes {
            match value {
                Some(value) => {
                    assert!(value.len() <= VALUE_LEN_MAX, "values stay small, or sled would not sync them");
                    batch.insert(key, value);
                }
                None => batch.remove(key),
            }
            operations += 1;
            if operations == BATCH_OPERATIONS_MAX {
                self.opened().tree.apply_batch(std::mem::take(&mut batch)).map_err(refused)?;
                operations = 0;
            }
        }
        if operations > 0 {
            self.opened().tree.apply_batch(batch).map_err(refused)?;
        }
        Ok(())
    }

    /// Makes everything written so far durable. sled's own flush leaves that to chance.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        self.opened().db.flush().map_err(refused)?;
        self.file.sync_data().map_err(|source| StoreError::Io { context: "syncing the index".into(), source })
    }
}

impl Drop for Tree {
    /// sled panics where its last sync fails. By then all that it holds is in the journal.
    fn drop(&mut self) {
        let opened = self.opened.take();
        if catch_unwind(AssertUnwindSafe(|| drop(opened))).is_err() {
            tracing::error!("the index could not be closed: the next start checks it");
        }
    }
}

/// Moves a tree that cannot be used out of the way; where to.
pub(crate) fn set_aside(dir: &Path) -> Result<PathBuf, StoreError> {
    for attempt in 1.. {
        let aside = dir.with_extension(format!("broken-{attempt}"));
        if !aside.exists() {
            fs::rename(dir, &aside).map_err(|source| failed("moving aside", dir, source))?;
            return Ok(aside);
        }
    }
    unreachable!("some name is free")
}

/// A kill during sled's recovery leaves a snapshot half written, which sled then takes for the newest
/// and refuses to open (spacejam/sled#1527).
fn sweep(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|n| n.starts_with("snap.") && n.ends_with(".generating")) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "fits map_err")]
fn refused(error: sled::Error) -> StoreError {
    StoreError::Index(error.to_string())
}

fn failed(doing: &str, path: &Path, source: io::Error) -> StoreError {
    StoreError::Io { context: format!("{doing} {}", path.display()), source }
}
