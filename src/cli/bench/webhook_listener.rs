//! The receiver of webhooks: accepts the product's calls and records when each event came back.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::round_trips::RoundTrips;
use super::run_ids::RunTag;
use crate::base::supervisor::Tasks;
use crate::cli::client::{AdminArgs, AdminClient, percent_encoded};
use crate::cli::failure::Failure;
use crate::cli::output::note;

const BODY_BYTES_MAX: usize = 1 << 20;
/// Pause after a failed accept, such as when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const CONNECTIONS_MAX: usize = 256;

/// A webhook receiver and the tasks that serve it.
pub(super) struct Listener {
    pub(super) url: String,
    tasks: Tasks,
}

impl Listener {
    pub(super) async fn start(address: SocketAddr, run: RunTag, round_trips: Arc<RoundTrips>) -> Result<Self, Failure> {
        let cannot = |error| Failure::failed(format!("cannot listen for webhooks on {address}: {error}"));
        let listener = TcpListener::bind(address).await.map_err(cannot)?;
        let url = format!("http://{}/{}", listener.local_addr().map_err(cannot)?, run.name());
        let tasks = Tasks::new(CancellationToken::new());
        let accepting = tasks.clone();
        tasks.spawn(async move {
            let stop = accepting.stop().clone();
            stop.run_until_cancelled(accept(listener, run, round_trips, &accepting)).await;
        });
        Ok(Self { url, tasks })
    }

    pub(super) async fn stop(self) {
        self.tasks.stop().cancel();
        self.tasks.wait().await;
    }
}

async fn accept(listener: TcpListener, run: RunTag, round_trips: Arc<RoundTrips>, tasks: &Tasks) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) if tasks.len() <= CONNECTIONS_MAX => stream,
            Ok(_) => continue,
            Err(_) => {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Otherwise a small response may wait for the peer's acknowledgement.
        let _ = stream.set_nodelay(true);
        let round_trips = round_trips.clone();
        let stop = tasks.stop().clone();
        tasks.spawn(async move {
            let service = service_fn(move |request| receive(request, run, round_trips.clone()));
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            // The sender notices a broken connection and retries.
            let _ = stop.run_until_cancelled(connection).await;
        });
    }
}

async fn receive(
    request: Request<Incoming>,
    run: RunTag,
    round_trips: Arc<RoundTrips>,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let mut response = Response::new(Empty::new());
    match Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await {
        Ok(body) => {
            if let Some(number) = event_id(&body.to_bytes()).and_then(|id| run.number(id)) {
                round_trips.received(number, Instant::now());
            }
        }
        Err(_) => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    Ok(response)
}

/// The value of `"event_id"`, without parsing the rest of the document.
fn event_id(body: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(body).ok()?;
    let after = text.split_once("\"event_id\"")?.1.trim_start().strip_prefix(':')?.trim_start();
    after.strip_prefix('"')?.split_once('"').map(|(id, _)| id)
}

/// A webhook and a rule that matches every event, created for one run.
pub(super) struct Registration {
    client: AdminClient,
    name: String,
}

impl Registration {
    pub(super) async fn create(admin: &AdminArgs, run: RunTag, url: &str) -> Result<Self, Failure> {
        let registration = Self { client: AdminClient::new(admin)?, name: run.name() };
        let name = &registration.name;
        let place = |failure: Failure| failure.within("cannot register the webhook of this run");
        let webhook = json!({"name": name, "url": url, "auth_type": "none"});
        registration.client.post("webhooks", Some(&webhook)).await.map_err(place)?;
        let rule = json!({"name": name, "description": "causality bench", "actions": {"webhooks": [name]}});
        if let Err(failure) = registration.client.post("rules", Some(&rule)).await {
            registration.remove().await;
            return Err(place(failure));
        }
        Ok(registration)
    }

    /// Names whatever cannot be removed, for the operator to remove.
    pub(super) async fn remove(self) {
        for collection in ["rules", "webhooks"] {
            let path = format!("{collection}/{}", percent_encoded(&self.name));
            let gone = match self.client.find(&path).await {
                Ok(Some(_)) => self.client.delete(&path).await.map(drop),
                Ok(None) => Ok(()),
                Err(failure) => Err(failure),
            };
            if let Err(failure) = gone {
                note(&format!("{:?} is left in {collection}: {failure}", self.name));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_id_is_found_in_a_webhook_body() {
        let body = r#"{"rule_id":"r","event_id": "0190a2b4","event":{"id":"0190a2b4"}}"#;
        assert_eq!(event_id(body.as_bytes()), Some("0190a2b4"));
        for other in ["", "{}", r#"{"event_id":7}"#, r#"{"event_id":"open"#] {
            assert_eq!(event_id(other.as_bytes()), None);
        }
    }
}
