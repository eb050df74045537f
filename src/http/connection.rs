//! One connection: handshake, requests one after the other, and what every answer has in common.
//!
//! Never ends with a panic of a handler, and never writes a path, a query or a body to the log.

use std::convert::Infallible;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::http::uri::Authority;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, StatusCode, Version};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::problem::Problem;
use super::request::{Request, Unread};
use super::response::{Body, Response};
use super::route::{Answering, Found, Table};
use super::server::{Hooks, Limits};
use super::stream::{Deadlines, Progress, Stream};
use crate::clock::{Clock, SystemClock};
use crate::entropy::{Entropy, SystemEntropy};

const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
const REQUEST_ID_LEN_MAX: usize = 64;
/// hyper reads and writes through buffers that grow to this; the head's own limit is smaller.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// What the connections of a listener share.
pub(super) struct Shared {
    pub(super) name: &'static str,
    pub(super) limits: Limits,
    pub(super) hooks: Hooks,
    pub(super) table: Table,
    pub(super) tls: Option<TlsAcceptor>,
    /// One permit per byte of request bodies in memory.
    pub(super) memory: Arc<Semaphore>,
}

/// Serves `stream` until either side has had enough, or the request under way when `draining` turns true
/// is answered.
pub(super) async fn run(shared: Arc<Shared>, stream: TcpStream, draining: watch::Receiver<bool>) {
    // Answers are written whole: waiting for more to send would only add a delay.
    let _ = stream.set_nodelay(true);
    let Some(acceptor) = shared.tls.clone() else {
        return exchange(shared, stream, draining).await;
    };
    let handshake = Duration::from_millis(shared.limits.tls_handshake_timeout_ms);
    match timeout(handshake, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => exchange(shared, stream, draining).await,
        Ok(Err(_)) | Err(_) => shared.hooks.connections_broken.increment(1),
    }
}

async fn exchange<T>(shared: Arc<Shared>, stream: T, mut draining: watch::Receiver<bool>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = shared.limits;
    let progress = Arc::new(Progress::default());
    let deadlines = Deadlines {
        head: Duration::from_millis(limits.head_timeout_ms),
        idle: Duration::from_millis(limits.keep_alive_idle_ms),
        write: Duration::from_millis(limits.write_timeout_ms),
        linger: Duration::from_millis(limits.linger_ms),
        linger_bytes_max: limits.linger_bytes_max,
    };
    let io = TokioIo::new(Stream::new(stream, Arc::clone(&progress), deadlines));
    let hooks = Arc::clone(&shared);
    let service = service_fn(move |request| {
        let (shared, progress) = (Arc::clone(&shared), Arc::clone(&progress));
        async move { Ok::<_, Infallible>(answer(&shared, progress, request).await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .header_read_timeout(None)
            .max_headers(limits.headers_max)
            .max_header_size(limits.head_bytes_max)
            .max_buf_size(BUFFER_BYTES_MAX.max(limits.head_bytes_max))
            .serve_connection(io, service)
    );
    let drain_begins = async {
        let _ = draining.wait_for(|begun| *begun).await;
    };
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = drain_begins => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if ended.is_err() {
        hooks.hooks.connections_broken.increment(1);
    }
}

async fn answer(
    shared: &Shared,
    progress: Arc<Progress>,
    request: hyper::Request<Incoming>,
) -> hyper::Response<Answer> {
    let began = SystemClock.instant();
    let (head, incoming) = request.into_parts();
    progress.request_begins(!incoming.is_end_stream());
    let method = head.method.clone();
    let id = request_id(&head.headers);
    let body = Unread {
        incoming,
        progress: Arc::clone(&progress),
        timeout: Duration::from_millis(shared.limits.body_timeout_ms),
        memory: Arc::clone(&shared.memory),
        held: None,
    };
    let (pattern, answered) = dispatch(shared, head, body, &id).await;
    let mut response = answered.unwrap_or_else(Problem::into_response);
    complete(response.headers_mut(), &id);
    shared.hooks.count(response.status());
    let duration_ms = SystemClock.instant().saturating_duration_since(began).as_millis();
    let status = response.status().as_u16();
    tracing::debug!(listener = shared.name, %method, route = pattern, status, duration_ms, request_id = id, "answered");
    response.map(|body| Answer { body, progress })
}

async fn dispatch(shared: &Shared, head: Parts, body: Unread, id: &str) -> (&'static str, Result<Response, Problem>) {
    if let Err(problem) = check_head(&head, shared.limits.uri_bytes_max) {
        return ("none", Err(problem));
    }
    let path = head.uri.path().to_owned();
    match shared.table.find(&head.method, &path) {
        Found::Problem { pattern, problem } => (pattern, Err(problem)),
        Found::Handler { pattern, handler, params } => {
            let query = head.uri.query().map(str::to_owned);
            let Parts { method, headers, .. } = head;
            let request = Request { method, path, query, headers, params, body };
            let answered = ToItsEnd(Some(handler(request))).await.unwrap_or_else(|| {
                tracing::error!(listener = shared.name, route = pattern, request_id = id, "a handler panicked");
                Err(Problem::internal())
            });
            (pattern, answered)
        }
    }
}

/// What hyper lets pass and HTTP does not, or a reader behind us could understand differently. The connection
/// ends with such a request: what follows it cannot be trusted to be a request.
fn check_head(head: &Parts, uri_bytes_max: usize) -> Result<(), Problem> {
    let uri_bytes = head.uri.path_and_query().map_or(0, |p| p.as_str().len())
        + head.uri.authority().map_or(0, |a| a.as_str().len());
    if uri_bytes > uri_bytes_max {
        let detail = format!("The URI is longer than {uri_bytes_max} bytes.");
        return Err(Problem::new(StatusCode::URI_TOO_LONG, "uri_too_long", detail).closing());
    }
    if head.method == Method::CONNECT {
        return Err(Problem::bad_request("invalid_target", "This is no proxy.").closing());
    }
    // RFC 9112 §3.2: exactly one Host, which only HTTP/1.0 may leave out.
    let mut hosts = head.headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, None) if head.version == Version::HTTP_10 => {}
        (Some(host), None) if is_host(host) => {}
        _ => return Err(Problem::bad_request("invalid_host", "Send exactly one valid Host header.").closing()),
    }
    // RFC 9112 §6.1: chunked, once, is the only coding that we undo. With a Content-Length beside it, hyper
    // takes the chunks and ends the connection.
    let mut codings = head.headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, None) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => {
            Err(Problem::bad_request("invalid_transfer_encoding", "Send Transfer-Encoding: chunked or none.").closing())
        }
    }
}

fn is_host(value: &HeaderValue) -> bool {
    value.to_str().is_ok_and(|text| !text.contains('@') && text.parse::<Authority>().is_ok())
}

/// The client's own, where it is 1 to 64 of `[A-Za-z0-9_-]`.
pub(super) fn request_id(headers: &HeaderMap) -> String {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    match headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()) {
        Some(id) if (1..=REQUEST_ID_LEN_MAX).contains(&id.len()) && id.bytes().all(legal) => id.to_owned(),
        _ => format!("{:032x}", SystemEntropy.number()),
    }
}

/// What every answer carries.
pub(super) fn complete(headers: &mut HeaderMap, id: &str) {
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REQUEST_ID, HeaderValue::from_str(id).expect("a request id is letters, digits, _ and -"));
}

/// Runs a handler to its end, also where the client goes away before: what was begun is never left half done. As long
/// as the connection lives, its own task does it; a task for each request would cost two more changes of thread.
struct ToItsEnd(Option<Answering>);

impl Future for ToItsEnd {
    /// `None` where the handler panics.
    type Output = Option<Result<Response, Problem>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let running = self.0.as_mut().expect("nobody polls what is ready");
        // A handler that panicked is dropped and not seen again.
        let polled = catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(cx)));
        let answered = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(answered)) => Some(answered),
            Err(_) => None,
        };
        self.0 = None;
        Poll::Ready(answered)
    }
}

impl Drop for ToItsEnd {
    #[expect(clippy::disallowed_methods, reason = "a handler outlives its connection; it ends by its own deadlines")]
    fn drop(&mut self) {
        if let Some(running) = self.0.take() {
            tokio::spawn(running);
        }
    }
}

/// A body that tells the stream below when it is finished or given up.
struct Answer {
    body: Body,
    progress: Arc<Progress>,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = <Body as HttpBody>::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.progress.request_ends();
    }
}
