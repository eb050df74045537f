//! Looking at a journal directory without changing it: which segments there are, what their heads say, where the next
//! intact record stands behind a bad one, and what can still be read of a stretch.
//!
//! Never decides whether what is missing or bad may be lost.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::record::{self, HEADER_LEN, Header};
use super::segment::{self, BadHead, HEAD_LEN, Head, Record, Scanned, Scanner};
use crate::model::Location;
use crate::store::StoreError;

/// How far record numbers may jump over bad bytes: more than a segment can hold.
const NUMBERS_MAX: u64 = 1 << 32;

/// A segment as it was found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) number: u32,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<File>,
    pub(crate) len: u64,
    pub(crate) head: Result<Head, BadHead>,
}

impl Found {
    /// Whether a crash while it was being made left it without a head: then it never held a record.
    pub(crate) fn is_unborn(&self) -> bool {
        self.head == Err(BadHead::Unreadable) && self.len <= u64::from(HEAD_LEN)
    }
}

/// The journal's segments in the order of their numbers. Empty where there is no journal.
pub(crate) fn segments(dir: &Path) -> io::Result<Vec<Found>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|n| n.strip_suffix(".seg")).and_then(|n| n.parse::<u32>().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    numbers.into_iter().map(|number| look(dir, number)).collect()
}

fn look(dir: &Path, number: u32) -> io::Result<Found> {
    let path = segment::path(dir, number);
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let file = File::open(&path).map_err(named)?;
    let len = file.metadata().map_err(named)?.len();
    let head = segment::read_head(&file, number);
    Ok(Found { number, path, file: Arc::new(file), len, head })
}

/// The first segment that must be there: the newest head that can be read says so.
pub(crate) fn first_kept(segments: &[Found]) -> u32 {
    segments.iter().rev().find_map(|found| found.head.ok()).map_or(1, |head| head.first)
}

/// Hands over the records of some segments that stand in a stretch of the journal, each with where it ends. An event of which
/// only the payload is damaged comes without it; what else is damaged is passed over.
pub(crate) fn each_record(
    files: impl IntoIterator<Item = (u32, Arc<File>)>,
    stretch: Range<Location>,
    mut each: impl FnMut(Location, &Record, Location) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    for (number, file) in files {
        if number < stretch.start.segment() || number > stretch.end.segment() {
            continue;
        }
        let reading = |source| StoreError::Io { context: format!("reading segment {number} of the journal"), source };
        let start = if number == stretch.start.segment() { stretch.start.offset().max(HEAD_LEN) } else { HEAD_LEN };
        let mut scanner = Scanner::new(Arc::clone(&file), number, start);
        loop {
            let at = scanner.offset();
            let (location, record) = match scanner.next().map_err(reading)? {
                Scanned::Record(location, record) => (location, record),
                Scanned::End => break,
                Scanned::Bad if at >= u64::from(stretch.end.offset()) && number == stretch.end.segment() => break,
                Scanned::Bad => match without_payload(&file, at) {
                    Some(record) => {
                        scanner.skip_to(at + record.header.record_len() as u64);
                        let at = u32::try_from(at).map_err(io::Error::other).map_err(reading)?;
                        (Location::at(number, at), record)
                    }
                    None => {
                        tracing::warn!(segment = number, byte = at, "what stands there is damaged and passed over");
                        let Some((to, _)) = next_intact(&file, at, None, |_| true).map_err(reading)? else { break };
                        scanner.skip_to(to);
                        continue;
                    }
                },
            };
            if location >= stretch.end {
                break;
            }
            each(location, &record, Location(location.0 + record.header.record_len() as u64))?;
        }
    }
    Ok(())
}

/// The event at `at`, where all of it but the payload is intact.
fn without_payload(file: &File, at: u64) -> Option<Record> {
    let mut bytes = [0; HEADER_LEN];
    file.read_exact_at(&mut bytes, at).ok()?;
    let header = record::decode(&bytes).filter(|header| header.kind.is_event())?;
    let mut meta = vec![0; header.meta_len];
    file.read_exact_at(&mut meta, at + HEADER_LEN as u64).ok()?;
    header.covers_meta(&meta).then(|| Record { header, meta, payload: Bytes::new() })
}

/// The first intact record after the bad bytes at `bad`, among those that `wanted` takes. `next` is the number
/// that should stand at `bad`, where it is known.
pub(crate) fn next_intact(
    file: &File,
    bad: u64,
    next: Option<u64>,
    wanted: impl Fn(&Header) -> bool,
) -> io::Result<Option<(u64, Header)>> {
    let len = file.metadata()?.len();
    let mut tail = vec![0; usize::try_from(len.saturating_sub(bad)).map_err(io::Error::other)?];
    file.read_exact_at(&mut tail, bad)?;
    let plausible = next.unwrap_or(0)..next.map_or(u64::MAX, |next| next.saturating_add(NUMBERS_MAX));
    for start in 1..tail.len() {
        let Some(header) = record::decode(&tail[start..]) else { continue };
        let at = bad + start as u64;
        if u64::from(header.batch_start) > at || !plausible.contains(&header.number) || !wanted(&header) {
            continue;
        }
        let Some(body) = tail.get(start + HEADER_LEN..start + header.record_len()) else { continue };
        let (meta, payload) = body.split_at(header.meta_len);
        if header.covers_meta(meta) && header.covers_payload(payload) {
            return Ok(Some((at, header)));
        }
    }
    Ok(None)
}
