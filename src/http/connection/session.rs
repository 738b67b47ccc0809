//! The protocol of one connection: detected from the first bytes, dropped while the connection is idle, and rebuilt
//! when the client sends again.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Incoming};
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::HttpService;
use hyper_util::rt::TokioTimer;

use super::drive::Protocol;
use super::stream::WatchedStream;
use super::version::Version;
use crate::base::supervisor::Tasks;
use crate::http::limits::Limits;

/// hyper's minimum read buffer.
const HEADER_BYTES_MIN: usize = 8 * 1024;
/// Limit on a head in HTTP/2, where a few bytes can expand to many headers.
const HTTP2_HEADER_BYTES_MAX: usize = 16 * 1024;

/// The protocol settings of a listener.
pub(crate) struct Protocols {
    http1: http1::Builder,
    http2: http2::Builder<OnTasks>,
}

impl Protocols {
    pub(crate) fn new(limits: &Limits, tasks: &Tasks) -> Self {
        // The watch of each connection enforces the header timeout. `pipeline_flush` stays off: it delays a reply while
        // any part of the next request is in the buffer, and the refusal of too large headers forever.
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(None)
            // A client that shuts down its sending side after a request still gets the reply.
            .half_close(true)
            // Headers must fit into the read buffer, so its size is their limit.
            .max_buf_size(limits.header_bytes_max.max(HEADER_BYTES_MIN));
        let mut http2 = http2::Builder::new(OnTasks(tasks.clone()));
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams_max)
            // A partial header block is included in the connection's memory.
            .max_header_list_size(limits.header_bytes_max.min(HTTP2_HEADER_BYTES_MAX) as u32);
        Self { http1, http2 }
    }
}

/// Spawns HTTP/2 streams on the task set of the connections.
#[derive(Clone, Debug)]
pub(crate) struct OnTasks(Tasks);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for OnTasks {
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

pub(crate) struct Session<'a, S: HttpService<Incoming>> {
    protocols: &'a Protocols,
    state: State<S>,
}

/// Boxed, so that an idle connection allocates none of them.
enum State<S: HttpService<Incoming>> {
    /// No byte of a request was received yet.
    Quiet {
        stream: WatchedStream,
        service: S,
        /// The protocol, if it is known before the first bytes.
        negotiated: Option<Version>,
    },
    Http1(Box<http1::Connection<WatchedStream, S>>),
    Http2(Box<http2::Connection<WatchedStream, S, OnTasks>>),
    Ended,
}

// Only boxed values are ever pinned.
impl<S: HttpService<Incoming>> Unpin for Session<'_, S> {}

impl<'a, S, B> Session<'a, S>
where
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    /// `negotiated` is the protocol that ALPN selected; with `None` it is detected from the first bytes.
    pub(crate) fn new(
        protocols: &'a Protocols,
        stream: WatchedStream,
        service: S,
        negotiated: Option<Version>,
    ) -> Self {
        Self { protocols, state: State::Quiet { stream, service, negotiated } }
    }

    fn open(&mut self, version: Version) {
        self.state = match std::mem::replace(&mut self.state, State::Ended) {
            State::Quiet { stream, service, .. } => match version {
                Version::Http1 => State::Http1(Box::new(self.protocols.http1.serve_connection(stream, service))),
                Version::Http2 => State::Http2(Box::new(self.protocols.http2.serve_connection(stream, service))),
            },
            open => open,
        };
    }
}

impl<S, B> Future for Session<'_, S>
where
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        loop {
            let version = match &mut this.state {
                State::Quiet { stream, negotiated, .. } => ready!(stream.poll_version(cx, *negotiated)),
                State::Http1(connection) => return Pin::new(&mut **connection).poll(cx).map(drop),
                State::Http2(connection) => return Pin::new(&mut **connection).poll(cx).map(drop),
                State::Ended => return Poll::Ready(()),
            };
            match version {
                Ok(version) => this.open(version),
                Err(_) => this.state = State::Ended,
            }
        }
    }
}

impl<S, B> Protocol for Session<'_, S>
where
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    fn graceful_shutdown(self: Pin<&mut Self>) {
        let this = self.get_mut();
        // hyper implements the shutdown.
        this.open(Version::Http1);
        match &mut this.state {
            State::Http1(connection) => Pin::new(&mut **connection).graceful_shutdown(),
            State::Http2(connection) => Pin::new(&mut **connection).graceful_shutdown(),
            State::Quiet { .. } | State::Ended => {}
        }
    }

    fn park(self: Pin<&mut Self>) -> bool {
        let this = self.get_mut();
        match std::mem::replace(&mut this.state, State::Ended) {
            State::Http1(connection) => {
                let parts = connection.into_parts();
                let (mut stream, service) = (parts.io, parts.service);
                stream.unread(&parts.read_buf);
                this.state = State::Quiet { stream, service, negotiated: Some(Version::Http1) };
                true
            }
            other => {
                this.state = other;
                false
            }
        }
    }
}
