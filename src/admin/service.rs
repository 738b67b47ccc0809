//! The router as a service of the listener: it learns where each request comes from.

use std::convert::Infallible;
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::future::RouteFuture;
use tower_service::Service;

use super::access::Peer;
use crate::http::{Inbound, TrustedProxies};

/// Puts the address of the client where the router finds it.
#[derive(Clone)]
pub struct AdminService {
    router: Router,
    proxies: TrustedProxies,
}

impl AdminService {
    pub fn new(router: Router, proxies: TrustedProxies) -> Self {
        Self { router, proxies }
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
        self.router.call(request)
    }
}
