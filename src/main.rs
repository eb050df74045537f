//! The command line: one word, one thing to do.
//!
//! Never a decision of its own: what a command does stands in `cli`.

use std::process::ExitCode;

use mimalloc::MiMalloc;
use posthaste::cli::{self, Command};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    match cli::parse() {
        Command::Serve(options) => cli::serve(&options),
        Command::CheckConfig(options) => cli::check_config(&options),
        Command::Manual => cli::manual(),
        Command::Key => cli::key(),
        Command::Bench(options) => cli::bench(&options),
        Command::Verify(request) => cli::verify(&request),
        Command::Store(request) => cli::store(&request),
    }
}
