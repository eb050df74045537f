//! One open HTTP/1.1 connection and the exchange on it.
//!
//! Never runs by itself: the connection moves only while an attempt waits on it, so that dropping the attempt
//! closes it, and reads no more than the attempt asks for.

use std::error::Error as _;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

use super::dial::Io;
use super::meter::{Meter, Metered};
use super::tls;
use crate::model::ErrorCode;
use crate::policy::egress::Target;

type Driver = Connection<TokioIo<Metered<Box<dyn Io>>>, Full<Bytes>>;

/// One open connection to one endpoint.
pub(super) struct Link {
    target: Target,
    sender: SendRequest<Full<Bytes>>,
    /// `None` once the connection has ended.
    driver: Option<Box<Driver>>,
    /// Why it ended, where an error ended it.
    error: Option<hyper::Error>,
    meter: Meter,
    opened: Instant,
    uses: u32,
}

/// Why an exchange gave no head.
pub(super) enum ExchangeFault {
    /// The connection was found dead before the first byte of the request left.
    Unsent,
    /// The request, or a part of it, may have arrived.
    Failed(ErrorCode),
}

/// What was read of a body.
#[derive(Debug, Default)]
pub(super) struct Body {
    /// Its first bytes.
    pub(super) kept: BytesMut,
    /// Bytes read, kept or not.
    pub(super) read: usize,
    /// Whether its end was reached.
    pub(super) complete: bool,
}

impl Link {
    /// Begins to speak HTTP/1.1 over `io`, which leads to `target`. A response head is at most `head_bytes_max` bytes long.
    pub(super) async fn open(
        io: Box<dyn Io>,
        target: Target,
        head_bytes_max: usize,
        opened: Instant,
    ) -> Result<Link, ErrorCode> {
        let meter = Meter::default();
        let io = TokioIo::new(Metered::new(io, meter.clone()));
        let handshake = Builder::new().title_case_headers(true).max_buf_size(head_bytes_max).handshake(io).await;
        let (sender, driver) = handshake.map_err(|error| error_code(&error))?;
        let mut link = Link { target, sender, driver: Some(Box::new(driver)), error: None, meter, opened, uses: 0 };
        if poll_fn(|cx| link.poll_ready(cx)).await {
            return Ok(link);
        }
        Err(link.error.as_ref().map_or(ErrorCode::ConnectReset, error_code))
    }

    /// Where it leads.
    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// When it was opened.
    pub(super) fn opened(&self) -> Instant {
        self.opened
    }

    /// How many requests it has carried.
    pub(super) fn uses(&self) -> u32 {
        self.uses
    }

    /// Whether another request may be written: alive, nothing unread, nothing unasked.
    pub(super) async fn is_idle(&mut self) -> bool {
        poll_fn(|cx| Poll::Ready(self.turn_is_idle(cx))).await
    }

    /// Like `is_idle` where nobody waits.
    pub(super) fn is_still_idle(&mut self) -> bool {
        self.turn_is_idle(&mut Context::from_waker(std::task::Waker::noop()))
    }

    /// Writes the request and waits for the head of the answer.
    pub(super) async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, ExchangeFault> {
        self.uses += 1;
        self.meter.begin();
        let response = self.sender.try_send_request(request);
        self.drive(response).await.map_err(|mut fault| {
            if fault.take_message().is_some() {
                return ExchangeFault::Unsent;
            }
            let code = if self.meter.is_flooded() { ErrorCode::ProtocolError } else { error_code(fault.error()) };
            ExchangeFault::Failed(code)
        })
    }

    /// Whether the last answer's head was written beyond doubt.
    pub(super) fn head_is_clean(&self) -> bool {
        !self.meter.saw_bare_line_feed()
    }

    /// Reads the body into `body` until its end, until `read_max` bytes, or until it breaks. Can be abandoned
    /// at any point: what was read is in `body`.
    pub(super) async fn read(&mut self, mut incoming: Incoming, body: &mut Body, read_max: usize, kept_max: usize) {
        while body.read <= read_max {
            let Some(frame) = self.drive(incoming.frame()).await else {
                body.complete = true;
                return;
            };
            let Ok(frame) = frame else { return };
            let Some(data) = frame.data_ref() else { continue };
            body.read += data.len();
            let room = kept_max.saturating_sub(body.kept.len());
            body.kept.extend_from_slice(&data[..data.len().min(room)]);
        }
    }

    /// Waits for `future` while the connection moves.
    async fn drive<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|cx| {
            self.turn(cx);
            future.as_mut().poll(cx)
        })
        .await
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.turn(cx);
        if self.driver.is_none() {
            return Poll::Ready(false);
        }
        self.sender.poll_ready(cx).map(|ready| ready.is_ok())
    }

    fn turn_is_idle(&mut self, cx: &mut Context<'_>) -> bool {
        self.turn(cx);
        self.driver.is_some() && self.sender.is_ready()
    }

    /// Moves the connection as far as it goes.
    fn turn(&mut self, cx: &mut Context<'_>) {
        let Some(driver) = &mut self.driver else { return };
        if let Poll::Ready(end) = Pin::new(driver).poll(cx) {
            self.driver = None;
            self.error = end.err();
        }
    }
}

/// A connection that breaks before the head is reset; bytes that are not HTTP/1.1 are a protocol error.
fn error_code(error: &hyper::Error) -> ErrorCode {
    if error.is_parse_too_large() {
        return ErrorCode::ResponseTooLarge;
    }
    if let Some(error) = error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
        return tls::error_code(error);
    }
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return ErrorCode::ConnectReset;
    }
    ErrorCode::ProtocolError
}
