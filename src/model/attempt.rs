//! An attempt: one HTTP try, how it ended, and what follows from it.
//!
//! A failed delivery is data here, never an `Err`.

use bytes::Bytes;

use super::Timestamp;

/// Why an attempt failed; the closed list that merchants see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorCode {
    /// The host name could not be resolved.
    Dns,
    /// The host refused the connection.
    ConnectRefused,
    /// The connection was not established in time.
    ConnectTimeout,
    /// The connection was closed or reset before the response head.
    ConnectReset,
    /// The certificate is expired or not yet valid.
    TlsExpired,
    /// The certificate is for another name.
    TlsName,
    /// The certificate's issuer is not trusted.
    TlsUntrusted,
    /// No TLS session could be agreed.
    TlsProtocol,
    /// The host resolves to an address that deliveries must not go to.
    BlockedDestination,
    /// No response head within the deadline.
    Timeout,
    /// A status that is neither 2xx nor 3xx nor 410.
    HttpStatus,
    /// A 3xx status; redirects are not followed.
    Redirect,
    /// The answer is not HTTP/1.1 as it should be.
    ProtocolError,
    /// The response head is larger than allowed.
    ResponseTooLarge,
    /// 410: the receiver wants no more.
    Gone,
}

impl ErrorCode {
    /// All codes. The position is the code on disk.
    pub const ALL: [ErrorCode; 15] = [
        ErrorCode::Dns,
        ErrorCode::ConnectRefused,
        ErrorCode::ConnectTimeout,
        ErrorCode::ConnectReset,
        ErrorCode::TlsExpired,
        ErrorCode::TlsName,
        ErrorCode::TlsUntrusted,
        ErrorCode::TlsProtocol,
        ErrorCode::BlockedDestination,
        ErrorCode::Timeout,
        ErrorCode::HttpStatus,
        ErrorCode::Redirect,
        ErrorCode::ProtocolError,
        ErrorCode::ResponseTooLarge,
        ErrorCode::Gone,
    ];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            ErrorCode::Dns => "dns",
            ErrorCode::ConnectRefused => "connect_refused",
            ErrorCode::ConnectTimeout => "connect_timeout",
            ErrorCode::ConnectReset => "connect_reset",
            ErrorCode::TlsExpired => "tls_expired",
            ErrorCode::TlsName => "tls_name",
            ErrorCode::TlsUntrusted => "tls_untrusted",
            ErrorCode::TlsProtocol => "tls_protocol",
            ErrorCode::BlockedDestination => "blocked_destination",
            ErrorCode::Timeout => "timeout",
            ErrorCode::HttpStatus => "http_status",
            ErrorCode::Redirect => "redirect",
            ErrorCode::ProtocolError => "protocol_error",
            ErrorCode::ResponseTooLarge => "response_too_large",
            ErrorCode::Gone => "gone",
        }
    }

    /// The number on disk.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// From the number on disk.
    pub fn from_code(code: u8) -> Option<ErrorCode> {
        ErrorCode::ALL.get(usize::from(code)).copied()
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A 2xx head within the deadline.
    Success {
        /// 200 to 299.
        status: u16,
    },
    /// Anything else.
    Failure {
        /// Why.
        error: ErrorCode,
        /// The status, where a head came.
        status: Option<u16>,
        /// What the receiver's `Retry-After` asks for, counted from the end of the attempt.
        retry_after_ms: Option<u64>,
    },
}

impl Outcome {
    /// A failure without a response head.
    pub const fn failed(error: ErrorCode) -> Outcome {
        Outcome::Failure { error, status: None, retry_after_ms: None }
    }

    /// What a response head means (RFC 9110): 2xx is success, 410 is gone, 3xx is a redirect that is
    /// not followed, all else is a plain failure.
    pub fn of_status(status: u16, retry_after_ms: Option<u64>) -> Outcome {
        let error = match status {
            200..=299 => return Outcome::Success { status },
            300..=399 => ErrorCode::Redirect,
            410 => ErrorCode::Gone,
            _ => ErrorCode::HttpStatus,
        };
        Outcome::Failure { error, status: Some(status), retry_after_ms }
    }

    /// The status, where a head came.
    pub const fn status(&self) -> Option<u16> {
        match self {
            Outcome::Success { status } => Some(*status),
            Outcome::Failure { status, .. } => *status,
        }
    }

    /// Why it failed, where it did.
    pub const fn error(&self) -> Option<ErrorCode> {
        match self {
            Outcome::Success { .. } => None,
            Outcome::Failure { error, .. } => Some(*error),
        }
    }
}

/// Where an attempt's time went, in microseconds. Phases that did not happen are `None`: a reused
/// connection has no `dns`, `connect` and `tls`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// Name resolution.
    pub dns_us: Option<u32>,
    /// TCP connect.
    pub connect_us: Option<u32>,
    /// TLS handshake.
    pub tls_us: Option<u32>,
    /// From the first byte written to the response head.
    pub head_us: Option<u32>,
    /// From the response head to the last byte kept.
    pub body_us: Option<u32>,
}

/// What varied between this request and every other one, so that it can be shown again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// `webhook-timestamp`: seconds since the Unix epoch when the request was written.
    pub timestamp_s: i64,
    /// HMAC-SHA256 of the body with the current secret.
    pub signature: Option<[u8; 32]>,
    /// HMAC-SHA256 of the body with the oldest secret in its grace: the header holds one.
    pub signature_old: Option<[u8; 32]>,
    /// HMAC-SHA256 of `id.timestamp.body` with the current key.
    pub standard: Option<[u8; 32]>,
    /// HMAC-SHA256 of `id.timestamp.body` with the key of every secret in its grace.
    pub standards_old: Vec<[u8; 32]>,
}

/// What was kept of a response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// Header names and values in the order received, cut to a bound.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The first bytes of the body.
    pub body: Bytes,
    /// Whether headers or body were cut.
    pub truncated: bool,
}

/// One HTTP try.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// 1 for the first of the delivery.
    pub number: u32,
    /// When it began.
    pub started_at: Timestamp,
    /// From its beginning to its outcome.
    pub duration_ms: u32,
    /// Where the time went.
    pub phases: Phases,
    /// How it ended.
    pub outcome: Outcome,
    /// What was sent, where a request was written.
    pub sent: Option<Sent>,
    /// What came back, where a head came.
    pub response: Option<Response>,
}

impl Attempt {
    /// When its outcome was known: with the head of an answer, before its body was read.
    pub fn decided_at(&self) -> Timestamp {
        self.started_at.plus_ms(self.duration_ms.into())
    }
}

/// What follows from an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Done.
    Delivered,
    /// Once more, not before this moment.
    RetryAt(Timestamp),
    /// The schedule is exhausted.
    Failed,
    /// Nobody is left to tell: the endpoint is gone.
    Canceled,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_2xx_is_success() {
        for status in [200, 201, 204, 299] {
            assert_eq!(Outcome::of_status(status, None).error(), None, "{status}");
        }
        for (status, error) in [
            (301, ErrorCode::Redirect),
            (304, ErrorCode::Redirect),
            (400, ErrorCode::HttpStatus),
            (410, ErrorCode::Gone),
            (503, ErrorCode::HttpStatus),
            (999, ErrorCode::HttpStatus),
        ] {
            assert_eq!(Outcome::of_status(status, None).error(), Some(error), "{status}");
        }
    }

    #[test]
    fn codes_round_trip() {
        for error in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_code(error.code()), Some(error));
        }
        assert_eq!(ErrorCode::from_code(15), None);
    }
}
