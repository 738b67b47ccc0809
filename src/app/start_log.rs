//! What the log says at the start: who may send events, and which guarantees are weaker than they could be.

use tracing::{info, warn};

use super::choice::Choice;
use super::plan::Addresses;
use crate::config::Config;

/// What a weakness of the bus means.
pub(super) const WEAK: &str = "a 2xx is weaker than an event on disk (nats_stream_replicas, nats_stream_storage)";

/// Logs who may send events.
pub(super) fn access(choice: &Choice, addresses: &Addresses, config: &Config) {
    let Some(http) = addresses.http else { return };
    let (exposure, rate_limits) = (config.exposure, config.gateway.rate_limits.is_some());
    let from = exposure.text();
    if choice.keys {
        info!(%http, from, rate_limits, "events are taken with an API key (auth_enabled)");
    } else if exposure.is_public() {
        warn!(%http, from, rate_limits, "anyone can send events: no API key is asked for (auth_enabled)");
    } else {
        info!(
            %http,
            from,
            rate_limits,
            "events are taken without an API key (auth_enabled); behind a proxy set TRUSTED_PROXIES, or AUTH_ENABLED \
             and RATE_LIMIT_ENABLED"
        );
    }
}

/// Warns of an admin API that nobody can use, and of the bus's `weakness`.
pub(super) fn weaknesses(addresses: &Addresses, config: &Config, weakness: Option<&str>) {
    if !config.admin.addr.is_loopback() && config.admin.token.is_none() {
        warn!(
            admin = %addresses.admin,
            "the admin API asks for tokens beyond loopback, and ADMIN_TOKEN is not set: only tokens that were made \
             before give access"
        );
    }
    if let Some(weakness) = weakness {
        warn!(weakness, "{WEAK}");
    }
}
