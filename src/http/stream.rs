//! A TCP stream that tells its connection's watch what goes in and out, and that can be
//! closed so that a client still sending reads the reply first.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use super::connection::Watch;
use super::memory::Short;

/// How long a client may take to read a refusal while what it still sends is thrown away.
const LINGER: Duration = Duration::from_secs(1);
/// What is thrown away of one connection at most.
const LINGER_BYTES_MAX: usize = 16 * 1024 * 1024;
const SCRAP_BYTES: usize = 16 * 1024;

/// Where a stream ends up when the protocol drops it with bytes of the client still to come.
#[derive(Clone, Default)]
pub(super) struct Leftover(Arc<Mutex<Option<TcpStream>>>);

pub(super) struct WatchedStream {
    /// Present until the drop.
    tcp: Option<TokioIo<TcpStream>>,
    watch: Arc<Watch>,
    leftover: Leftover,
    preface: Preface,
}

/// How much of the start of HTTP/2 the first bytes have matched.
#[derive(Clone, Copy)]
enum Preface {
    Matched(usize),
    Told,
}

/// No method begins with this.
const HTTP2_PREFACE: &[u8] = b"PRI ";

impl Preface {
    /// True when these bytes complete it.
    fn take(&mut self, bytes: &[u8]) -> bool {
        let Self::Matched(matched) = self else { return false };
        let missing = &HTTP2_PREFACE[*matched..];
        if bytes.starts_with(missing) {
            *self = Self::Told;
            return true;
        }
        *self = if missing.starts_with(bytes) { Self::Matched(*matched + bytes.len()) } else { Self::Told };
        false
    }
}

impl Leftover {
    /// Closing a socket with received bytes unread makes the kernel send a reset, which can overtake the reply:
    /// throws away what comes until the client has seen the reply and closed.
    pub(super) async fn close(self) {
        let tcp = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(tcp) = tcp {
            let _ = tokio::time::timeout(LINGER, linger(tcp)).await;
        }
    }
}

async fn linger(mut tcp: TcpStream) -> io::Result<()> {
    tcp.shutdown().await?;
    let mut scrap = vec![0; SCRAP_BYTES];
    let mut thrown_away = 0;
    while thrown_away < LINGER_BYTES_MAX {
        match tcp.read(&mut scrap).await? {
            0 => break,
            count => thrown_away += count,
        }
    }
    Ok(())
}

impl WatchedStream {
    pub(super) fn new(tcp: TcpStream, watch: Arc<Watch>, leftover: Leftover) -> Self {
        Self { tcp: Some(TokioIo::new(tcp)), watch, leftover, preface: Preface::Matched(0) }
    }

    fn tcp(&mut self) -> io::Result<Pin<&mut TokioIo<TcpStream>>> {
        self.tcp.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_pending() {
            self.watch.write_blocked();
        }
        written
    }

    /// Tells the watch what came; an error where there is no memory for it.
    fn came(&mut self, bytes: &[u8]) -> io::Result<()> {
        let http2 = self.preface.take(bytes);
        let taken = self.watch.bytes_came(bytes.len()).and_then(|()| match http2 {
            true => self.watch.speaks_http2(),
            false => Ok(()),
        });
        taken.map_err(|Short| {
            self.watch.memory().count_refusal();
            io::ErrorKind::OutOfMemory.into()
        })
    }
}

impl Drop for WatchedStream {
    fn drop(&mut self) {
        if self.watch.leaves_unread() && !self.watch.is_cut() {
            let tcp = self.tcp.take().map(TokioIo::into_inner);
            *self.leftover.0.lock().unwrap_or_else(PoisonError::into_inner) = tcp;
        }
    }
}

impl Read for WatchedStream {
    #[expect(unsafe_code, reason = "only a part of the buffer may be filled, and what came has to be seen")]
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let most = self.watch.read_bytes_max();
        // SAFETY: nothing but the reader of the socket, which only ever initializes, writes to these bytes.
        let room = unsafe { buf.as_mut() };
        let most = most.min(room.len());
        let mut part = ReadBuf::uninit(&mut room[..most]);
        let tcp = self.tcp.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        ready!(AsyncRead::poll_read(Pin::new(tcp.inner_mut()), cx, &mut part))?;
        let count = part.filled().len();
        if count > 0 {
            self.came(part.filled())?;
        }
        // SAFETY: the socket has initialized this many bytes.
        unsafe { buf.advance(count) };
        Poll::Ready(Ok(()))
    }
}

impl Write for WatchedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.tcp()?.poll_write(cx, buf);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.tcp()?.poll_write_vectored(cx, bufs);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// The protocol flushes when its own buffer is empty: only then has the client read enough.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.watch.all_written();
        self.tcp()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp()?.poll_shutdown(cx)
    }
}
