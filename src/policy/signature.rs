//! What a signature is: `X-Webhook-Signature` over the body, and the Standard Webhooks one over id, time and body.
//!
//! Never keeps a key, never prints one, and never compares digests in a time that depends on them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use thiserror::Error;

use crate::model::{Digest, Endpoint, EventId, Secret, Sent, Timestamp};

/// How old or how far ahead a `webhook-timestamp` may be; the value of the reference libraries.
pub const TOLERANCE_S: u64 = 300;

pub(super) const BASE64_SECRET_PREFIX: &str = "whsec_";
const VERSION_PREFIX: &str = "v1,";

/// Everything by which a receiver can tell that this request is ours. An endpoint without a secret gets
/// the timestamp only. Old secrets sign beside the current one until their grace ends: all of them in
/// `webhook-signature`, and the oldest in `X-Webhook-Signature-Previous`, which holds one signature.
pub fn sign(endpoint: &Endpoint, event: EventId, now: Timestamp, body: &[u8]) -> Sent {
    let mut sent = Sent { timestamp_s: now.as_s(), ..Sent::default() };
    let Some(secret) = &endpoint.secret else { return sent };
    let prefix = format!("{event}.{}.", sent.timestamp_s);
    sent.signature = Some(body_digest(secret, body));
    sent.standard = Some(standard_digest(secret, &prefix, body));
    let mut old = endpoint.old_secrets_at(now).map(|old| &old.secret).peekable();
    sent.signature_old = old.peek().map(|oldest| body_digest(oldest, body));
    sent.standards_old = old.map(|old| standard_digest(old, &prefix, body)).collect();
    sent
}

/// The value of `X-Webhook-Signature` and `X-Webhook-Signature-Previous`: 64 lower-case hex digits.
pub fn hex(digest: &Digest) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let nibbles = digest.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    nibbles.map(|nibble| char::from(DIGITS[usize::from(nibble)])).collect()
}

/// The value of `webhook-signature`: `v1,<base64>`, and ` v1,<base64>` of each secret in its grace.
/// `None` where nothing was signed.
pub fn standard(sent: &Sent) -> Option<String> {
    let mut value = format!("{VERSION_PREFIX}{}", BASE64.encode(sent.standard?));
    for old in &sent.standards_old {
        value.push(' ');
        value.push_str(VERSION_PREFIX);
        BASE64.encode_string(old, &mut value);
    }
    Some(value)
}

/// Whether `header` is the `X-Webhook-Signature` of `body`.
pub fn verify(secret: &Secret, body: &[u8], header: &str) -> bool {
    let Some(given) = unhex(header.trim()) else { return false };
    body_digest(secret, body).ct_eq(&given).into()
}

/// Why a Standard Webhooks request is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SignatureFault {
    /// `webhook-timestamp` is not a number.
    #[error("webhook-timestamp is not a number of seconds")]
    Timestamp,
    /// The request is older than the tolerance.
    #[error("webhook-timestamp is too old")]
    TooOld,
    /// The request is from further ahead than the tolerance.
    #[error("webhook-timestamp is in the future")]
    TooNew,
    /// No signature in the header fits.
    #[error("no signature in webhook-signature fits the body, the id, the timestamp and the secret")]
    Mismatch,
}

/// The three headers of a Standard Webhooks request, as received.
#[derive(Clone, Copy, Debug)]
pub struct StandardHeaders<'a> {
    /// `webhook-id`.
    pub id: &'a str,
    /// `webhook-timestamp`.
    pub timestamp: &'a str,
    /// `webhook-signature`.
    pub signature: &'a str,
}

/// Checks a request as a receiver would (standard-webhooks.md, "Verifying"). Signatures of other versions
/// are passed over.
pub fn verify_standard(
    secret: &Secret,
    headers: StandardHeaders<'_>,
    body: &[u8],
    now: Timestamp,
    tolerance_s: u64,
) -> Result<(), SignatureFault> {
    let timestamp_s: i64 = headers.timestamp.parse().map_err(|_| SignatureFault::Timestamp)?;
    if now.as_s().saturating_sub_unsigned(tolerance_s) > timestamp_s {
        return Err(SignatureFault::TooOld);
    }
    if now.as_s().saturating_add_unsigned(tolerance_s) < timestamp_s {
        return Err(SignatureFault::TooNew);
    }
    let expected = standard_digest(secret, &format!("{}.{timestamp_s}.", headers.id), body);
    let given = headers.signature.split(' ').filter_map(|one| one.strip_prefix(VERSION_PREFIX));
    let fits = |text: &str| {
        let digest = BASE64.decode(text).ok().and_then(|bytes| Digest::try_from(bytes).ok());
        digest.is_some_and(|digest| expected.ct_eq(&digest).into())
    };
    if given.into_iter().any(fits) { Ok(()) } else { Err(SignatureFault::Mismatch) }
}

fn body_digest(secret: &Secret, body: &[u8]) -> Digest {
    hmac_sha256(secret.expose().as_bytes(), &[body])
}

fn standard_digest(secret: &Secret, prefix: &str, body: &[u8]) -> Digest {
    let text = secret.expose();
    let decoded = text.strip_prefix(BASE64_SECRET_PREFIX).and_then(|digits| BASE64.decode(digits).ok());
    let key = decoded.as_deref().filter(|key| !key.is_empty()).unwrap_or(text.as_bytes());
    hmac_sha256(key, &[prefix.as_bytes(), body])
}

/// RFC 2104 with SHA-256.
pub(super) fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> Digest {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// `None` for anything but 64 hex digits: a short signature is never compared (RUSTSEC-2024-0010).
pub(super) fn unhex(text: &str) -> Option<Digest> {
    let mut digest = Digest::default();
    if text.len() != 2 * digest.len() {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high << 4 | low).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hyper::http::HeaderMap;

    use super::*;
    use crate::model::{EndpointId, EndpointState, EventTypes, OldSecret};

    const NOW: Timestamp = Timestamp::from_ms(1_700_000_000_999);
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SPEC_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn secret(text: &str) -> Secret {
        Secret::new(text).unwrap()
    }

    fn endpoint(current: Option<&str>, old: Option<&str>) -> Endpoint {
        Endpoint {
            id: EndpointId(1),
            merchant: "acme".parse().unwrap(),
            url: Arc::from("https://example.com/"),
            event_types: EventTypes::EVERY,
            secret: current.map(secret),
            old_secrets: old.iter().map(|old| OldSecret { secret: secret(old), until: Timestamp::MAX }).collect(),
            state: EndpointState::Active,
            created_at: NOW,
            updated_at: NOW,
        }
    }

    fn event() -> EventId {
        EventId::next(EventId::MIN, NOW, 7)
    }

    #[test]
    fn hmac_agrees_with_rfc_4231() {
        let check = |key: &[u8], data: &[u8], expect: &str| assert_eq!(hex(&hmac_sha256(key, &[data])), expect);
        check(&[0x0b; 20], b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
        check(
            b"Jefe",
            b"what do ya want for nothing?",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        );
        check(&[0xaa; 20], &[0xdd; 50], "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe");
        let counting: Vec<u8> = (1..=25).collect();
        check(&counting, &[0xcd; 50], "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b");
        check(
            &[0xaa; 131],
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        );
        let long: &[u8] = b"This is a test using a larger than block-size key and a larger than block-size data. \
            The key needs to be hashed before being used by the HMAC algorithm.";
        check(&[0xaa; 131], long, "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2");
    }

    #[test]
    fn the_standard_signature_agrees_with_the_specification() {
        let digest = standard_digest(&secret(SPEC_SECRET), "msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.", BODY);
        let sent = Sent { standard: Some(digest), ..Sent::default() };
        assert_eq!(standard(&sent).unwrap(), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn the_reference_library_accepts_ours_with_every_kind_of_secret() {
        // The reference library reads the clock itself.
        let now = Timestamp::from_ms(jiff::Timestamp::now().as_millisecond());
        for text in [SPEC_SECRET, "plain words, not base64", "whsec_***not base64***", "whsec_", "é"] {
            let sent = sign(&endpoint(Some(text), Some("the one before")), event(), now, BODY);
            let verifier = |text: &str| match text == SPEC_SECRET {
                true => standardwebhooks::Webhook::new(text).unwrap(),
                false => standardwebhooks::Webhook::from_bytes(text.into()).unwrap(),
            };
            let mut headers = HeaderMap::new();
            headers.insert("webhook-id", event().to_string().parse().unwrap());
            headers.insert("webhook-timestamp", sent.timestamp_s.to_string().parse().unwrap());
            headers.insert("webhook-signature", standard(&sent).unwrap().parse().unwrap());
            assert!(verifier(text).verify(BODY, &headers).is_ok(), "{text}");
            assert!(verifier("the one before").verify(BODY, &headers).is_ok(), "{text}: old secret");
            assert!(verifier("another").verify(BODY, &headers).is_err(), "{text}: wrong secret");
            assert!(verifier(text).verify(b"{}", &headers).is_err(), "{text}: other body");
        }
    }

    #[test]
    fn without_a_secret_nothing_is_signed() {
        let sent = sign(&endpoint(None, Some("old")), event(), NOW, BODY);
        assert_eq!(sent, Sent { timestamp_s: 1_700_000_000, ..Sent::default() });
        assert_eq!(standard(&sent), None);
    }

    #[test]
    fn an_old_secret_signs_until_its_grace_ends() {
        let mut endpoint = endpoint(Some("new"), Some("old"));
        let during = sign(&endpoint, event(), NOW, BODY);
        assert!(verify(&secret("new"), BODY, &hex(&during.signature.unwrap())));
        assert!(verify(&secret("old"), BODY, &hex(&during.signature_old.unwrap())));
        assert_eq!(standard(&during).unwrap().split(' ').count(), 2);
        endpoint.old_secrets[0].until = NOW;
        let after = sign(&endpoint, event(), NOW, BODY);
        assert_eq!((after.signature_old, &after.standards_old), (None, &Vec::new()));
        assert_eq!(standard(&after).unwrap().split(' ').count(), 1);
    }

    #[test]
    fn every_secret_in_its_grace_signs_and_the_oldest_in_both_ways() {
        let mut endpoint = endpoint(Some("third"), None);
        let old = |text, until| OldSecret { secret: secret(text), until };
        endpoint.old_secrets = vec![old("over", NOW), old("first", Timestamp::MAX), old("second", Timestamp::MAX)];
        let sent = sign(&endpoint, event(), NOW, BODY);
        assert!(verify(&secret("third"), BODY, &hex(&sent.signature.unwrap())));
        assert!(verify(&secret("first"), BODY, &hex(&sent.signature_old.unwrap())));
        let (id, timestamp, signature) = (event().to_string(), sent.timestamp_s.to_string(), standard(&sent).unwrap());
        let headers = StandardHeaders { id: &id, timestamp: &timestamp, signature: &signature };
        let verdict = |text| verify_standard(&secret(text), headers, BODY, NOW, TOLERANCE_S);
        for text in ["first", "second", "third"] {
            assert_eq!(verdict(text), Ok(()), "{text}");
        }
        assert_eq!(verdict("over"), Err(SignatureFault::Mismatch));
    }

    #[test]
    fn only_the_whole_signature_of_the_same_body_and_secret_fits() {
        let right = hex(&body_digest(&secret("s"), BODY));
        assert!(verify(&secret("s"), BODY, &right));
        assert!(verify(&secret("s"), BODY, &right.to_uppercase()));
        assert!(!verify(&secret("t"), BODY, &right));
        assert!(!verify(&secret("s"), b"", &right));
        for bad in ["", "00", &right[..62], &right[..63], &format!("{right}00"), &"g".repeat(64), &"é".repeat(32)] {
            assert!(!verify(&secret("s"), BODY, bad), "{bad}");
        }
    }

    #[test]
    fn a_standard_request_is_checked_as_a_receiver_checks_it() {
        let (new, old) = (secret(SPEC_SECRET), secret("old"));
        let sent = sign(&endpoint(Some(SPEC_SECRET), Some("old")), event(), NOW, BODY);
        let (id, timestamp, signature) = (event().to_string(), sent.timestamp_s.to_string(), standard(&sent).unwrap());
        let check = |secret: &Secret, timestamp: &str, signature: &str, now_s: i64| {
            let headers = StandardHeaders { id: &id, timestamp, signature };
            verify_standard(secret, headers, BODY, Timestamp::from_ms(now_s * 1000), TOLERANCE_S)
        };
        let now_s = sent.timestamp_s;
        for secret in [&new, &old] {
            assert_eq!(check(secret, &timestamp, &signature, now_s), Ok(()));
            assert_eq!(check(secret, &timestamp, &signature, now_s + 300), Ok(()));
            assert_eq!(check(secret, &timestamp, &signature, now_s - 300), Ok(()));
        }
        assert_eq!(check(&new, &timestamp, &signature, now_s + 301), Err(SignatureFault::TooOld));
        assert_eq!(check(&new, &timestamp, &signature, now_s - 301), Err(SignatureFault::TooNew));
        assert_eq!(check(&new, "soon", &signature, now_s), Err(SignatureFault::Timestamp));
        let other = (now_s + 1).to_string();
        let short = &signature[..signature.find(' ').unwrap() - 4];
        for (secret, timestamp, signature) in [
            (&secret("wrong"), &*timestamp, &*signature),
            (&new, &*other, &*signature),
            (&new, &*timestamp, short),
            (&new, &*timestamp, "v1,"),
            (&new, &*timestamp, ""),
            (&new, &*timestamp, &signature.replace("v1,", "v2,")),
        ] {
            assert_eq!(check(secret, timestamp, signature, now_s), Err(SignatureFault::Mismatch), "{signature}");
        }
    }
}
