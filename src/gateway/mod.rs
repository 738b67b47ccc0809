//! The door for events: reads requests, judges each event, publishes the good ones and
//! answers when they are durable.
//!
//! Invariants: a 2xx, or `accepted` for one event of a batch, is only ever said of an event
//! that the bus holds; what is refused leaves no trace. Knows nothing of what reads the bus.

mod access;
mod bus_health;
mod caller;
mod cloud_events;
mod cors;
mod credentials;
mod exchange;
mod form;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod idempotency_key;
mod ingest;
mod intake;
mod key_ring;
mod logs;
mod openapi;
mod origin;
mod quarantine;
mod rate_limit;
mod refusals;
mod reply;
mod route;
mod segment;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_bad_input;
#[cfg(test)]
mod tests_bodies;
#[cfg(test)]
mod tests_cloud_events;
#[cfg(test)]
mod tests_cors;
#[cfg(test)]
mod tests_idempotency;
#[cfg(test)]
mod tests_keys;
#[cfg(test)]
mod tests_limits;
#[cfg(test)]
mod tests_logs;
#[cfg(test)]
mod tests_quarantine;
#[cfg(test)]
mod tests_segment;

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper::service::service_fn;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::bus::Bus;
use crate::event::EVENT_BYTES_MAX;
use crate::http::{self, Drained, Readiness};
use crate::openapi::Served;
use bus_health::BusHealth;
use cors::Pages;
use quarantine::Quarantine;
use rate_limit::RateLimits;
use refusals::Refusals;
use route::RouteMetrics;

pub use crate::http::TrustedProxies;
pub use access::Access;
pub use cors::CorsSettings;
pub use key_ring::KeyRing;
pub use openapi::{Shown, document};
pub use rate_limit::{Quota, RateLimitSettings};

/// What requests may cost.
#[derive(Clone, Debug)]
pub struct Settings {
    pub http: http::Limits,
    /// One request's body.
    pub body_bytes_max: usize,
    /// From the headers to the end of the body.
    pub body_timeout: Duration,
    pub batch_events_max: usize,
    /// One event, encoded as protobuf.
    pub event_bytes_max: usize,
    /// The listener is bound to loopback: pages of other origins may not send events.
    pub loopback: bool,
    pub access: Access,
    /// Which web pages may send events; nothing: what CORS is about is not looked at.
    pub cors: Option<CorsSettings>,
    /// Nothing: no limits.
    pub rate_limits: Option<RateLimitSettings>,
    pub trusted_proxies: TrustedProxies,
    /// Whether `/ready` says why to everybody who asks.
    pub ready_details: bool,
    /// How much refused input is kept with the dead letters; nothing: none.
    pub quarantine_bytes_max: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            http: http::Limits::default(),
            body_bytes_max: 5 * 1024 * 1024,
            body_timeout: Duration::from_secs(30),
            batch_events_max: 1_000,
            event_bytes_max: EVENT_BYTES_MAX,
            loopback: false,
            access: Access::Open,
            cors: None,
            rate_limits: None,
            trusted_proxies: TrustedProxies::default(),
            ready_details: true,
            quarantine_bytes_max: None,
        }
    }
}

/// Where accepted events go.
#[derive(Clone)]
pub enum Destination {
    Bus(Bus),
    /// Nowhere: reading, parsing and judging are done, storing is not. To measure what the rest costs.
    Discard,
}

/// Serves the ingest routes until `stop`, then finishes the requests in flight. Reports the bus to
/// `readiness` as component `bus`.
pub async fn serve(
    listener: TcpListener,
    settings: Settings,
    destination: Destination,
    readiness: Readiness,
    stop: CancellationToken,
) -> Drained {
    let mut limits = settings.http.clone();
    let gateway = Arc::new(Gateway::new(settings, destination, readiness));
    let dressing = Arc::clone(&gateway);
    limits.dress = http::Dress::new(move |head, headers| dressing.dress_refusal(head, headers));
    let service = service_fn({
        let gateway = Arc::clone(&gateway);
        move |request| {
            let gateway = Arc::clone(&gateway);
            async move { Ok::<_, Infallible>(gateway.answer(request).await) }
        }
    });
    tokio::select! {
        drained = http::serve(listener, service, limits, stop) => drained,
        never = gateway.bus_health.watch_recovery(&gateway.destination) => match never {},
    }
}

struct Gateway {
    body_bytes_max: usize,
    body_timeout: Duration,
    batch_events_max: usize,
    event_bytes_max: usize,
    /// Requests come encrypted.
    tls: bool,
    access: Access,
    pages: Pages,
    rate_limits: Option<RateLimits>,
    trusted_proxies: TrustedProxies,
    ready_details: bool,
    destination: Destination,
    readiness: Readiness,
    bus_health: BusHealth,
    quarantine: Option<Quarantine>,
    events: crate::metrics::GatewayEvents,
    refusals: Refusals,
    routes: RouteMetrics,
    /// What its OpenAPI document says of the settings, and the document once somebody has asked for it.
    shown: Shown,
    document: OnceLock<Served>,
}

impl Gateway {
    fn new(settings: Settings, destination: Destination, readiness: Readiness) -> Self {
        let shown = Shown::of(&settings);
        Self {
            body_bytes_max: settings.body_bytes_max,
            body_timeout: settings.body_timeout,
            batch_events_max: settings.batch_events_max,
            event_bytes_max: settings.event_bytes_max,
            tls: settings.http.tls.is_some(),
            access: settings.access,
            pages: Pages::new(settings.cors.as_ref(), settings.loopback),
            rate_limits: settings.rate_limits.map(|limits| RateLimits::new(&limits, settings.batch_events_max)),
            trusted_proxies: settings.trusted_proxies,
            ready_details: settings.ready_details,
            destination,
            bus_health: BusHealth::new(readiness.clone()),
            readiness,
            quarantine: settings.quarantine_bytes_max.map(Quarantine::new),
            events: crate::metrics::GatewayEvents::lookup(),
            refusals: Refusals::lookup(),
            routes: RouteMetrics::lookup(),
            shown,
            document: OnceLock::new(),
        }
    }
}
