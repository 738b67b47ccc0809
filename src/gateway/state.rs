//! What all requests to the gateway share.

use std::sync::OnceLock;
use std::time::Duration;

use super::auth::access::Access;
use super::bus_health::BusHealth;
use super::cors::pages::Pages;
use super::intake::refusals::Refusals;
use super::openapi::options::Shown;
use super::quarantine::pending::Quarantine;
use super::rate_limit::limits::RateLimits;
use super::route::RouteMetrics;
use super::settings::{Destination, Settings};
use crate::http::{Readiness, TrustedProxies};
use crate::openapi::Served;

pub(super) struct Gateway {
    pub(super) body_bytes_max: usize,
    pub(super) body_timeout: Duration,
    pub(super) batch_events_max: usize,
    pub(super) event_bytes_max: usize,
    /// Requests come encrypted.
    pub(super) tls: bool,
    pub(super) access: Access,
    pub(super) pages: Pages,
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
    /// What its OpenAPI document says of the settings, and the document once somebody has asked for it.
    pub(super) shown: Shown,
    pub(super) document: OnceLock<Served>,
}

impl Gateway {
    pub(super) fn new(settings: Settings, destination: Destination, readiness: Readiness) -> Self {
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
