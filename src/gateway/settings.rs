//! The settings of the gateway, and where its events go.

use std::time::Duration;

use super::auth::access::Access;
use super::cors::pages::CorsSettings;
use super::rate_limit::limits::RateLimitSettings;
use crate::bus::Bus;
use crate::event::EVENT_BYTES_MAX;
use crate::http::{self, TrustedProxies};

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
