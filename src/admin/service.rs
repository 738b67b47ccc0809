//! The router as a service of the listener: it learns where each request comes from.

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::future::RouteFuture;
use tower_service::Service;

use super::access::Peer;
use super::document::BodyTimeout;
use crate::http::{Inbound, TrustedProxies};

/// Puts the address of the client, and how long its body may take, where the router finds them.
#[derive(Clone)]
pub struct AdminService {
    router: Router,
    proxies: TrustedProxies,
    body_timeout: Duration,
}

impl AdminService {
    /// `body_timeout` is from the headers of a request to the last byte of its body.
    pub fn new(router: Router, proxies: TrustedProxies, body_timeout: Duration) -> Self {
        Self { router, proxies, body_timeout }
    }
}

impl Service<Request<Inbound>> for AdminService {
    type Response = Response;
    type Error = Infallible;
    type Future = RouteFuture<Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Inbound>) -> Self::Future {
        let client = self.proxies.client(request.body().peer(), request.headers());
        request.extensions_mut().insert(Peer(client));
        request.extensions_mut().insert(BodyTimeout(self.body_timeout));
        self.router.call(request)
    }
}
