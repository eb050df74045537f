//! What healthy merchants notice of sick ones: `posthaste bench isolation` for each ailment, and with a long backlog.
//!
//! Never measures anything itself. Run it with `cargo bench --bench isolation`.

use std::process::{Command, ExitCode};

/// Merchants hang, fail, flap and are slow; one is dead, with a million events waiting for it.
const SCENES: [&[&str]; 5] = [
    &["--ailment", "hanging", "--sick-percent", "30"],
    &["--ailment", "failing", "--sick-percent", "30"],
    &["--ailment", "flapping", "--sick-percent", "30"],
    &["--ailment", "slow", "--sick-percent", "30"],
    &["--ailment", "hanging", "--sick-percent", "1", "--backlog", "1000000"],
];

fn main() -> ExitCode {
    for scene in SCENES {
        let measured = Command::new(env!("CARGO_BIN_EXE_posthaste")).args(["bench", "isolation"]).args(scene).status();
        if !measured.expect("the product can be run").success() {
            return ExitCode::FAILURE;
        }
        println!();
    }
    ExitCode::SUCCESS
}
