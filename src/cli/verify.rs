//! `verify`: what a receiver does with a request, on the command line.
//!
//! Never prints a secret, and never takes one as an argument, where every process could read it: it comes from a file
//! or from the environment.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use crate::clock::{Clock as _, SystemClock};
use crate::model::Secret;
use crate::policy::signature::{self, StandardHeaders};

use super::{fail, print};

/// The signature does not fit.
const EXIT_MISMATCH: u8 = 1;

/// Something to be checked could not be read (EX_NOINPUT of sysexits.h).
const EXIT_INPUT: u8 = 66;

/// Where the secret is where no file is named.
const SECRET_VARIABLE: &str = "POSTHASTE_SECRET";

/// What a merchant received.
#[derive(Args)]
pub struct VerifyRequest {
    /// A file that holds the signing secret and nothing else; without it the secret is what stands in the environment as
    /// POSTHASTE_SECRET
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// The raw body, byte for byte as received; without it standard input is read
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// The value of X-Webhook-Signature
    #[arg(long, value_name = "HEX", required_unless_present = "standard")]
    signature: Option<String>,
    /// The value of webhook-signature (Standard Webhooks), together with --id and --timestamp
    #[arg(long, value_name = "V1", requires = "id", requires = "timestamp")]
    standard: Option<String>,
    /// The value of webhook-id
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// The value of webhook-timestamp
    #[arg(long, value_name = "SECONDS")]
    timestamp: Option<String>,
    /// How old a webhook-timestamp may be
    #[arg(long, value_name = "SECONDS", default_value_t = signature::TOLERANCE_S)]
    tolerance: u64,
}

/// Exit code 0 where every given signature fits, 1 where one does not.
pub fn verify(request: &VerifyRequest) -> ExitCode {
    let (secret, body) = match request.secret().and_then(|secret| Ok((secret, read(request.body.as_deref())?))) {
        Ok(read) => read,
        Err(why) => return fail(EXIT_INPUT, why),
    };
    let checks = [request.check_body(&secret, &body), request.check_standard(&secret, &body)];
    for check in checks.into_iter().flatten() {
        match check {
            Ok(line) => print(line),
            Err(why) => return fail(EXIT_MISMATCH, why),
        }
    }
    ExitCode::SUCCESS
}

impl VerifyRequest {
    fn secret(&self) -> Result<Secret, String> {
        let text = match &self.secret_file {
            Some(path) => {
                String::from_utf8(read(Some(path))?).map_err(|_| format!("{} is not UTF-8", path.display()))?
            }
            None => std::env::var(SECRET_VARIABLE)
                .map_err(|_| format!("give the secret with --secret-file or, as UTF-8, in {SECRET_VARIABLE}"))?,
        };
        let text = text.strip_suffix('\n').map(|text| text.strip_suffix('\r').unwrap_or(text)).unwrap_or(&text);
        Secret::new(text).ok_or_else(|| format!("a signing secret has 1 to {} bytes", Secret::LEN_MAX))
    }

    fn check_body(&self, secret: &Secret, body: &[u8]) -> Option<Result<&'static str, String>> {
        let header = self.signature.as_deref()?;
        Some(match signature::verify(secret, body, header) {
            true => Ok("X-Webhook-Signature fits the body and the secret."),
            false => Err(why_not(secret, body, header)),
        })
    }

    fn check_standard(&self, secret: &Secret, body: &[u8]) -> Option<Result<&'static str, String>> {
        let headers = StandardHeaders {
            id: self.id.as_deref()?,
            timestamp: self.timestamp.as_deref()?,
            signature: self.standard.as_deref()?,
        };
        let verified = signature::verify_standard(secret, headers, body, SystemClock.now(), self.tolerance);
        Some(verified.map(|()| "webhook-signature fits.").map_err(|fault| fault.to_string()))
    }
}

/// The commonest reason first: a tool that ends the body with a newline of its own.
fn why_not(secret: &Secret, body: &[u8], header: &str) -> String {
    let trimmed = body.strip_suffix(b"\n").map(|body| body.strip_suffix(b"\r").unwrap_or(body));
    if trimmed.is_some_and(|body| signature::verify(secret, body, header)) {
        return "X-Webhook-Signature fits the body without its last newline: something added that newline".to_owned();
    }
    "X-Webhook-Signature does not fit: the secret is another one, or the body is not byte for byte what was received"
        .to_owned()
}

fn read(path: Option<&Path>) -> Result<Vec<u8>, String> {
    match path {
        Some(path) => std::fs::read(path).map_err(|error| format!("{} cannot be read: {error}", path.display())),
        None => {
            let mut body = Vec::new();
            std::io::stdin().read_to_end(&mut body).map_err(|error| format!("standard input: {error}"))?;
            Ok(body)
        }
    }
}
