//! Names: where the records stand that speak of a producer's key or of a resource.
//!
//! These come in no order, each in a place of its own, and never change: sled, which keeps something in memory for every
//! few of its values and writes a page whole for each that comes, is not for them. They gather here and go to sheets,
//! files that are written once, in order; of a sheet so little stays in memory that it does not count. Never the truth: what
//! is not in a sheet, or in one that is not whole, is read from the journal again at the next start.

mod mention;
mod sheet;

use std::fs;
use std::io;
use std::iter::Peekable;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};

use mention::Mentions;
use sheet::Sheet;

use crate::model::Location;
use crate::store::StoreError;

pub(crate) use mention::{Mention, Name, Wanted};

/// Records of the journal for each mention that may be loose, after which they go to a sheet however few they are, so that a
/// start reads few again.
const RECORDS_PER_LOOSE: u64 = 3;

/// Sheets that are made one, once so many of about the same size follow each other.
const MERGED: usize = 8;

/// A sheet never becomes longer by merging: about 1 GiB.
const MERGED_MENTIONS_MAX: u64 = 1 << 25;

/// How many times as many may be loose as go to a sheet, where none can be written.
const LOOSE_TIMES_MAX: usize = 64;

/// How many times as many go to a sheet that is made anew: it may be a long one.
const ANEW_TIMES: usize = 8;

/// Mentions on their way to a sheet: all that stand in the journal from where the sheets end up to the record `number` at
/// `to`.
#[derive(Debug)]
pub(crate) struct Sealing {
    mentions: Mentions,
    to: Location,
    number: u64,
}

/// Mentions that are not in a sheet yet.
#[derive(Debug, Default)]
pub(crate) struct Loose {
    open: Mentions,
    /// Those that are being written, or could not be.
    sealing: Option<Arc<Sealing>>,
    /// How often any went to a sheet.
    seals: u64,
}

impl Loose {
    pub(crate) fn note(&mut self, mention: Mention) {
        self.open.insert(mention);
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.open.len() + self.sealing.as_ref().map_or(0, |sealing| sealing.mentions.len())
    }

    /// Changes when mentions go to a sheet: as long as it does not, all that came since are here.
    pub(crate) fn seals(&self) -> u64 {
        self.seals
    }

    pub(crate) fn find(&self, wanted: &Wanted) -> Vec<Mention> {
        let mut found = Vec::new();
        let (low, high) = (wanted.low(), wanted.high());
        let sealing = self.sealing.iter().map(|sealing| &sealing.mentions);
        for mentions in sealing.chain([&self.open]).filter(|_| low <= high) {
            let mut mine = Vec::new();
            wanted.take(mentions.range(low..=high).copied(), &mut mine);
            found.append(&mut mine);
        }
        found
    }

    fn all(&self) -> Mentions {
        self.sealing.iter().flat_map(|sealing| &sealing.mentions).chain(&self.open).copied().collect()
    }
}

/// Sheets as they were at one moment. Those that went meanwhile can be read all the same.
pub(crate) type Sheets = Arc<Vec<Arc<Sheet>>>;

/// Adds the first mentions that are wanted, of each sheet up to the limit.
pub(crate) fn find(sheets: &Sheets, wanted: &Wanted, found: &mut Vec<Mention>) -> Result<(), StoreError> {
    // All of them, also where one is damaged: then the others that are need not wait to be found so.
    let looks: Vec<_> = sheets.iter().map(|sheet| sheet.find(wanted, found)).collect();
    looks.into_iter().collect()
}

/// Takes the mentions of a record, and where it ends.
type Take<'a> = dyn FnMut(Location, Vec<Mention>) -> Result<(), StoreError> + 'a;

/// What a long work ends with that is not to go on.
pub(crate) fn interrupted() -> StoreError {
    StoreError::Index("the process is stopping".to_owned())
}

/// The sheets.
#[derive(Debug)]
pub(crate) struct Names {
    dir: PathBuf,
    /// Mentions that gather in memory before they go to a sheet.
    loose_max: usize,
    /// Oldest first, each from where the one before it ends.
    sheets: RwLock<Sheets>,
    /// Up to which record of the journal the sheets go, by number.
    sealed_number: AtomicU64,
    /// Sheets written since it was asked for last.
    more: AtomicUsize,
}

impl Names {
    /// Opens the sheets in `dir`. They go no further than the index does, to the record `number` at `upto`; what is beyond,
    /// or not whole, is removed: it is noted anew.
    pub(crate) fn open(dir: &Path, upto: Location, number: u64, loose_max: usize) -> io::Result<Names> {
        fs::create_dir_all(dir)?;
        let mut sheets = Vec::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let is_sheet = path.extension().is_some_and(|extension| extension == &sheet::SUFFIX[1..]);
            match if is_sheet { Sheet::open(&path)? } else { None } {
                Some(sheet) if sheet.to <= upto => sheets.push(sheet),
                Some(_) => fs::remove_file(&path)?,
                None => {
                    if is_sheet {
                        tracing::warn!(file = %path.display(), "a sheet of names is damaged: it is made anew from the journal");
                    }
                    fs::remove_file(&path)?;
                }
            }
        }
        // Of two that begin alike, the longer one was made from the other.
        sheets.sort_unstable_by_key(|sheet| (sheet.from, std::cmp::Reverse(sheet.to)));
        let mut kept: Vec<Arc<Sheet>> = Vec::new();
        for sheet in sheets {
            match kept.last() {
                Some(last) if sheet.from != last.to => sheet.remove()?,
                _ => kept.push(Arc::new(sheet)),
            }
        }
        Ok(Names {
            dir: dir.to_owned(),
            loose_max,
            sheets: RwLock::new(Arc::new(kept)),
            sealed_number: AtomicU64::new(number),
            more: AtomicUsize::new(0),
        })
    }

    /// Where the sheets end: what stands in the journal from there on is loose.
    pub(crate) fn end(&self) -> Location {
        self.sheets().last().map_or(Location(0), |sheet| sheet.to)
    }

    /// Removes every sheet where they do not begin at or before `first`: what is missing is noted anew.
    pub(crate) fn require(&self, first: Location) -> Result<(), StoreError> {
        if self.sheets().first().is_some_and(|sheet| sheet.from > first) {
            tracing::warn!("a sheet of names is missing: they are made anew from the journal");
            return self.remove(|_| true);
        }
        Ok(())
    }

    /// The records from where the sheets end up to the one with this number are noted next.
    pub(crate) fn sealed_to(&self, number: u64) {
        self.sealed_number.store(number, Ordering::Release);
    }

    /// Whether so many sheets were written since it was so that some may be made one.
    pub(crate) fn are_more(&self) -> bool {
        let are = self.more.load(Ordering::Acquire) >= MERGED;
        if are {
            self.more.store(0, Ordering::Release);
        }
        are
    }

    /// What is to be written to a sheet: what could not be before, or what is loose, which are all mentions in the journal up
    /// to the record `number` at `to`; `None` where it is not enough.
    pub(crate) fn begin_seal(&self, loose: &mut Loose, to: Location, number: u64) -> Option<Arc<Sealing>> {
        if let Some(sealing) = &loose.sealing {
            return Some(Arc::clone(sealing));
        }
        let records = number.saturating_sub(self.sealed_number.load(Ordering::Acquire));
        if loose.open.len() < self.loose_max && records / RECORDS_PER_LOOSE < self.loose_max as u64 {
            return None;
        }
        let sealing = Arc::new(Sealing { mentions: std::mem::take(&mut loose.open), to, number });
        loose.sealing = Some(Arc::clone(&sealing));
        Some(sealing)
    }

    /// Writes what `begin_seal` gave. Readers find it here from now on.
    pub(crate) fn write(&self, sealing: &Sealing) -> Result<(), StoreError> {
        let sheet = Sheet::write(&self.dir, self.end(), sealing.to, sealing.mentions.iter().copied().map(Ok))?;
        self.change(|sheets| sheets.push(Arc::new(sheet)));
        self.sealed_to(sealing.number);
        self.more.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// What was written is not loose any more. What was not stays so and is taken again: it is in the journal, and only more
    /// memory is needed until it can be written, which is an error where that is much.
    pub(crate) fn end_seal(&self, loose: &mut Loose, written: Result<(), StoreError>) -> Result<(), StoreError> {
        match written {
            Ok(()) => {
                loose.sealing = None;
                loose.seals += 1;
            }
            Err(error) if loose.len() > self.loose_max.saturating_mul(LOOSE_TIMES_MAX) => return Err(error),
            Err(error) => tracing::warn!(%error, "names cannot be written now: trying again"),
        }
        Ok(())
    }

    /// The sheets as they are now, for a look.
    pub(crate) fn sheets(&self) -> Sheets {
        Arc::clone(&self.sheets.read().expect("no panic while held"))
    }

    /// All mentions in records from segment `first` on, ascending, each once; with them those that are loose.
    pub(crate) fn all(&self, loose: &Loose, first: u32) -> impl Iterator<Item = Result<Mention, StoreError>> + use<> {
        merged(&self.sheets(), loose.all(), first)
    }

    /// Makes one of some sheets, where there are many; leaves out what stands before segment `first`. Whether it did. Nothing
    /// is changed where `goes_on` says no meanwhile.
    pub(crate) fn merge(&self, first: u32, goes_on: &dyn Fn() -> bool) -> Result<bool, StoreError> {
        let sheets = self.sheets();
        // The last one may go further than what the index has made durable: it would not count after a crash.
        let settled = &sheets[..sheets.len().saturating_sub(1)];
        let lengths: Vec<u64> = settled.iter().map(|sheet| sheet.mentions.max(1)).collect();
        let Some(range) = to_merge(&lengths) else { return Ok(false) };
        let parts = &sheets[range.clone()];
        let kept = merged(parts, Mentions::new(), first);
        let kept = kept.map(|mention| if goes_on() { mention } else { Err(interrupted()) });
        let sheet = Sheet::write(&self.dir, parts[0].from, parts[MERGED - 1].to, kept)?;
        // Others come at the end only, and go in this thread.
        self.change(|sheets| drop(sheets.splice(range, [Arc::new(sheet)])));
        self.delete(parts).map(|()| true)
    }

    /// The sheets of which a page was found damaged.
    pub(crate) fn suspects(&self) -> Vec<Arc<Sheet>> {
        self.sheets().iter().filter(|sheet| sheet.is_suspect()).cloned().collect()
    }

    /// Makes a sheet anew, in pieces where it is long, from all mentions in its stretch of the journal as they stand there:
    /// `each` hands them over record by record, with where the record ends.
    pub(crate) fn make_anew(
        &self,
        old: &Arc<Sheet>,
        each: impl FnOnce(Range<Location>, &mut Take<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (mut made, mut begun, mut gathered) = (Vec::new(), old.from, Mentions::new());
        let mut write = |from, to, mentions: Mentions| {
            made.push(Arc::new(Sheet::write(&self.dir, from, to, mentions.into_iter().map(Ok))?));
            Ok::<_, StoreError>(())
        };
        let handed_over = each(old.from..old.to, &mut |end, mentions| {
            gathered.extend(mentions);
            if gathered.len() / ANEW_TIMES >= self.loose_max && end < old.to {
                write(begun, end, std::mem::take(&mut gathered))?;
                begun = end;
            }
            Ok(())
        });
        if let Err(error) = handed_over.and_then(|()| write(begun, old.to, gathered)) {
            self.delete(&made)?;
            return Err(error);
        }
        // One piece has the same name and took the place of the file.
        let gone = if made.len() > 1 { std::slice::from_ref(old) } else { &[] };
        self.change(|sheets| {
            let place =
                sheets.iter().position(|sheet| Arc::ptr_eq(sheet, old)).expect("only this thread takes sheets away");
            sheets.splice(place..=place, made);
        });
        self.delete(gone)
    }

    /// Removes the sheets of which everything stands before segment `first`.
    pub(crate) fn drop_before(&self, first: u32) -> Result<(), StoreError> {
        self.remove(|sheet| sheet.to <= Location::at(first, 0))
    }

    fn remove(&self, is_unwanted: impl Fn(&Sheet) -> bool) -> Result<(), StoreError> {
        let before = self.sheets();
        self.change(|sheets| sheets.retain(|sheet| !is_unwanted(sheet)));
        let gone = before.iter().filter(|sheet| is_unwanted(sheet));
        self.delete(&gone.cloned().collect::<Vec<_>>())
    }

    /// Removes the files of sheets that are no longer among them: as many as can be.
    fn delete(&self, gone: &[Arc<Sheet>]) -> Result<(), StoreError> {
        let removed: Vec<io::Result<()>> = gone.iter().map(|sheet| sheet.remove()).collect();
        let removed: io::Result<()> = removed.into_iter().collect();
        removed.map_err(|source| self.failed("removing a sheet in", source))
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Sheet>>)) {
        change(Arc::make_mut(&mut self.sheets.write().expect("no panic while held")));
    }

    fn failed(&self, doing: &str, source: io::Error) -> StoreError {
        StoreError::Io { context: format!("{doing} {}", self.dir.display()), source }
    }
}

/// The mentions of sheets and others in records from segment `first` on, all ascending, as one, each once. Ends after an error.
fn merged(
    sheets: &[Arc<Sheet>],
    others: Mentions,
    first: u32,
) -> impl Iterator<Item = Result<Mention, StoreError>> + use<> {
    type Source = Box<dyn Iterator<Item = Result<Mention, StoreError>>>;
    let sheets = sheets.iter().map(|sheet| Box::new(sheet.all()) as Source);
    let others: Source = Box::new(others.into_iter().map(Ok));
    let mut sources: Vec<Peekable<Source>> = sheets.chain([others]).map(Iterator::peekable).collect();
    let mut last: Option<Mention> = None;
    std::iter::from_fn(move || {
        loop {
            if let Some(bad) = sources.iter_mut().position(|source| matches!(source.peek(), Some(Err(_)))) {
                let error = sources[bad].next();
                sources.clear();
                return error;
            }
            let heads = sources.iter_mut().enumerate();
            let heads = heads.filter_map(|(nth, source)| Some((*source.peek()?.as_ref().ok()?, nth)));
            let (mention, nth) = heads.min()?;
            sources[nth].next();
            if last.replace(mention) != Some(mention) && mention.location().segment() >= first {
                return Some(Ok(mention));
            }
        }
    })
}

/// The oldest sheets that follow each other and of which none is much longer than the others: a mention is then written a
/// few times in all.
fn to_merge(lengths: &[u64]) -> Option<Range<usize>> {
    let fits = |window: &[u64]| {
        let sum: u64 = window.iter().sum();
        sum <= MERGED_MENTIONS_MAX && window.iter().all(|length| length * 4 <= sum)
    };
    let begin = lengths.windows(MERGED).position(fits)?;
    Some(begin..begin + MERGED)
}

#[cfg(test)]
mod tests;
