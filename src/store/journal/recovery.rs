//! Opening the journal: which segments there are, replay from a watermark, and the end of the last one.
//!
//! A torn tail is cut only at the end of the last segment and only where nothing after it proves that
//! the bad bytes had been synced. Everything else stops the start with the exact range.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::segment::{self, BadHead, HEAD_LEN, Head, Scanned, Scanner};
use super::survey::{self, Found};
use super::{Journal, Kind, MakeRoom, Record, Segments, create, spare_files, sync_dir};
use crate::model::{Location, Timestamp};

/// Why the journal could not be opened. Nothing was changed on disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("{context}: {source}")]
    Io { context: String, source: io::Error },
    #[error(
        "{file}: bytes {from} to {to} are damaged ({reason}). These records had been acknowledged, so the start \
         stops here rather than lose them silently. Restore the data directory from a backup, or see with \
         `posthaste store verify` what is lost and accept it with `posthaste store rebuild --accept-loss`"
    )]
    Damaged { file: PathBuf, from: u64, to: u64, reason: String },
    #[error(
        "{dir}: segment {number} of the journal is missing. Restore the data directory from a backup, or accept \
         the loss of all that stood in it with `posthaste store rebuild --accept-loss`"
    )]
    Missing { dir: PathBuf, number: u32 },
    #[error("{file}: written by a newer version (format {major}); start that version instead")]
    Newer { file: PathBuf, major: u8 },
    #[error(
        "{0}. These records had been acknowledged. Restore the data directory from a backup, or accept the loss with \
         `posthaste store rebuild --accept-loss`"
    )]
    Gone(Gone),
    #[error("{file}: record at byte {offset} cannot be understood: {reason}")]
    Undecodable { file: PathBuf, offset: u32, reason: String },
}

/// What the index covers and the journal no longer holds.
#[derive(Debug)]
pub(crate) struct Gone {
    file: PathBuf,
    from: u32,
    to: u32,
}

impl Gone {
    /// What lies between the `end` of the journal in `dir` and the place up to which it is `covered`, as far as the
    /// latter's segment goes.
    pub(crate) fn between(dir: &Path, end: Location, covered: Location) -> Gone {
        let from = if end.segment() == covered.segment() { end.offset() } else { 0 };
        Gone { file: segment::path(dir, covered.segment()), from, to: covered.offset() }
    }
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Gone { file, from, to } = self;
        write!(
            f,
            "{}: bytes {from} to {to} are gone: the index covers them, but the journal ends before",
            file.display()
        )
    }
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
    now: Timestamp,
    make_room: MakeRoom,
    mut replay: impl FnMut(Location, &Record) -> Result<(), String>,
) -> Result<Journal, OpenError> {
    fs::create_dir_all(dir).map_err(|source| failed("making", dir, source))?;
    let found = survey::segments(dir).map_err(|source| failed("reading", dir, source))?;
    let segments = Arc::new(Segments::new(dir.to_owned()));
    let first_kept = check(dir, &found, start)?;
    let Some(last) = found.last() else { return begin(dir, segment_bytes, segments, now, make_room) };
    let mut cursor = Cursor::new(start, found[0].number);
    for found in &found {
        let made_at = match found.head {
            Ok(head) => head.made_at.or_else(|| modified_at(&found.file)),
            Err(_) => Some(now),
        };
        segments.insert(found.number, Arc::clone(&found.file), made_at);
        if found.is_unborn() {
            (cursor.end, cursor.commit_start) = (HEAD_LEN, None);
        } else if found.number >= cursor.segment {
            cursor.replay_segment(found, found.number == last.number, &mut replay)?;
        }
    }
    let end = Location::at(last.number, cursor.end);
    if let Start::At(covered, _) = start
        && end < covered
    {
        return Err(OpenError::Gone(Gone::between(dir, end, covered)));
    }
    segments.keep_from(first_kept);
    let file = Arc::new(adopt(dir, last, &cursor, Head { first: first_kept, made_at: Some(now) })?);
    segments.insert(last.number, Arc::clone(&file), last.head.ok().and_then(|head| head.made_at).or(Some(now)));
    Ok(Journal {
        dir: dir.to_owned(),
        segments,
        file,
        segment: last.number,
        offset: cursor.end,
        number: cursor.number.unwrap_or(1),
        batch: Vec::new(),
        segment_bytes,
        make_room,
        spare: spare_files(dir),
    })
}

fn begin(
    dir: &Path,
    segment_bytes: u32,
    segments: Arc<Segments>,
    now: Timestamp,
    make_room: MakeRoom,
) -> Result<Journal, OpenError> {
    let path = segment::path(dir, 1);
    let file = create(dir, 1, Head { first: 1, made_at: Some(now) });
    let file = Arc::new(file.map_err(|source| failed("making", &path, source))?);
    if let Some(parent) = dir.parent() {
        sync_dir(parent).map_err(|source| failed("syncing", parent, source))?;
    }
    segments.insert(1, Arc::clone(&file), Some(now));
    Ok(Journal {
        dir: dir.to_owned(),
        segments,
        file,
        segment: 1,
        offset: HEAD_LEN,
        number: 1,
        batch: Vec::new(),
        segment_bytes,
        make_room,
        spare: spare_files(dir),
    })
}

/// Checks that every segment which must be there is, with a head that can be read; the first that is kept.
fn check(dir: &Path, found: &[Found], start: Start) -> Result<u32, OpenError> {
    let Some((first, last)) = found.first().zip(found.last()) else {
        return match start {
            Start::First => Ok(1),
            Start::At(covered, _) => Err(OpenError::Gone(Gone::between(dir, Location(0), covered))),
        };
    };
    for found in found {
        match found.head {
            Ok(_) => {}
            Err(BadHead::Newer(major)) => return Err(OpenError::Newer { file: found.path.clone(), major }),
            Err(BadHead::Unreadable) if found.number == last.number && found.is_unborn() => {}
            Err(BadHead::Unreadable) => {
                let reason = "the head of the segment does not match its checksum".to_owned();
                return Err(OpenError::Damaged { file: found.path.clone(), from: 0, to: u64::from(HEAD_LEN), reason });
            }
        }
    }
    let first_kept = survey::first_kept(found);
    if first.number > first_kept {
        return Err(OpenError::Missing { dir: dir.to_owned(), number: first_kept });
    }
    for pair in found.windows(2) {
        if pair[1].number != pair[0].number + 1 {
            return Err(OpenError::Missing { dir: dir.to_owned(), number: pair[0].number + 1 });
        }
    }
    Ok(first_kept)
}

/// Where replay stands.
struct Cursor {
    segment: u32,
    offset: u32,
    /// The number that the next record must have; `None` before the first.
    number: Option<u64>,
    /// The end of the last good record of the segment last looked at, and where its group commit began.
    end: u32,
    commit_start: Option<u32>,
}

impl Cursor {
    fn new(start: Start, first: u32) -> Cursor {
        let (segment, offset, number) = match start {
            Start::First => (first, HEAD_LEN, None),
            Start::At(location, number) => (location.segment(), location.offset(), Some(number)),
        };
        Cursor { segment, offset, number, end: HEAD_LEN, commit_start: None }
    }

    /// Replays one segment.
    fn replay_segment(
        &mut self,
        found: &Found,
        last: bool,
        replay: &mut impl FnMut(Location, &Record) -> Result<(), String>,
    ) -> Result<(), OpenError> {
        let path = &found.path;
        let from = if found.number == self.segment { self.offset } else { HEAD_LEN };
        if u64::from(from) > found.len {
            return self.ends_early(found, last, from);
        }
        let mut scanner = Scanner::new(Arc::clone(&found.file), found.number, from);
        self.commit_start = None;
        loop {
            let at = scanner.offset();
            self.end = u32::try_from(at).map_err(|_| failed("reading", path, io::Error::other("longer than 4 GiB")))?;
            match scanner.next().map_err(|source| failed("reading", path, source))? {
                Scanned::End => return Ok(()),
                Scanned::Record(location, record) => {
                    self.check_number(path, at, &record)?;
                    self.commit_start = Some(record.header.batch_start);
                    replay(location, &record).map_err(|reason| OpenError::Undecodable {
                        file: path.clone(),
                        offset: location.offset(),
                        reason,
                    })?;
                }
                Scanned::Bad if last => return refuse_if_synced(path, &found.file, at, self.number),
                Scanned::Bad => {
                    let reason = "a record does not match its checksum".to_owned();
                    return Err(OpenError::Damaged { file: path.clone(), from: at, to: found.len, reason });
                }
            }
        }
    }

    /// The segment ends before the place up to which the index covers it.
    fn ends_early(&mut self, found: &Found, last: bool, from: u32) -> Result<(), OpenError> {
        self.end = u32::try_from(found.len).unwrap_or(from);
        if last {
            return Ok(());
        }
        let reason = "the segment ends too early".to_owned();
        Err(OpenError::Damaged { file: found.path.clone(), from: found.len, to: u64::from(from), reason })
    }

    fn check_number(&mut self, path: &Path, at: u64, record: &Record) -> Result<(), OpenError> {
        let found = record.header.number;
        let stands_for_more = record.header.kind == Kind::Lost;
        if let Some(expected) = self.number
            && found != expected
            && !(stands_for_more && found + 1 >= expected)
        {
            let reason = format!("record {found} stands where record {expected} should");
            let to = at + record.header.record_len() as u64;
            return Err(OpenError::Damaged { file: path.to_owned(), from: at, to, reason });
        }
        self.number = self.number.max(Some(found + 1));
        Ok(())
    }
}

/// Looks behind a bad record for an intact one of a later group commit: that one was only written after
/// the bad bytes had been synced, so they are damage and not a torn tail.
fn refuse_if_synced(path: &Path, file: &File, bad: u64, next: Option<u64>) -> Result<(), OpenError> {
    let later = survey::next_intact(file, bad, next, |header| u64::from(header.batch_start) > bad);
    match later.map_err(|source| failed("reading", path, source))? {
        None => Ok(()),
        Some((to, header)) => {
            let reason = format!("record {} after them is intact and was written later", header.number);
            Err(OpenError::Damaged { file: path.to_owned(), from: bad, to, reason })
        }
    }
}

/// Makes the last segment one to append to: what stands after the last good record is removed, so that it
/// can never be taken for records, and the last group commit is written and synced once more. It was read
/// from the page cache, and the sync of the process that wrote it may never have happened or have failed:
/// after a failed one the kernel calls pages clean that the disk never saw. Whatever came before it was synced,
/// or it would not have been begun.
fn adopt(dir: &Path, last: &Found, cursor: &Cursor, head: Head) -> Result<File, OpenError> {
    let path = &last.path;
    if last.is_unborn() {
        return create(dir, last.number, head).map_err(|source| failed("making", path, source));
    }
    let work = || {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        if file.metadata()?.len() > u64::from(cursor.end) {
            file.set_len(u64::from(cursor.end))?;
        }
        let from = match cursor.commit_start {
            Some(start) => Some(start).filter(|start| *start < cursor.end),
            None if cursor.end == HEAD_LEN => Some(0),
            None => None,
        };
        if let Some(from) = from {
            let mut bytes = vec![0; (cursor.end - from) as usize];
            file.read_exact_at(&mut bytes, u64::from(from))?;
            file.write_all_at(&bytes, u64::from(from))?;
        }
        file.sync_all()?;
        sync_dir(dir)?;
        Ok(file)
    };
    work().map_err(|source| failed("taking up", path, source))
}

/// When a file was last written: for segments whose head does not say when they were made.
fn modified_at(file: &File) -> Option<Timestamp> {
    let since = file.metadata().ok()?.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(Timestamp::from_ms(i64::try_from(since.as_millis()).ok()?))
}

fn failed(doing: &str, path: &Path, source: io::Error) -> OpenError {
    OpenError::Io { context: format!("{doing} {}", path.display()), source }
}
