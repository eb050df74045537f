//! Faults against the real binary: kills, power cuts, disks that fail, fill, lie or rot; and an oracle that
//! knows what was acknowledged.
//!
//! Never mocks: the process, its disk and its sockets are real. Each case prints one line of JSON.
//!
//! ```text
//! cargo test --test crash                                          # short: what fits into every change
//! POSTHASTE_CRASH_LONG=1 cargo test --release --test crash         # long: hours
//! POSTHASTE_CRASH_CYCLES=1000 cargo test --test crash kill         # so many rounds of each case named
//! POSTHASTE_CRASH_SEED=7                                           # begin from this seed instead of a random one
//! POSTHASTE_CRASH_REPORT=FILE                                      # append the lines to FILE, too
//! POSTHASTE_CRASH_KEEP=1                                           # leave the data directories behind
//! ```

#![expect(clippy::disallowed_methods, reason = "the world outside has clocks and tasks of its own")]

mod access;
mod appliance;
mod damage;
mod dice;
mod errors;
mod faults;
mod judge;
mod kills;
mod ledger;
mod load;
mod planted;
mod power;
mod receivers;
mod report;
mod retention;
mod scene;
mod stopping;
mod surroundings;
mod survivor;
