//! Reading an answer: what is kept of it, what it asks for, and whether its connection can be trusted again.
//!
//! Never decompresses, never interprets a body.

use hyper::header::{CONTENT_LENGTH, RETRY_AFTER, TRANSFER_ENCODING};
use hyper::http::response::Parts;
use hyper::{HeaderMap, StatusCode, Version};

use crate::model::{ErrorCode, Outcome, Timestamp};
use crate::policy::retry;

/// What a head means. 101 was not asked for, and leaves a connection that speaks something else.
pub(super) fn outcome(head: &Parts, now: Timestamp) -> Outcome {
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        let status = Some(head.status.as_u16());
        return Outcome::Failure { error: ErrorCode::ProtocolError, status, retry_after_ms: None };
    }
    let asks = matches!(head.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    let value = head.headers.get(RETRY_AFTER).filter(|_| asks).and_then(|value| value.to_str().ok());
    Outcome::of_status(head.status.as_u16(), value.and_then(|value| retry::parse_retry_after(value, now)))
}

/// Whether both sides agree beyond doubt where this answer ends (RFC 9112, 6): only then may its connection
/// serve another request.
pub(super) fn is_well_framed(head: &Parts) -> bool {
    let mut encodings = head.headers.get_all(TRANSFER_ENCODING).iter();
    let framed = match (encodings.next(), encodings.next()) {
        (None, _) => true,
        (Some(only), None) => {
            only.as_bytes().eq_ignore_ascii_case(b"chunked") && !head.headers.contains_key(CONTENT_LENGTH)
        }
        (Some(_), Some(_)) => false,
    };
    framed && head.version == Version::HTTP_11 && head.status != StatusCode::SWITCHING_PROTOCOLS
}

/// Names and values up to `bytes_max` bytes in all, the last value cut where it does not fit; and whether
/// anything is missing.
pub(super) fn kept_headers(headers: &HeaderMap, bytes_max: usize) -> (Vec<(String, Vec<u8>)>, bool) {
    let mut left = bytes_max;
    let mut kept = Vec::with_capacity(headers.len());
    for (name, value) in headers {
        let Some(room) = left.checked_sub(name.as_str().len()) else { return (kept, true) };
        let value = value.as_bytes();
        let shown = &value[..value.len().min(room)];
        kept.push((name.as_str().to_owned(), shown.to_vec()));
        if shown.len() < value.len() {
            return (kept, true);
        }
        left = room - shown.len();
    }
    (kept, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_ms(784_111_777_000); // Sun, 06 Nov 1994 08:49:37 GMT

    fn head(status: u16, version: Version, headers: &[(&'static str, &str)]) -> Parts {
        let mut builder = hyper::Response::builder().status(status).version(version);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    #[test]
    fn retry_after_counts_on_429_and_503_only() {
        for (status, expect) in [(429, Some(7_000)), (503, Some(7_000)), (500, None), (302, None), (410, None)] {
            let parsed = outcome(&head(status, Version::HTTP_11, &[("retry-after", "7")]), NOW);
            assert!(matches!(parsed, Outcome::Failure { retry_after_ms, .. } if retry_after_ms == expect), "{status}");
        }
    }

    #[test]
    fn an_unasked_101_is_no_http() {
        let parsed = outcome(&head(101, Version::HTTP_11, &[]), NOW);
        assert_eq!((parsed.error(), parsed.status()), (Some(ErrorCode::ProtocolError), Some(101)));
    }

    #[test]
    fn only_clear_framing_lets_a_connection_live() {
        let check = |expect: bool, version: Version, headers: &[(&'static str, &str)]| {
            assert_eq!(is_well_framed(&head(200, version, headers)), expect, "{headers:?}");
        };
        check(true, Version::HTTP_11, &[]);
        check(true, Version::HTTP_11, &[("content-length", "5")]);
        check(true, Version::HTTP_11, &[("transfer-encoding", "Chunked")]);
        check(false, Version::HTTP_10, &[("content-length", "5")]);
        check(false, Version::HTTP_11, &[("transfer-encoding", "chunked"), ("content-length", "5")]);
        check(false, Version::HTTP_11, &[("transfer-encoding", "gzip, chunked")]);
        check(false, Version::HTTP_11, &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]);
        assert!(!is_well_framed(&head(101, Version::HTTP_11, &[])));
    }

    #[test]
    fn headers_are_kept_up_to_a_bound() {
        let parts = head(200, Version::HTTP_11, &[("a", "12345"), ("location", "https://x/")]);
        let check = |bytes_max: usize, expect: &[(&str, &str)], cut: bool| {
            let expect: Vec<_> = expect.iter().map(|(n, v)| (String::from(*n), v.as_bytes().to_vec())).collect();
            assert_eq!(kept_headers(&parts.headers, bytes_max), (expect, cut), "{bytes_max}");
        };
        check(24, &[("a", "12345"), ("location", "https://x/")], false);
        check(23, &[("a", "12345"), ("location", "https://x")], true);
        check(13, &[("a", "12345")], true);
        check(0, &[], true);
    }
}
