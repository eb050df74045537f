//! Who may enter the queue of the next commit, and what is left of the disk.
//!
//! Never refuses a settlement: only events and nothing else can be told to come again later.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::FallocateFlags;

use super::Refusal;
use super::embedded::Limits;

/// Who may enter the queue of the next commit.
pub(super) struct Admission {
    pub(super) queued: AtomicU64,
    queued_bytes: AtomicU64,
    pub(super) journal_bytes: AtomicU64,
    disk_full: AtomicBool,
    stopped: AtomicBool,
    limits: Limits,
    dir: PathBuf,
}

impl Admission {
    pub(super) fn new(dir: &Path, limits: &Limits) -> Admission {
        Admission {
            dir: dir.to_owned(),
            queued: AtomicU64::new(0),
            queued_bytes: AtomicU64::new(0),
            journal_bytes: AtomicU64::new(0),
            disk_full: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            limits: *limits,
        }
    }

    pub(super) fn enter(&self, bytes: usize) -> Result<(), Refusal> {
        if self.stopped.load(Ordering::Acquire) {
            return Err(Refusal::Stopped);
        }
        if self.disk_full.load(Ordering::Relaxed) {
            return Err(Refusal::DiskFull);
        }
        let queued = self.queued.fetch_add(1, Ordering::Relaxed);
        let queued_bytes = self.queued_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if queued >= self.limits.queued_max || queued_bytes >= self.limits.queued_bytes_max {
            self.leave(bytes);
            return Err(Refusal::Overloaded);
        }
        Ok(())
    }

    pub(super) fn leave(&self, bytes: usize) {
        self.queued.fetch_sub(1, Ordering::Relaxed);
        self.queued_bytes.fetch_sub(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    pub(super) fn journal_grew(&self, bytes: u64) {
        self.journal_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn journal_shrank(&self, bytes: u64) {
        self.journal_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The disk has no byte left: nothing more is accepted until a measurement says otherwise.
    pub(super) fn disk_is_full(&self) {
        self.disk_full.store(true, Ordering::Relaxed);
    }

    /// Compares what is free with the floor; what is free.
    pub(super) fn measure(&self) -> u64 {
        // A file system that does not answer is not taken for a full one.
        let free = self.free_bytes().unwrap_or(u64::MAX);
        let full = free < self.limits.free_bytes_min;
        if self.disk_full.swap(full, Ordering::Relaxed) != full {
            if full {
                tracing::error!(free_bytes = free, "disk nearly full: no event is accepted, deliveries go on");
            } else {
                tracing::info!(free_bytes = free, "disk space is back: events are accepted");
            }
        }
        free
    }

    /// Bytes free on the disk.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        let stat = rustix::fs::statvfs(&self.dir).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// A file that only takes up room: given back when the disk is full, so that what became of deliveries can
/// still be written.
pub(super) struct Reserve {
    path: PathBuf,
    bytes: u64,
    held: Mutex<bool>,
}

impl Reserve {
    /// The reserve in `dir`, as it stands.
    pub(super) fn new(dir: &Path, bytes: u64) -> Reserve {
        let path = dir.join("RESERVE");
        let held = fs::metadata(&path).is_ok_and(|found| found.len() > 0);
        Reserve { path, bytes, held: Mutex::new(held) }
    }

    /// Keeps the file where the disk has room for it, gives it up where the disk is nearly full.
    pub(super) fn adjust(&self, free_bytes: u64, floor_bytes: u64) {
        let held = *self.held.lock().expect("no panic while held");
        if held && free_bytes < self.bytes / 2 {
            self.release();
        } else if !held && self.bytes > 0 && free_bytes > floor_bytes.saturating_add(self.bytes) {
            match self.fill() {
                Ok(()) => *self.held.lock().expect("no panic while held") = true,
                Err(error) => tracing::warn!(%error, "the reserve for a full disk cannot be made"),
            }
        }
    }

    /// Gives the room back. False where it was given back before.
    pub(super) fn release(&self) -> bool {
        let mut held = self.held.lock().expect("no panic while held");
        if !std::mem::replace(&mut *held, false) {
            return false;
        }
        let freed = fs::remove_file(&self.path);
        tracing::error!(bytes = self.bytes, "disk full: the reserve was given up so that states can be written");
        freed.is_ok()
    }

    fn fill(&self) -> std::io::Result<()> {
        let file = File::create(&self.path)?;
        let made = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, self.bytes).map_err(Into::into);
        if made.is_err() {
            // Half a reserve would be taken for a whole one.
            let _ = fs::remove_file(&self.path);
        }
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_takes_room_and_gives_it_back_once() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let reserve = Reserve::new(dir.path(), 1 << 20);
        assert!(!reserve.release(), "nothing is held yet");
        reserve.adjust(u64::MAX, 0);
        assert_eq!(fs::metadata(dir.path().join("RESERVE")).expect("it is there").len(), 1 << 20);
        assert!(reserve.release());
        assert!(!reserve.release());
        assert!(!dir.path().join("RESERVE").exists());
    }

    #[test]
    fn the_reserve_is_given_up_before_the_last_byte_and_taken_back_above_the_floor() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let is_there = || dir.path().join("RESERVE").exists();
        let reserve = Reserve::new(dir.path(), 1 << 20);
        for (free_bytes, expect) in
            [(1 << 19, false), (6 << 20, true), (1 << 20, true), (1 << 18, false), (5 << 20, false)]
        {
            reserve.adjust(free_bytes, 4 << 20);
            assert_eq!(is_there(), expect, "{free_bytes} bytes free");
        }
        reserve.adjust(6 << 20, 4 << 20);
        assert!(is_there());
        let found = Reserve::new(dir.path(), 1 << 20);
        assert!(found.release(), "the next start finds it");
    }
}
