//! Where a request may go: the judgement of a URL before it is stored, and of an address before it is dialled.
//!
//! Never resolves a name, never parses a host by hand, and never knows a merchant: exceptions are the operator's.

mod ranges;

use std::net::IpAddr;

use ipnet::IpNet;
use thiserror::Error;
use url::{Host, Url};

/// The longest URL in bytes, as given and as printed.
pub const URL_LEN_MAX: usize = 2048;

/// The longest host name (RFC 1035, 2.3.4, without the final dot).
const NAME_LEN_MAX: usize = 253;
const LABEL_LEN_MAX: usize = 63;

/// Ends of names that are no public receivers: local use, special use (RFC 6761, 6762, 7686, 8375), reserved.
const SUFFIXES_DENIED: [&str; 9] =
    ["local", "internal", "home.arpa", "lan", "corp", "onion", "arpa", "test", "invalid"];

/// Names of cloud metadata services; no rule of the operator opens them.
const METADATA_NAMES: [&str; 4] =
    ["metadata", "metadata.google.internal", "instance-data", "instance-data.ec2.internal"];

const LOCALHOST: &str = "localhost";

/// What the operator allows. The default is what production needs.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Whether plain HTTP is a scheme.
    pub allow_http: bool,
    /// Ranges that may be reached although they are denied to everyone else. Metadata services stay denied.
    pub allow: Vec<IpNet>,
    /// The ports that a URL may name; empty means any but 0.
    pub ports: Vec<u16>,
    /// Names that end in one of these (at a dot) are refused before they are resolved.
    pub denied_suffixes: Vec<String>,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            allow_http: false,
            allow: Vec::new(),
            ports: vec![443, 8443],
            denied_suffixes: SUFFIXES_DENIED.map(String::from).to_vec(),
        }
    }
}

impl Rules {
    fn covers(&self, address: IpAddr) -> bool {
        self.allow.iter().any(|net| net.contains(&address))
    }

    fn covers_loopback(&self) -> bool {
        LOOPBACK.iter().any(|address| self.covers(*address))
    }
}

/// What `localhost` means: it is never asked of a name server (RFC 6761, 6.3).
pub const LOOPBACK: [IpAddr; 2] =
    [IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)];

/// How the receiver is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// The word in a URL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    const fn port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

/// A URL that the rules accept, taken apart once: what was judged is what is dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// How.
    pub scheme: Scheme,
    /// To whom: a lower-case ASCII name without final dot, or an address.
    pub host: Host<String>,
    /// At which port; never 0.
    pub port: u16,
    /// What is asked for: begins with `/`, keeps the query string.
    pub path_and_query: String,
    /// The whole URL as it is stored and shown. Judging it again gives the same target.
    pub url: String,
}

impl Target {
    /// The value of the `Host` header: the port only where it is not the scheme's own (RFC 9110, 7.2).
    pub fn authority(&self) -> String {
        if self.port == self.scheme.port() { self.host.to_string() } else { format!("{}:{}", self.host, self.port) }
    }

    /// Whether the host is the name `localhost`.
    pub fn is_localhost(&self) -> bool {
        matches!(&self.host, Host::Domain(name) if name == LOCALHOST)
    }
}

/// Why a URL is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UrlFault {
    /// Longer than `URL_LEN_MAX`.
    #[error("the URL is longer than {URL_LEN_MAX} bytes")]
    TooLong,
    /// Not an absolute URL.
    #[error("this is not an absolute URL such as https://example.com/webhooks")]
    Invalid,
    /// Written in a way that other software may read differently; here is how it is meant.
    #[error("the URL is not in its normal form; write {0}")]
    NotNormal(String),
    /// A scheme other than the allowed.
    #[error("the URL must begin with https://")]
    Scheme,
    /// A user name or password.
    #[error("the URL must not hold a user name or password")]
    Userinfo,
    /// A port that the operator does not allow.
    #[error("the URL must not name port {0}; ask the operator which ports are allowed")]
    Port(u16),
    /// A host that is no host name.
    #[error("the host of the URL is not a public host name such as example.com")]
    Host,
    /// Something after `#`.
    #[error("the URL must not hold a fragment (#…)")]
    Fragment,
    /// A host that deliveries must not go to.
    #[error("deliveries must not go to this host: it is local, private or reserved")]
    Destination,
}

impl UrlFault {
    /// The stable word for machines.
    pub const fn code(&self) -> &'static str {
        match self {
            UrlFault::TooLong => "url_too_long",
            UrlFault::Invalid | UrlFault::NotNormal(_) => "url_invalid",
            UrlFault::Scheme => "url_scheme",
            UrlFault::Userinfo => "url_userinfo",
            UrlFault::Port(_) => "url_port",
            UrlFault::Host => "url_host",
            UrlFault::Fragment => "url_fragment",
            UrlFault::Destination => "destination_not_allowed",
        }
    }
}

/// Judges a URL by its text alone. A name that passes can still resolve to an address that does not: `vet`.
pub fn target(text: &str, rules: &Rules) -> Result<Target, UrlFault> {
    if text.len() > URL_LEN_MAX {
        return Err(UrlFault::TooLong);
    }
    let (scheme, authority, tail) = split(text)?;
    let mut url = Url::parse(text).map_err(|_| UrlFault::Invalid)?;
    let scheme = match scheme {
        s if s.eq_ignore_ascii_case("https") => Scheme::Https,
        s if s.eq_ignore_ascii_case("http") && rules.allow_http => Scheme::Http,
        _ => return Err(UrlFault::Scheme),
    };
    if authority.contains('@') {
        return Err(UrlFault::Userinfo);
    }
    if url.fragment().is_some() {
        return Err(UrlFault::Fragment);
    }
    let host = host(&mut url, rules)?;
    let port = url.port_or_known_default().ok_or(UrlFault::Invalid)?;
    if !port_is_allowed(port, &host, rules) {
        return Err(UrlFault::Port(port));
    }
    let path_and_query = url[url::Position::BeforePath..url::Position::AfterQuery].to_owned();
    let asked = if tail.starts_with('/') { tail.to_owned() } else { format!("/{tail}") };
    if asked != path_and_query {
        return Err(UrlFault::NotNormal(url.into()));
    }
    if url.as_str().len() > URL_LEN_MAX {
        return Err(UrlFault::TooLong);
    }
    Ok(Target { scheme, host, port, path_and_query, url: url.into() })
}

/// Whether a connection may go to this address. Asked for literals and for every answer of a name server.
pub fn vet(address: IpAddr, rules: &Rules) -> bool {
    if ranges::is_metadata(address) || ranges::is_mapped(address) {
        return false;
    }
    if !rules.covers(address) {
        return ranges::is_public(address);
    }
    // What the operator opened may still carry an IPv4 address inside, and that one leads elsewhere.
    ranges::embedded_v4(address).is_none_or(|inner| vet(IpAddr::V4(inner), rules))
}

/// Scheme, authority, and the rest, split where every reader of URLs would split. The parser forgives
/// backslashes, white space, control characters and missing or extra slashes; other software reads them differently.
fn split(text: &str) -> Result<(&str, &str, &str), UrlFault> {
    let unclear = |c: char| c.is_ascii_control() || c == ' ' || c == '\\';
    if text.contains(unclear) {
        return Err(UrlFault::Invalid);
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        let has_scheme = Url::parse(text).is_ok_and(|url| !matches!(url.scheme(), "http" | "https"));
        return Err(if has_scheme { UrlFault::Scheme } else { UrlFault::Invalid });
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    if authority.is_empty() && !scheme.eq_ignore_ascii_case("https") && !scheme.eq_ignore_ascii_case("http") {
        return Err(UrlFault::Scheme);
    }
    if authority.is_empty() {
        return Err(UrlFault::Invalid);
    }
    Ok((scheme, authority, tail))
}

/// The host, where the rules accept it. One final dot is taken off the name and out of `url`.
fn host(url: &mut Url, rules: &Rules) -> Result<Host<String>, UrlFault> {
    let name = match url.host().ok_or(UrlFault::Invalid)? {
        Host::Domain(name) => name.strip_suffix('.').unwrap_or(name).to_owned(),
        Host::Ipv4(address) => return literal(IpAddr::V4(address), rules),
        Host::Ipv6(address) => return literal(IpAddr::V6(address), rules),
    };
    if !is_host_name(&name) {
        return Err(UrlFault::Host);
    }
    if !name_is_allowed(&name, rules) {
        return Err(UrlFault::Destination);
    }
    url.set_host(Some(&name)).map_err(|_| UrlFault::Host)?;
    Ok(Host::Domain(name))
}

fn literal(address: IpAddr, rules: &Rules) -> Result<Host<String>, UrlFault> {
    if !vet(address, rules) {
        return Err(UrlFault::Destination);
    }
    Ok(match address {
        IpAddr::V4(address) => Host::Ipv4(address),
        IpAddr::V6(address) => Host::Ipv6(address),
    })
}

/// RFC 1123, 2.1, with the underscore that is in use; the parser has made it lower-case ASCII.
fn is_host_name(name: &str) -> bool {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    name.len() <= NAME_LEN_MAX
        && name.split('.').all(|label| {
            let within = (1..=LABEL_LEN_MAX).contains(&label.len());
            within && label.bytes().all(legal) && !label.starts_with('-') && !label.ends_with('-')
        })
}

fn name_is_allowed(name: &str, rules: &Rules) -> bool {
    let ends_in = |suffix: &str| name.strip_suffix(suffix).is_some_and(|head| head.is_empty() || head.ends_with('.'));
    if METADATA_NAMES.contains(&name) || rules.denied_suffixes.iter().any(|suffix| ends_in(suffix)) {
        return false;
    }
    if !name.contains('.') {
        return rules.covers_loopback();
    }
    !ends_in(LOCALHOST)
}

/// A port is allowed where it is listed, and at every address that the operator opened by hand.
fn port_is_allowed(port: u16, host: &Host<String>, rules: &Rules) -> bool {
    let opened = match host {
        Host::Domain(name) => name == LOCALHOST && rules.covers_loopback(),
        Host::Ipv4(address) => rules.covers(IpAddr::V4(*address)),
        Host::Ipv6(address) => rules.covers(IpAddr::V6(*address)),
    };
    port != 0 && (opened || rules.ports.is_empty() || rules.ports.contains(&port))
}

#[cfg(test)]
mod tests;
