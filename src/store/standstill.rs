//! Whether retries are paused: a file beside the journal that is there or not, and says since when.
//!
//! Never half there: it is written under another name, synced, and then renamed. Never in the journal: it is a switch of
//! whoever operates this directory, no part of what became of anything, and a copy of the journal goes without it.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::StoreError;
use super::journal::sync_dir;
use crate::model::Timestamp;

/// The file and its place.
pub(super) struct Standstill {
    dir: PathBuf,
    path: PathBuf,
}

impl Standstill {
    /// The one in `dir`, as it stands.
    pub(super) fn new(dir: &Path) -> Standstill {
        Standstill { dir: dir.to_owned(), path: dir.join("RETRIES_PAUSED") }
    }

    /// Since when retries are paused.
    pub(super) fn since(&self) -> Result<Option<Timestamp>, StoreError> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StoreError::Io { context: "reading RETRIES_PAUSED".into(), source }),
        };
        let unreadable = || StoreError::Corrupt("RETRIES_PAUSED holds no time: remove it to let retries leave".into());
        Timestamp::parse(text.trim()).map(Some).ok_or_else(unreadable)
    }

    /// Makes it so, durably.
    pub(super) fn set(&self, since: Option<Timestamp>) -> io::Result<()> {
        match since {
            Some(since) => {
                let new = self.path.with_extension("new");
                let mut file = File::create(&new)?;
                writeln!(file, "{since}")?;
                file.sync_all()?;
                fs::rename(new, &self.path)?;
            }
            None => match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            },
        }
        sync_dir(&self.dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_time_is_named_with_what_to_do() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join("RETRIES_PAUSED"), "soon").expect("it is writable");
        let error = Standstill::new(dir.path()).since().expect_err("it cannot be understood");
        assert!(error.to_string().contains("remove it"), "{error}");
    }

    #[test]
    fn lifting_what_is_not_there_is_done_already() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let standstill = Standstill::new(dir.path());
        standstill.set(None).expect("nothing is to be done");
        assert_eq!(standstill.since().expect("readable"), None);
    }
}
