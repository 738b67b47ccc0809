//! A TCP stream that tells its connection's watch what goes in and out, and that can be
//! closed so that a client still sending reads the reply first.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::connection::Watch;

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
        Self { tcp: Some(TokioIo::new(tcp)), watch, leftover }
    }

    fn tcp(&mut self) -> io::Result<Pin<&mut TokioIo<TcpStream>>> {
        self.tcp.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Pending => self.watch.write_blocked(),
            Poll::Ready(Ok(_)) => self.watch.bytes_left(),
            Poll::Ready(Err(_)) => {}
        }
        written
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
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        ready!(self.tcp()?.poll_read(cx, buf))?;
        self.watch.bytes_came();
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
