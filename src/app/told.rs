//! What the log says of a start: who may send events, and what is weaker than it could be.

use tracing::{info, warn};

use super::engines::{Choice, Engines};
use super::{Addresses, Plan, WEAK, weakness};
use crate::config::Config;

/// Says who may send events.
pub(super) fn tell_access(choice: &Choice, addresses: &Addresses, config: &Config) {
    let Some(http) = addresses.http else { return };
    let (exposure, rate_limits) = (config.exposure(), config.is_rate_limited());
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

pub(super) fn warn_of_weaknesses(plan: &Plan, engines: &Engines, addresses: &Addresses) {
    let config = &plan.loaded.config;
    if !config.admin_addr.is_loopback() && config.admin_token.is_none() {
        warn!(
            admin = %addresses.admin,
            "the admin API asks for tokens beyond loopback, and ADMIN_TOKEN is not set: only tokens that were made \
             before give access"
        );
    }
    if let Some(weakness) = weakness(plan, engines) {
        warn!(weakness, "{WEAK}");
    }
}
