//! The library between process and disk (faults.c): built once, loaded with the process, told what to do.
//!
//! Never in the shipped binary: it is preloaded from outside.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::appliance::Launch;

/// A number on the shared page; the same order as in faults.c.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Slot {
    Writes,
    Syncs,
    Fired,
    Fault,
    Target,
    At,
    Lasting,
    SyncDelayMs,
    ClockOffsetMs,
    SpaceLimited,
    SpaceLeft,
    LieSync,
    LieDirSync,
}

/// What happens to an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// EIO.
    Broken,
    /// Half of it is written.
    Short,
    /// EINTR.
    Interrupted,
}

/// Which operations are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Write,
    Sync,
}

/// The shared page, and the record where one is kept.
pub(crate) struct Faults {
    page: File,
    page_path: PathBuf,
    record: Option<PathBuf>,
}

impl Faults {
    /// A page under `root`, with nothing asked for yet.
    pub(crate) fn under(root: &Path) -> Faults {
        let page_path = root.join("faults");
        let page = File::options().create(true).truncate(true).read(true).write(true).open(&page_path);
        let page = page.expect("a file for the page");
        page.set_len(4096).expect("room for the page");
        Faults { page, page_path, record: None }
    }

    /// Also keeps a record of every change.
    pub(crate) fn recording(self, root: &Path) -> Faults {
        let record = root.join("record");
        fs::write(&record, []).expect("a file for the record");
        Faults { record: Some(record), ..self }
    }

    /// A launch whose process goes through the library.
    pub(crate) fn around(&self, launch: Launch) -> Launch {
        let text = |path: &Path| path.to_str().expect("a temporary directory has a plain name").to_owned();
        let below = fs::canonicalize(&launch.data_dir).expect("the data directory is there");
        assert_eq!(below, launch.data_dir, "the library compares paths as they are given");
        let launch = launch
            .with("LD_PRELOAD", text(library()))
            .with("POSTHASTE_FAULTS_BELOW", text(&below))
            .with("POSTHASTE_FAULTS_CONTROL", text(&self.page_path));
        match &self.record {
            Some(record) => launch.with("POSTHASTE_FAULTS_RECORD", text(record)),
            None => launch,
        }
    }

    pub(crate) fn record(&self) -> &Path {
        self.record.as_deref().expect("a record is kept")
    }

    pub(crate) fn get(&self, slot: Slot) -> u64 {
        let mut bytes = [0; 8];
        self.page.read_exact_at(&mut bytes, slot as u64 * 8).expect("the page is readable");
        u64::from_le_bytes(bytes)
    }

    pub(crate) fn set(&self, slot: Slot, value: u64) {
        self.page.write_all_at(&value.to_le_bytes(), slot as u64 * 8).expect("the page is writable");
    }

    /// Lets the `at`-th operation from the page's beginning fail, and, where `lasting`, all after it.
    pub(crate) fn arm(&self, fault: Fault, target: Target, at: u64, lasting: bool) {
        self.set(Slot::At, 0);
        self.set(Slot::Fault, fault as u64 + 1);
        self.set(Slot::Target, target as u64 + 1);
        self.set(Slot::Lasting, u64::from(lasting));
        self.set(Slot::At, at);
    }

    /// Begins to count anew, with nothing asked for.
    pub(crate) fn reset(&self) {
        self.page.write_all_at(&[0; 4096], 0).expect("the page is writable");
    }

    /// Moves the process's wall clock against the real one.
    pub(crate) fn set_clock(&self, offset_ms: i64) {
        self.set(Slot::ClockOffsetMs, offset_ms.cast_unsigned());
    }

    /// Lets so many more bytes be written; `None`: any.
    pub(crate) fn limit_space(&self, bytes: Option<u64>) {
        self.set(Slot::SpaceLeft, bytes.unwrap_or(0));
        self.set(Slot::SpaceLimited, u64::from(bytes.is_some()));
    }
}

/// Compiles the library, the first time that it is asked for.
fn library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("crash-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory for the library");
        let library = dir.join("faults.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/crash/faults.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl");
        let built = compiler.output().expect("cc is there; linking this test needed it, too");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        library
    })
}
