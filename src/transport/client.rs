//! One attempt from its URL to its answer, under one deadline.
//!
//! Never tries twice what may have arrived once: a second connection is used only where the first was dead
//! before a byte was written.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::Response;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use thiserror::Error;
use tokio::time::timeout;

use super::answer;
use super::certificate::Certificates;
use super::dial::{Budgets, DialFault, Dialer};
use super::link::{Body, ExchangeFault, Link};
use super::pool::{Pool, PoolLimits};
use super::request::request;
use super::resolver::Resolver;
use super::tls;
use super::{OwnFault, Parcel, Sending, Transport};
use crate::clock::Clock;
use crate::model::{self, Attempt, Endpoint, EndpointId, ErrorCode, Outcome, Phases, Sent, Timestamp};
use crate::policy::egress::{self, Rules, Target};
use crate::policy::signature;

/// Bounds of an attempt and of the idle connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the beginning of the attempt to the end of the response head.
    pub timeout_ms: u64,
    /// Of it, for resolving the name.
    pub dns_timeout_ms: u64,
    /// Of it, for the TCP connection.
    pub connect_timeout_ms: u64,
    /// Of it, for the TLS handshake.
    pub tls_timeout_ms: u64,
    /// The longest response head; 8 KiB at least.
    pub head_bytes_max: usize,
    /// Of a response body, what is read before the connection is closed.
    pub body_read_bytes_max: usize,
    /// Of a response body, what is kept.
    pub body_kept_bytes_max: usize,
    /// After the head, for the body.
    pub body_timeout_ms: u64,
    /// Of the response headers, names and values, what is kept.
    pub headers_kept_bytes_max: usize,
    /// How long an unused connection is kept.
    pub idle_ms: u64,
    /// How old a connection may become, so that a receiver that moves is followed.
    pub age_ms: u64,
    /// How many requests a connection carries.
    pub uses_max: u32,
    /// Unused connections of one endpoint.
    pub idle_per_endpoint_max: usize,
    /// Unused connections of all endpoints.
    pub idle_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            timeout_ms: 10_000,
            dns_timeout_ms: 2_000,
            connect_timeout_ms: 3_000,
            tls_timeout_ms: 5_000,
            head_bytes_max: 16 * 1024,
            body_read_bytes_max: 16 * 1024,
            body_kept_bytes_max: 4096,
            body_timeout_ms: 1_000,
            headers_kept_bytes_max: 8 * 1024,
            idle_ms: 20_000,
            age_ms: 60_000,
            uses_max: 1_000,
            idle_per_endpoint_max: 8,
            idle_max: 1_024,
        }
    }
}

/// What the transport is made of.
pub struct Settings {
    /// Where attempts may go.
    pub rules: Rules,
    /// Their bounds.
    pub limits: Limits,
    /// Time for records and durations. Deadlines run on tokio's timer.
    pub clock: Arc<dyn Clock>,
    /// Names to addresses.
    pub resolver: Arc<dyn Resolver>,
    /// A PEM file of certificate authorities to trust beside the host's.
    pub extra_ca: Option<PathBuf>,
    /// The value of `User-Agent`.
    pub user_agent: String,
}

/// Why a transport cannot be made.
#[derive(Debug, Error)]
pub enum SetupFault {
    /// The file of certificate authorities is of no use.
    #[error("the certificate authorities in {path} cannot be used: {reason}")]
    ExtraCa {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The user agent holds characters that a header must not.
    #[error("the user agent is not a legal header value")]
    UserAgent,
    /// The bound is smaller than the HTTP client's own buffer.
    #[error("the longest response head must be at least {HEAD_BYTES_MIN} bytes")]
    HeadBytes,
}

/// The smallest bound of a head that the HTTP client can keep.
const HEAD_BYTES_MIN: usize = 8192;

/// Makes attempts over HTTP/1.1, with TLS for `https`.
pub struct HyperTransport {
    limits: Limits,
    clock: Arc<dyn Clock>,
    dialer: Dialer,
    pool: Pool,
    user_agent: HeaderValue,
    certificates: Certificates,
}

impl HyperTransport {
    /// Reads the certificate authorities; opens no connection.
    pub fn new(settings: Settings) -> Result<HyperTransport, SetupFault> {
        let Settings { rules, limits, clock, resolver, extra_ca, user_agent } = settings;
        if limits.head_bytes_max < HEAD_BYTES_MIN {
            return Err(SetupFault::HeadBytes);
        }
        let tls = tls::connector(extra_ca.as_deref())
            .map_err(|reason| SetupFault::ExtraCa { path: extra_ca.unwrap_or_default(), reason })?;
        let budgets = Budgets {
            dns: Duration::from_millis(limits.dns_timeout_ms),
            connect: Duration::from_millis(limits.connect_timeout_ms),
            tls: Duration::from_millis(limits.tls_timeout_ms),
        };
        let pool = Pool::new(PoolLimits {
            idle: Duration::from_millis(limits.idle_ms),
            age: Duration::from_millis(limits.age_ms),
            uses_max: limits.uses_max,
            idle_per_endpoint_max: limits.idle_per_endpoint_max,
            idle_max: limits.idle_max,
        });
        let user_agent = HeaderValue::try_from(user_agent).map_err(|_| SetupFault::UserAgent)?;
        let dialer = Dialer { rules, resolver, tls, budgets, clock: Arc::clone(&clock) };
        Ok(HyperTransport { limits, clock, dialer, pool, user_agent, certificates: Certificates::default() })
    }

    /// Closes connections that nobody has used for too long, or that their receivers have closed. To be called
    /// every few seconds: between attempts nothing else looks at them.
    pub fn sweep(&self) {
        self.pool.sweep(self.clock.instant());
    }

    /// How many connections are open and unused.
    pub fn idle_connections(&self) -> usize {
        self.pool.len()
    }

    async fn attempt(&self, parcel: Parcel) -> Result<Attempt, OwnFault> {
        let (started_at, begun) = (self.clock.now(), self.clock.instant());
        let mut progress = Progress::default();
        let limit = Duration::from_millis(self.limits.timeout_ms);
        let answered = match timeout(limit, self.answer(&parcel, &mut progress)).await {
            Ok(answered) => answered,
            Err(_) => Err(progress.stage.timeout_code().into()),
        };
        let duration = self.clock.instant().duration_since(begun);
        let (outcome, response) = match answered {
            Err(DialFault::Ours(fault)) => return Err(fault),
            Err(DialFault::Theirs(error)) => (Outcome::failed(error), None),
            Ok(answer) => {
                let outcome = answer::outcome(&answer.head, self.clock.now());
                (outcome, Some(self.finish(parcel.endpoint.id, answer, &mut progress.phases).await))
            }
        };
        Ok(Attempt {
            number: parcel.number,
            started_at,
            duration_ms: u32::try_from(duration.as_millis()).unwrap_or(u32::MAX),
            phases: progress.phases,
            outcome,
            sent: progress.sent,
            response,
        })
    }

    /// The head of an answer: over an idle connection where one is alive, else over a new one.
    async fn answer(&self, parcel: &Parcel, progress: &mut Progress) -> Result<Answer, DialFault> {
        let endpoint = &*parcel.endpoint;
        while let Some(mut link) = self.pool.take(endpoint.id, &endpoint.url, self.clock.instant()) {
            if !link.is_idle().await {
                continue;
            }
            match self.exchange(&mut link, parcel, progress).await {
                Ok(response) => return Ok(Answer::new(link, response)),
                Err(ExchangeFault::Unsent) => progress.sent = None,
                Err(ExchangeFault::Failed(error)) => return Err(logged(error, link.target()).into()),
            }
        }
        let target = egress::target(&endpoint.url, &self.dialer.rules).map_err(|fault| {
            tracing::warn!(code = fault.code(), endpoint = %endpoint.id, "a stored URL is no longer allowed");
            ErrorCode::BlockedDestination
        })?;
        let io = self.dialer.dial(&target, progress).await.map_err(|fault| match fault {
            DialFault::Theirs(error) => logged(error, &target).into(),
            ours @ DialFault::Ours(_) => ours,
        })?;
        if let Some(not_after) = progress.certificate_not_after {
            self.certificates.note(endpoint, not_after);
        }
        progress.stage = Stage::Exchange;
        let mut link = Link::open(io, target, self.limits.head_bytes_max, self.clock.instant()).await?;
        match self.exchange(&mut link, parcel, progress).await {
            Ok(response) => Ok(Answer::new(link, response)),
            Err(ExchangeFault::Unsent) => {
                progress.sent = None;
                Err(logged(ErrorCode::ConnectReset, link.target()).into())
            }
            Err(ExchangeFault::Failed(error)) => Err(logged(error, link.target()).into()),
        }
    }

    /// Signs and writes: the connection is ready, so that the timestamp is the moment of sending.
    async fn exchange(
        &self,
        link: &mut Link,
        parcel: &Parcel,
        progress: &mut Progress,
    ) -> Result<Response<Incoming>, ExchangeFault> {
        progress.stage = Stage::Exchange;
        let sent = signature::sign(&parcel.endpoint, parcel.event, self.clock.now(), &parcel.payload);
        let request = request(parcel, link.target(), &sent, &self.user_agent)
            .expect("an accepted URL and our own formats are legal in a request");
        progress.sent = Some(sent);
        let begun = self.clock.instant();
        let response = link.exchange(request).await?;
        progress.phases.head_us = Some(micros(begun, self.clock.instant()));
        Ok(response)
    }

    /// Reads what is kept of the body, which changes nothing about the outcome, and keeps the connection where
    /// it can be trusted.
    async fn finish(&self, endpoint: EndpointId, answer: Answer, phases: &mut Phases) -> model::Response {
        let Answer { mut link, head, incoming } = answer;
        let begun = self.clock.instant();
        let mut body = Body::default();
        let limits = &self.limits;
        let reading = link.read(incoming, &mut body, limits.body_read_bytes_max, limits.body_kept_bytes_max);
        let in_time = timeout(Duration::from_millis(limits.body_timeout_ms), reading).await.is_ok();
        let ended = self.clock.instant();
        phases.body_us = Some(micros(begun, ended));
        let (headers, headers_cut) = answer::kept_headers(&head.headers, limits.headers_kept_bytes_max);
        let complete = body.complete && in_time;
        if complete && answer::is_well_framed(&head) && link.head_is_clean() && link.is_idle().await {
            self.pool.put(endpoint, link, ended);
        }
        let body_cut = !complete || body.read > body.kept.len();
        model::Response { headers, body: body.kept.freeze(), truncated: headers_cut || body_cut }
    }
}

impl Transport for HyperTransport {
    fn send(&self, parcel: Parcel) -> Sending<'_> {
        Box::pin(self.attempt(parcel))
    }

    fn certificate_not_after(&self, endpoint: &Endpoint) -> Option<Timestamp> {
        self.certificates.not_after(endpoint)
    }
}

/// How far an attempt has come; outlives the future that the deadline ends.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) stage: Stage,
    pub(super) phases: Phases,
    pub(super) certificate_not_after: Option<Timestamp>,
    sent: Option<Sent>,
}

/// What an attempt is waiting for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    #[default]
    Dns,
    Connect,
    Tls,
    Exchange,
}

impl Stage {
    const fn timeout_code(self) -> ErrorCode {
        match self {
            Stage::Dns => ErrorCode::Dns,
            Stage::Connect | Stage::Tls => ErrorCode::ConnectTimeout,
            Stage::Exchange => ErrorCode::Timeout,
        }
    }
}

/// A head, and what is needed for the rest.
struct Answer {
    link: Link,
    head: hyper::http::response::Parts,
    incoming: Incoming,
}

impl Answer {
    fn new(link: Link, response: Response<Incoming>) -> Answer {
        let (head, incoming) = response.into_parts();
        Answer { link, head, incoming }
    }
}

/// Microseconds between two moments.
pub(super) fn micros(from: Instant, to: Instant) -> u32 {
    u32::try_from(to.duration_since(from).as_micros()).unwrap_or(u32::MAX)
}

fn logged(error: ErrorCode, target: &Target) -> ErrorCode {
    tracing::debug!(error = error.as_str(), scheme = target.scheme.as_str(), host = %target.host, "no response head");
    error
}
