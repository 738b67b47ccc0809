//! The settings of the gateway, and where its events go.

use std::time::Duration;

use super::auth::access::Access;
use super::cors::settings::CorsSettings;
use super::rate_limit::limits::RateLimitSettings;
use crate::base::settings::{self, Reader, Size};
use crate::bus::{Bus, event_bytes_max};
use crate::http::{self, HttpSettings, TrustedProxies};

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

/// The upper limit of `max_batch_events`.
const BATCH_EVENTS_MAX: usize = 1_000;

impl Settings {
    /// `is_public`: whether requests can come from anyone but the users of this machine.
    pub fn read(from: &mut Reader<'_>, http: &HttpSettings, is_public: bool) -> Self {
        let quarantine: bool = from.get("quarantine");
        let quarantine_bytes_max = from.get::<Size>("quarantine_max_bytes").0;
        Self {
            http: http::Limits::default(),
            body_bytes_max: from.bytes("max_body_size"),
            body_timeout: http.read_timeout,
            batch_events_max: from.count_to("max_batch_events", BATCH_EVENTS_MAX),
            event_bytes_max: event_bytes_max(from),
            loopback: !is_public,
            access: Access::Open,
            cors: CorsSettings::read(from, is_public),
            rate_limits: RateLimitSettings::read(from, is_public),
            trusted_proxies: http.trusted_proxies.clone(),
            ready_details: !is_public,
            quarantine_bytes_max: quarantine.then_some(quarantine_bytes_max),
        }
    }
}

/// Without CORS and rate limits, on a port that others reach.
impl Default for Settings {
    fn default() -> Self {
        let defaults = settings::defaults(|from| {
            let http = HttpSettings::read(from);
            Self::read(from, &http, true)
        });
        Self { cors: None, rate_limits: None, ready_details: true, ..defaults }
    }
}

/// Where accepted events go.
#[derive(Clone)]
pub enum Destination {
    Bus(Bus),
    /// Nowhere: events are read, parsed and validated but not stored. For measuring the cost of everything else.
    Discard,
}
