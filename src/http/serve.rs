//! The accept loop and the drain.

use std::convert::Infallible;
use std::error::Error;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, EXPECT};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::{Body, Incoming};
use hyper::service::{Service, service_fn};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::connection::drain::{IN_HTTP1, IN_HTTP2, drain};
use super::connection::drive::{bounded, drive};
use super::connection::open_connections::{Connections, ROOM_CONNECTIONS_MAX};
use super::connection::outbound::{RequestKind, outbound, refusal};
use super::connection::session::{Protocols, Session};
use super::connection::share::Share;
use super::connection::socket::Socket;
use super::connection::stream::{Leftover, WatchedStream};
use super::connection::watch::Watch;
use super::limits::Limits;
use super::memory::{CONNECTION_BYTES, TLS_CONNECTION_BYTES};
use super::reply::problem::Problem;
use super::request::body::Inbound;
use super::request::head;
use super::tls::handshake::Handshakes;
use crate::base::supervisor::Tasks;
use crate::metrics;

/// Pause after an accept that failed for lack of a resource, such as file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections beyond the limit, for health probes only.
const PROBE_CONNECTIONS_MAX: usize = 16;
/// Connections beyond the limit of a listener, including those being closed to make room.
pub const SPARE_CONNECTIONS: usize = PROBE_CONNECTIONS_MAX + ROOM_CONNECTIONS_MAX;
/// The paths of health probes.
const PROBES: [&str; 2] = ["/health", "/ready"];
/// How often a full listener tries to make room.
const ROOM_PAUSE: Duration = Duration::from_millis(100);
/// How long cut connections may take to end.
const CUT_GRACE: Duration = Duration::from_secs(1);

/// The result of draining a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that still had work when the drain timed out.
    pub cut: usize,
}

/// Serves HTTP/1.1 and HTTP/2 (prior knowledge, or ALPN under TLS) until `stop`, then drains: closes the listener
/// immediately and completes the requests in flight.
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
    let holders: Weak<Connections> = Arc::downgrade(&open);
    limits.memory.add_listener(holders);
    let server = Arc::new(Server {
        protocols: Protocols::new(&limits, &tasks),
        handshakes: Handshakes::default(),
        open,
        left: Notify::new(),
        limits,
    });
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
        let tls_bytes = if server.limits.tls.is_some() { TLS_CONNECTION_BYTES } else { 0 };
        let watch = Arc::new(Watch::new(server.limits.memory.clone(), CONNECTION_BYTES + tls_bytes, peer));
        server.open.insert(id, Arc::clone(&watch));
        let (server, service) = (Arc::clone(&server), service.clone());
        tasks.spawn(async move {
            server.connection(tcp, service, &watch, admitted).await;
            server.open.remove(id);
            server.left.notify_waiters();
        });
    }
    drop(listener);
    server.drain(&tasks).await
}

struct Server {
    protocols: Protocols,
    limits: Limits,
    handshakes: Handshakes,
    open: Arc<Connections>,
    /// Notified when a connection ends.
    left: Notify,
}

/// The requests that a connection may send.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Admission {
    Full,
    /// Health probes only, because there are too many connections.
    Probes,
}

impl Server {
    /// Accepts the next connection, despite errors of others.
    async fn accept(&self, listener: &TcpListener) -> (TcpStream, SocketAddr) {
        let mut logged = false;
        loop {
            match listener.accept().await {
                Ok(accepted) => return accepted,
                // The client disconnected while it waited.
                Err(e) if matches!(e.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
                Err(error) => {
                    // Most likely, file descriptors are used up.
                    self.open.make_room();
                    if !std::mem::replace(&mut logged, true) {
                        tracing::warn!(%error, "accept connection: trying on");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Finds room for one more connection.
    async fn admit(&self) -> Admission {
        loop {
            let left = self.left.notified();
            let open = self.open.len();
            if open < self.limits.connections_max || self.open.make_room() {
                return Admission::Full;
            }
            if open < self.limits.connections_max + PROBE_CONNECTIONS_MAX {
                return Admission::Probes;
            }
            tokio::select! {
                () = left => {}
                () = tokio::time::sleep(ROOM_PAUSE) => {}
            }
        }
    }

    async fn connection<S, B>(&self, tcp: TcpStream, service: S, watch: &Arc<Watch>, admitted: Admission)
    where
        S: Service<Request<Inbound>, Response = Response<B>, Error = Infallible> + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        // Replies are written whole, so delaying them would only add latency.
        let _ = tcp.set_nodelay(true);
        let Some(socket) = self.socket(tcp, watch).await else { return };
        let (leftover, negotiated) = (Leftover::default(), socket.negotiated());
        let stream = WatchedStream::new(socket, Arc::clone(watch), leftover.clone());
        let (on_request, refusal_headers) = (Arc::clone(watch), self.limits.refusal_headers.clone());
        let watched = service_fn(move |request: Request<Incoming>| {
            let multiplexed = request.version() == Version::HTTP_2;
            let has_body = !multiplexed && !request.body().is_end_stream();
            let expects = has_body && request.headers().contains_key(EXPECT);
            let in_flight = InFlight::begin(Arc::clone(&on_request), multiplexed);
            let request_kind = RequestKind {
                head: request.method() == Method::HEAD,
                safe: request.method().is_safe() && !is_probe(&request),
            };
            // Boxed: hyper reserves space for a service future on every idle connection, and for two on every stream.
            let answering = match begin(&on_request, &request, admitted) {
                Ok(share) => {
                    let request = request.map(|body| Inbound::new(body, Arc::clone(&share)));
                    Ok((Box::pin(service.call(request)), share))
                }
                Err((problem, share)) => {
                    let cut = share.is_none();
                    let mut reply = refusal(problem, request_kind, share);
                    refusal_headers.write(&request.into_parts().0, reply.headers_mut());
                    Err((Box::new(reply), cut))
                }
            };
            async move {
                let mut ends = admitted == Admission::Probes;
                let mut reply = match answering {
                    Ok((reply, share)) => {
                        let reply = reply.await?;
                        if has_body || multiplexed {
                            let is_final = expects || reply.headers().contains_key(CONNECTION);
                            ends |= !drain_unread(reply.status(), is_final, &share).await;
                        }
                        outbound(reply, request_kind, share)
                    }
                    Err((reply, cut)) => {
                        if cut {
                            in_flight.0.cut();
                        }
                        *reply
                    }
                };
                if has_body && (ends || !reply.status().is_success()) {
                    in_flight.0.left_body_unread();
                }
                if (ends || in_flight.0.is_draining()) && !multiplexed {
                    reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(reply)
            }
        });
        drive(Session::new(&self.protocols, stream, watched, negotiated), watch, &self.limits).await;
        leftover.close().await;
    }

    /// The socket, with TLS if the listener uses it.
    async fn socket(&self, tcp: TcpStream, watch: &Arc<Watch>) -> Option<Socket> {
        let Some(tls) = &self.limits.tls else { return Some(Socket::Plain(tcp)) };
        // Boxed, so that open connections do not keep its space.
        let opened = bounded(Box::pin(self.handshakes.accept(tls, tcp, watch)), watch, &self.limits).await;
        if opened.is_none() && watch.handshake_since().is_some() && !watch.is_draining() {
            metrics::http_tls_handshake("timed_out");
        }
        opened.flatten()
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

/// Handles the part of the body that the service did not read. Returns `false` if the connection must close after the
/// reply. `is_final` says that it closes anyway: the reply announces it, or the client waits for 100 Continue before it
/// sends the body.
async fn drain_unread(status: StatusCode, is_final: bool, share: &Share) -> bool {
    let Some(unread) = share.take_unread() else { return true };
    // Boxed, since few requests need them.
    if share.is_multiplexed() {
        if !status.is_success() {
            Box::pin(drain(unread, share, &IN_HTTP2)).await;
        }
        return true;
    }
    !is_final && Box::pin(drain(unread, share, &IN_HTTP1)).await
}

fn is_probe<B>(request: &Request<B>) -> bool {
    request.method().is_safe() && PROBES.contains(&request.uri().path())
}

/// The memory share of a request; or the problem that refuses it, and the share of the refusal.
type BeginResult = Result<Arc<Share>, (Problem, Option<Arc<Share>>)>;

fn begin(watch: &Arc<Watch>, request: &Request<Incoming>, admitted: Admission) -> BeginResult {
    let is_probe = is_probe(request);
    let share = match Share::take(watch, head::size(request)) {
        Ok(share) => share,
        // A process without room for requests is still alive.
        Err(exhausted) => match Share::beyond(watch) {
            Some(share) if is_probe => share,
            share => {
                watch.memory().count_refusal(exhausted.reason());
                return Err((exhausted.problem(), share));
            }
        },
    };
    if let Err(problem) = head::check(request) {
        return Err((problem, Some(share)));
    }
    if admitted == Admission::Probes && !is_probe {
        watch.memory().count_refusal("connections");
        let detail = "There are too many connections; send again later.";
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).with_retry_after(1).closing();
        return Err((problem, Some(share)));
    }
    Ok(share)
}

/// A request in flight. Ends also when the client disconnects.
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
