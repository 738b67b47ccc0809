//! The HTTP client of webhooks, which connects only where it may.
//!
//! Invariant: every connection goes to an address that [`AllowedNetworks`] permits, judged
//! after the name was resolved; the connection is made to that very address, so a name that
//! resolves differently a moment later changes nothing.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tower_service::Service;

use super::address::AllowedNetworks;
use crate::supervisor::Tasks;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an unused connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Unused connections kept for one host.
const IDLE_PER_HOST_MAX: usize = 32;

pub(super) type HttpClient = Client<HttpsConnector<Guarded>, Full<Bytes>>;

/// TLS by rustls with ring and the web's roots; HTTP/1.1, and HTTP/2 where TLS agrees on it.
pub(super) fn client(allowed: AllowedNetworks, tasks: Tasks) -> Result<HttpClient, rustls::Error> {
    let provider = rustls::crypto::ring::default_provider();
    let connector = HttpsConnectorBuilder::new()
        .with_provider_and_webpki_roots(provider)?
        .https_or_http()
        .enable_http1()
        .enable_http2()
        .wrap_connector(Guarded::new(allowed));
    Ok(Client::builder(Spawner(tasks))
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .build(connector))
}

/// Runs connections as tasks that the supervisor knows.
#[derive(Clone)]
struct Spawner(Tasks);

impl<F> hyper::rt::Executor<F> for Spawner
where
    F: Future + Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(async move {
            task.await;
        });
    }
}

/// Connects over TCP to addresses that are permitted.
#[derive(Clone)]
pub(super) struct Guarded {
    allowed: Arc<AllowedNetworks>,
    tcp: HttpConnector<Resolver>,
}

/// Resolves names to addresses that are permitted.
#[derive(Clone)]
pub(super) struct Resolver(Arc<AllowedNetworks>);

/// The host has no address that a webhook may reach.
#[derive(Debug)]
pub(super) struct AddressRefused;

impl fmt::Display for AddressRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the address is not public and in none of the allowed networks")
    }
}

impl std::error::Error for AddressRefused {}

impl Guarded {
    fn new(allowed: AllowedNetworks) -> Self {
        let allowed = Arc::new(allowed);
        let mut tcp = HttpConnector::new_with_resolver(Resolver(Arc::clone(&allowed)));
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        Self { allowed, tcp }
    }
}

impl Service<Uri> for Guarded {
    type Response = TokioIo<TcpStream>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        // A literal address never reaches the resolver.
        let host = uri.host().unwrap_or_default();
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        if literal.is_ok_and(|address| !self.allowed.permits(address)) {
            return Box::pin(std::future::ready(Err(AddressRefused.into())));
        }
        let connection = self.tcp.call(uri);
        Box::pin(async move { connection.await.map_err(Into::into) })
    }
}

impl Service<Name> for Resolver {
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
