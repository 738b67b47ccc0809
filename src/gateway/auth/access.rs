//! Authenticates requests by their API key.
//!
//! The decision needs only the headers and is made before the body is read.

use std::borrow::Cow;
use std::time::Instant;

use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderValue, StatusCode};

use super::caller::Caller;
use super::credentials::{self, CredentialsError};
use super::key_ring::{KeyLookupError, KeyRing};
use crate::gateway::intake::not_stored::RETRY_AFTER_SECONDS;
use crate::http::Problem;
use crate::metrics;
use crate::store::KeyHash;

/// Who may send events.
#[derive(Clone, Debug, Default)]
pub enum Access {
    /// Any client that reaches the port, for any app.
    #[default]
    Open,
    /// Clients with an API key, for the key's app.
    Keys(KeyRing),
}

const HOW: &str = "Send an API key in the header X-API-Key, as Authorization: Bearer, or as the user name of \
                   Authorization: Basic.";

impl Access {
    /// The caller of a request with these headers that began at `now`.
    pub(crate) fn admit(&self, headers: &HeaderMap, now: Instant) -> Result<Caller, Problem> {
        if let Self::Open = self {
            return Ok(Caller::Anyone);
        }
        match credentials::read(headers) {
            Ok(hash) => self.admit_key(&hash, now),
            Err(CredentialsError::Missing) => Err(unauthorized(HOW, "missing")),
            Err(CredentialsError::Invalid(why)) => Err(unauthorized(format!("{why} {HOW}"), "malformed")),
        }
    }

    /// Like [`Access::admit`], for requests that may carry the key elsewhere: `None` when the headers have no key.
    pub(crate) fn admit_if_named(&self, headers: &HeaderMap, now: Instant) -> Result<Option<Caller>, Problem> {
        match self {
            Self::Keys(_) if credentials::read(headers) == Err(CredentialsError::Missing) => Ok(None),
            _ => self.admit(headers, now).map(Some),
        }
    }

    /// The caller whose key has this hash, wherever in the request the key was found.
    pub(crate) fn admit_key(&self, hash: &KeyHash, now: Instant) -> Result<Caller, Problem> {
        let Self::Keys(ring) = self else { return Ok(Caller::Anyone) };
        ring.find(hash, now).map(Caller::Key).map_err(|error| match error {
            KeyLookupError::NoSuchKey => unauthorized("The API key is unknown or was revoked.", "unknown"),
            KeyLookupError::Expired => unauthorized("The API key has expired.", "expired"),
            KeyLookupError::NotLoaded => {
                let detail = "The API keys could not be read yet; send again later.";
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).with_retry_after(RETRY_AFTER_SECONDS)
            }
        })
    }
}

/// A 401 with the challenges that RFC 9110 and RFC 6750 require.
fn unauthorized(detail: impl Into<Cow<'static, str>>, reason: &'static str) -> Problem {
    metrics::gateway_unauthorized(reason);
    let bearer = match reason {
        "missing" => r#"Bearer realm="causality""#,
        _ => r#"Bearer realm="causality", error="invalid_token""#,
    };
    let basic = r#"Basic realm="causality", charset="UTF-8""#;
    Problem::new(StatusCode::UNAUTHORIZED, detail)
        .with_header(WWW_AUTHENTICATE, HeaderValue::from_static(bearer))
        .with_header(WWW_AUTHENTICATE, HeaderValue::from_static(basic))
}
