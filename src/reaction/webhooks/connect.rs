//! The HTTP client of webhooks, which connects only to permitted addresses.
//!
//! Invariants: every connection goes to an address that [`AllowedNetworks`] permits, checked after name resolution;
//! the connection is made to exactly that address, so a name that resolves differently a moment later changes nothing.
//! When a reused connection closes without a response, this says nothing about the endpoint: the request is sent again
//! immediately on a new connection.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Extensions, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::legacy::connect::{
    CaptureConnection, Connected, Connection, HttpConnector, capture_connection,
};
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tower_service::Service;

use super::address::AllowedNetworks;
use crate::base::supervisor::Tasks;

/// Timeout for establishing a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an idle connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Idle connections kept for one host.
const IDLE_PER_HOST_MAX: usize = 32;

/// Idle time after which TCP keepalive probes are sent.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// How long sent bytes may stay unacknowledged.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a response head, and of the HTTP/2 receive window.
const HEAD_BYTES_MAX: usize = 64 * 1024;

type Pool = Client<HttpsConnector<GuardedConnector>, Full<Bytes>>;

/// Sends requests over HTTP/1.1, and HTTP/2 where TLS agrees on it.
#[derive(Clone)]
pub(super) struct HttpClient {
    pooled: Pool,
    /// Opens a new connection for every request.
    fresh: Pool,
}

/// Whether a connection has carried a response before.
#[derive(Clone, Default)]
struct HasResponded(Arc<AtomicBool>);

impl HttpClient {
    pub(super) fn new(allowed: AllowedNetworks, tls: ClientConfig, tasks: Tasks) -> Self {
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .wrap_connector(GuardedConnector::new(allowed));
        let build = |idle_max: usize| {
            Client::builder(TaskExecutor(tasks.clone()))
                .pool_idle_timeout(IDLE_TIMEOUT)
                .pool_max_idle_per_host(idle_max)
                .pool_timer(TokioTimer::new())
                .timer(TokioTimer::new())
                .http1_max_buf_size(HEAD_BYTES_MAX)
                .http2_max_header_list_size(HEAD_BYTES_MAX as u32)
                .http2_initial_stream_window_size(HEAD_BYTES_MAX as u32)
                .http2_initial_connection_window_size(4 * HEAD_BYTES_MAX as u32)
                .build(connector.clone())
        };
        Self { pooled: build(IDLE_PER_HOST_MAX), fresh: build(0) }
    }

    /// Sends one request. It is sent a second time when a reused connection closes without a response: the endpoint
    /// had closed it, or is going away, before the request arrived.
    pub(super) async fn exchange(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Error> {
        let again = request.clone();
        let connection = capture_connection(&mut request);
        match self.pooled.request(request).await {
            Ok(response) => {
                if let Some(HasResponded(responded)) = responded(&connection) {
                    responded.store(true, Ordering::Relaxed);
                }
                Ok(response)
            }
            Err(error) => {
                let reused =
                    responded(&connection).is_some_and(|HasResponded(responded)| responded.load(Ordering::Relaxed));
                if reused && !error.is_connect() { self.fresh.request(again).await } else { Err(error) }
            }
        }
    }
}

fn responded(connection: &CaptureConnection) -> Option<HasResponded> {
    let mut extras = Extensions::new();
    connection.connection_metadata().as_ref()?.get_extras(&mut extras);
    extras.remove()
}

/// Runs connections as supervised tasks.
#[derive(Clone)]
struct TaskExecutor(Tasks);

impl<F> hyper::rt::Executor<F> for TaskExecutor
where
    F: Future + Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(async move {
            task.await;
        });
    }
}

/// Connects over TCP to permitted addresses.
#[derive(Clone)]
pub(super) struct GuardedConnector {
    allowed: Arc<AllowedNetworks>,
    tcp: HttpConnector<PermittedResolver>,
}

/// Resolves names to permitted addresses.
#[derive(Clone)]
pub(super) struct PermittedResolver(Arc<AllowedNetworks>);

/// The host has no permitted address.
#[derive(Debug, thiserror::Error)]
#[error("the address is not public and in none of the allowed networks")]
pub(super) struct AddressRefused;

impl GuardedConnector {
    fn new(allowed: AllowedNetworks) -> Self {
        let allowed = Arc::new(allowed);
        let mut tcp = HttpConnector::new_with_resolver(PermittedResolver(Arc::clone(&allowed)));
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_keepalive_interval(Some(KEEPALIVE / 3));
        tcp.set_keepalive_retries(Some(3));
        #[cfg(target_os = "linux")]
        tcp.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT));
        Self { allowed, tcp }
    }
}

impl Service<Uri> for GuardedConnector {
    type Response = TrackedConnection;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        // A literal address bypasses the resolver.
        let host = uri.host().unwrap_or_default();
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        if literal.is_ok_and(|address| !self.allowed.permits(address)) {
            return Box::pin(std::future::ready(Err(AddressRefused.into())));
        }
        let connection = self.tcp.call(uri);
        Box::pin(async move {
            let tcp = connection.await?;
            Ok(TrackedConnection { tcp, responded: HasResponded::default() })
        })
    }
}

/// A connection that records whether it has carried a response.
pub(super) struct TrackedConnection {
    tcp: TokioIo<TcpStream>,
    responded: HasResponded,
}

impl Connection for TrackedConnection {
    fn connected(&self) -> Connected {
        self.tcp.connected().extra(self.responded.clone())
    }
}

impl Read for TrackedConnection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(context, into)
    }
}

impl Write for TrackedConnection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(context, parts)
    }
}

impl Service<Name> for PermittedResolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let allowed = Arc::clone(&self.0);
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let permitted: Vec<SocketAddr> = found.into_iter().filter(|found| allowed.permits(found.ip())).collect();
            if permitted.is_empty() {
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, AddressRefused));
            }
            Ok(permitted.into_iter())
        })
    }
}
