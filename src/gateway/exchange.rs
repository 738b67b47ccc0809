//! The context of one request apart from its body: the caller, and what the reply and the log report.

use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};

use super::auth::caller::Caller;
use super::cors::pages::Page;
use super::quarantine::pending::PendingInputs;
use super::rate_limit::limits::{RateLimitKey, RateLimitStatus};
use crate::http::RequestIds;

#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) ids: RequestIds,
    pub(super) page: Page,
    pub(super) method: Method,
    /// `Anyone` until a key is found.
    pub(super) caller: Caller,
    /// The key for rate limiting, once known and if there are limits.
    pub(super) rate_limit_key: Option<RateLimitKey>,
    pub(super) rate_limit_status: RateLimitStatus,
    /// Refused input to be quarantined.
    pub(super) pending_inputs: Option<Box<PendingInputs>>,
}

impl Exchange {
    pub(super) fn begin(head: &Parts, page: Page) -> Self {
        Self {
            ids: RequestIds::of(&head.headers),
            page,
            method: head.method.clone(),
            caller: Caller::Anyone,
            rate_limit_key: None,
            rate_limit_status: RateLimitStatus::default(),
            pending_inputs: None,
        }
    }

    /// Ends the exchange: logs it, and adds the headers that every reply carries.
    pub(super) fn end(self, route: &'static str, status: StatusCode, headers: &mut HeaderMap) {
        tracing::debug!(
            request_id = self.ids.request(),
            correlation_id = self.ids.correlation(),
            method = %self.method,
            route,
            status = status.as_u16(),
            "answered"
        );
        self.rate_limit_status.write(headers);
        self.ids.write(headers);
    }
}
