//! A sheet: all mentions of a stretch of the journal, ordered, in a file that is written once.
//!
//! Never changes after it was written, never keeps a page in memory: only where each begins. Whatever does not match its
//! checksum is damage, and the sheet suspect: it is to be made again from the journal.
//!
//! ```text
//! pages, 4096 bytes each:   CRC32C of the rest 4 · how many 4 · zeros 24 · up to 127 mentions
//! firsts, 8 bytes a page:   the name of its first mention
//! tail, 80 bytes:           "PHNAMES" and a zero byte 8 · from 8 · to 8 · mentions 8 · greatest event 16 · version 4
//!                           CRC32C of the firsts 4 · zeros 20 · CRC32C of the tail before it 4
//! ```
//!
//! All numbers big-endian, mentions as in memory. `from` (inclusive) and `to` (exclusive) are locations in the journal.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::mention::{MENTION_LEN, Mention, Name, Wanted};
use crate::model::{EventId, Location};
use crate::store::StoreError;
use crate::store::journal::sync_dir;

const MAGIC: &[u8; 8] = b"PHNAMES\0";
const VERSION: u32 = 1;
const PAGE_LEN: usize = 4096;
const PAGE_HEAD_LEN: usize = 32;
const PAGE_MENTIONS: usize = (PAGE_LEN - PAGE_HEAD_LEN) / MENTION_LEN;
const TAIL_LEN: usize = 80;

/// Bytes that are written before they are synced: a great merge must not be in the way of the journal's own syncs for long.
const SYNC_BYTES: usize = 4 << 20;

/// What the name of a sheet's file ends with.
pub(super) const SUFFIX: &str = ".names";

/// What the name of a file ends with that is being written.
pub(super) const UNDONE: &str = ".undone";

/// One sheet, open for reading.
#[derive(Debug)]
pub(crate) struct Sheet {
    path: PathBuf,
    file: File,
    pub(super) from: Location,
    pub(super) to: Location,
    pub(super) mentions: u64,
    /// The greatest event in it.
    last_event: EventId,
    firsts: Vec<u64>,
    suspect: AtomicBool,
}

impl Sheet {
    /// Opens a sheet; `None` where it is not whole, or cannot be read.
    pub(super) fn open(path: &Path) -> io::Result<Option<Sheet>> {
        let file = File::open(path)?;
        let read = Sheet::read_end(&file);
        Ok(read.ok().flatten().map(|(tail, firsts)| Sheet::of(path, file, &tail, &firsts)))
    }

    /// The tail and the firsts, where they are whole.
    fn read_end(file: &File) -> io::Result<Option<(Tail, Vec<u8>)>> {
        let mut tail = [0; TAIL_LEN];
        let Some(tail_at) = file.metadata()?.len().checked_sub(TAIL_LEN as u64) else { return Ok(None) };
        file.read_exact_at(&mut tail, tail_at)?;
        let Some(tail) = Tail::decode(&tail) else { return Ok(None) };
        let pages = tail.mentions.div_ceil(PAGE_MENTIONS as u64);
        if pages.checked_mul((PAGE_LEN + 8) as u64) != Some(tail_at) {
            return Ok(None);
        }
        let mut firsts = vec![0; usize::try_from(pages * 8).map_err(io::Error::other)?];
        file.read_exact_at(&mut firsts, pages * PAGE_LEN as u64)?;
        Ok((crc32c::crc32c(&firsts) == tail.firsts_crc).then_some((tail, firsts)))
    }

    fn of(path: &Path, file: File, tail: &Tail, firsts: &[u8]) -> Sheet {
        let firsts = firsts.chunks_exact(8).map(|first| u64::from_be_bytes(first.try_into().expect("eight bytes")));
        let Tail { from, to, mentions, last_event, .. } = *tail;
        let (path, firsts, suspect) = (path.to_owned(), firsts.collect(), AtomicBool::new(false));
        Sheet { path, file, from, to, mentions, last_event, firsts, suspect }
    }

    /// Writes a sheet of mentions, which are ascending, durably.
    pub(super) fn write(
        dir: &Path,
        from: Location,
        to: Location,
        mentions: impl Iterator<Item = Result<Mention, StoreError>>,
    ) -> Result<Sheet, StoreError> {
        let path = dir.join(format!("{:016x}-{:016x}{SUFFIX}", from.0, to.0));
        let undone = path.with_extension(&UNDONE[1..]);
        let failed = |source| StoreError::Io { context: format!("writing {}", path.display()), source };
        let write = || {
            let file =
                File::options().read(true).write(true).create(true).truncate(true).open(&undone).map_err(failed)?;
            let mut writer = Writer { file, unsynced: 0, page: Vec::new(), firsts: Vec::new() };
            let mut tail = Tail { from, to, mentions: 0, last_event: EventId::MIN, firsts_crc: 0 };
            for mention in mentions {
                let mention = mention?;
                tail.mentions += 1;
                tail.last_event = tail.last_event.max(mention.event());
                writer.push(&mention).map_err(failed)?;
            }
            writer.finish(&mut tail).map_err(failed)?;
            fs::rename(&undone, &path).map_err(failed)?;
            sync_dir(dir).map_err(failed)?;
            Ok(Sheet::of(&path, writer.file, &tail, &writer.firsts))
        };
        write().inspect_err(|_| {
            // What is half written takes up room that may be what is missing.
            let _ = fs::remove_file(&undone);
        })
    }

    /// Whether a page was found damaged.
    pub(super) fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Acquire)
    }

    /// Removes its file. Whoever reads it goes on reading.
    pub(super) fn remove(&self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }

    /// Adds the first mentions that are wanted, in the direction asked for, up to the limit.
    pub(super) fn find(&self, wanted: &Wanted, found: &mut Vec<Mention>) -> Result<(), StoreError> {
        let (low, high) = (wanted.low(), wanted.high());
        if wanted.first > self.last_event || low > high {
            return Ok(());
        }
        let Name(name) = wanted.name;
        // The last page that begins before the name may end with it.
        let begin = self.firsts.partition_point(|first| *first < name).saturating_sub(1);
        let end = self.firsts.partition_point(|first| *first <= name);
        let mut mine = Vec::new();
        if wanted.descending {
            // The last page that begins at or before the highest.
            let (_, mut nth) = self.split(begin, end, |page| page.first().is_some_and(|first| *first <= high))?;
            while nth > begin && mine.len() < wanted.limit {
                nth -= 1;
                let page = self.page(nth)?;
                let is_last = page.first().is_none_or(|first| *first < low);
                wanted.take(page.into_iter(), &mut mine);
                if is_last {
                    break;
                }
            }
        } else {
            let (mut nth, _) = self.split(begin, end, |page| page.last().is_some_and(|last| *last < low))?;
            while nth < end && mine.len() < wanted.limit {
                let page = self.page(nth)?;
                let is_last = page.last().is_none_or(|last| *last > high);
                wanted.take(page.into_iter(), &mut mine);
                if is_last {
                    break;
                }
                nth += 1;
            }
        }
        found.append(&mut mine);
        Ok(())
    }

    /// Of the pages from `begin` to `end`, of which the first ones are `before`: all before the first place are, and none from
    /// the second one on.
    fn split(
        &self,
        begin: usize,
        end: usize,
        before: impl Fn(&[Mention]) -> bool,
    ) -> Result<(usize, usize), StoreError> {
        let (mut low, mut high) = (begin, end);
        // Of a few pages each is read anyway.
        while low + 2 < high {
            let middle = low.midpoint(high);
            if before(&self.page(middle)?) { low = middle + 1 } else { high = middle }
        }
        Ok((low, high))
    }

    /// Every mention, ascending.
    pub(super) fn all(self: &Arc<Sheet>) -> impl Iterator<Item = Result<Mention, StoreError>> + use<> {
        let sheet = Arc::clone(self);
        (0..self.firsts.len()).flat_map(move |nth| match sheet.page(nth) {
            Ok(page) => page.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        })
    }

    fn page(&self, nth: usize) -> Result<Vec<Mention>, StoreError> {
        let mut bytes = [0; PAGE_LEN];
        let at = nth as u64 * PAGE_LEN as u64;
        let read = self.file.read_exact_at(&mut bytes, at);
        let count = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) as usize;
        let is_whole = bytes[..4] == crc32c::crc32c(&bytes[4..]).to_be_bytes() && count <= PAGE_MENTIONS;
        if read.is_err() || !is_whole {
            self.suspect.store(true, Ordering::Release);
            let path = self.path.display();
            let to = at + PAGE_LEN as u64;
            return Err(StoreError::Index(format!("{path}: bytes {at} to {to} are damaged; it is made anew soon")));
        }
        let mentions = bytes[PAGE_HEAD_LEN..].chunks_exact(MENTION_LEN).take(count);
        Ok(mentions.map(|bytes| Mention(bytes.try_into().expect("its length"))).collect())
    }
}

/// The last bytes of a sheet.
struct Tail {
    from: Location,
    to: Location,
    mentions: u64,
    last_event: EventId,
    firsts_crc: u32,
}

impl Tail {
    fn decode(bytes: &[u8; TAIL_LEN]) -> Option<Tail> {
        let u64_at = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let u32_at = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let is_whole = bytes[..8] == *MAGIC && u32_at(76) == crc32c::crc32c(&bytes[..76]) && u32_at(48) == VERSION;
        is_whole.then(|| Tail {
            from: Location(u64_at(8)),
            to: Location(u64_at(16)),
            mentions: u64_at(24),
            last_event: EventId::from_u128(u128::from(u64_at(32)) << 64 | u128::from(u64_at(40))),
            firsts_crc: u32_at(52),
        })
    }

    fn encode(&self) -> [u8; TAIL_LEN] {
        let mut bytes = [0; TAIL_LEN];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&self.from.0.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.to.0.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.mentions.to_be_bytes());
        bytes[32..48].copy_from_slice(&self.last_event.as_u128().to_be_bytes());
        bytes[48..52].copy_from_slice(&VERSION.to_be_bytes());
        bytes[52..56].copy_from_slice(&self.firsts_crc.to_be_bytes());
        let crc = crc32c::crc32c(&bytes[..76]);
        bytes[76..].copy_from_slice(&crc.to_be_bytes());
        bytes
    }
}

/// A sheet that is being written.
struct Writer {
    file: File,
    unsynced: usize,
    /// The page that is being filled, without its head.
    page: Vec<u8>,
    firsts: Vec<u8>,
}

impl Writer {
    fn push(&mut self, mention: &Mention) -> io::Result<()> {
        if self.page.is_empty() {
            self.firsts.extend_from_slice(&mention.name().0.to_be_bytes());
        }
        self.page.extend_from_slice(&mention.0);
        if self.page.len() == PAGE_MENTIONS * MENTION_LEN { self.write_page() } else { Ok(()) }
    }

    fn write_page(&mut self) -> io::Result<()> {
        let mut bytes = [0; PAGE_LEN];
        let count = u32::try_from(self.page.len() / MENTION_LEN).expect("a page is small");
        bytes[4..8].copy_from_slice(&count.to_be_bytes());
        bytes[PAGE_HEAD_LEN..PAGE_HEAD_LEN + self.page.len()].copy_from_slice(&self.page);
        let crc = crc32c::crc32c(&bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_be_bytes());
        self.page.clear();
        self.write(&bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.unsynced += bytes.len();
        if self.unsynced >= SYNC_BYTES {
            self.unsynced = 0;
            self.file.sync_data()?;
        }
        Ok(())
    }

    fn finish(&mut self, tail: &mut Tail) -> io::Result<()> {
        if !self.page.is_empty() {
            self.write_page()?;
        }
        tail.firsts_crc = crc32c::crc32c(&self.firsts);
        self.file.write_all(&self.firsts)?;
        self.file.write_all(&tail.encode())?;
        self.file.sync_all()
    }
}
