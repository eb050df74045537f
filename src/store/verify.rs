//! `store verify`: reads the whole journal, makes a second index from it and compares.
//!
//! Changes nothing but what a start would change, too: sled mends itself when it is opened, and the index is
//! brought up to the journal.

use std::fmt;
use std::fs;
use std::path::Path;

use super::StoreError;
use super::embedded::{Limits, OpenFault};
use super::index::Index;
use super::index::value::Watermark;
use super::journal::Gone;
use super::journal::segment::{Scanned, Scanner};
use super::journal::survey;
use super::journal::walk::{Walked, walk};
use super::recovery::{Replayer, note_names, take};
use crate::model::{EventId, Location};

/// Disagreements that are shown; the others are counted.
const EXAMPLES_MAX: usize = 20;

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Segments of the journal.
    pub segments: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Intact records.
    pub records: u64,
    /// Each stretch of the journal that had been acknowledged and is damaged or missing.
    pub damage: Vec<String>,
    /// What stands at the end and was never acknowledged.
    pub torn: Option<String>,
    /// Why the index cannot be used, where it cannot.
    pub index_unusable: Option<String>,
    /// Places in which the index does not say what the journal says.
    pub disagreements: u64,
    /// The first of them.
    pub examples: Vec<String>,
}

impl Findings {
    /// Whether everything is as it should be.
    pub fn is_sound(&self) -> bool {
        self.damage.is_empty() && self.index_unusable.is_none() && self.disagreements == 0
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "journal: {} segments, {} bytes, {} intact records", self.segments, self.bytes, self.records)?;
        for damage in &self.damage {
            writeln!(f, "LOST {damage}")?;
        }
        if let Some(torn) = &self.torn {
            writeln!(f, "torn end, never acknowledged, removed by the next start: {torn}")?;
        }
        match &self.index_unusable {
            Some(why) => writeln!(f, "index: cannot be used: {why}")?,
            None => writeln!(f, "index: {} disagreements with the journal", self.disagreements)?,
        }
        for example in &self.examples {
            writeln!(f, "  {example}")?;
        }
        if self.disagreements > self.examples.len() as u64 {
            writeln!(f, "  and {} more", self.disagreements - self.examples.len() as u64)?;
        }
        if !self.damage.is_empty() {
            write!(
                f,
                "Restore the data directory from a backup. Without one, `posthaste store rebuild --accept-loss` gives up \
                 what is LOST above and keeps the rest."
            )
        } else if self.is_sound() {
            write!(f, "Journal and index agree.")
        } else {
            write!(f, "Nothing is lost: `posthaste store rebuild` makes the index anew from the journal.")
        }
    }
}

/// Verifies the store in `dir`, which no other process may be using.
pub fn verify(dir: &Path, limits: &Limits) -> Result<Findings, OpenFault> {
    let _lock = take(dir)?;
    let second = dir.join("index.verify");
    let result = compare(dir, &second, limits);
    // Left behind it is only in the way of the next one, which removes it, too.
    let _ = fs::remove_dir_all(&second);
    result.map_err(|error| OpenFault::Disk(error.to_string()))
}

fn compare(dir: &Path, second: &Path, limits: &Limits) -> Result<Findings, StoreError> {
    let _ = fs::remove_dir_all(second);
    let (expected, _) = Index::open(second, limits)?;
    let walked = replay_all(dir, &expected, limits)?;
    let mut findings = Findings {
        segments: walked.segments,
        bytes: walked.bytes,
        records: walked.records,
        damage: walked.faults.iter().map(ToString::to_string).collect(),
        torn: walked.torn.as_ref().map(|(file, from, to)| format!("{}: bytes {from} to {to}", file.display())),
        ..Findings::default()
    };
    match caught_up(dir, limits, &walked) {
        Ok(index) => {
            let found = index.differences(&expected, walked.first_kept, EXAMPLES_MAX);
            match found {
                Ok((disagreements, examples)) => {
                    (findings.disagreements, findings.examples) = (disagreements, examples);
                }
                Err(error) => findings.index_unusable = Some(error.to_string()),
            }
        }
        Err(Unusable::Ahead(gone)) => findings.damage.push(gone.to_string()),
        Err(Unusable::Broken(error)) => findings.index_unusable = Some(error.to_string()),
    }
    Ok(findings)
}

/// Makes an index of every intact record.
pub(super) fn replay_all(dir: &Path, index: &Index, limits: &Limits) -> Result<Walked, StoreError> {
    let journal = dir.join("journal");
    let reading = |source| StoreError::Io { context: format!("reading {}", journal.display()), source };
    let first_present = survey::segments(&journal).map_err(reading)?.first().map_or(1, |found| found.number);
    let mut replayer = Replayer::new(first_present, EventId::MIN);
    let mut next = None;
    let mut fault = None;
    let walked = walk(&journal, |location, record| {
        if next.is_some_and(|next| next != record.header.number) {
            replayer.missed_some();
        }
        next = Some(record.header.number + 1);
        let mut applied = replayer.apply(index, location, record);
        if index.overlay().changes() >= limits.unindexed_max {
            applied = applied.and_then(|()| index.flush());
            index.keep_names_few(first_present);
        }
        if let Err(error) = applied {
            let (at, segment) = (location.offset(), location.segment());
            fault.get_or_insert(StoreError::Corrupt(format!("record at byte {at} of segment {segment}: {error}")));
        }
    });
    let walked = walked.map_err(reading)?;
    if let Some((file, major)) = &walked.newer {
        let file = file.display();
        let what = format!("{file}: written by a newer version (format {major}); use that version instead");
        return Err(StoreError::Corrupt(what));
    }
    match fault {
        Some(fault) => Err(fault),
        None => index.checkpoint().map(|()| walked),
    }
}

enum Unusable {
    /// The index knows of records that the journal does not hold.
    Ahead(Gone),
    Broken(StoreError),
}

impl From<StoreError> for Unusable {
    fn from(error: StoreError) -> Unusable {
        Unusable::Broken(error)
    }
}

/// The index that is there, brought up to the journal.
fn caught_up(dir: &Path, limits: &Limits, walked: &Walked) -> Result<Index, Unusable> {
    let index_dir = dir.join("index");
    if !index_dir.exists() {
        return Err(StoreError::Index("it is not there; the next start makes it anew".to_owned()).into());
    }
    let (index, watermark) = Index::open(&index_dir, limits)?;
    let watermark = watermark.unwrap_or(Watermark { next: 0, number: 1, last_event: 0 });
    let from = Location(watermark.next);
    if from > walked.end {
        return Err(Unusable::Ahead(Gone::between(&dir.join("journal"), walked.end, from)));
    }
    if from.segment() < walked.first_present {
        return Err(StoreError::Index("it is older than the journal".to_owned()).into());
    }
    let journal = dir.join("journal");
    let reading = |source| StoreError::Io { context: format!("reading {}", journal.display()), source };
    note_names(&index, &journal, walked.first_present, from, walked.faults.is_empty())?;
    let mut replayer = Replayer::new(walked.first_present, EventId::from_u128(watermark.last_event));
    for segment in survey::segments(&journal).map_err(reading)? {
        if segment.number < from.segment() || segment.is_unborn() {
            continue;
        }
        let start = if segment.number == from.segment() { from.offset() } else { super::journal::segment::HEAD_LEN };
        let mut scanner = Scanner::new(segment.file, segment.number, start);
        // What cannot be read here was reported with the journal.
        while let Scanned::Record(location, record) = scanner.next().map_err(reading)? {
            replayer.apply(&index, location, &record)?;
        }
    }
    index.checkpoint()?;
    Ok(index)
}
