//! What a person types: `serve`, `check-config`, `manual`, `key`, `verify`, `store`.
//!
//! Never holds a rule of the product: it reads, builds, starts and prints.

mod build;
mod dev;
mod keys;
mod receiver;
mod serve;
mod store;
mod verify;

use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Faults, MANUAL, environment};

pub use keys::key;
pub use serve::{ServeOptions, serve};
pub use store::{StoreRequest, store};
pub use verify::{VerifyRequest, verify};

/// The configuration is wrong, or a port or file that it names cannot be had (EX_CONFIG of sysexits.h).
const EXIT_CONFIG: u8 = 78;

/// The disk failed, so nothing more may be acknowledged (EX_IOERR of sysexits.h).
const EXIT_DISK: u8 = 74;

/// The engine met a fault of its own and stopped, rather than go on without a part of it (EX_SOFTWARE of sysexits.h).
const EXIT_FAULT: u8 = 70;

#[derive(Parser)]
#[command(name = "posthaste", version, about = "Webhook delivery appliance: one binary, one directory.")]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

/// What is to be done.
#[derive(Subcommand)]
pub enum Command {
    /// Accept events and deliver them
    Serve(ServeOptions),
    /// Check a configuration file and the environment, and say all that is wrong
    CheckConfig(ConfigOptions),
    /// Print every setting with its default and its reason, as a file to start from
    Manual,
    /// Make an operator key and its digest for the configuration
    Key,
    /// Check the signature of a request that a merchant received
    Verify(VerifyRequest),
    /// Verify, rebuild or export a data directory that nobody serves from
    Store(StoreRequest),
}

/// Where the configuration comes from.
#[derive(Args)]
pub struct ConfigOptions {
    /// The configuration file; without one everything is as in `posthaste manual`
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where everything that must survive is kept, instead of the configured storage.data_dir
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl ConfigOptions {
    /// `presets` stand between the manual and the file.
    fn load(&self, presets: &[(&str, &str, String)]) -> Result<Config, Faults> {
        let data_dir = self.data_dir.iter().map(|dir| ("--data-dir", "storage.data_dir", dir.display().to_string()));
        Config::load(presets, self.config.as_deref(), &environment(), &data_dir.collect::<Vec<_>>())
    }
}

/// The command line, understood. Ends the process where it is wrong or asks for help.
pub fn parse() -> Command {
    CommandLine::parse().command
}

/// Says whether the configuration could be served: values, files and certificates, but no port and no data.
pub fn check_config(options: &ConfigOptions) -> ExitCode {
    let checked = options.load(&[]).map_err(|faults| faults.to_string());
    match checked.and_then(|config| build::check(&config).map_err(|fault| fault.to_string())) {
        Ok(()) => {
            print("The configuration is right.");
            ExitCode::SUCCESS
        }
        Err(faults) => fail(EXIT_CONFIG, faults),
    }
}

/// Prints the manual.
pub fn manual() -> ExitCode {
    print(MANUAL.trim_end());
    ExitCode::SUCCESS
}

/// A line for whoever typed the command. Standard output may be closed: then nobody wants to know.
fn print(text: impl Display) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Says on standard error why the command failed.
fn fail(code: u8, why: impl Display) -> ExitCode {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "posthaste: {why}");
    ExitCode::from(code)
}
