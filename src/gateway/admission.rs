//! Admission: counts each request and its events against the rate limits of its caller.

use std::net::IpAddr;

use http::{HeaderMap, StatusCode};

use super::auth::caller::Caller;
use super::exchange::Exchange;
use super::rate_limit::limits::RateLimitKey;
use super::state::Gateway;
use crate::http::Problem;

impl Gateway {
    /// Counts a request, whether or not its caller was admitted.
    pub(super) fn admit_caller(
        &self,
        admitted: Result<Caller, Problem>,
        peer: IpAddr,
        headers: &HeaderMap,
        exchange: &mut Exchange,
    ) -> Result<(), Problem> {
        let refused = match admitted {
            Ok(caller) => return self.count_request(caller, peer, headers, exchange),
            Err(refused) => refused,
        };
        if let Some(limits) = &self.rate_limits
            && refused.status() == StatusCode::UNAUTHORIZED
        {
            limits
                .admit_unauthenticated(self.trusted_proxies.client(peer, headers), &mut exchange.rate_limit_status)?;
        }
        Err(refused)
    }

    /// Counts a request against the limits of its caller, and records the caller in the exchange.
    pub(super) fn count_request(
        &self,
        caller: Caller,
        peer: IpAddr,
        headers: &HeaderMap,
        exchange: &mut Exchange,
    ) -> Result<(), Problem> {
        exchange.caller = caller;
        let Some(limits) = &self.rate_limits else { return Ok(()) };
        let counted = exchange.rate_limit_key.insert(match exchange.caller.key() {
            Some(key) => RateLimitKey::Key { id: key.id, own: key.limits },
            None => RateLimitKey::Address(self.trusted_proxies.client(peer, headers)),
        });
        limits.admit(counted, &mut exchange.rate_limit_status)
    }

    /// Counts the events of a request once its body is read.
    pub(super) fn count_events(&self, events: usize, exchange: &mut Exchange) -> Result<(), Problem> {
        match (&self.rate_limits, &exchange.rate_limit_key) {
            (Some(limits), Some(counted)) => limits.charge(counted, events, &mut exchange.rate_limit_status),
            _ => Ok(()),
        }
    }
}
