//! The journal: append-only segments, group commit, replay. The truth of the store.
//!
//! Never retries a failed write or sync, never reads a record it has not checked, never interprets one.

pub(crate) mod codec;
mod record;
mod recovery;
mod segment;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::model::Location;

pub(crate) use record::{Header, Kind};
pub(crate) use recovery::{OpenError, Start, open};
pub(crate) use segment::{Record, Segments};

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
    total_bytes: u64,
}

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

    /// Bytes of all segments.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// For reading at a location.
    pub(crate) fn segments(&self) -> Arc<Segments> {
        Arc::clone(&self.segments)
    }

    /// Where the next record will stand, and its number.
    pub(crate) fn end(&self) -> (Location, u64) {
        (Location::at(self.segment, self.offset), self.number)
    }

    /// Makes the group commit durable: one write, one `fdatasync`. After an error nothing is known about
    /// the file, and the caller must end the process: the kernel may have dropped the dirty pages, so a
    /// second sync that succeeds proves nothing (fsyncgate, PostgreSQL 2018).
    pub(crate) fn commit(&mut self) -> io::Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.file.write_all_at(&self.batch, u64::from(self.offset))?;
        self.file.sync_data()?;
        let len = u32::try_from(self.batch.len()).expect("a group commit is bounded far under 4 GiB");
        self.offset += len;
        self.total_bytes += u64::from(len);
        self.batch.clear();
        if self.offset >= self.segment_bytes {
            self.roll()?;
        }
        Ok(())
    }

    fn roll(&mut self) -> io::Result<()> {
        let number = self.segment + 1;
        self.file = Arc::new(create(&self.dir, number)?);
        self.segments.insert(number, Arc::clone(&self.file));
        self.segment = number;
        self.offset = segment::HEAD_LEN;
        self.total_bytes += u64::from(segment::HEAD_LEN);
        Ok(())
    }
}

/// Makes a new segment, durably: its head, then its name in the directory.
fn create(dir: &Path, number: u32) -> io::Result<File> {
    let path = segment::path(dir, number);
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    file.write_all_at(&segment::head(number), 0)?;
    file.sync_all()?;
    sync_dir(dir)?;
    Ok(file)
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
