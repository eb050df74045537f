//! Until when receivers' certificates are valid, as seen in the last handshake.
//!
//! Never decides whether a certificate is good: rustls has done that. What cannot be read is not known.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::{Endpoint, EndpointId, Timestamp};

/// Endpoints that are remembered; then all are forgotten, and met again.
const REMEMBERED_MAX: usize = 100_000;

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The ends of certificates by endpoint.
#[derive(Default)]
pub(super) struct Certificates(Mutex<HashMap<EndpointId, (Arc<str>, Timestamp)>>);

impl Certificates {
    /// The endpoint's receiver has shown a certificate.
    pub(super) fn note(&self, endpoint: &Endpoint, not_after: Timestamp) {
        let mut known = self.known();
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        known.insert(endpoint.id, (Arc::clone(&endpoint.url), not_after));
    }

    /// Until when it is valid, where its URL is still the one that was called.
    pub(super) fn not_after(&self, endpoint: &Endpoint) -> Option<Timestamp> {
        self.known().get(&endpoint.id).filter(|(url, _)| *url == endpoint.url).map(|(_, at)| *at)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<EndpointId, (Arc<str>, Timestamp)>> {
        // Each change is one insertion.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `notAfter` of an X.509 certificate (RFC 5280, 4.1):
///
/// ```text
/// SEQUENCE { SEQUENCE { [0] version?, serial, algorithm, issuer, SEQUENCE { notBefore, notAfter }, … }, … }
/// ```
pub(super) fn not_after(der: &[u8]) -> Option<Timestamp> {
    let (certificate, _) = element(der, SEQUENCE)?;
    let (mut rest, _) = element(certificate, SEQUENCE)?;
    if rest.first() == Some(&VERSION) {
        rest = element(rest, VERSION)?.1;
    }
    for _ in ["serial", "algorithm", "issuer"] {
        rest = element(rest, *rest.first()?)?.1;
    }
    let (validity, _) = element(rest, SEQUENCE)?;
    let (_, rest) = element(validity, *validity.first()?)?;
    time(rest)
}

/// The content of the first element, which must have this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (first, rest) = der.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(*length), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(length - 0x80))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    (*first == tag).then(|| rest.split_at_checked(length))?
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`; two digits mean 1950 to 2049.
fn time(der: &[u8]) -> Option<Timestamp> {
    let tag = *der.first()?;
    let text = std::str::from_utf8(element(der, tag)?.0).ok().filter(|text| text.is_ascii())?;
    let text = match tag {
        UTC_TIME if text.len() == 13 => format!("{}{text}", if text < "50" { "20" } else { "19" }),
        GENERALIZED_TIME if text.len() == 15 => text.to_owned(),
        _ => return None,
    };
    let part = |from: usize, to: usize| &text[from..to];
    let [year, month, day] = [part(0, 4), part(4, 6), part(6, 8)];
    let [hour, minute, second] = [part(8, 10), part(10, 12), part(12, 14)];
    Timestamp::parse(&format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_certificate_is_read() {
        for (year, expect) in [(2030, "2030-05-17T00:00:00.000Z"), (2070, "2070-05-17T00:00:00.000Z")] {
            let mut params = rcgen::CertificateParams::new(["example.com".to_owned()]).unwrap();
            params.not_after = rcgen::date_time_ymd(year, 5, 17);
            let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
            assert_eq!(not_after(certificate.der()).map(|at| at.to_string()).as_deref(), Some(expect));
            for cut in 0..certificate.der().len().min(200) {
                assert_eq!(not_after(&certificate.der()[..cut]), None, "cut after {cut} bytes");
            }
        }
        for strange in [&[][..], &[0x30], &[0x30, 0x85, 0, 0, 0, 0, 1], &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], &[0; 64]]
        {
            assert_eq!(not_after(strange), None);
        }
    }
}
