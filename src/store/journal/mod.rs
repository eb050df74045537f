//! The journal: append-only segments, group commit, replay. The truth of the store.
//!
//! Never retries a failed sync, never reads a record it has not checked, never interprets one.

pub(crate) mod carried;
pub(crate) mod codec;
pub(crate) mod record;
pub(crate) mod recovery;
pub(crate) mod segment;
pub(crate) mod survey;
pub(crate) mod walk;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::model::{Location, Timestamp};

pub(crate) use record::{Header, Kind};
pub(crate) use recovery::{Gone, OpenError, Start, open};
pub(crate) use segment::{Record, Segments};

use segment::Head;

/// Makes room on a full disk. False where there is none to be made.
pub(crate) type MakeRoom = Box<dyn FnMut() -> bool + Send>;

/// Appends records to the last segment. One thread owns it.
pub(crate) struct Journal {
    dir: PathBuf,
    segments: Arc<Segments>,
    file: Arc<File>,
    segment: u32,
    /// Where the next group commit begins in the segment; everything before it is synced.
    offset: u32,
    /// The number of the next record.
    number: u64,
    batch: Vec<u8>,
    segment_bytes: u32,
    make_room: MakeRoom,
    /// Open files that are given up for a new segment where the process may open no more.
    spare: Vec<File>,
}

/// What a new segment needs: itself, and its directory to be synced.
const SPARE_FILES: usize = 2;

/// How often and after which pause a segment is tried again where even the spare files were taken by somebody
/// else: the connections that hold the others end by their own deadlines.
const OPEN_TRIES_MAX: u32 = 1_000;
const OPEN_PAUSE: Duration = Duration::from_millis(10);

impl Journal {
    /// Adds a record to the next group commit; where it will stand.
    pub(crate) fn append(&mut self, kind: Kind, meta: &[u8], payload: &[u8]) -> Location {
        let offset = u32::try_from(self.batch.len()).ok().and_then(|len| self.offset.checked_add(len));
        let offset = offset.expect("a group commit is bounded far under 4 GiB");
        record::encode(&mut self.batch, kind, codec::VERSION, self.offset, self.number, meta, payload);
        self.number += 1;
        Location::at(self.segment, offset)
    }

    /// Bytes in the next group commit.
    pub(crate) fn batch_bytes(&self) -> usize {
        self.batch.len()
    }

    /// For reading at a location.
    pub(crate) fn segments(&self) -> Arc<Segments> {
        Arc::clone(&self.segments)
    }

    /// Where the next record will stand, and its number.
    pub(crate) fn end(&self) -> (Location, u64) {
        (Location::at(self.segment, self.offset), self.number)
    }

    /// Makes the group commit durable: one write, one `fdatasync`; the bytes by which the journal grew. After
    /// an error nothing is known about the file, and the caller must end the process: the kernel may have
    /// dropped the dirty pages, so a second sync that succeeds proves nothing (fsyncgate, PostgreSQL 2018).
    pub(crate) fn commit(&mut self, now: Timestamp) -> io::Result<u64> {
        if self.batch.is_empty() {
            return Ok(0);
        }
        self.write()?;
        self.file.sync_data()?;
        let len = u32::try_from(self.batch.len()).expect("a group commit is bounded far under 4 GiB");
        self.offset += len;
        self.batch.clear();
        let mut grown = u64::from(len);
        if self.offset >= self.segment_bytes {
            grown += self.roll(now, self.segments.first())?;
        }
        Ok(grown)
    }

    /// Ends the segment and says, durably, that nothing before segment `first` counts any more; the bytes by
    /// which the journal grew.
    pub(crate) fn keep_from(&mut self, first: u32, now: Timestamp) -> io::Result<u64> {
        assert!(self.batch.is_empty(), "a group commit stands in one segment");
        assert!(first <= self.segment, "the last segment is always kept");
        let grown = self.roll(now, first)?;
        self.segments.keep_from(first);
        Ok(grown)
    }

    /// A write that finds the disk full is taken again once there is room: nothing of it was synced, nothing
    /// acknowledged, and it replaces its own bytes.
    fn write(&mut self) -> io::Result<()> {
        loop {
            match self.file.write_all_at(&self.batch, u64::from(self.offset)) {
                Err(error) if error.kind() == io::ErrorKind::StorageFull && (self.make_room)() => {}
                written => return written,
            }
        }
    }

    fn roll(&mut self, now: Timestamp, first: u32) -> io::Result<u64> {
        let number = self.segment + 1;
        let head = Head { first, made_at: Some(now) };
        let mut tries = 0;
        let file = loop {
            match create(&self.dir, number, head) {
                Err(error) if error.kind() == io::ErrorKind::StorageFull && (self.make_room)() => {}
                Err(error) if is_out_of_files(&error) && tries < OPEN_TRIES_MAX => {
                    if self.spare.is_empty() {
                        std::thread::sleep(OPEN_PAUSE);
                    }
                    self.spare.clear();
                    tries += 1;
                }
                made => break Arc::new(made?),
            }
        };
        self.spare = spare_files(&self.dir);
        self.segments.insert(number, Arc::clone(&file), Some(now));
        self.file = file;
        self.segment = number;
        self.offset = segment::HEAD_LEN;
        Ok(u64::from(segment::HEAD_LEN))
    }
}

/// As many as there are to be had now.
fn spare_files(dir: &Path) -> Vec<File> {
    (0..SPARE_FILES).filter_map(|_| File::open(dir).ok()).collect()
}

/// Whether the process or the host may open no more files (open(2)). Nothing was written then, so that trying again
/// is no second sync.
fn is_out_of_files(error: &io::Error) -> bool {
    let errors = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE];
    errors.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Makes a new segment, durably: its head, then its name in the directory.
pub(crate) fn create(dir: &Path, number: u32, head: Head) -> io::Result<File> {
    let path = segment::path(dir, number);
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    file.write_all_at(&segment::encode_head(number, head), 0)?;
    file.sync_all()?;
    sync_dir(dir)?;
    Ok(file)
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_finds_the_disk_full_is_taken_again_as_long_as_there_is_room_to_be_made() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (told, asked) = std::sync::mpsc::channel();
        let mut rooms = 3;
        let make_room: MakeRoom = Box::new(move || {
            told.send(()).expect("the test listens");
            rooms -= 1;
            rooms > 0
        });
        let mut journal = open(dir.path(), 1 << 20, Start::First, Timestamp::ZERO, make_room, |_, _| Ok(()))
            .unwrap_or_else(|error| panic!("{error}"));
        // Every write to it finds the disk full.
        journal.file = Arc::new(OpenOptions::new().write(true).open("/dev/full").expect("it is there"));
        journal.append(Kind::Changed, b"", b"body");
        let error = journal.commit(Timestamp::ZERO).expect_err("there is no room left to be made");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(asked.try_iter().count(), 3);
    }
}
