//! The router as a service of the listener. It adds the client's address and the request ids.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use tower_service::Service;
use tracing::Instrument as _;

use super::access::Peer;
use super::input::body::BodyTimeout;
use crate::http::{Inbound, RequestIds, TrustedProxies};

/// Puts the client's address, the request ids and the body timeout into the request's extensions.
#[derive(Clone)]
pub struct AdminService {
    router: Router,
    proxies: TrustedProxies,
    body_timeout: Duration,
}

impl AdminService {
    /// `body_timeout` runs from the headers of a request to the last byte of its body.
    pub fn new(router: Router, proxies: TrustedProxies, body_timeout: Duration) -> Self {
        Self { router, proxies, body_timeout }
    }
}

impl Service<Request<Inbound>> for AdminService {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Inbound>) -> Self::Future {
        let (peer, headers) = (request.body().peer(), request.headers());
        let is_forwarded = self.proxies.is_forwarded(peer, headers);
        let peer = Peer { address: self.proxies.client(peer, headers), is_forwarded };
        let ids = RequestIds::of(headers);
        // At this level, every log line of the request carries the ids.
        let (request_id, correlation_id) = (ids.request(), ids.correlation());
        let span = tracing::error_span!("admin", request_id, correlation_id);
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let extensions = request.extensions_mut();
        extensions.insert(peer);
        extensions.insert(ids.clone());
        extensions.insert(BodyTimeout(self.body_timeout));
        let answered = self.router.call(request);
        let answered = async move {
            let mut reply = answered.await?;
            tracing::debug!(%method, path, status = reply.status().as_u16(), "answered");
            ids.write(reply.headers_mut());
            Ok(reply)
        };
        Box::pin(answered.instrument(span))
    }
}
