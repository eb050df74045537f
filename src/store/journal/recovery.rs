//! Opening the journal: which segments there are, replay from a watermark, and the end of the last one.
//!
//! A torn tail is cut only at the end of the last segment and only where nothing after it proves that
//! the bad bytes had been synced. Everything else stops the start with the exact range.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::segment::{self, BadHead, HEAD_LEN, Scanned, Scanner};
use super::{Journal, Record, Segments, create, record, sync_dir};
use crate::model::Location;

/// Why the journal could not be opened. Nothing was changed on disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("{context}: {source}")]
    Io { context: String, source: io::Error },
    #[error(
        "{file}: bytes {from} to {to} are damaged ({reason}). These records had been acknowledged, so the start \
         stops here rather than lose them silently. Restore the data directory from a backup"
    )]
    Damaged { file: PathBuf, from: u64, to: u64, reason: String },
    #[error("{dir}: segment {number} of the journal is missing. Restore the data directory from a backup")]
    Missing { dir: PathBuf, number: u32 },
    #[error("{file}: written by a newer version (format {major}); start that version instead")]
    Newer { file: PathBuf, major: u8 },
    #[error(
        "{dir}: the index covers the journal up to byte {offset} of segment {segment}, but the journal ends before \
         it: acknowledged records are gone. Restore the data directory from a backup"
    )]
    Behind { dir: PathBuf, segment: u32, offset: u32 },
    #[error("{file}: record at byte {offset} cannot be understood: {reason}")]
    Undecodable { file: PathBuf, offset: u32, reason: String },
}

/// Where replay begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// With the first record of the first segment.
    First,
    /// At this location, whose record has this number.
    At(Location, u64),
}

/// Opens or makes the journal in `dir` and hands every record from `start` on to `replay`, in order.
pub(crate) fn open(
    dir: &Path,
    segment_bytes: u32,
    start: Start,
    mut replay: impl FnMut(Location, &Record) -> Result<(), String>,
) -> Result<Journal, OpenError> {
    fs::create_dir_all(dir).map_err(|source| failed("making", dir, source))?;
    let numbers = list(dir)?;
    let segments = Arc::new(Segments::new(dir.to_owned()));
    let Some((&first, &last)) = numbers.first().zip(numbers.last()) else {
        if let Start::At(location, _) = start {
            return Err(OpenError::Behind {
                dir: dir.to_owned(),
                segment: location.segment(),
                offset: location.offset(),
            });
        }
        return begin(dir, segment_bytes, segments);
    };
    let mut total_bytes = 0;
    let mut cursor = Cursor::new(start, first);
    let mut end = HEAD_LEN;
    for number in first..=last {
        let file = open_segment(dir, number, number == last)?;
        total_bytes += file.metadata().map_err(|source| failed("reading", &segment::path(dir, number), source))?.len();
        segments.insert(number, Arc::clone(&file));
        if number >= cursor.segment {
            end = cursor.replay_segment(dir, file, number, number == last, &mut replay)?;
        }
    }
    if let Start::At(location, _) = start
        && Location::at(last, end) < location
    {
        return Err(OpenError::Behind { dir: dir.to_owned(), segment: location.segment(), offset: location.offset() });
    }
    let path = segment::path(dir, last);
    let file = OpenOptions::new().read(true).write(true).open(&path).map_err(|e| failed("opening", &path, e))?;
    cut(&file, end).map_err(|source| failed("cutting the torn tail of", &path, source))?;
    let file = Arc::new(file);
    segments.insert(last, Arc::clone(&file));
    Ok(Journal {
        dir: dir.to_owned(),
        segments,
        file,
        segment: last,
        offset: end,
        number: cursor.number.unwrap_or(1),
        batch: Vec::new(),
        segment_bytes,
        total_bytes,
    })
}

fn begin(dir: &Path, segment_bytes: u32, segments: Arc<Segments>) -> Result<Journal, OpenError> {
    let path = segment::path(dir, 1);
    let file = create(dir, 1).map_err(|source| failed("making", &path, source))?;
    if let Some(parent) = dir.parent() {
        sync_dir(parent).map_err(|source| failed("syncing", parent, source))?;
    }
    let file = Arc::new(file);
    segments.insert(1, Arc::clone(&file));
    Ok(Journal {
        dir: dir.to_owned(),
        segments,
        file,
        segment: 1,
        offset: HEAD_LEN,
        number: 1,
        batch: Vec::new(),
        segment_bytes,
        total_bytes: u64::from(HEAD_LEN),
    })
}

/// The numbers of the segments, in order, without a hole.
fn list(dir: &Path) -> Result<Vec<u32>, OpenError> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir).map_err(|source| failed("listing", dir, source))? {
        let name = entry.map_err(|source| failed("listing", dir, source))?.file_name();
        let number = name.to_str().and_then(|n| n.strip_suffix(".seg")).and_then(|n| n.parse::<u32>().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    for pair in numbers.windows(2) {
        if pair[1] != pair[0] + 1 {
            return Err(OpenError::Missing { dir: dir.to_owned(), number: pair[0] + 1 });
        }
    }
    Ok(numbers)
}

fn open_segment(dir: &Path, number: u32, last: bool) -> Result<Arc<File>, OpenError> {
    let path = segment::path(dir, number);
    let file = File::open(&path).map_err(|source| failed("opening", &path, source))?;
    match segment::check_head(&file, number) {
        Ok(()) => Ok(Arc::new(file)),
        Err(BadHead::Newer(major)) => Err(OpenError::Newer { file: path, major }),
        Err(BadHead::Unreadable) => {
            // A crash while the segment was being made leaves a short or zeroed head and no record.
            let len = file.metadata().map_err(|source| failed("reading", &path, source))?.len();
            if last && len <= u64::from(HEAD_LEN) {
                let file = create(dir, number).map_err(|source| failed("making", &path, source))?;
                return Ok(Arc::new(file));
            }
            let reason = "the head of the segment does not match its checksum".to_owned();
            Err(OpenError::Damaged { file: path, from: 0, to: u64::from(HEAD_LEN), reason })
        }
    }
}

/// Where replay stands.
struct Cursor {
    segment: u32,
    offset: u32,
    /// The number that the next record must have; `None` before the first.
    number: Option<u64>,
}

impl Cursor {
    fn new(start: Start, first: u32) -> Cursor {
        match start {
            Start::First => Cursor { segment: first, offset: HEAD_LEN, number: None },
            Start::At(location, number) => {
                Cursor { segment: location.segment(), offset: location.offset(), number: Some(number) }
            }
        }
    }

    /// Replays one segment; the offset after its last good record.
    fn replay_segment(
        &mut self,
        dir: &Path,
        file: Arc<File>,
        number: u32,
        last: bool,
        replay: &mut impl FnMut(Location, &Record) -> Result<(), String>,
    ) -> Result<u32, OpenError> {
        let from = if number == self.segment { self.offset } else { HEAD_LEN };
        let path = segment::path(dir, number);
        let mut scanner = Scanner::new(Arc::clone(&file), number, from);
        loop {
            let at = scanner.offset();
            let scanned = scanner.next().map_err(|source| failed("reading", &path, source))?;
            match scanned {
                Scanned::End => break,
                Scanned::Record(location, record) => {
                    self.check_number(&path, at, record.header.number)?;
                    replay(location, &record).map_err(|reason| OpenError::Undecodable {
                        file: path.clone(),
                        offset: location.offset(),
                        reason,
                    })?;
                }
                Scanned::Bad if last => {
                    refuse_if_synced(&path, &file, at, self.number)?;
                    return offset_u32(&path, at);
                }
                Scanned::Bad => {
                    let to = file.metadata().map_err(|source| failed("reading", &path, source))?.len();
                    let reason = "a record does not match its checksum".to_owned();
                    return Err(OpenError::Damaged { file: path, from: at, to, reason });
                }
            }
        }
        offset_u32(&path, scanner.offset())
    }

    fn check_number(&mut self, path: &Path, at: u64, found: u64) -> Result<(), OpenError> {
        if let Some(expected) = self.number
            && found != expected
        {
            let reason = format!("record {found} stands where record {expected} should");
            return Err(OpenError::Damaged { file: path.to_owned(), from: at, to: at, reason });
        }
        self.number = Some(found + 1);
        Ok(())
    }
}

/// Looks behind a bad record for an intact one of a later group commit: that one was only written after
/// the bad bytes had been synced, so they are damage and not a torn tail.
fn refuse_if_synced(path: &Path, file: &File, bad: u64, next: Option<u64>) -> Result<(), OpenError> {
    use std::os::unix::fs::FileExt;
    let len = file.metadata().map_err(|source| failed("reading", path, source))?.len();
    let mut tail = vec![0; usize::try_from(len.saturating_sub(bad)).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut tail, bad).map_err(|source| failed("reading", path, source))?;
    let plausible = next.unwrap_or(0)..next.unwrap_or(0).saturating_add(1 << 32);
    for start in 1..tail.len() {
        let Some(header) = record::decode(&tail[start..]) else { continue };
        if u64::from(header.batch_start) <= bad || !plausible.contains(&header.number) {
            continue;
        }
        let meta = tail.get(start + record::HEADER_LEN..start + record::HEADER_LEN + header.meta_len);
        if meta.is_some_and(|meta| header.covers_meta(meta)) {
            let reason = format!("record {} after them is intact and was written later", header.number);
            return Err(OpenError::Damaged { file: path.to_owned(), from: bad, to: bad + start as u64, reason });
        }
    }
    Ok(())
}

/// Removes what stands after `end`, durably, so that it can never be taken for records.
fn cut(file: &File, end: u32) -> io::Result<()> {
    if file.metadata()?.len() > u64::from(end) {
        file.set_len(u64::from(end))?;
        file.sync_all()?;
    }
    Ok(())
}

fn offset_u32(path: &Path, offset: u64) -> Result<u32, OpenError> {
    u32::try_from(offset).map_err(|_| failed("reading", path, io::Error::other("longer than 4 GiB")))
}

fn failed(doing: &str, path: &Path, source: io::Error) -> OpenError {
    OpenError::Io { context: format!("{doing} {}", path.display()), source }
}
