//! Query strings and path parameters, read strictly: a misspelled filter must not return everything.

use std::collections::BTreeMap;

use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::admin::problem::{bad_query, not_found};
use crate::base::time;
use crate::http::Problem;
use crate::store::PageRequest;

const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1_000;

/// A time as an age, a date or RFC 3339.
pub(in crate::admin) fn time_ms(text: &str) -> Option<i64> {
    time::parse(text, Timestamp::now()).map(Timestamp::as_millisecond)
}

pub(in crate::admin) fn invalid_time() -> String {
    format!("must be {}", time::FORMS)
}

/// The percent-decoded `{id}` of a path: an id or a name.
pub(in crate::admin) struct PathKey(pub(in crate::admin) String);

impl<S: Send + Sync> FromRequestParts<S> for PathKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, state).await;
        // A path that is not UTF-8 names nothing.
        path.map(|Path(key)| Self(key)).map_err(|_| not_found())
    }
}

/// Refuses all query parameters of a route that takes none: the caller meant something by them.
pub(in crate::admin) async fn no_query(params: Params, request: Request, next: Next) -> Response {
    match params.no_more() {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// The parameters of a request. Each is taken once; leftovers are refused.
pub(in crate::admin) struct Params(BTreeMap<String, String>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let unread = |_| Problem::new(StatusCode::BAD_REQUEST, "The query string cannot be read.");
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri).map_err(unread)?;
        let mut params = BTreeMap::new();
        for (name, value) in pairs {
            if params.insert(name.clone(), value).is_some() {
                return Err(bad_query(&name, "is given twice"));
            }
        }
        Ok(Self(params))
    }
}

impl Params {
    pub(in crate::admin) fn text(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// One of the words that `T` deserializes from.
    pub(in crate::admin) fn word<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let word = super::decode::decode(Value::String(text)).into_result();
        word.map(Some)
            .map_err(|errors| bad_query(name, errors.into_iter().map(|error| error.detail).collect::<String>()))
    }

    /// A time as people write it, or milliseconds since the Unix epoch.
    pub(in crate::admin) fn time_ms(&mut self, name: &str) -> Result<Option<i64>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let ms = text.parse::<i64>().ok().or_else(|| time_ms(&text));
        ms.map(Some).ok_or_else(|| bad_query(name, invalid_time()))
    }

    /// `true` or `false`; false when absent.
    pub(in crate::admin) fn flag(&mut self, name: &str) -> Result<bool, Problem> {
        match self.text(name).as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(bad_query(name, "must be true or false")),
        }
    }

    /// The page. All other parameters must have been taken before.
    pub(in crate::admin) fn page(mut self) -> Result<PageRequest, Problem> {
        let limit = match self.text("limit") {
            None => LIMIT_DEFAULT,
            Some(text) => match text.parse() {
                Ok(limit) if (1..=LIMIT_MAX).contains(&limit) => limit,
                _ => return Err(bad_query("limit", "must be an integer from 1 to 1000")),
            },
        };
        let cursor = self.text("cursor");
        self.no_more()?;
        Ok(PageRequest { limit, cursor })
    }

    /// Refuses parameters that were not taken.
    pub(in crate::admin) fn no_more(self) -> Result<(), Problem> {
        match self.0.into_keys().next() {
            Some(name) => Err(bad_query(&name, "is not a parameter of this request")),
            None => Ok(()),
        }
    }
}
