//! `key`: a fresh operator key and the digest by which a configuration can hold it.
//!
//! Never stores anything: keys of merchants and producers are made by a running appliance.

use std::process::ExitCode;

use crate::entropy::SystemEntropy;
use crate::model::Role;
use crate::registry::{digest, new_key};

use super::print;

/// Prints a new operator key, the only time that it is shown.
pub fn key() -> ExitCode {
    let text = new_key(&Role::Operator, &SystemEntropy);
    let hex: String = digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
    print(format_args!("key           {text}"));
    print(format_args!("configuration [auth] operator_key = \"sha256:{hex}\""));
    ExitCode::SUCCESS
}
