//! Admits requests: counts each of them, and its events, against the limits of its caller.

use std::net::IpAddr;

use http::{HeaderMap, StatusCode};

use super::auth::caller::Caller;
use super::exchange::Exchange;
use super::rate_limit::limits::Counted;
use super::state::Gateway;
use crate::http::Problem;

impl Gateway {
    /// Counts a request of a caller that was admitted, or one that was not.
    pub(super) fn enter(
        &self,
        admitted: Result<Caller, Problem>,
        peer: IpAddr,
        headers: &HeaderMap,
        exchange: &mut Exchange,
    ) -> Result<(), Problem> {
        let refused = match admitted {
            Ok(caller) => return self.count(caller, peer, headers, exchange),
            Err(refused) => refused,
        };
        if let Some(limits) = &self.rate_limits
            && refused.status() == StatusCode::UNAUTHORIZED
        {
            limits.admit_stranger(self.trusted_proxies.client(peer, headers), &mut exchange.standing)?;
        }
        Err(refused)
    }

    /// Counts a request among those of its caller, who is known from here on.
    pub(super) fn count(
        &self,
        caller: Caller,
        peer: IpAddr,
        headers: &HeaderMap,
        exchange: &mut Exchange,
    ) -> Result<(), Problem> {
        exchange.caller = caller;
        let Some(limits) = &self.rate_limits else { return Ok(()) };
        let counted = exchange.counted.insert(match exchange.caller.key() {
            Some(key) => Counted::Key { id: key.id, own: key.limits },
            None => Counted::Address(self.trusted_proxies.client(peer, headers)),
        });
        limits.admit(counted, &mut exchange.standing)
    }

    /// Counts the events of a request whose body was read.
    pub(super) fn count_events(&self, events: usize, exchange: &mut Exchange) -> Result<(), Problem> {
        match (&self.rate_limits, &exchange.counted) {
            (Some(limits), Some(counted)) => limits.charge(counted, events, &mut exchange.standing),
            _ => Ok(()),
        }
    }
}
