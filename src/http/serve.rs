//! The accept loop and the drain.

use std::collections::HashMap;
use std::convert::Infallible;
use std::error::Error;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Request, Response, Version};
use hyper::body::{Body, Incoming};
use hyper::rt::Executor;
use hyper::service::{HttpService, Service, service_fn};
use hyper_util::rt::TokioTimer;
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::Limits;
use super::connection::{Protocol, Watch, drive};
use super::stream::{Leftover, WatchedStream};
use crate::supervisor::Tasks;

/// What the protocol library reads with at least.
const HEADER_BYTES_LEAST: usize = 8 * 1024;
/// The wait after an accept that failed for want of something, such as file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
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
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let tasks = Tasks::new(stop.clone());
    let server = Arc::new(Server {
        protocol: protocol(&limits, &tasks),
        slots: Arc::new(Semaphore::new(limits.connections_max.clamp(1, Semaphore::MAX_PERMITS))),
        open: Mutex::default(),
        limits,
    });
    let mut id = 0;
    loop {
        let slot = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            slot = Arc::clone(&server.slots).acquire_owned() => slot,
        };
        let tcp = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            tcp = accept(&listener) => tcp,
        };
        id += 1;
        let watch = server.enter(id);
        let (server, service) = (Arc::clone(&server), service.clone());
        tasks.spawn(async move {
            server.connection(tcp, service, &watch).await;
            server.leave(id);
            drop(slot);
        });
    }
    drop(listener);
    server.drain(&tasks).await
}

struct Server {
    protocol: auto::Builder<OnTasks>,
    limits: Limits,
    slots: Arc<Semaphore>,
    open: Mutex<HashMap<u64, Arc<Watch>>>,
}

impl Server {
    fn enter(&self, id: u64) -> Arc<Watch> {
        let watch = Arc::new(Watch::new());
        self.open().insert(id, Arc::clone(&watch));
        watch
    }

    fn leave(&self, id: u64) {
        self.open().remove(&id);
    }

    fn open(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Watch>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connection<S, B>(&self, tcp: TcpStream, service: S, watch: &Arc<Watch>)
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + 'static,
        S::Future: Send + 'static,
        B: Body + Send + 'static,
        B::Data: Send,
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
            let reply = service.call(request);
            async move {
                let reply = reply.await?;
                if has_body && !reply.status().is_success() {
                    in_flight.0.left_body_unread();
                }
                Ok::<_, Infallible>(reply)
            }
        });
        drive(self.protocol.serve_connection(stream, watched), watch, &self.limits).await;
        leftover.close().await;
    }

    async fn drain(&self, tasks: &Tasks) -> Drained {
        for watch in self.open().values() {
            watch.drain();
        }
        if tokio::time::timeout(self.limits.drain_timeout.left(), tasks.wait()).await.is_ok() {
            return Drained { cut: 0 };
        }
        let cut = {
            let open = self.open();
            for watch in open.values() {
                watch.cut();
            }
            open.len()
        };
        tracing::warn!(connections = cut, "cut connections that outlasted the drain");
        if tokio::time::timeout(CUT_GRACE, tasks.wait()).await.is_err() {
            tracing::warn!(tasks = tasks.len(), "requests outlast their cut connections");
        }
        Drained { cut }
    }
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
        .max_header_list_size(u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX));
    builder
}

/// Accepts the next connection, whatever happens to others.
async fn accept(listener: &TcpListener) -> TcpStream {
    let mut logged = false;
    loop {
        match listener.accept().await {
            Ok((tcp, _)) => return tcp,
            // The client gave up while it waited.
            Err(e)
                if matches!(e.kind(), std::io::ErrorKind::ConnectionAborted | std::io::ErrorKind::ConnectionReset) => {}
            Err(error) => {
                if !std::mem::replace(&mut logged, true) {
                    tracing::warn!(%error, "accept connection: trying on");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Runs the streams of HTTP/2 connections where the connections themselves run.
#[derive(Clone, Debug)]
struct OnTasks(Tasks);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for OnTasks {
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}
