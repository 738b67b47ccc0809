//! One request beside its body: who sent it, and what its reply and its log lines tell of it.

use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};

use super::auth::caller::Caller;
use super::cors::pages::Page;
use super::quarantine::pending::Waiting;
use super::rate_limit::limits::{Counted, Standing};
use crate::http::RequestIds;

#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) ids: RequestIds,
    pub(super) page: Page,
    pub(super) method: Method,
    /// Who sends it: anyone until a key is found.
    pub(super) caller: Caller,
    /// Who is counted, once it is known and where there are limits.
    pub(super) counted: Option<Counted>,
    pub(super) standing: Standing,
    /// What was refused and is to be kept.
    pub(super) waiting: Option<Box<Waiting>>,
}

impl Exchange {
    pub(super) fn begin(head: &Parts, page: Page) -> Self {
        Self {
            ids: RequestIds::of(&head.headers),
            page,
            method: head.method.clone(),
            caller: Caller::Anyone,
            counted: None,
            standing: Standing::default(),
            waiting: None,
        }
    }

    /// The last that is done about a request: its reply gets the headers that every reply has.
    pub(super) fn end(self, route: &'static str, status: StatusCode, headers: &mut HeaderMap) {
        tracing::debug!(
            request_id = self.ids.request(),
            correlation_id = self.ids.correlation(),
            method = %self.method,
            route,
            status = status.as_u16(),
            "answered"
        );
        self.standing.write(headers);
        self.ids.write(headers);
    }
}
