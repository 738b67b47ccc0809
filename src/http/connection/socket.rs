//! A client's socket, plain or under TLS, and what TLS makes the process hold.
//!
//! TLS is under everything that counts: the limits of a connection, its times and its memory see what HTTP sees. What
//! they cannot see is counted here: records that are not complete, and those that the client does not take.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::version::Version;
use super::watch::Watch;
use crate::http::memory::Exhausted;

/// What the TLS library reads at once, and holds at any time.
const READ_BYTES: usize = 4 * 1024;
/// The largest record, and one more read.
const RECORD_BYTES: usize = 20 * 1024;
/// What may come without anything in it for HTTP: a handshake, or records without content.
const EMPTY_BYTES_MAX: usize = 128 * 1024;
/// Bytes of a reply that are encrypted ahead of what the client takes.
pub(crate) const UNSENT_BYTES_MAX: usize = 16 * 1024;

pub(crate) enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<Wire>>),
}

/// The encrypted side.
pub(crate) struct Wire {
    tcp: TcpStream,
    watch: Arc<Watch>,
    /// What came since something of it was for HTTP.
    undelivered: usize,
    /// Something was sent: the client's first flight was complete.
    answered: bool,
}

impl Socket {
    /// What is spoken under TLS: that is agreed on by ALPN, HTTP/2 nowhere else (RFC 9113, 3.2). Nothing where the
    /// first bytes tell.
    pub(crate) fn agreed(&self) -> Option<Version> {
        let Self::Tls(stream) = self else { return None };
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Some(if is_http2 { Version::Http2 } else { Version::Http1 })
    }

    /// Without what TLS holds.
    pub(crate) fn into_tcp(self) -> TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(stream) => stream.into_inner().0.tcp,
        }
    }
}

impl Wire {
    pub(crate) fn new(tcp: TcpStream, watch: Arc<Watch>) -> Self {
        Self { tcp, watch, undelivered: 0, answered: false }
    }

    pub(crate) fn into_tcp(self) -> TcpStream {
        self.tcp
    }

    /// What came was for HTTP, or ended the handshake.
    pub(crate) fn delivered(&mut self) {
        self.undelivered = 0;
    }

    fn answers(&mut self) {
        if !std::mem::replace(&mut self.answered, true) {
            self.watch.handshake_answered();
        }
    }

    fn came(&mut self, count: usize) -> io::Result<()> {
        self.undelivered += count;
        if self.undelivered <= READ_BYTES {
            return Ok(());
        }
        if self.undelivered > EMPTY_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "too many TLS records without content"));
        }
        let held = self.undelivered.max(RECORD_BYTES);
        self.watch.records_hold(held).map_err(|exhausted: Exhausted| {
            self.watch.memory().count_refusal(exhausted.reason());
            io::ErrorKind::OutOfMemory.into()
        })
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let stream = match self.get_mut() {
            Self::Plain(tcp) => return Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(stream) => stream,
        };
        let before = buf.filled().len();
        let read = Pin::new(&mut **stream).poll_read(cx, buf);
        let (wire, session) = stream.get_mut();
        if buf.filled().len() > before {
            wire.delivered();
        } else if read.is_pending() && wire.undelivered <= READ_BYTES && !session.wants_write() {
            wire.watch.records_left();
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(stream) => {
                let written = Pin::new(&mut **stream).poll_write(cx, buf);
                count_unsent(stream);
                written
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => {
                let written = Pin::new(&mut **stream).poll_write_vectored(cx, bufs);
                count_unsent(stream);
                written
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}

/// Counts the records that the client has not taken. They are given back when a read finds none.
fn count_unsent(stream: &TlsStream<Wire>) {
    let (wire, session) = stream.get_ref();
    if session.wants_write() {
        wire.watch.records_wait(UNSENT_BYTES_MAX + RECORD_BYTES);
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut this.tcp).poll_read(cx, buf);
        let count = buf.filled().len() - before;
        if count > 0 {
            this.came(count)?;
        }
        read
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.answers();
        Pin::new(&mut this.tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.answers();
        Pin::new(&mut this.tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(cx)
    }
}
