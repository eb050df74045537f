//! `store rebuild`: makes the index anew from the journal, and gives up what the journal has lost where that is
//! wanted.
//!
//! Never changes a byte of the journal unless the loss is accepted; then every file that it changes is kept as it
//! was beside it.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::StoreError;
use super::embedded::{Limits, OpenFault, Probes};
use super::index::Index;
use super::journal::carried::KeptV1;
use super::journal::record::{self, FILLER, HEADER_LEN, PAYLOAD_LEN_MAX};
use super::journal::segment::{self, HEAD_LEN, Head};
use super::journal::walk::{Defect, Fault, Walked, walk};
use super::journal::{Gone, Kind, codec, create, sync_dir};
use super::recovery::{Recovered, recover, take};
use crate::clock::Clock;
use crate::model::Location;

/// What a rebuild did.
#[derive(Clone, Debug, Default)]
pub struct Rebuilt {
    /// Records that the index was made from.
    pub records: u64,
    /// What was given up.
    pub lost: Vec<String>,
    /// Deliveries owed.
    pub waiting: u64,
}

impl fmt::Display for Rebuilt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for lost in &self.lost {
            writeln!(f, "GIVEN UP {lost}")?;
        }
        if !self.lost.is_empty() {
            writeln!(
                f,
                "Files of the journal that were changed are kept as they were, with \".damaged\" after their name."
            )?;
        }
        write!(f, "The index was made anew from {} records; {} deliveries are owed.", self.records, self.waiting)
    }
}

/// Makes the index of the store in `dir` anew. No other process may be using it.
pub fn rebuild(dir: &Path, limits: &Limits, clock: &dyn Clock, accept_loss: bool) -> Result<Rebuilt, OpenFault> {
    let _lock = take(dir)?;
    let disk = |error: StoreError| OpenFault::Disk(error.to_string());
    let journal = dir.join("journal");
    let reading = |source| disk(StoreError::Io { context: format!("reading {}", journal.display()), source });
    let walked = walk(&journal, |_, _| {}).map_err(reading)?;
    let known = known_before(dir, limits);
    let mut lost: Vec<String> = walked.faults.iter().map(ToString::to_string).collect();
    if let Some((_, covered)) = &known
        && *covered > walked.end
    {
        lost.push(Gone::between(&journal, walked.end, *covered).to_string());
    }
    if !lost.is_empty() && !accept_loss {
        let lost = lost.join("\n");
        return Err(OpenFault::Disk(format!(
            "the journal has lost records that had been acknowledged:\n{lost}\nRestore the data directory from a \
             backup, or give them up with `posthaste store rebuild --accept-loss`"
        )));
    }
    mend(&journal, &walked).map_err(|error| OpenFault::Disk(format!("mending the journal: {error}")))?;
    remove_index(dir).map_err(|error| OpenFault::Disk(format!("removing the old index: {error}")))?;
    let Recovered { mut journal, index, .. } = recover(dir, limits, clock, &Probes::default(), || Box::new(|| false))?;
    if let Some((kept, _)) = known.filter(|_| !lost.is_empty()) {
        // Numbers that merchants have seen are never given out again, even where the events are lost.
        let mut body = Vec::new();
        let kept = newer(kept, &index).map_err(disk)?;
        codec::encode_into(&mut body, &kept);
        journal.append(Kind::Kept, &[], &body);
        journal.commit(clock.now()).map_err(reading)?;
        drop((journal, index));
        let again = recover(dir, limits, clock, &Probes::default(), || Box::new(|| false))?;
        again.index.checkpoint().map_err(disk)?;
        return Ok(Rebuilt { records: walked.records, lost, waiting: again.index.overlay().waiting() });
    }
    index.checkpoint().map_err(disk)?;
    Ok(Rebuilt { records: walked.records, lost, waiting: index.overlay().waiting() })
}

/// What the index that is about to go knows of numbers given out, and up to where it covers the journal; as far
/// as it can be read.
fn known_before(dir: &Path, limits: &Limits) -> Option<(KeptV1, Location)> {
    let index_dir = dir.join("index");
    if !index_dir.exists() {
        return None;
    }
    let (index, watermark) = Index::open(&index_dir, limits).ok()?;
    let watermark = watermark?;
    let sequences = super::query::sequences(&index).ok()?;
    let sequences = sequences.into_iter().map(|(merchant, last)| (merchant.as_str().to_owned(), last)).collect();
    let kept = KeptV1 { last_event: watermark.last_event, sequences, ..KeptV1::default() };
    Some((kept, Location(watermark.next)))
}

/// The sequences that are greater than what the journal says.
fn newer(kept: KeptV1, index: &Index) -> Result<KeptV1, StoreError> {
    let now = super::query::sequences(index)?;
    let is_newer = |(merchant, last): &(String, u64)| {
        codec::merchant(merchant).is_ok_and(|merchant| now.get(&merchant).is_none_or(|now| now < last))
    };
    Ok(KeptV1 { sequences: kept.sequences.into_iter().filter(is_newer).collect(), ..kept })
}

fn remove_index(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir.join("index")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => sync_dir(dir),
    }
}

/// Puts fillers in the place of what is lost, so that the journal can be read again from end to end.
fn mend(journal: &Path, walked: &Walked) -> io::Result<()> {
    for fault in &walked.faults {
        let head = Head { first: walked.first_kept.max(1), made_at: None };
        match fault.what {
            Defect::Missing { next } => {
                drop(create(journal, fault.segment, head)?);
                if next.is_some() {
                    fill(fault, u64::from(HEAD_LEN), u64::from(HEAD_LEN), None, next)?;
                }
            }
            Defect::Head => {
                keep_as_it_was(fault)?;
                let file = OpenOptions::new().write(true).open(&fault.file)?;
                file.write_all_at(&segment::encode_head(fault.segment, head), 0)?;
                file.sync_all()?;
            }
            Defect::Bytes { from, to, first, next } => {
                keep_as_it_was(fault)?;
                fill(fault, from, to, first, next)?;
            }
        }
    }
    sync_dir(journal)
}

fn keep_as_it_was(fault: &Fault) -> io::Result<()> {
    let aside = fault.file.with_extension("seg.damaged");
    if !aside.exists() {
        fs::copy(&fault.file, &aside)?;
    }
    Ok(())
}

/// Replaces the bytes by records that say that they are lost. No bytes: one more record at the end.
fn fill(fault: &Fault, from: u64, to: u64, first: Option<u64>, next: Option<u64>) -> io::Result<()> {
    let last = next.map_or(first.unwrap_or(1), |next| next.saturating_sub(1));
    let mut room = usize::try_from(to - from).map_err(io::Error::other)?.max(HEADER_LEN);
    let mut bytes = Vec::new();
    let commit_start = u32::try_from(from).map_err(io::Error::other)?.max(HEAD_LEN);
    while room > 0 {
        let mut len = room.min(PAYLOAD_LEN_MAX);
        if room - len < HEADER_LEN && room > len {
            len -= HEADER_LEN;
        }
        let filler = vec![FILLER; len - HEADER_LEN];
        record::encode(&mut bytes, Kind::Lost, codec::VERSION, commit_start, last, &[], &filler);
        room -= len;
    }
    let file = OpenOptions::new().write(true).open(&fault.file)?;
    file.write_all_at(&bytes, from)?;
    file.sync_all()
}
