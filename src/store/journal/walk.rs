//! Walking a whole journal past its faults: every record that is intact, and every stretch that is not.
//!
//! Never changes anything, never stops at damage: it says where it is and goes on behind it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::record::{self, HEADER_LEN, Header};
use super::segment::{self, BadHead, HEAD_LEN, Scanned, Scanner};
use super::survey::{self, Found};
use super::{Kind, Record};
use crate::model::Location;

/// Something that had been acknowledged and is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) segment: u32,
    pub(crate) file: PathBuf,
    pub(crate) what: Defect,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    /// The file of the segment is not there. The record after all that is missing is `next`, where it is intact.
    Missing { next: Option<u64> },
    /// The head of the segment cannot be read; its records may be.
    Head,
    /// Bytes that are no intact record. They hold the records from `first` on, as far as is known, and `next`
    /// is the one that follows; with no bytes between, records are missing after the end of the segment.
    Bytes { from: u64, to: u64, first: Option<u64>, next: Option<u64> },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        match self.what {
            Defect::Missing { .. } => write!(f, "{file}: segment {} of the journal is missing", self.segment),
            Defect::Head => write!(f, "{file}: bytes 0 to {HEAD_LEN} are damaged: the head of the segment"),
            Defect::Bytes { from, to, first, next } => {
                write!(f, "{file}: bytes {from} to {to} are damaged or missing")?;
                match first.zip(next) {
                    Some((first, next)) if next == first + 1 => write!(f, ": record {first}"),
                    Some((first, next)) => write!(f, ": records {first} to {}", next.saturating_sub(1)),
                    None => Ok(()),
                }
            }
        }
    }
}

/// What a walk met.
#[derive(Debug, Default)]
pub(crate) struct Walked {
    pub(crate) segments: usize,
    pub(crate) bytes: u64,
    pub(crate) records: u64,
    pub(crate) first_present: u32,
    pub(crate) first_kept: u32,
    pub(crate) faults: Vec<Fault>,
    /// What stands after the last record and was never acknowledged: file, from, to.
    pub(crate) torn: Option<(PathBuf, u64, u64)>,
    /// Written by a newer version: file and format.
    pub(crate) newer: Option<(PathBuf, u8)>,
    /// Where the next record would stand.
    pub(crate) end: Location,
    /// The number that it would have, or more where some are missing.
    pub(crate) number: Option<u64>,
    /// A segment is missing before the next record, with no telling how many records.
    missing: bool,
}

/// Walks the journal in `dir` and hands on every intact record, in order.
pub(crate) fn walk(dir: &Path, mut each: impl FnMut(Location, &Record)) -> io::Result<Walked> {
    let found = survey::segments(dir)?;
    let first_kept = survey::first_kept(&found);
    let mut walked = Walked { segments: found.len(), first_kept, ..Walked::default() };
    let Some((first, last)) = found.first().zip(found.last()) else { return Ok(walked) };
    walked.first_present = first.number;
    let mut expected = first_kept.min(first.number);
    for (nth, segment) in found.iter().enumerate() {
        while expected < segment.number {
            let file = segment::path(dir, expected);
            let what = Defect::Missing { next: first_header(segment).map(|header| header.number) };
            walked.faults.push(Fault { segment: expected, file, what });
            expected += 1;
            walked.missing = true;
        }
        expected += 1;
        walked.bytes += segment.len;
        match segment.head {
            Err(BadHead::Newer(major)) => walked.newer = Some((segment.path.clone(), major)),
            Err(BadHead::Unreadable) if segment.number != last.number || !segment.is_unborn() => {
                walked.faults.push(Fault { segment: segment.number, file: segment.path.clone(), what: Defect::Head });
            }
            _ => {}
        }
        walked.end = Location::at(segment.number, HEAD_LEN);
        if !segment.is_unborn() {
            walk_segment(&mut walked, segment, found.get(nth + 1), &mut each)?;
        }
    }
    Ok(walked)
}

fn walk_segment(
    walked: &mut Walked,
    segment: &Found,
    following: Option<&Found>,
    each: &mut impl FnMut(Location, &Record),
) -> io::Result<()> {
    let mut scanner = Scanner::new(Arc::clone(&segment.file), segment.number, HEAD_LEN);
    loop {
        let at = scanner.offset();
        walked.end = Location::at(segment.number, u32::try_from(at).map_err(io::Error::other)?);
        match scanner.next()? {
            Scanned::Record(location, record) => {
                let number = record.header.number;
                let missing = std::mem::take(&mut walked.missing);
                let is_next = walked.number.is_none_or(|expected| expected == number || (missing && expected < number));
                let is_lost = record.header.kind == Kind::Lost;
                let stands_for_more = is_lost && walked.number.is_some_and(|expected| number + 1 >= expected);
                if !(is_next || stands_for_more) {
                    let to = at + record.header.record_len() as u64;
                    let what = Defect::Bytes { from: at, to, first: walked.number, next: Some(number + 1) };
                    walked.faults.push(Fault { segment: segment.number, file: segment.path.clone(), what });
                    walked.number = walked.number.max(Some(number + 1));
                    continue;
                }
                walked.number = walked.number.max(Some(number + 1));
                walked.records += 1;
                each(location, &record);
            }
            Scanned::End => {
                let is_followed = following.is_some_and(|next| next.number == segment.number + 1);
                let next = following.filter(|_| is_followed).and_then(first_header);
                // Where the loss was accepted, the first record says so.
                let next = next.filter(|header| header.kind != Kind::Lost).map(|header| header.number);
                let Some((first, next)) = walked.number.zip(next) else { return Ok(()) };
                if next > first {
                    let what = Defect::Bytes { from: at, to: at, first: Some(first), next: Some(next) };
                    walked.faults.push(Fault { segment: segment.number, file: segment.path.clone(), what });
                    walked.number = Some(next);
                }
                return Ok(());
            }
            Scanned::Bad => {
                let is_last = following.is_none();
                let wanted = |header: &Header| !is_last || u64::from(header.batch_start) > at;
                let Some((to, header)) = survey::next_intact(&segment.file, at, walked.number, wanted)? else {
                    if is_last {
                        walked.torn = Some((segment.path.clone(), at, segment.len));
                    } else {
                        let next = following.and_then(first_header).map(|header| header.number);
                        let what = Defect::Bytes { from: at, to: segment.len, first: walked.number, next };
                        walked.faults.push(Fault { segment: segment.number, file: segment.path.clone(), what });
                        walked.number = walked.number.max(next);
                    }
                    return Ok(());
                };
                let what = Defect::Bytes { from: at, to, first: walked.number, next: Some(header.number) };
                walked.faults.push(Fault { segment: segment.number, file: segment.path.clone(), what });
                walked.number = Some(header.number);
                scanner.skip_to(to);
            }
        }
    }
}

/// The header of the first record of a segment, where it is intact.
fn first_header(segment: &Found) -> Option<Header> {
    use std::os::unix::fs::FileExt;
    let mut bytes = [0; HEADER_LEN];
    segment.file.read_exact_at(&mut bytes, u64::from(HEAD_LEN)).ok()?;
    let header = record::decode(&bytes)?;
    let mut meta = vec![0; header.meta_len];
    segment.file.read_exact_at(&mut meta, u64::from(HEAD_LEN) + HEADER_LEN as u64).ok()?;
    header.covers_meta(&meta).then_some(header)
}
