//! A client's byte stream under deadlines: for the first byte, for the head, for each write; and a close that
//! lets the client read our last answer.
//!
//! Never looks at a byte that comes in, and at none that goes out but to know an answer of hyper's own. hyper has one
//! timeout for idle connections and for heads, and none for clients that do not read; an idle connection may last long,
//! a head that drips may not.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::bare;

/// What the deadlines are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadlines {
    /// From a connection to its first byte, and from a head's first byte to its end.
    pub(super) head: Duration,
    /// From an answer to the first byte of the next head.
    pub(super) idle: Duration,
    /// Longest time in which the client takes nothing of what we write.
    pub(super) write: Duration,
    /// How long we go on reading what a client still sends after our last answer, and
    pub(super) linger: Duration,
    /// how many bytes of it.
    pub(super) linger_bytes_max: usize,
}

/// How far a connection has come, told by those who read requests to the stream below them.
/// All of them run in the connection's one task; the atomics only make it `Send`.
#[derive(Debug, Default)]
pub(super) struct Progress {
    stage: AtomicU8,
    body_unread: AtomicBool,
    /// The connection's task, where it waits for bytes while a handler is at work. hyper does not look at the stream
    /// again when an answer is written, so that nobody would set the idle deadline.
    reader: Mutex<Option<Waker>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Connected, nothing received.
    Fresh = 0,
    /// A head has begun.
    Head = 1,
    /// From the head's end to the answer's last byte: handlers have their own deadlines.
    Handling = 2,
    /// Between requests.
    Idle = 3,
}

impl Progress {
    /// A head is complete; `body_unread` where a body follows.
    pub(super) fn request_begins(&self, body_unread: bool) {
        self.body_unread.store(body_unread, Ordering::Relaxed);
        self.set(Stage::Handling);
    }

    /// Nothing of the body is left in the socket.
    pub(super) fn body_is_read(&self) {
        self.body_unread.store(false, Ordering::Relaxed);
    }

    /// The answer's last byte is handed over.
    pub(super) fn request_ends(&self) {
        self.set(Stage::Idle);
        if let Some(reader) = self.reader.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            reader.wake_by_ref();
        }
    }

    /// Whether the client may still be sending.
    fn expects_more(&self) -> bool {
        self.body_unread.load(Ordering::Relaxed) || self.stage() == Stage::Head
    }

    fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Relaxed) {
            0 => Stage::Fresh,
            1 => Stage::Head,
            2 => Stage::Handling,
            _ => Stage::Idle,
        }
    }

    fn wake_at_end(&self, reader: &Waker) {
        let mut known = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.as_ref().is_some_and(|known| known.will_wake(reader)) {
            *known = Some(reader.clone());
        }
    }

    fn set(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Relaxed);
    }
}

/// A stream under deadlines.
pub(super) struct Stream<T> {
    io: T,
    progress: Arc<Progress>,
    deadlines: Deadlines,
    reading: Timer,
    /// The stage that `reading` was set for.
    reading_for: Option<Stage>,
    writing: Timer,
    /// What is left of an answer that goes out in the place of one of hyper's own.
    replacement: Option<Bytes>,
    is_shut: bool,
    lingered_bytes: usize,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream<T> {
    pub(super) fn new(io: T, progress: Arc<Progress>, deadlines: Deadlines) -> Stream<T> {
        Stream {
            io,
            progress,
            deadlines,
            reading: Timer::default(),
            reading_for: None,
            writing: Timer::default(),
            replacement: None,
            is_shut: false,
            lingered_bytes: 0,
        }
    }

    /// Ready where the bytes that should come now have not come in time.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // In every stage: hyper may poll here before the handler has said that it begins.
        self.progress.wake_at_end(cx.waker());
        let stage = self.progress.stage();
        let deadline = match stage {
            Stage::Fresh | Stage::Head => self.deadlines.head,
            Stage::Idle => self.deadlines.idle,
            Stage::Handling => {
                self.reading_for = None;
                return Poll::Pending;
            }
        };
        if self.reading_for != Some(stage) {
            self.reading_for = Some(stage);
            self.reading.clear();
        }
        self.reading.poll(cx, deadline)
    }

    /// Writes the bytes, or all that stands for them.
    fn poll_write_out(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.replacement.is_none() && self.progress.stage() != Stage::Handling {
            self.replacement = bare::replaced(bytes);
        }
        let Some(ours) = &mut self.replacement else { return Pin::new(&mut self.io).poll_write(cx, bytes) };
        while !ours.is_empty() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, ours))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => ours.advance(written),
            }
        }
        self.replacement = None;
        Poll::Ready(Ok(bytes.len()))
    }

    /// `written` as it is, or an error where the client has taken nothing for too long.
    fn in_time<R>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if written.is_ready() {
            self.writing.clear();
            return written;
        }
        ready!(self.writing.poll(cx, self.deadlines.write));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Reads on for a while and forgets: a socket closed with unread bytes in it resets the connection,
    /// and the reset can overtake our answer (RFC 9112 §9.6).
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [0; 4096];
        while self.lingered_bytes < self.deadlines.linger_bytes_max {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.io).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => self.lingered_bytes += buffer.filled().len(),
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return self.reading.poll(cx, self.deadlines.linger),
            }
        }
        Poll::Ready(())
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        match Pin::new(&mut this.io).poll_read(cx, buffer) {
            Poll::Ready(read) => {
                if matches!(this.progress.stage(), Stage::Fresh | Stage::Idle) {
                    this.progress.set(Stage::Head);
                    this.reading_for = None;
                }
                Poll::Ready(read)
            }
            Poll::Pending => this.poll_overdue(cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.poll_write_out(cx, bytes);
        self.in_time(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match slices {
            [bytes] => self.poll_write_out(cx, bytes),
            _ => Pin::new(&mut self.io).poll_write_vectored(cx, slices),
        };
        self.in_time(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.in_time(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_shut {
            let shut = Pin::new(&mut self.io).poll_shutdown(cx);
            ready!(self.in_time(cx, shut))?;
            self.is_shut = true;
            self.reading.clear();
        }
        if self.progress.expects_more() {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}

/// One timer that is set when it is first waited for.
#[derive(Default)]
struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    is_set: bool,
}

impl Timer {
    fn clear(&mut self) {
        self.is_set = false;
    }

    fn poll(&mut self, cx: &mut Context<'_>, after: Duration) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep(after)));
        if !self.is_set {
            self.is_set = true;
            sleep.as_mut().reset(deadline(after));
        }
        sleep.as_mut().poll(cx)
    }
}

#[expect(clippy::disallowed_methods, reason = "a sleeping timer can only be set anew by the runtime's own clock")]
fn deadline(after: Duration) -> Instant {
    Instant::now() + after
}
