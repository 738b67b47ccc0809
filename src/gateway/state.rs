//! The state that all requests to the gateway share.

use std::sync::OnceLock;
use std::time::Duration;

use super::auth::access::Access;
use super::bus_health::BusHealth;
use super::cors::pages::CorsPolicy;
use super::intake::refusals::Refusals;
use super::openapi::options::DocumentOptions;
use super::quarantine::pending::Quarantine;
use super::rate_limit::limits::RateLimits;
use super::route::RouteMetrics;
use super::settings::{Destination, Settings};
use crate::http::{Readiness, TrustedProxies};
use crate::openapi::ServedDocument;

pub(super) struct Gateway {
    pub(super) body_bytes_max: usize,
    pub(super) body_timeout: Duration,
    pub(super) batch_events_max: usize,
    pub(super) event_bytes_max: usize,
    /// Clients connect over TLS.
    pub(super) tls: bool,
    pub(super) access: Access,
    pub(super) cors_policy: CorsPolicy,
    pub(super) rate_limits: Option<RateLimits>,
    pub(super) trusted_proxies: TrustedProxies,
    pub(super) ready_details: bool,
    pub(super) destination: Destination,
    pub(super) readiness: Readiness,
    pub(super) bus_health: BusHealth,
    pub(super) quarantine: Option<Quarantine>,
    pub(super) events: crate::metrics::GatewayEvents,
    pub(super) refusals: Refusals,
    pub(super) routes: RouteMetrics,
    /// The settings shown in the OpenAPI document, and the document once it has been requested.
    pub(super) document_options: DocumentOptions,
    pub(super) document: OnceLock<ServedDocument>,
}

impl Gateway {
    pub(super) fn new(settings: Settings, destination: Destination, readiness: Readiness) -> Self {
        let document_options = DocumentOptions::of(&settings);
        Self {
            body_bytes_max: settings.body_bytes_max,
            body_timeout: settings.body_timeout,
            batch_events_max: settings.batch_events_max,
            event_bytes_max: settings.event_bytes_max,
            tls: settings.http.tls.is_some(),
            access: settings.access,
            cors_policy: CorsPolicy::new(settings.cors.as_ref(), settings.loopback),
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
            document_options,
            document: OnceLock::new(),
        }
    }
}
