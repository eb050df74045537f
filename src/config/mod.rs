//! The configuration: `config/default.toml`, a file, the environment and flags, in this order, as typed values.
//!
//! Never binds, opens or starts anything; reads no clock. The manual is `config/default.toml` itself.

mod bounds;
mod layers;
#[cfg(test)]
mod tests;
mod units;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use sha2::{Digest as _, Sha256};

use crate::http;
use crate::model::Digest;

pub use layers::{Fault, Faults, environment};

/// The manual, which is also the lowest layer.
pub const MANUAL: &str = include_str!("../../config/default.toml");

/// Shorter operator keys could be guessed from their digest.
const OPERATOR_KEY_LEN_MIN: usize = 32;

/// Everything that can be set. The manual says what each key means.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Merchants.
    pub public: Listener,
    /// Producers.
    pub ingest: Listener,
    /// Operators.
    pub admin: Listener,
    /// Journal and index.
    pub storage: Storage,
    /// Attempts and retries.
    pub delivery: Delivery,
    /// Connections to receivers.
    pub transport: Transport,
    /// Where deliveries may go.
    pub egress: Egress,
    /// What producers hand in.
    pub events: Events,
    /// The merchants' dashboard.
    pub dashboard: Dashboard,
    /// The first operator key.
    pub auth: Auth,
    /// Logs.
    pub log: Log,
}

/// `[public]`, `[ingest]`, `[admin]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Where to listen.
    pub address: SocketAddr,
    /// Certificate chain.
    #[serde(deserialize_with = "path")]
    pub tls_cert: Option<PathBuf>,
    /// Private key.
    #[serde(deserialize_with = "path")]
    pub tls_key: Option<PathBuf>,
    /// See [`http::Limits`], also for what follows.
    pub connections_max: usize,
    /// Per address.
    pub connections_per_ip_max: usize,
    /// For a head.
    #[serde(rename = "head_timeout", deserialize_with = "units::ms")]
    pub head_timeout_ms: u64,
    /// Of a head.
    #[serde(deserialize_with = "units::bytes")]
    pub head_bytes_max: usize,
    /// In a head.
    pub headers_max: usize,
    /// Of a target.
    #[serde(deserialize_with = "units::bytes")]
    pub uri_bytes_max: usize,
    /// For a body.
    #[serde(rename = "body_timeout", deserialize_with = "units::ms")]
    pub body_timeout_ms: u64,
    /// Of all bodies.
    #[serde(deserialize_with = "units::bytes")]
    pub body_bytes_in_flight_max: usize,
    /// For a handshake.
    #[serde(rename = "tls_handshake_timeout", deserialize_with = "units::ms")]
    pub tls_handshake_timeout_ms: u64,
    /// Between requests.
    #[serde(rename = "keep_alive_idle", deserialize_with = "units::ms")]
    pub keep_alive_idle_ms: u64,
    /// For a write.
    #[serde(rename = "write_timeout", deserialize_with = "units::ms")]
    pub write_timeout_ms: u64,
    /// After a refusal.
    #[serde(rename = "linger", deserialize_with = "units::ms")]
    pub linger_ms: u64,
    /// After a refusal.
    #[serde(deserialize_with = "units::bytes")]
    pub linger_bytes_max: usize,
    /// At the end.
    #[serde(rename = "drain_max", deserialize_with = "units::ms")]
    pub drain_ms_max: u64,
}

/// `[storage]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storage {
    /// The data directory.
    pub data_dir: PathBuf,
    /// Events that wait for the journal.
    pub commit_queue_max: usize,
    /// Their payloads.
    #[serde(deserialize_with = "units::bytes")]
    pub commit_queue_bytes_max: usize,
    /// How long a settlement may wait for company.
    #[serde(rename = "settle_delay", deserialize_with = "units::ms")]
    pub settle_delay_ms: u64,
    /// Of a journal file.
    #[serde(deserialize_with = "units::bytes")]
    pub segment_bytes: usize,
    /// Between two flushes of the index.
    #[serde(rename = "index_flush", deserialize_with = "units::ms")]
    pub index_flush_ms: u64,
    /// Changes by which the index may lag.
    pub index_unwritten_max: usize,
    /// Producers' keys and resources that gather before they are written.
    pub names_unwritten_max: usize,
    /// Memory for the index.
    #[serde(deserialize_with = "units::bytes")]
    pub index_cache_bytes: usize,
    /// Reads at once.
    pub reads_max: usize,
    /// Floor of free disk space.
    #[serde(deserialize_with = "units::bytes")]
    pub free_bytes_min: usize,
    /// Given up when the disk is full.
    #[serde(deserialize_with = "units::bytes")]
    pub reserve_bytes: usize,
    /// Of history.
    #[serde(rename = "retention_age", deserialize_with = "units::ms")]
    pub retention_age_ms: u64,
    /// Of the journal.
    #[serde(deserialize_with = "units::bytes")]
    pub retention_bytes_max: usize,
    /// Between two looks.
    #[serde(rename = "retention_every", deserialize_with = "units::ms")]
    pub retention_every_ms: u64,
    /// For producers' keys.
    #[serde(rename = "idempotency_window", deserialize_with = "units::ms")]
    pub idempotency_window_ms: u64,
}

/// `[delivery]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delivery {
    /// Of an attempt.
    #[serde(rename = "timeout", deserialize_with = "units::ms")]
    pub timeout_ms: u64,
    /// Attempts at a time.
    pub in_flight_max: usize,
    /// Attempts at a time for a merchant.
    pub in_flight_per_merchant_max: usize,
    /// Attempts at a time for an endpoint.
    pub in_flight_per_endpoint_max: usize,
    /// Deliveries of an endpoint in memory.
    pub window_max: usize,
    /// Deliveries in memory in all.
    pub window_total_max: usize,
    /// Payloads in memory with them.
    #[serde(deserialize_with = "units::bytes")]
    pub window_payload_bytes_max: usize,
    /// Deliveries of a page.
    pub page_max: usize,
    /// Pages that are read at once.
    pub pages_max: usize,
    /// Deliveries whose result is not yet on disk.
    pub settling_max: usize,
    /// On their way to the schedulers.
    pub notices_max: usize,
    /// Payloads on their way with them.
    #[serde(deserialize_with = "units::bytes")]
    pub notices_payload_bytes_max: usize,
    /// Schedulers; 0: one for each core.
    pub shards: usize,
    /// For attempts under way at a stop.
    #[serde(rename = "drain_max", deserialize_with = "units::ms")]
    pub drain_ms_max: u64,
    /// Waits after failed attempts.
    #[serde(rename = "retry_schedule", deserialize_with = "units::many_ms")]
    pub retry_schedule_ms: Vec<u64>,
    /// Fraction by which a wait varies, 0 to 1.
    pub retry_jitter: f64,
    /// Longest wait that a receiver can ask for.
    #[serde(rename = "retry_after_max", deserialize_with = "units::ms")]
    pub retry_after_ms_max: u64,
    /// Failures in a row after which an endpoint is left alone; 0: never.
    pub breaker_failures: u32,
    /// Successful probes in a row after which it no longer is.
    pub breaker_successes: u32,
    /// Before the first probe.
    #[serde(rename = "breaker_wait", deserialize_with = "units::ms")]
    pub breaker_wait_ms: u64,
    /// Between probes at most.
    #[serde(rename = "breaker_wait_max", deserialize_with = "units::ms")]
    pub breaker_wait_ms_max: u64,
    /// Whether attempts at a time are earned.
    pub adaptive: bool,
    /// Answers later than this earn no room.
    #[serde(rename = "slow_after", deserialize_with = "units::ms")]
    pub slow_ms: u64,
    /// Attempts a second to an endpoint; 0: no limit.
    pub rate_per_endpoint_max: u32,
    /// After a fault of this host.
    #[serde(rename = "fault_wait", deserialize_with = "units::ms")]
    pub fault_wait_ms: u64,
    /// After faults of this host at most.
    #[serde(rename = "fault_wait_max", deserialize_with = "units::ms")]
    pub fault_wait_ms_max: u64,
    /// Nothing but failures for so long is shown.
    #[serde(rename = "failing_after", deserialize_with = "units::ms")]
    pub failing_after_ms: u64,
    /// Nothing but failures for so long disables; 0: never.
    #[serde(rename = "disable_after", deserialize_with = "units::ms")]
    pub disable_after_ms: u64,
    /// Over which they must be spread.
    #[serde(rename = "disable_spread", deserialize_with = "units::ms")]
    pub disable_spread_ms: u64,
    /// What has been due for longer has failed.
    #[serde(rename = "overdue_max", deserialize_with = "units::ms")]
    pub overdue_ms_max: u64,
    /// Events of one recovery.
    pub recover_events_max: usize,
    /// Events that a recovery queues in a second.
    pub recover_per_second: u32,
    /// Recoveries at once.
    pub recoveries_max: usize,
    /// Deliveries of an ordered endpoint remembered in memory.
    pub parked_per_endpoint_max: usize,
}

/// `[transport]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transport {
    /// For a name.
    #[serde(rename = "dns_timeout", deserialize_with = "units::ms")]
    pub dns_timeout_ms: u64,
    /// For a TCP connection.
    #[serde(rename = "connect_timeout", deserialize_with = "units::ms")]
    pub connect_timeout_ms: u64,
    /// For a TLS handshake.
    #[serde(rename = "tls_timeout", deserialize_with = "units::ms")]
    pub tls_timeout_ms: u64,
    /// Of a response head.
    #[serde(deserialize_with = "units::bytes")]
    pub response_head_bytes_max: usize,
    /// Of a response body, read.
    #[serde(deserialize_with = "units::bytes")]
    pub response_body_read_bytes_max: usize,
    /// Of a response body, kept.
    #[serde(deserialize_with = "units::bytes")]
    pub response_body_kept_bytes_max: usize,
    /// For a response body.
    #[serde(rename = "response_body_timeout", deserialize_with = "units::ms")]
    pub response_body_timeout_ms: u64,
    /// Of response headers, kept.
    #[serde(deserialize_with = "units::bytes")]
    pub response_headers_kept_bytes_max: usize,
    /// For an unused connection.
    #[serde(rename = "idle", deserialize_with = "units::ms")]
    pub idle_ms: u64,
    /// Of a connection.
    #[serde(rename = "age_max", deserialize_with = "units::ms")]
    pub age_ms_max: u64,
    /// Requests on a connection.
    pub uses_max: u32,
    /// Unused connections in all.
    pub idle_connections_max: usize,
    /// Look-ups at once.
    pub dns_lookups_max: usize,
    /// For an answer of a name server.
    #[serde(rename = "dns_ttl_max", deserialize_with = "units::ms")]
    pub dns_ttl_ms_max: u64,
}

/// `[egress]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Egress {
    /// Also plain HTTP.
    pub allow_http: bool,
    /// Ranges allowed though private or reserved.
    #[serde(deserialize_with = "networks")]
    pub allow: Vec<IpNet>,
    /// Ports allowed; empty: any.
    pub ports: Vec<u16>,
    /// Domains denied.
    pub denied_suffixes: Vec<String>,
    /// More authorities.
    #[serde(deserialize_with = "path")]
    pub extra_ca_file: Option<PathBuf>,
}

/// `[events]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Events {
    /// Of one event.
    #[serde(deserialize_with = "units::bytes")]
    pub body_bytes_max: usize,
    /// Of a batch.
    pub batch_lines_max: usize,
    /// Of a batch.
    #[serde(deserialize_with = "units::bytes")]
    pub batch_bytes_max: usize,
    /// Keep what nobody wants.
    pub record_skipped: bool,
    /// Pointers into `data`.
    pub card_transaction: Pointers,
    /// Pointers into `data`.
    pub account_transaction: Pointers,
    /// Pointers into `data`.
    pub account_topup: Pointers,
    /// Pointers into `data`.
    pub card_state: Pointers,
}

/// `[events.<type>]`: JSON pointers (RFC 6901), the first that leads somewhere counts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pointers {
    /// To the card's id.
    #[serde(deserialize_with = "pointers")]
    pub card: Vec<String>,
    /// To the account's id.
    #[serde(deserialize_with = "pointers")]
    pub account: Vec<String>,
    /// To the resource's id.
    #[serde(deserialize_with = "pointers")]
    pub resource: Vec<String>,
}

/// `[dashboard]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dashboard {
    /// With what portal links begin, where it is not the listener's address.
    #[serde(deserialize_with = "origin")]
    pub url: Option<String>,
    /// Who may frame it.
    #[serde(deserialize_with = "origins")]
    pub frame_ancestors: Vec<String>,
    /// Of a link.
    #[serde(rename = "link_ttl", deserialize_with = "units::ms")]
    pub link_ttl_ms: u64,
    /// Links that wait.
    pub links_max: usize,
    /// Of a session without a request.
    #[serde(rename = "session_idle", deserialize_with = "units::ms")]
    pub session_idle_ms: u64,
    /// Of any session.
    #[serde(rename = "session_age_max", deserialize_with = "units::ms")]
    pub session_age_ms_max: u64,
    /// Sessions of a merchant.
    pub sessions_per_merchant_max: usize,
    /// Sessions in all.
    pub sessions_max: usize,
    /// Watching pages of a merchant.
    pub watchers_per_merchant_max: usize,
    /// Watching pages in all.
    pub watchers_max: usize,
    /// Of a merchant.
    pub actions_per_minute_max: u32,
}

/// `[auth]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// Digest of the first operator key; also where it came from `operator_key_file`.
    #[serde(deserialize_with = "operator_key")]
    pub operator_key: Option<KeyDigest>,
    /// A file with the key.
    #[serde(deserialize_with = "path")]
    pub operator_key_file: Option<PathBuf>,
}

/// SHA-256 of a key. The key itself is forgotten as soon as it is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyDigest(pub Digest);

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// For whom.
    pub format: LogFormat,
    /// How much: directives of `tracing_subscriber::EnvFilter`.
    #[serde(deserialize_with = "log_level")]
    pub level: String,
}

/// For whom logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// People.
    Text,
    /// Machines.
    Json,
}

impl Config {
    /// The manual, over it `presets`, over it `file`, over it those variables of `environment` that begin with
    /// `POSTHASTE__`, over it `flags`. Presets and flags are names as people type them, keys such as
    /// `storage.data_dir`, values. All faults are reported together.
    pub fn load(
        presets: &[(&str, &str, String)],
        file: Option<&Path>,
        environment: &[(String, String)],
        flags: &[(&str, &str, String)],
    ) -> Result<Config, Faults> {
        let mut config = layers::merge(presets, file, environment, flags)?;
        if let Some(path) = &config.auth.operator_key_file {
            let read = std::fs::read_to_string(path).map_err(|e| format!("cannot be read: {e}"));
            let digest = read.and_then(|text| KeyDigest::parse(text.trim_end()));
            let digest = digest.map_err(|detail| {
                let key = "auth.operator_key_file".to_owned();
                // What is no path may be the key itself, set in the wrong place.
                let value = Some(path.display().to_string()).filter(|text| text.contains('/')).unwrap_or_default();
                Faults(vec![Fault { key, value, origin: String::new(), detail }])
            })?;
            config.auth.operator_key = Some(digest);
        }
        Ok(config)
    }

    /// Name and value of each listener's section.
    pub fn listeners(&self) -> [(&'static str, &Listener); 3] {
        [("public", &self.public), ("ingest", &self.ingest), ("admin", &self.admin)]
    }
}

impl Default for Config {
    /// What the manual says.
    fn default() -> Config {
        toml::from_str(MANUAL).expect("the manual is a complete configuration")
    }
}

impl Listener {
    /// Certificate chain and private key, where the listener speaks TLS.
    pub fn tls(&self) -> Option<(&Path, &Path)> {
        self.tls_cert.as_deref().zip(self.tls_key.as_deref())
    }

    /// What the listener bears.
    pub fn limits(&self) -> http::Limits {
        http::Limits {
            connections_max: self.connections_max,
            connections_per_ip_max: self.connections_per_ip_max,
            head_timeout_ms: self.head_timeout_ms,
            head_bytes_max: self.head_bytes_max,
            headers_max: self.headers_max,
            uri_bytes_max: self.uri_bytes_max,
            body_timeout_ms: self.body_timeout_ms,
            body_bytes_in_flight_max: self.body_bytes_in_flight_max,
            tls_handshake_timeout_ms: self.tls_handshake_timeout_ms,
            keep_alive_idle_ms: self.keep_alive_idle_ms,
            write_timeout_ms: self.write_timeout_ms,
            linger_ms: self.linger_ms,
            linger_bytes_max: self.linger_bytes_max,
            drain_ms_max: self.drain_ms_max,
        }
    }
}

impl KeyDigest {
    /// From a key, or from `sha256:` and 64 hex digits. The error never repeats the text.
    fn parse(text: &str) -> Result<KeyDigest, String> {
        let Some(digits) = text.strip_prefix("sha256:") else {
            if text.len() < OPERATOR_KEY_LEN_MIN || !text.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(format!("must be a key of at least {OPERATOR_KEY_LEN_MIN} visible ASCII characters"));
            }
            return Ok(KeyDigest(Sha256::digest(text.as_bytes()).into()));
        };
        let mut digest = Digest::default();
        let is_hex = digits.len() == 2 * digest.len() && digits.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_hex {
            return Err("must have 64 hex digits after \"sha256:\"".to_owned());
        }
        for (i, byte) in digest.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).expect("two hex digits are a byte");
        }
        Ok(KeyDigest(digest))
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest")
    }
}

/// A path; empty: none.
fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let text = String::deserialize(deserializer)?;
    Ok((!text.is_empty()).then(|| text.into()))
}

/// Scheme and authority, no more; empty: none.
fn origin<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() { Ok(None) } else { as_origin(&text).map(Some).map_err(D::Error::custom) }
}

fn origins<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Vec::<String>::deserialize(deserializer)?.iter().map(|text| as_origin(text).map_err(D::Error::custom)).collect()
}

/// It stands in headers and links of ours, so that it must be exactly what it seems.
fn as_origin(text: &str) -> Result<String, String> {
    let url = url::Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    match url.map(|url| url.origin().ascii_serialization()) {
        Some(origin) if origin == text => Ok(origin),
        Some(origin) => Err(format!("{text:?} is more than an origin: write {origin:?}")),
        None => Err(format!("{text:?} is no origin: write \"https://cabinet.example.com\"")),
    }
}

fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let parse = |text: &String| {
        text.parse().map_err(|_| D::Error::custom(format!("{text:?} is no address range: write \"10.1.0.0/16\"")))
    };
    Vec::<String>::deserialize(deserializer)?.iter().map(parse).collect()
}

fn pointers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let pointers = Vec::<String>::deserialize(deserializer)?;
    match pointers.iter().find(|pointer| !pointer.starts_with('/')) {
        Some(bad) => Err(D::Error::custom(format!("{bad:?} is no JSON pointer: write \"/{bad}\""))),
        None => Ok(pointers),
    }
}

fn operator_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<KeyDigest>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    KeyDigest::parse(&text).map(Some).map_err(D::Error::custom)
}

fn log_level<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    match tracing_subscriber::EnvFilter::builder().parse(&text) {
        Ok(_) if !text.is_empty() => Ok(text),
        _ => Err(D::Error::custom("must be error, warn, info, debug, trace or directives such as \"info,a::b=debug\"")),
    }
}
