//! Signs webhook requests.
//!
//! `hmac`: base64 of HMAC-SHA256 (RFC 2104) over the body, keyed with the secret's bytes as they are. `standard`:
//! [Standard Webhooks](https://www.standardwebhooks.com), `v1,` and the base64 of HMAC-SHA256 over
//! `id.timestamp.body`, keyed with the decoded secret. While secrets rotate, the request carries two signatures, so
//! that receivers accept it with either secret.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use ring::hmac;

use crate::store::Auth;

/// The prefix of a Standard Webhooks secret.
const STANDARD_PREFIX: &str = "whsec_";
/// Bytes of a decoded Standard Webhooks secret, from the specification.
const STANDARD_KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Keys and header values, prepared once per webhook. Deliberately without `Debug`.
pub(super) enum Signer {
    None,
    Header(HeaderName, HeaderValue),
    Hmac(HeaderName, hmac::Key),
    Standard(Vec<hmac::Key>),
}

impl Signer {
    /// The error is a clause that never contains the secret.
    pub(super) fn new(auth: &Auth) -> Result<Self, &'static str> {
        match auth {
            Auth::None => Ok(Self::None),
            Auth::Basic { username, password } => {
                secret_header(&format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
            }
            Auth::Bearer { token } => secret_header(&format!("Bearer {token}")),
            Auth::Hmac { secret, header } => {
                let name = HeaderName::try_from(header.as_str()).map_err(|_| "the header's name is not valid")?;
                Ok(Self::Hmac(name, hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes())))
            }
            Auth::Standard { secret, previous_secret } => {
                let keys = [Some(secret), previous_secret.as_ref()].into_iter().flatten();
                keys.map(|secret| standard_key(secret)).collect::<Result<_, _>>().map(Self::Standard)
            }
        }
    }

    /// Adds the authentication headers for this body.
    pub(super) fn sign(&self, headers: &mut HeaderMap, id: &str, timestamp_seconds: i64, body: &[u8]) {
        match self {
            Self::None => {}
            Self::Header(name, value) => {
                headers.insert(name, value.clone());
            }
            Self::Hmac(name, key) => {
                let signature = format!("sha256={}", STANDARD.encode(hmac::sign(key, body)));
                insert(headers, name.clone(), &signature);
            }
            Self::Standard(keys) => {
                let signatures: Vec<String> =
                    keys.iter().map(|key| standard(key, id, timestamp_seconds, body)).collect();
                insert(headers, HeaderName::from_static("webhook-timestamp"), &timestamp_seconds.to_string());
                insert(headers, HeaderName::from_static("webhook-signature"), &signatures.join(" "));
            }
        }
    }
}

/// The key of a `whsec_...` secret.
pub(super) fn standard_key(secret: &str) -> Result<hmac::Key, &'static str> {
    let encoded = secret.strip_prefix(STANDARD_PREFIX).ok_or("must begin with whsec_")?;
    let key = STANDARD.decode(encoded).map_err(|_| "must be base64 after whsec_")?;
    if !STANDARD_KEY_BYTES.contains(&key.len()) {
        return Err("must hold from 24 to 64 bytes as base64");
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &key))
}

fn secret_header(value: &str) -> Result<Signer, &'static str> {
    let mut value = HeaderValue::from_str(value).map_err(|_| "holds characters that a header cannot carry")?;
    value.set_sensitive(true);
    Ok(Signer::Header(AUTHORIZATION, value))
}

fn standard(key: &hmac::Key, id: &str, timestamp_seconds: i64, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(key);
    context.update(format!("{id}.{timestamp_seconds}.").as_bytes());
    context.update(body);
    format!("v1,{}", STANDARD.encode(context.sign()))
}

/// Base64, digits and the punctuation around them are always a valid header value.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(auth: Auth, id: &str, timestamp: i64, body: &[u8]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        Signer::new(&auth).map_err(str::to_owned).unwrap().sign(&mut headers, id, timestamp, body);
        headers
    }

    /// RFC 4231, test case 1 (its digest as base64), and a body signed by Python's `hmac`.
    #[test]
    fn hmac_agrees_with_independent_code() {
        let auth = |secret: &str, header: &str| Auth::Hmac { secret: secret.into(), header: header.into() };
        let key = "\u{b}".repeat(20);
        let headers = signed(auth(&key, "X-Signature"), "i", 0, b"Hi There");
        assert_eq!(headers["x-signature"], "sha256=sDRMYdjbOFNcqK/OrwvxK4gdwgDJgz2nJuk3bC4yz/c=");
        let headers = signed(auth("s3cret", "X-Hub"), "i", 0, br#"{"event_id":"0190","total":12500}"#);
        assert_eq!(headers["x-hub"], "sha256=0oJynSkadFJfbHjULJtFGrHxlXxGYpfGdDF8kxsxJjg=");
    }

    /// The example of the Standard Webhooks specification, and Python's `hmac` for the second key.
    #[test]
    fn standard_agrees_with_the_specification() {
        let auth = Auth::Standard {
            secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into(),
            previous_secret: Some("whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".into()),
        };
        let headers = signed(auth, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(headers["webhook-timestamp"], "1614265330");
        assert_eq!(
            headers["webhook-signature"],
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE= v1,O4Gjv1HqPqsMrjmczoggs/sWA8gZD0VyHG+fLh4+ktI="
        );
    }

    #[test]
    fn basic_and_bearer_are_plain_headers() {
        // The example of RFC 7617.
        let basic = Auth::Basic { username: "Aladdin".into(), password: "open sesame".into() };
        assert_eq!(signed(basic, "i", 0, b"")["authorization"], "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        let headers = signed(Auth::Bearer { token: "t0ken".into() }, "i", 0, b"");
        assert_eq!(headers["authorization"], "Bearer t0ken");
        assert!(headers["authorization"].is_sensitive());
        assert!(signed(Auth::None, "i", 0, b"").is_empty());
    }

    #[test]
    fn wrong_secrets_are_refused_without_being_repeated() {
        for secret in ["MfKQ", "whsec_", "whsec_####", "whsec_c2hvcnQ="] {
            assert!(standard_key(secret).is_err(), "{secret}");
        }
        assert!(Signer::new(&Auth::Bearer { token: "a\nb".into() }).is_err());
        assert!(Signer::new(&Auth::Hmac { secret: "s".into(), header: "a b".into() }).is_err());
    }
}
