//! The accept loop and the drain.

use std::convert::Infallible;
use std::error::Error;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::{Body, Incoming};
use hyper::rt::Executor;
use hyper::service::{HttpService, Service, service_fn};
use hyper_util::rt::TokioTimer;
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::connection::{Protocol, Watch, drive};
use super::connections::{Connections, ROOM_CONNECTIONS_MAX};
use super::memory::{Share, Short};
use super::reply::{Asked, outbound, refusal};
use super::stream::{Leftover, WatchedStream};
use super::{Inbound, Limits, Problem, head};
use crate::supervisor::Tasks;

/// What the protocol library reads with at least.
const HEADER_BYTES_LEAST: usize = 8 * 1024;
/// The wait after an accept that failed for want of something, such as file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections beyond the limit that are asked only how the process is.
const PROBE_CONNECTIONS_MAX: usize = 16;
/// Connections beyond the limit of a listener, with those that are being closed to make room.
pub const SPARE_CONNECTIONS: usize = PROBE_CONNECTIONS_MAX + ROOM_CONNECTIONS_MAX;
/// What they may ask for.
const PROBES: [&str; 2] = ["/health", "/ready"];
/// How often room is looked for when there is none.
const ROOM_PAUSE: Duration = Duration::from_millis(100);
/// The largest head in HTTP/2, where a few bytes can stand for many headers.
const HTTP2_HEADER_BYTES_MAX: usize = 16 * 1024;
/// How long connections that were cut may take to end.
const CUT_GRACE: Duration = Duration::from_secs(1);

/// How a listener ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that still had work when the drain's time was over.
    pub cut: usize,
}

/// Serves HTTP/1.1 and HTTP/2 (prior knowledge) until `stop`, then drains: the listener is closed at once,
/// requests in flight get their replies.
///
/// An axum router is served as `hyper_util::service::TowerToHyperService::new(router)`.
pub async fn serve<S, B>(listener: TcpListener, service: S, limits: Limits, stop: CancellationToken) -> Drained
where
    S: Service<Request<Inbound>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let tasks = Tasks::new(stop.clone());
    let open = Arc::new(Connections::default());
    limits.memory.add_listener(&open);
    let server = Arc::new(Server { protocol: protocol(&limits, &tasks), open, left: Notify::new(), limits });
    let mut id = 0;
    loop {
        let accepted = async {
            let accepted = server.accept(&listener).await;
            (accepted, server.admit().await)
        };
        let ((tcp, peer), admitted) = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = accepted => accepted,
        };
        id += 1;
        let watch = Arc::new(Watch::new(server.limits.memory.clone(), peer));
        server.open.enter(id, Arc::clone(&watch));
        let (server, service) = (Arc::clone(&server), service.clone());
        tasks.spawn(async move {
            server.connection(tcp, service, &watch, admitted).await;
            server.open.leave(id);
            server.left.notify_waiters();
        });
    }
    drop(listener);
    server.drain(&tasks).await
}

struct Server {
    protocol: auto::Builder<OnTasks>,
    limits: Limits,
    open: Arc<Connections>,
    /// A connection has left.
    left: Notify,
}

/// What a connection may ask for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Admitted {
    Whole,
    /// How the process is, and nothing else: there are too many connections.
    Probes,
}

impl Server {
    /// Accepts the next connection, whatever happens to others.
    async fn accept(&self, listener: &TcpListener) -> (TcpStream, SocketAddr) {
        let mut logged = false;
        loop {
            match listener.accept().await {
                Ok(accepted) => return accepted,
                // The client gave up while it waited.
                Err(e) if matches!(e.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
                Err(error) => {
                    // For want of file descriptors, most likely.
                    self.open.make_room();
                    if !std::mem::replace(&mut logged, true) {
                        tracing::warn!(%error, "accept connection: trying on");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Finds a place for one more connection.
    async fn admit(&self) -> Admitted {
        loop {
            let left = self.left.notified();
            let open = self.open.len();
            if open < self.limits.connections_max || self.open.make_room() {
                return Admitted::Whole;
            }
            if open < self.limits.connections_max + PROBE_CONNECTIONS_MAX {
                return Admitted::Probes;
            }
            tokio::select! {
                () = left => {}
                () = tokio::time::sleep(ROOM_PAUSE) => {}
            }
        }
    }

    async fn connection<S, B>(&self, tcp: TcpStream, service: S, watch: &Arc<Watch>, admitted: Admitted)
    where
        S: Service<Request<Inbound>, Response = Response<B>, Error = Infallible> + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        // Replies are written whole: waiting for more to send would only add latency.
        let _ = tcp.set_nodelay(true);
        let leftover = Leftover::default();
        let stream = WatchedStream::new(tcp, Arc::clone(watch), leftover.clone());
        let on_request = Arc::clone(watch);
        let watched = service_fn(move |request: Request<Incoming>| {
            let multiplexed = request.version() == Version::HTTP_2;
            let has_body = !multiplexed && !request.body().is_end_stream();
            let in_flight = InFlight::begin(Arc::clone(&on_request), multiplexed);
            let asked = Asked {
                head: request.method() == Method::HEAD,
                safe: request.method().is_safe() && !is_probe(&request),
            };
            // In a box of its own: the protocol library keeps room for a whole answer on every idle connection, and for
            // two of them on every stream.
            let answering =
                begin(&on_request, request, admitted).map(|(request, share)| (Box::pin(service.call(request)), share));
            async move {
                let mut reply = match answering {
                    Ok((reply, share)) => outbound(reply.await?, asked, share),
                    Err((problem, share)) => {
                        if share.is_none() {
                            in_flight.0.cut();
                        }
                        refusal(problem, asked, share)
                    }
                };
                if has_body && !reply.status().is_success() {
                    in_flight.0.left_body_unread();
                }
                if admitted == Admitted::Probes && !multiplexed {
                    reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(reply)
            }
        });
        drive(self.protocol.serve_connection(stream, watched), watch, &self.limits).await;
        leftover.close().await;
    }

    async fn drain(&self, tasks: &Tasks) -> Drained {
        for watch in self.open.all() {
            watch.drain();
        }
        if tokio::time::timeout(self.limits.drain_timeout.left(), tasks.wait()).await.is_ok() {
            return Drained { cut: 0 };
        }
        let open = self.open.all();
        for watch in &open {
            watch.cut();
        }
        let cut = open.len();
        tracing::warn!(connections = cut, "cut connections that outlasted the drain");
        if tokio::time::timeout(CUT_GRACE, tasks.wait()).await.is_err() {
            tracing::warn!(tasks = tasks.len(), "requests outlast their cut connections");
        }
        Drained { cut }
    }
}

fn is_probe<B>(request: &Request<B>) -> bool {
    request.method().is_safe() && PROBES.contains(&request.uri().path())
}

/// The request as the service gets it, and its share of the memory; or why it does not, and the share of the refusal.
type Begun = Result<(Request<Inbound>, Arc<Share>), (Problem, Option<Arc<Share>>)>;

fn begin(watch: &Arc<Watch>, request: Request<Incoming>, admitted: Admitted) -> Begun {
    let is_probe = is_probe(&request);
    let share = match Share::take(watch, head::size(&request)) {
        Ok(share) => share,
        // A process that is short of memory for requests is alive all the same.
        Err(Short) => match Share::beyond(watch) {
            Some(share) if is_probe => share,
            share => {
                watch.memory().count_refusal();
                return Err((Problem::short_of_memory(), share));
            }
        },
    };
    if let Err(problem) = head::check(&request) {
        return Err((problem, Some(share)));
    }
    if admitted == Admitted::Probes && !is_probe {
        let detail = "There are too many connections; send again later.";
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).with_retry_after(1).closing();
        return Err((problem, Some(share)));
    }
    let request = request.map(|body| Inbound::new(body, Arc::clone(&share)));
    Ok((request, share))
}

/// One request that has no reply yet; ends too when the client goes away.
struct InFlight(Arc<Watch>);

impl InFlight {
    fn begin(watch: Arc<Watch>, multiplexed: bool) -> Self {
        watch.request_began(multiplexed);
        Self(watch)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.request_ended();
    }
}

impl<I, S, B> Protocol for auto::Connection<'_, I, S, OnTasks>
where
    Self: Future,
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    S::Future: Send + 'static,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    fn graceful_shutdown(self: Pin<&mut Self>) {
        auto::Connection::graceful_shutdown(self);
    }
}

fn protocol(limits: &Limits, tasks: &Tasks) -> auto::Builder<OnTasks> {
    let mut builder = auto::Builder::new(OnTasks(tasks.clone()));
    // The watch of each connection sees to the time for headers. `pipeline_flush` stays off: it keeps a reply back
    // while any part of a next request is in the buffer, and the refusal of headers that are too large for ever.
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        // Headers must fit the read buffer: its size is their limit.
        .max_buf_size(limits.header_bytes_max.max(HEADER_BYTES_LEAST));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        // A header block in the making is part of what the connection is charged for.
        .max_header_list_size(limits.header_bytes_max.min(HTTP2_HEADER_BYTES_MAX) as u32);
    builder
}

/// Runs the streams of HTTP/2 connections where the connections themselves run.
#[derive(Clone, Debug)]
struct OnTasks(Tasks);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for OnTasks {
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}
