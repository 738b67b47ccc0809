//! Reads the API key of a request from its headers.
//!
//! Invariant: a request with conflicting credentials is refused, even if one of them is valid.

use std::borrow::Cow;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};

use crate::http::header_values;
use crate::store::{KeyHash, key_hash};

pub(crate) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// User name and password of HTTP Basic authentication, decoded.
const BASIC_BYTES_MAX: usize = 512;
/// Some clients omit the padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why no key could be read from a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CredentialsError {
    Missing,
    Invalid(Cow<'static, str>),
}

const EMPTY: &str = "X-API-Key is empty.";
const NO_TOKEN: &str = "Authorization: Bearer has no API key after it.";
const NOT_BASIC: &str = "Authorization: Basic must be the base64 of an API key, which is the user name; a colon and a \
                         password may follow.";
const SCHEME: &str = "Authorization must be Bearer or Basic.";

/// The hash of the request's API key.
pub(crate) fn read(headers: &HeaderMap) -> Result<KeyHash, CredentialsError> {
    let mut found: Option<KeyHash> = None;
    let mut differ = false;
    let mut add = |key: &[u8]| {
        let hash = key_hash(key);
        differ |= found.is_some_and(|before| before != hash);
        found = Some(hash);
    };
    for value in header_values(headers, X_API_KEY) {
        match value.as_bytes().trim_ascii() {
            [] => return Err(CredentialsError::Invalid(EMPTY.into())),
            key => add(key),
        }
    }
    let own = headers.contains_key(X_API_KEY);
    for value in header_values(headers, AUTHORIZATION) {
        match authorization(value.as_bytes(), &mut add) {
            // Meant for a proxy on the way, since the key is in the other header.
            Err(SCHEME) if own => {}
            Err(why) => return Err(CredentialsError::Invalid(why.into())),
            Ok(()) => {}
        }
    }
    match found {
        Some(_) if differ => Err(CredentialsError::Invalid(differing(headers).into())),
        Some(hash) => Ok(hash),
        None => Err(CredentialsError::Missing),
    }
}

/// The key in plain text, for gateways where it names an app and is not a secret.
pub(crate) fn named(headers: &HeaderMap) -> Option<String> {
    let mut named = None;
    let mut add = |key: &[u8]| named = std::str::from_utf8(key).ok().map(str::to_owned);
    match headers.get(X_API_KEY) {
        Some(key) => add(key.as_bytes().trim_ascii()),
        None => authorization(headers.get(AUTHORIZATION)?.as_bytes(), &mut add).ok()?,
    }
    named
}

/// Passes the key of one `Authorization` header to `add`.
fn authorization(value: &[u8], add: &mut impl FnMut(&[u8])) -> Result<(), &'static str> {
    let value = value.trim_ascii();
    let end = value.iter().position(|byte| *byte == b' ').unwrap_or(value.len());
    let (scheme, rest) = value.split_at(end);
    let rest = rest.trim_ascii();
    if scheme.eq_ignore_ascii_case(b"bearer") {
        if rest.is_empty() {
            return Err(NO_TOKEN);
        }
        add(rest);
        return Ok(());
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return Err(SCHEME);
    }
    let mut text = [0; BASIC_BYTES_MAX];
    let length = BASE64.decode_slice(rest, &mut text).map_err(|_| NOT_BASIC)?;
    // The key is the user name; the password is ignored.
    match text[..length].split(|byte| *byte == b':').next() {
        None | Some([]) => Err(NOT_BASIC),
        Some(key) => {
            add(key);
            Ok(())
        }
    }
}

fn differing(headers: &HeaderMap) -> &'static str {
    match (headers.contains_key(X_API_KEY), headers.contains_key(AUTHORIZATION)) {
        (true, true) => "X-API-Key and Authorization do not hold the same API key; send one.",
        (true, false) => "There is more than one X-API-Key header, and they differ; send one.",
        (false, _) => "There is more than one Authorization header, and they differ; send one.",
    }
}
