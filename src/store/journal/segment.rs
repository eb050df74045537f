//! Segment files: their names and heads, random reads of single records, and scans in order.
//!
//! Never writes a record, never decides whether a bad record is a torn tail or damage.
//!
//! ```text
//! offset  size
//!      0     7  "PHJRNL" and a zero byte
//!      7     1  format major: a reader refuses a greater one
//!      8     4  number of the segment           u32 little-endian
//!     12     4  the first segment still kept when this one was made; 0: 1  u32
//!     16     4  when this one was made, in seconds since 1970; 0: not said   u32
//!     20     4  CRC32C of bytes 0..20           u32
//!     24     …  records
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, RwLock};

use bytes::Bytes;

use super::record::{self, HEADER_LEN, Header, Kind};
use crate::model::{Location, Timestamp};
use crate::store::StoreError;

/// Bytes before the first record.
pub(crate) const HEAD_LEN: u32 = 24;

const MAGIC: &[u8; 7] = b"PHJRNL\0";
const FORMAT_MAJOR: u8 = 1;
const READ_LEN: usize = 1024;
const SCAN_LEN: usize = 1 << 20;

impl Location {
    pub(crate) fn at(segment: u32, offset: u32) -> Location {
        Location(u64::from(segment) << 32 | u64::from(offset))
    }

    pub(crate) fn segment(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub(crate) fn offset(self) -> u32 {
        (self.0 & 0xffff_ffff) as u32
    }
}

/// The file of segment `number` in the journal directory.
pub(crate) fn path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:010}.seg"))
}

/// What a segment's head says beside its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Segments before this one were dropped, or are about to be: nothing in them counts any more.
    pub(crate) first: u32,
    /// When it was made, where it says so: no record before it is younger, as far as the clock was right.
    pub(crate) made_at: Option<Timestamp>,
}

/// The bytes of the head of segment `number`.
pub(crate) fn encode_head(number: u32, said: Head) -> [u8; HEAD_LEN as usize] {
    let mut head = [0; HEAD_LEN as usize];
    head[..7].copy_from_slice(MAGIC);
    head[7] = FORMAT_MAJOR;
    head[8..12].copy_from_slice(&number.to_le_bytes());
    let first = if said.first == 1 { 0 } else { said.first };
    head[12..16].copy_from_slice(&first.to_le_bytes());
    let made_at_s = said.made_at.map_or(0, |at| u32::try_from(at.as_s()).unwrap_or(0));
    head[16..20].copy_from_slice(&made_at_s.to_le_bytes());
    let crc = crc32c::crc32c(&head[..20]);
    head[20..24].copy_from_slice(&crc.to_le_bytes());
    head
}

/// What is wrong with a segment's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadHead {
    Newer(u8),
    Unreadable,
}

/// Reads and checks the head of segment `number`.
pub(crate) fn read_head(file: &File, number: u32) -> Result<Head, BadHead> {
    let mut bytes = [0; HEAD_LEN as usize];
    file.read_exact_at(&mut bytes, 0).map_err(|_| BadHead::Unreadable)?;
    let u32_at = |i: usize| u32::from_le_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
    if bytes[..7] != *MAGIC || u32_at(20) != crc32c::crc32c(&bytes[..20]) {
        return Err(BadHead::Unreadable);
    }
    if bytes[7] > FORMAT_MAJOR {
        return Err(BadHead::Newer(bytes[7]));
    }
    if bytes[7] != FORMAT_MAJOR || u32_at(8) != number {
        return Err(BadHead::Unreadable);
    }
    let made_at = Some(u32_at(16)).filter(|s| *s != 0).map(|s| Timestamp::from_ms(i64::from(s) * 1000));
    Ok(Head { first: u32_at(12).max(1), made_at })
}

/// One record with its body, checksums checked.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) header: Header,
    pub(crate) meta: Vec<u8>,
    pub(crate) payload: Bytes,
}

/// A segment that is kept.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) number: u32,
    pub(crate) file: Arc<File>,
    pub(crate) made_at: Option<Timestamp>,
}

/// The open segments, for reading at a location from any thread.
#[derive(Debug)]
pub(crate) struct Segments {
    dir: PathBuf,
    files: RwLock<BTreeMap<u32, Segment>>,
    /// What stands before this segment does not count any more, though its file may still be there.
    first: AtomicU32,
}

impl Segments {
    pub(crate) fn new(dir: PathBuf) -> Segments {
        Segments { dir, files: RwLock::default(), first: AtomicU32::new(1) }
    }

    pub(crate) fn insert(&self, number: u32, file: Arc<File>, made_at: Option<Timestamp>) {
        let segment = Segment { number, file, made_at };
        self.files.write().expect("no panic while held").insert(number, segment);
    }

    /// From now on nothing before segment `first` counts.
    pub(crate) fn keep_from(&self, first: u32) {
        self.first.store(first, Ordering::Release);
    }

    /// The first segment that counts.
    pub(crate) fn first(&self) -> u32 {
        self.first.load(Ordering::Acquire)
    }

    /// Whether a record may be read there: its segment was not dropped.
    pub(crate) fn keeps(&self, location: Location) -> bool {
        location.segment() >= self.first()
    }

    /// Every segment whose file is there, in order.
    pub(crate) fn all(&self) -> Vec<Segment> {
        self.files.read().expect("no panic while held").values().cloned().collect()
    }

    /// Bytes of all of them.
    pub(crate) fn total_bytes(&self) -> u64 {
        let files = self.files.read().expect("no panic while held");
        files.values().map(|segment| segment.file.metadata().map_or(0, |found| found.len())).sum()
    }

    /// Removes a segment's file, durably; how many bytes that freed.
    pub(crate) fn remove(&self, number: u32) -> io::Result<u64> {
        let removed = self.files.write().expect("no panic while held").remove(&number);
        let len = removed.map_or(Ok(0), |segment| segment.file.metadata().map(|m| m.len()))?;
        std::fs::remove_file(path(&self.dir, number))?;
        // One at a time: after a power cut no later segment may be gone while an earlier one is there.
        super::sync_dir(&self.dir)?;
        Ok(len)
    }

    /// The record's meta; its payload is not read.
    pub(crate) fn read_meta(&self, location: Location) -> Result<(Header, Vec<u8>), StoreError> {
        let (header, bytes, file) = self.read_start(location)?;
        let meta = self.slice(&file, &bytes, location, HEADER_LEN, header.meta_len)?;
        if !header.covers_meta(&meta) {
            return Err(self.damaged(location, "its checksum does not match"));
        }
        Ok((header, meta))
    }

    /// The whole record.
    pub(crate) fn read(&self, location: Location) -> Result<Record, StoreError> {
        let (header, bytes, file) = self.read_start(location)?;
        let body = self.slice(&file, &bytes, location, HEADER_LEN, header.meta_len + header.payload_len)?;
        let mut body = Bytes::from(body);
        let payload = body.split_off(header.meta_len);
        if !header.covers_meta(&body) || !header.covers_payload(&payload) {
            return Err(self.damaged(location, "its checksum does not match"));
        }
        Ok(Record { header, meta: body.to_vec(), payload })
    }

    /// Whether what stood there was lost, and the loss accepted.
    pub(crate) fn is_lost(&self, location: Location) -> bool {
        let file = self.files.read().expect("no panic while held").get(&location.segment()).map(|s| s.file.clone());
        let mut bytes = [0; HEADER_LEN];
        let read = file.map(|file| file.read_exact_at(&mut bytes, u64::from(location.offset())));
        matches!(read, Some(Ok(())))
            && (bytes == [record::FILLER; HEADER_LEN] || record::decode(&bytes).is_some_and(|h| h.kind == Kind::Lost))
    }

    fn read_start(&self, location: Location) -> Result<(Header, Vec<u8>, Arc<File>), StoreError> {
        let file = self.files.read().expect("no panic while held").get(&location.segment()).map(|s| s.file.clone());
        let file = file.ok_or_else(|| self.damaged(location, "the segment is not there"))?;
        let mut bytes = vec![0; READ_LEN];
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], u64::from(location.offset()) + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.unreadable(location, source)),
            }
        }
        bytes.truncate(filled);
        let header = record::decode(&bytes).ok_or_else(|| self.damaged(location, "no record begins there"))?;
        Ok((header, bytes, file))
    }

    fn slice(
        &self,
        file: &File,
        start: &[u8],
        location: Location,
        from: usize,
        len: usize,
    ) -> Result<Vec<u8>, StoreError> {
        if let Some(bytes) = start.get(from..from + len) {
            return Ok(bytes.to_vec());
        }
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, u64::from(location.offset()) + from as u64)
            .map_err(|source| self.unreadable(location, source))?;
        Ok(bytes)
    }

    fn damaged(&self, location: Location, what: &str) -> StoreError {
        let file = path(&self.dir, location.segment());
        StoreError::Corrupt(format!("record at byte {} of {}: {what}", location.offset(), file.display()))
    }

    fn unreadable(&self, location: Location, source: io::Error) -> StoreError {
        let file = path(&self.dir, location.segment());
        StoreError::Io { context: format!("reading byte {} of {}", location.offset(), file.display()), source }
    }
}

/// What a scan finds at its place.
pub(crate) enum Scanned {
    /// A record, checksums checked.
    Record(Location, Record),
    /// The end of the file, exactly after a record.
    End,
    /// Something that is not a whole, intact record.
    Bad,
}

/// Reads a segment's records in order.
pub(crate) struct Scanner {
    file: Arc<File>,
    number: u32,
    offset: u64,
    buffer: Vec<u8>,
    consumed: usize,
}

impl Scanner {
    pub(crate) fn new(file: Arc<File>, number: u32, offset: u32) -> Scanner {
        Scanner { file, number, offset: u64::from(offset), buffer: Vec::new(), consumed: 0 }
    }

    /// Goes on at `offset`.
    pub(crate) fn skip_to(&mut self, offset: u64) {
        (self.offset, self.consumed) = (offset, 0);
        self.buffer.clear();
    }

    /// Where the next record is expected.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    pub(crate) fn next(&mut self) -> io::Result<Scanned> {
        if self.available(HEADER_LEN)? < HEADER_LEN {
            return Ok(if self.buffer.len() == self.consumed { Scanned::End } else { Scanned::Bad });
        }
        let Some(header) = record::decode(&self.buffer[self.consumed..]) else { return Ok(Scanned::Bad) };
        let len = header.record_len();
        if self.available(len)? < len {
            return Ok(Scanned::Bad);
        }
        let body = &self.buffer[self.consumed + HEADER_LEN..self.consumed + len];
        let (meta, payload) = body.split_at(header.meta_len);
        if !header.covers_meta(meta) || !header.covers_payload(payload) {
            return Ok(Scanned::Bad);
        }
        let record = Record { header, meta: meta.to_vec(), payload: Bytes::copy_from_slice(payload) };
        let offset = u32::try_from(self.offset).map_err(|_| io::Error::other("a segment is longer than 4 GiB"))?;
        self.offset += len as u64;
        self.consumed += len;
        Ok(Scanned::Record(Location::at(self.number, offset), record))
    }

    /// Makes `wanted` bytes available where the file has them; how many there are.
    fn available(&mut self, wanted: usize) -> io::Result<usize> {
        if self.buffer.len() - self.consumed < wanted {
            self.buffer.drain(..self.consumed);
            self.consumed = 0;
            let mut filled = self.buffer.len();
            // Never longer than the file is, or a short segment would cost as much as a long one.
            let left = self.file.metadata()?.len().saturating_sub(self.offset);
            self.buffer.resize(wanted.max(SCAN_LEN.min(usize::try_from(left).unwrap_or(SCAN_LEN))), 0);
            while filled < self.buffer.len() {
                match self.file.read_at(&mut self.buffer[filled..], self.offset + filled as u64) {
                    Ok(0) => break,
                    Ok(n) => filled += n,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            self.buffer.truncate(filled);
        }
        Ok(self.buffer.len() - self.consumed)
    }
}
