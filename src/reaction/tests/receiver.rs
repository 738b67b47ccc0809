//! A real HTTP server that plays the endpoint of a webhook.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::base::supervisor::Tasks;

/// The longest wait of any test.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

/// One request as it arrived.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub(super) at: Instant,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Received {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// The response to the n-th request, from 0: status and one header.
pub(super) type Script = fn(usize) -> (u16, Option<(&'static str, &'static str)>);

#[derive(Clone)]
pub(super) struct Receiver {
    pub(super) address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Receiver {
    pub(super) async fn start(tasks: &Tasks, script: Script) -> Self {
        Self::start_slow(tasks, Duration::ZERO, script).await
    }

    /// A receiver that delays each response.
    pub(super) async fn start_slow(tasks: &Tasks, delay: Duration, script: Script) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let receiver = Self { address: listener.local_addr().unwrap(), received: Arc::default() };
        let (server, connections) = (receiver.clone(), tasks.clone());
        tasks.spawn(async move {
            while let Some(Ok((tcp, _))) = connections.stop().run_until_cancelled(listener.accept()).await {
                let (server, stop) = (server.clone(), connections.stop().clone());
                connections.spawn(async move {
                    let service = service_fn(|request| server.answer(request, delay, script));
                    let connection = hyper::server::conn::http1::Builder::new();
                    let serving = connection.serve_connection(TokioIo::new(tcp), service);
                    let _ = stop.run_until_cancelled(serving).await;
                });
            }
        });
        receiver
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        delay: Duration,
        script: Script,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let at = Instant::now();
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let path = head.uri.to_string();
        let position = {
            let mut received = self.received.lock().unwrap();
            received.push(Received { at, method: head.method, path, headers: head.headers, body });
            received.len() - 1
        };
        tokio::time::sleep(delay).await;
        let (status, header) = script(position);
        let mut response = Response::builder().status(status);
        if let Some((name, value)) = header {
            response = response.header(name, value);
        }
        // More than any client reads.
        Ok(response.body(Full::new(Bytes::from(vec![b'x'; 40_000]))).unwrap())
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    pub(super) fn all(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// Waits until `count` requests have arrived.
    pub(super) async fn wait_for(&self, count: usize) -> Vec<Received> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let received = self.all();
            if received.len() >= count {
                return received;
            }
            assert!(Instant::now() < deadline, "{} of {count} requests arrived", received.len());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}
