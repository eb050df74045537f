//! Why a signature does not fit: tries what receivers commonly do to bodies, secrets and digests.
//!
//! Never tells what a secret is or what the right signature would be: only which of the known slips it was.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq as _;

use super::signature::{BASE64_SECRET_PREFIX, hmac_sha256, unhex};
use crate::model::{Digest, Secret};

/// What a merchant has before it.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// The body that its receiver saw.
    pub body: &'a str,
    /// The `X-Webhook-Signature` that came, or the one that it computed.
    pub signature: &'a str,
    /// The secret that it uses, where it says so.
    pub used: Option<&'a str>,
    /// The secret that signs.
    pub current: Option<&'a Secret>,
    /// The secrets before it, within their grace.
    pub previous: &'a [&'a Secret],
    /// The exact bytes of the event, where it is known which one it is.
    pub sent: Option<&'a [u8]>,
}

/// How the signature is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writing {
    /// 64 hex digits, as it should be.
    Hex,
    /// Hex digits after `sha256=`.
    Prefixed,
    /// The digest in base64.
    Base64,
    /// A Standard Webhooks signature, which is another header.
    Standard,
    /// Nothing of the kind.
    Other,
}

/// With which key the signature was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// The current secret.
    Current,
    /// A previous secret.
    Previous,
    /// The secret that the merchant says it uses, which is not configured.
    Used,
    /// A secret with white space around it.
    Untrimmed,
    /// The decoded bytes of a `whsec_` secret: right for `webhook-signature`, not for this header.
    Decoded,
}

/// Over which form of the body the signature was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// The body as given.
    AsGiven,
    /// The event's own bytes, which are not those given.
    AsSent,
    /// Without the white space at its end.
    WithoutEnd,
    /// With a line break at its end.
    WithNewline,
    /// With other line endings.
    OtherLineEndings,
    /// Without a byte order mark at its beginning.
    WithoutMark,
    /// The same JSON, serialised otherwise.
    Reserialised,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// How the signature is written.
    pub writing: Writing,
    /// Key and body with which it fits, where any pair does.
    pub fit: Option<(Key, Body)>,
    /// Whether the secret that the merchant uses is the current one; `None` where it did not say, or none is set.
    pub uses_current: Option<bool>,
    /// The first byte at which the body given differs from what was sent; `None` where it does not, or is not known.
    pub differs_at: Option<usize>,
}

/// Tries everything.
pub fn diagnose(case: &Case<'_>) -> Diagnosis {
    let (writing, digest) = read(case.signature.trim());
    let keys = keys(case);
    let bodies = bodies(case);
    let fits = |digest: &Digest| {
        bodies.iter().find_map(|(body, bytes)| {
            let fitting = keys.iter().find(|(_, key)| hmac_sha256(key, &[bytes]).ct_eq(digest).into());
            fitting.map(|(key, _)| (*key, *body))
        })
    };
    Diagnosis {
        writing,
        fit: digest.as_ref().and_then(fits),
        uses_current: case.used.zip(case.current).map(|(used, current)| used == current.expose()),
        differs_at: case.sent.and_then(|sent| differs_at(case.body.as_bytes(), sent)),
    }
}

fn read(signature: &str) -> (Writing, Option<Digest>) {
    if let Some(digest) = unhex(signature) {
        return (Writing::Hex, Some(digest));
    }
    if let Some(digest) = signature.strip_prefix("sha256=").and_then(unhex) {
        return (Writing::Prefixed, Some(digest));
    }
    if signature.starts_with("v1,") {
        return (Writing::Standard, None);
    }
    match STANDARD.decode(signature).ok().and_then(|bytes| Digest::try_from(bytes).ok()) {
        Some(digest) => (Writing::Base64, Some(digest)),
        None => (Writing::Other, None),
    }
}

/// The likeliest first.
fn keys(case: &Case<'_>) -> Vec<(Key, Vec<u8>)> {
    let previous = case.previous.iter().map(|secret| (Key::Previous, secret.expose()));
    let configured = case.current.map(|secret| (Key::Current, secret.expose())).into_iter().chain(previous);
    let mut keys: Vec<(Key, Vec<u8>)> = configured.clone().map(|(key, text)| (key, text.into())).collect();
    let texts: Vec<&str> = configured.map(|(_, text)| text).chain(case.used).collect();
    if let Some(used) = case.used.filter(|used| !used.is_empty()) {
        keys.push((Key::Used, used.into()));
    }
    for text in texts {
        let bare = text.strip_prefix(BASE64_SECRET_PREFIX);
        keys.extend(bare.and_then(|digits| STANDARD.decode(digits).ok()).map(|key| (Key::Decoded, key)));
        keys.extend([text.trim().to_owned(), format!("{text}\n")].map(|text| (Key::Untrimmed, text.into())));
    }
    keys
}

fn bodies(case: &Case<'_>) -> Vec<(Body, Vec<u8>)> {
    let body = case.body;
    let unix = body.replace("\r\n", "\n");
    let mut bodies = vec![(Body::AsGiven, body.to_owned())];
    bodies.push((Body::WithoutEnd, body.trim_end().to_owned()));
    bodies.push((Body::WithNewline, format!("{body}\n")));
    bodies.push((Body::OtherLineEndings, unix.replace('\n', "\r\n")));
    bodies.push((Body::OtherLineEndings, unix));
    bodies.push((Body::WithoutMark, body.trim_start_matches('\u{feff}').to_owned()));
    bodies.push((Body::Reserialised, spaced(body, "")));
    bodies.push((Body::Reserialised, spaced(body, " ")));
    if let Ok(value) = serde_json::from_str::<serde_json::Value>(body) {
        let pretty = serde_json::to_string_pretty(&value).unwrap_or_default();
        bodies.extend([value.to_string(), pretty].map(|text| (Body::Reserialised, text)));
    }
    let mut bodies: Vec<(Body, Vec<u8>)> = bodies.into_iter().map(|(body, text)| (body, text.into())).collect();
    bodies.extend(case.sent.map(|sent| (Body::AsSent, sent.to_vec())));
    bodies
}

/// JSON without white space but `after` each comma and colon.
fn spaced(json: &str, after: &str) -> String {
    let mut text = String::with_capacity(json.len() * 2);
    let (mut in_string, mut escaped) = (false, false);
    for c in json.trim_start_matches('\u{feff}').chars() {
        if in_string {
            text.push(c);
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else if !c.is_ascii_whitespace() {
            text.push(c);
            in_string = c == '"';
            if matches!(c, ',' | ':') {
                text.push_str(after);
            }
        }
    }
    text
}

fn differs_at(given: &[u8], sent: &[u8]) -> Option<usize> {
    let common = given.iter().zip(sent).take_while(|(a, b)| a == b).count();
    (common < given.len() || common < sent.len()).then_some(common)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::signature::hex;

    const SENT: &str = r#"{"id":"txn_1","amount":"12.50","tags":["a","b"]}"#;
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn sign(key: &[u8], body: &str) -> Digest {
        hmac_sha256(key, &[body.as_bytes()])
    }

    fn diagnosed(body: &str, signature: &str, used: Option<&str>) -> Diagnosis {
        let (current, previous) = (Secret::new(SECRET).unwrap(), Secret::new("the one before").unwrap());
        diagnose(&Case { body, signature, used, current: Some(&current), previous: &[&previous], sent: None })
    }

    #[test]
    fn each_slip_is_told_by_its_name() {
        let right = hex(&sign(SECRET.as_bytes(), SENT));
        for (body, expect) in [
            (SENT.to_owned(), Body::AsGiven),
            (format!("{SENT}\n"), Body::WithoutEnd),
            (format!("\u{feff}{SENT}"), Body::WithoutMark),
            (r#"{ "id": "txn_1", "amount": "12.50", "tags": ["a", "b"] }"#.to_owned(), Body::Reserialised),
            (SENT.replace(',', ",\n  "), Body::Reserialised),
        ] {
            assert_eq!(diagnosed(&body, &right, None).fit, Some((Key::Current, expect)), "{body}");
        }
        for (key, expect) in [
            (b"the one before".to_vec(), Key::Previous),
            (b"mine".to_vec(), Key::Used),
            (STANDARD.decode(&SECRET[6..]).unwrap(), Key::Decoded),
            (format!("{SECRET}\n").into_bytes(), Key::Untrimmed),
        ] {
            let found = diagnosed(SENT, &hex(&sign(&key, SENT)), Some("mine"));
            assert_eq!(found.fit, Some((expect, Body::AsGiven)));
            assert_eq!(found.uses_current, Some(false));
        }
    }

    #[test]
    fn the_writing_of_a_signature_is_told() {
        let digest = sign(SECRET.as_bytes(), SENT);
        for (signature, writing) in [
            (hex(&digest).to_uppercase(), Writing::Hex),
            (format!(" sha256={} ", hex(&digest)), Writing::Prefixed),
            (STANDARD.encode(digest), Writing::Base64),
        ] {
            let found = diagnosed(SENT, &signature, None);
            assert_eq!((found.writing, found.fit), (writing, Some((Key::Current, Body::AsGiven))), "{signature}");
        }
        assert_eq!(diagnosed(SENT, "v1,abc", None).writing, Writing::Standard);
        for signature in ["", "abc", "é", &"0".repeat(63)] {
            assert_eq!(
                (diagnosed(SENT, signature, None).writing, diagnosed(SENT, signature, None).fit),
                (Writing::Other, None)
            );
        }
    }

    #[test]
    fn a_known_event_settles_what_its_body_was() {
        let current = Secret::new(SECRET).unwrap();
        let signature = hex(&sign(SECRET.as_bytes(), SENT));
        let body = SENT.replace("12.50", "12.5");
        let sent = Some(SENT.as_bytes());
        let case =
            Case { body: &body, signature: &signature, used: None, current: Some(&current), previous: &[], sent };
        let found = diagnose(&case);
        assert_eq!(found.fit, Some((Key::Current, Body::AsSent)));
        assert_eq!(found.differs_at, Some(SENT.find("0\",\"tags").unwrap()));
        assert_eq!(diagnose(&Case { sent: None, ..case }).fit, None, "a changed value is not found by trying");
        assert_eq!(diagnose(&Case { body: SENT, ..case }).differs_at, None);
    }
}
