//! `store`: verify, rebuild and export a data directory while nobody serves from it.
//!
//! Never a rule of its own: the store says what is wrong and what to type next.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::serve::allow_files;
use super::{ConfigOptions, EXIT_CONFIG, EXIT_DISK, build, fail, print};
use crate::clock::SystemClock;
use crate::engine::StoreLimits;
use crate::store::embedded::OpenFault;
use crate::store::export::{ExportFault, export};
use crate::store::rebuild::rebuild;
use crate::store::verify::verify;

/// What was looked at is not as it should be.
const EXIT_UNSOUND: u8 = 1;

/// What to do with a data directory.
#[derive(Args)]
pub struct StoreRequest {
    #[command(subcommand)]
    action: StoreAction,
}

#[derive(Subcommand)]
enum StoreAction {
    /// Read the whole journal and compare the index with it; exit code 1 where something is wrong
    Verify(ConfigOptions),
    /// Make the index anew from the journal
    Rebuild {
        #[command(flatten)]
        source: ConfigOptions,
        /// Give up what the journal has lost, as `store verify` shows it, and keep the rest
        #[arg(long)]
        accept_loss: bool,
    },
    /// Write everything to standard output, one JSON object a line, secrets left out
    Export(ConfigOptions),
}

/// 0 where all is well, 1 where `verify` found something or an export is not whole, 74 where the disk or what it holds is
/// damaged, 78 where the configuration is wrong or another process uses the directory.
pub fn store(request: &StoreRequest) -> ExitCode {
    let (StoreAction::Verify(source) | StoreAction::Rebuild { source, .. } | StoreAction::Export(source)) =
        &request.action;
    let config = match source.load(&[]) {
        Ok(config) => config,
        Err(faults) => return fail(EXIT_CONFIG, format_args!("the configuration is wrong:\n{faults}")),
    };
    let (dir, limits) = (&config.storage.data_dir, build::limits(&config).store);
    if !dir.join("journal").is_dir() {
        return fail(EXIT_CONFIG, format_args!("{} is not a data directory: it holds no journal", dir.display()));
    }
    // Every file of the journal is held open, and twice to verify it.
    allow_files(0);
    match &request.action {
        StoreAction::Verify(_) => verified(dir, &limits),
        StoreAction::Rebuild { accept_loss, .. } => match rebuild(dir, &limits, &SystemClock, *accept_loss) {
            Ok(rebuilt) => {
                print(rebuilt);
                ExitCode::SUCCESS
            }
            Err(fault) => refused(&fault),
        },
        StoreAction::Export(_) => exported(dir, &limits),
    }
}

fn verified(dir: &Path, limits: &StoreLimits) -> ExitCode {
    match verify(dir, limits) {
        Ok(findings) => {
            print(&findings);
            if findings.is_sound() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_UNSOUND) }
        }
        Err(fault) => refused(&fault),
    }
}

fn exported(dir: &Path, limits: &StoreLimits) -> ExitCode {
    let mut out = io::BufWriter::new(io::stdout().lock());
    match export(dir, limits, &SystemClock, &mut out) {
        Ok(done) if done.damaged > 0 => {
            let what = "of which a record is damaged are marked; `posthaste store verify` names the ranges";
            fail(EXIT_UNSOUND, format_args!("{} events {what}", done.damaged))
        }
        Ok(_) => ExitCode::SUCCESS,
        Err(ExportFault::Open(fault)) => refused(&fault),
        Err(fault) => fail(EXIT_DISK, fault),
    }
}

fn refused(fault: &OpenFault) -> ExitCode {
    let code = match fault {
        OpenFault::Directory(_) => EXIT_CONFIG,
        OpenFault::Disk(_) => EXIT_DISK,
    };
    fail(code, fault)
}
