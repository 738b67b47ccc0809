//! The router as a service of the listener: it learns where each request comes from.

use std::convert::Infallible;
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::future::RouteFuture;
use tower_service::Service;

use super::access::Peer;
use crate::http::Inbound;

/// Puts the address of the peer where the router finds it.
#[derive(Clone)]
pub struct AdminService(Router);

impl AdminService {
    pub fn new(router: Router) -> Self {
        Self(router)
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
        let peer = Peer(request.body().peer());
        request.extensions_mut().insert(peer);
        self.0.call(request)
    }
}
