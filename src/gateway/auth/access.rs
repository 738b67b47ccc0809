//! Whether a request may enter: who calls, by the API key that it was sent with.
//!
//! Decided on the headers alone, before the body is read.

use std::borrow::Cow;
use std::time::Instant;

use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderValue, StatusCode};

use super::caller::Caller;
use super::credentials::{self, NoKey};
use super::key_ring::{KeyRing, Unknown};
use crate::http::Problem;
use crate::metrics;
use crate::store::KeyHash;

/// How long a client should wait while the keys could not be read.
const RETRY_AFTER_SECONDS: u32 = 2;

/// Who may send events.
#[derive(Clone, Debug, Default)]
pub enum Access {
    /// Everyone who reaches the port, for every app.
    #[default]
    Open,
    /// Whoever has a key, for the key's app.
    Keys(KeyRing),
}

const HOW: &str = "Send an API key in the header X-API-Key, as Authorization: Bearer, or as the user name of \
                   Authorization: Basic.";

impl Access {
    /// Who sends a request with these headers, which began at `now`.
    pub(crate) fn admit(&self, headers: &HeaderMap, now: Instant) -> Result<Caller, Problem> {
        if let Self::Open = self {
            return Ok(Caller::Anyone);
        }
        match credentials::read(headers) {
            Ok(hash) => self.admit_key(&hash, now),
            Err(NoKey::Missing) => Err(unauthorized(HOW, "missing")),
            Err(NoKey::Wrong(why)) => Err(unauthorized(format!("{why} {HOW}"), "malformed")),
        }
    }

    /// The same of a request that may have its key elsewhere: nothing when the headers hold none.
    pub(crate) fn admit_if_named(&self, headers: &HeaderMap, now: Instant) -> Result<Option<Caller>, Problem> {
        match self {
            Self::Keys(_) if credentials::read(headers) == Err(NoKey::Missing) => Ok(None),
            _ => self.admit(headers, now).map(Some),
        }
    }

    /// Who has the key with this hash, wherever in the request it was found.
    pub(crate) fn admit_key(&self, hash: &KeyHash, now: Instant) -> Result<Caller, Problem> {
        let Self::Keys(ring) = self else { return Ok(Caller::Anyone) };
        ring.find(hash, now).map(Caller::Key).map_err(|unknown| match unknown {
            Unknown::NoSuchKey => unauthorized("The API key is unknown or was revoked.", "unknown"),
            Unknown::Expired => unauthorized("The API key has expired.", "expired"),
            Unknown::NothingRead => {
                let detail = "The API keys could not be read yet; send again later.";
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).with_retry_after(RETRY_AFTER_SECONDS)
            }
        })
    }
}

/// 401 as RFC 9110 and RFC 6750 have it.
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
