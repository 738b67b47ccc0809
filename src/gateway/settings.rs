//! The settings of the gateway, and where its events go.

use std::time::Duration;

use super::auth::access::Access;
use super::cors::pages::CorsSettings;
use super::rate_limit::limits::RateLimitSettings;
use crate::bus::Bus;
use crate::event::EVENT_BYTES_MAX;
use crate::http::{self, TrustedProxies};

/// Settings and limits of the gateway.
#[derive(Clone, Debug)]
pub struct Settings {
    pub http: http::Limits,
    /// Limit on one request body.
    pub body_bytes_max: usize,
    /// From the headers to the end of the body.
    pub body_timeout: Duration,
    pub batch_events_max: usize,
    /// Limit on one event, encoded as protobuf.
    pub event_bytes_max: usize,
    /// The listener is bound to loopback: pages of other origins may not send events.
    pub loopback: bool,
    pub access: Access,
    /// Which web pages may send events. `None` turns CORS off.
    pub cors: Option<CorsSettings>,
    /// `None` means no limits.
    pub rate_limits: Option<RateLimitSettings>,
    pub trusted_proxies: TrustedProxies,
    /// Whether `/ready` gives details to every client.
    pub ready_details: bool,
    /// How many bytes of refused input are kept with the dead letters; `None` turns the quarantine off.
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
    /// Nowhere: events are read, parsed and validated but not stored. For measuring the cost of everything else.
    Discard,
}
