//! A client's stream that reports its traffic to the connection's watch. It can be closed so that a client that is
//! still sending reads the reply first.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::rt::{Read, ReadBufCursor, Write};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use super::control_frames::ControlFrames;
use super::socket::Socket;
use super::version::Version;
use super::watch::Watch;
use crate::http::memory::Exhausted;
use crate::http::reply::raw_reply;
use crate::metrics;

/// How long a client may take to read a refusal, while its data is discarded.
const LINGER: Duration = Duration::from_secs(1);
/// Limit on the data discarded for one connection.
const LINGER_BYTES_MAX: usize = 16 * 1024 * 1024;
const DISCARD_BUFFER_BYTES: usize = 16 * 1024;

/// The HTTP/2 connection preface (RFC 9113, 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// No HTTP/1.1 method begins with this many bytes of the preface.
const HTTP2_PREFIX_BYTES: usize = 4;

/// Receives the socket if the protocol drops it while the client is still sending, or while bytes for the client
/// remain.
#[derive(Clone, Default)]
pub(crate) struct Leftover(Arc<Mutex<Option<(Socket, Bytes)>>>);

pub(crate) struct WatchedStream {
    /// `None` only during the drop.
    socket: Option<Socket>,
    watch: Arc<Watch>,
    leftover: Leftover,
    /// Bytes read before the protocol was known.
    peeked: Bytes,
    /// The last bytes for the client if the protocol cannot send them.
    last_bytes: Bytes,
    /// Counts frames once the connection is known to use HTTP/2.
    frames: Option<Box<ControlFrames>>,
}

impl Leftover {
    /// Closing a socket with unread data makes the kernel send a reset, which can overtake the reply. Discards incoming
    /// data until the client has read the reply and closed.
    pub(crate) async fn close(self) {
        let left = self.0.lock().take();
        let Some((mut socket, last_bytes)) = left else { return };
        let closing = async {
            if !last_bytes.is_empty() {
                socket.write_all(&last_bytes).await?;
            }
            socket.shutdown().await?;
            discard(socket.into_tcp()).await
        };
        let _ = tokio::time::timeout(LINGER, closing).await;
    }
}

/// Sends final bytes to a client without a protocol connection, and closes.
pub(crate) async fn close_with(mut tcp: TcpStream, last_bytes: &[u8]) {
    let closing = async {
        tcp.write_all(last_bytes).await?;
        tcp.shutdown().await?;
        discard(tcp).await
    };
    let _ = tokio::time::timeout(LINGER, closing).await;
}

async fn discard(mut tcp: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; DISCARD_BUFFER_BYTES];
    let mut discarded = 0;
    while discarded < LINGER_BYTES_MAX {
        match tcp.read(&mut buffer).await? {
            0 => break,
            count => discarded += count,
        }
    }
    Ok(())
}

impl WatchedStream {
    pub(crate) fn new(socket: Socket, watch: Arc<Watch>, leftover: Leftover) -> Self {
        Self { socket: Some(socket), watch, leftover, peeked: Bytes::new(), last_bytes: Bytes::new(), frames: None }
    }

    /// Waits for the first bytes and detects the protocol, unless it was `negotiated`. The protocol reads these bytes
    /// again.
    pub(crate) fn poll_version(
        &mut self,
        cx: &mut Context<'_>,
        negotiated: Option<Version>,
    ) -> Poll<io::Result<Version>> {
        loop {
            let received = self.peeked.len();
            let version = match negotiated {
                Some(negotiated) => (received > 0).then_some(negotiated),
                None if !HTTP2_PREFACE.starts_with(&self.peeked) => Some(Version::Http1),
                None => (received == HTTP2_PREFACE.len()).then_some(Version::Http2),
            };
            let is_http2 = version == Some(Version::Http2) || (version.is_none() && received >= HTTP2_PREFIX_BYTES);
            if is_http2 && self.frames.is_none() {
                self.frames = Some(Box::new(ControlFrames::new(self.watch.now())));
                if let Err(exhausted) = self.watch.start_http2() {
                    return Poll::Ready(Err(self.refuse(exhausted, Bytes::from_static(raw_reply::HTTP2_GO_AWAY))));
                }
            }
            if let Some(version) = version {
                return Poll::Ready(Ok(version));
            }
            let mut space = [MaybeUninit::uninit(); HTTP2_PREFACE.len()];
            let mut part = ReadBuf::uninit(&mut space[received..]);
            ready!(self.poll_socket(cx, &mut part))?;
            if part.filled().is_empty() {
                return Poll::Ready(Ok(negotiated.unwrap_or(Version::Http1)));
            }
            self.peeked = [&self.peeked[..], part.filled()].concat().into();
        }
    }

    /// Returns bytes that a protocol read but did not use.
    pub(crate) fn unread(&mut self, unused: &[u8]) {
        if !unused.is_empty() {
            self.peeked = Bytes::copy_from_slice(unused);
        }
    }

    fn socket(&mut self) -> io::Result<Pin<&mut Socket>> {
        self.socket.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Reads and reports to the watch. Fails when there is no memory for the received bytes.
    fn poll_socket(&mut self, cx: &mut Context<'_>, part: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.socket()?.poll_read(cx, part))?;
        let count = part.filled().len();
        if count > 0
            && let Err(exhausted) = self.watch.bytes_received(count)
        {
            // Nothing can be inserted into the middle of a reply.
            let can_reply = self.watch.is_flushed() && self.frames.is_none();
            let last_bytes = if can_reply { raw_reply::http1(exhausted.problem()) } else { Bytes::new() };
            return Poll::Ready(Err(self.refuse(exhausted, last_bytes)));
        }
        Poll::Ready(Ok(()))
    }

    /// Closes the connection because there is no memory for the received bytes, and tells the client.
    fn refuse(&mut self, exhausted: Exhausted, last_bytes: Bytes) -> io::Error {
        self.watch.memory().count_refusal(exhausted.reason());
        self.last_bytes = last_bytes;
        io::ErrorKind::OutOfMemory.into()
    }

    /// Passes bytes to the protocol. Fails when they exceed the allowance for control frames.
    fn count_frames(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(frames) = &mut self.frames else { return Ok(()) };
        let Err(flood) = frames.received(bytes, self.watch.now()) else { return Ok(()) };
        metrics::http_flood();
        // Nothing can be inserted into the middle of another frame.
        if self.watch.is_flushed() {
            self.last_bytes = flood.last_bytes();
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    }

    fn wrote(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Pending => self.watch.write_blocked(),
            Poll::Ready(written) => {
                self.watch.wrote();
                if let (Some(frames), Ok(count)) = (&mut self.frames, written) {
                    frames.sent(*count);
                }
            }
        }
        written
    }
}

impl Drop for WatchedStream {
    fn drop(&mut self) {
        if (self.watch.leaves_unread() || !self.last_bytes.is_empty()) && !self.watch.is_cut() {
            let left = self.socket.take().map(|socket| (socket, std::mem::take(&mut self.last_bytes)));
            *self.leftover.0.lock() = left;
        }
    }
}

impl Read for WatchedStream {
    #[expect(unsafe_code, reason = "only a part of the buffer may be filled, and what came has to be seen")]
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if !self.peeked.is_empty() {
            let count = self.peeked.len().min(buf.remaining());
            let peeked = self.peeked.split_to(count);
            buf.put_slice(&peeked);
            return Poll::Ready(self.count_frames(&peeked));
        }
        let most = self.watch.read_bytes_max();
        // SAFETY: only the socket's reader writes to these bytes, and it only ever initializes them.
        let room = unsafe { buf.as_mut() };
        let most = most.min(room.len());
        let mut part = ReadBuf::uninit(&mut room[..most]);
        ready!(self.poll_socket(cx, &mut part))?;
        let count = part.filled().len();
        self.count_frames(part.filled())?;
        // SAFETY: the socket has initialized this many bytes.
        unsafe { buf.advance(count) };
        Poll::Ready(Ok(()))
    }
}

impl Write for WatchedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.socket()?.poll_write(cx, buf);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.socket()?.poll_write_vectored(cx, bufs);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// The protocol flushes when its own buffer is empty; only then has the client read enough.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.socket()?.poll_flush(cx);
        // TLS buffers too.
        if flushed.is_pending() {
            self.watch.write_blocked()
        } else {
            self.watch.all_written()
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket()?.poll_shutdown(cx)
    }
}
