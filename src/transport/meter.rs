//! What a receiver may say before the head of its answer: a watch on the plain bytes of one connection.
//!
//! Never changes a byte. It exists because the HTTP client sets no bound on interim (1xx) answers.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most interim answers before the answer.
const INTERIM_MAX: u32 = 8;
/// The most bytes up to the end of the answer's head, interim answers included. The head's own limit is no greater.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// In `HTTP/1.1 103`: where the first digit of the status stands.
const STATUS_AT: usize = 9;

/// The watch, shared by a connection and whoever asks about it.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter(Arc<Mutex<Watch>>);

impl Meter {
    /// A request is about to be written: watch until the head of its answer has ended.
    pub(super) fn begin(&self) {
        *self.lock() = Watch { watching: true, ..Watch::default() };
    }

    /// Whether more came before the head than is allowed.
    pub(super) fn is_flooded(&self) -> bool {
        self.lock().is_flooded()
    }

    /// Whether a line of the head ended without carriage return. Peers disagree on what that means (RFC 9112,
    /// 2.2), so that such a connection is not used again.
    pub(super) fn saw_bare_line_feed(&self) -> bool {
        self.lock().bare_line_feed
    }

    fn lock(&self) -> MutexGuard<'_, Watch> {
        // Plain counters: they are whole after every step, also after a panic elsewhere.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows the lines of heads as they arrive, in pieces of any size.
#[derive(Debug, Default)]
struct Watch {
    watching: bool,
    /// Since `begin`.
    bytes: usize,
    /// Interim heads that have ended.
    interim: u32,
    bare_line_feed: bool,
    /// Of the current head: whether its status line has ended, and whether its status is 1xx.
    in_fields: bool,
    is_interim: bool,
    /// Of the current line: bytes without the line end, and whether the last was a carriage return.
    line_len: usize,
    after_return: bool,
}

impl Watch {
    fn see(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if !self.watching {
                return;
            }
            self.bytes += 1;
            self.step(*byte);
        }
    }

    fn step(&mut self, byte: u8) {
        match byte {
            b'\n' => self.end_line(),
            b'\r' => self.after_return = true,
            _ => {
                if !self.in_fields && self.line_len == STATUS_AT {
                    self.is_interim = byte == b'1';
                }
                self.line_len += 1;
                self.after_return = false;
            }
        }
    }

    fn end_line(&mut self) {
        self.bare_line_feed |= !self.after_return;
        let is_blank = self.line_len == 0;
        (self.line_len, self.after_return) = (0, false);
        match (is_blank, self.in_fields) {
            (false, _) => self.in_fields = true,
            (true, false) => {} // empty lines before a status line are passed over
            (true, true) if self.is_interim => {
                self.interim += 1;
                self.in_fields = false;
            }
            (true, true) => self.watching = false,
        }
    }

    fn is_flooded(&self) -> bool {
        self.interim > INTERIM_MAX || self.bytes > HEAD_BYTES_MAX
    }
}

/// A connection whose incoming bytes are watched. It fails once too much has come.
#[derive(Debug)]
pub(super) struct Metered<I> {
    io: I,
    meter: Meter,
}

impl<I> Metered<I> {
    pub(super) fn new(io: I, meter: Meter) -> Metered<I> {
        Metered { io, meter }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Metered<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let mut watch = this.meter.lock();
        watch.see(&buf.filled()[before..]);
        if watch.is_flooded() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "too much before the head")));
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Metered<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sees the text once whole and once byte by byte; both must agree.
    fn watch(text: &str) -> Watch {
        let mut whole = Watch { watching: true, ..Watch::default() };
        whole.see(text.as_bytes());
        let mut pieces = Watch { watching: true, ..Watch::default() };
        text.as_bytes().chunks(1).for_each(|byte| pieces.see(byte));
        assert_eq!(format!("{whole:?}"), format!("{pieces:?}"));
        whole
    }

    #[test]
    fn interim_heads_are_counted_and_the_final_one_ends_the_watch() {
        let check = |text: &str, interim: u32, watching: bool| {
            let seen = watch(text);
            assert_eq!((seen.interim, seen.watching), (interim, watching), "{text:?}");
        };
        check("HTTP/1.1 200 OK\r\n\r\n", 0, false);
        check("HTTP/1.1 200 OK\r\nA: b\r\n\r\nHTTP/1.1 103 x\r\n\r\n", 0, false);
        check("HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 102\r\n\r\n", 2, true);
        check("\r\n\r\nHTTP/1.1 103 Early\r\n\r\n\r\nHTTP/1.0 404 No\r\n\r\n", 1, false);
        check("HTTP/1.1 100\n\nHTTP/1.1 200\n\n", 1, false);
        check("HTTP/1.1 103 Early\r\nX: 1\r\n", 0, true);
    }

    #[test]
    fn bare_line_feeds_are_seen_in_the_head_only() {
        assert!(!watch("HTTP/1.1 200 OK\r\n\r\na\nb").bare_line_feed);
        assert!(watch("HTTP/1.1 200 OK\n\r\n").bare_line_feed);
        assert!(watch("HTTP/1.1 200 OK\r\nA: b\n\r\n").bare_line_feed);
    }

    #[test]
    fn the_limits_hold_to_the_byte() {
        let interim = "HTTP/1.1 103 x\r\n\r\n";
        assert!(!watch(&interim.repeat(8)).is_flooded());
        assert!(watch(&interim.repeat(9)).is_flooded());
        assert!(!watch(&"x".repeat(HEAD_BYTES_MAX)).is_flooded());
        assert!(watch(&"x".repeat(HEAD_BYTES_MAX + 1)).is_flooded());
        assert!(!watch(&format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(2 * HEAD_BYTES_MAX))).is_flooded());
    }
}
