//! A client's socket, plain or TLS, and the memory that TLS uses.
//!
//! TLS lies below the limits of a connection, which only see HTTP. This module counts what they cannot see: incomplete
//! records, and records that the client does not read.

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

/// The read size of rustls, held permanently.
const READ_BYTES: usize = 4 * 1024;
/// The largest record plus one read.
const RECORD_BYTES: usize = 20 * 1024;
/// Limit on received bytes without content for HTTP: a handshake, or empty records.
const EMPTY_BYTES_MAX: usize = 128 * 1024;
/// Limit on reply bytes that are encrypted before the client reads.
pub(crate) const UNSENT_BYTES_MAX: usize = 16 * 1024;

pub(crate) enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<Wire>>),
}

/// The encrypted side.
pub(crate) struct Wire {
    tcp: TcpStream,
    watch: Arc<Watch>,
    /// Bytes received since the last content for HTTP.
    undelivered: usize,
    /// Something was sent, so the client's first flight was complete.
    answered: bool,
}

impl Socket {
    /// The protocol selected by ALPN under TLS, the only way to select HTTP/2 there (RFC 9113, 3.2). `None` if the
    /// first bytes decide.
    pub(crate) fn negotiated(&self) -> Option<Version> {
        let Self::Tls(stream) = self else { return None };
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Some(if is_http2 { Version::Http2 } else { Version::Http1 })
    }

    /// Discards the TLS state.
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

    /// The received bytes had content for HTTP, or completed the handshake.
    pub(crate) fn delivered(&mut self) {
        self.undelivered = 0;
    }

    fn mark_answered(&mut self) {
        if !std::mem::replace(&mut self.answered, true) {
            self.watch.handshake_answered();
        }
    }

    fn received(&mut self, count: usize) -> io::Result<()> {
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

/// Counts the records that the client has not read. Their memory is released when a read finds none.
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
            this.received(count)?;
        }
        read
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.mark_answered();
        Pin::new(&mut this.tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.mark_answered();
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
