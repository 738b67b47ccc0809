//! Webhooks: validated when they are written, turned into requests when they are called.
//!
//! Invariant: a webhook that passes [`check_webhook`] yields a valid request. Its address is checked on connecting,
//! never here.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use http::uri::Scheme;
use http::{HeaderMap, Method, Request, Uri};
use http_body_util::Full;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use url::Url;
use uuid::Uuid;

use super::signing::{Signer, standard_key};
use crate::base::json_pointer::escaped;
use crate::event::FieldError;
use crate::reaction::name::check_name;
use crate::store::{Auth, NewWebhook, Webhook};

/// Bytes of a URL.
const URL_BYTES_MAX: usize = 2_048;
/// Custom headers of one webhook.
const HEADERS_MAX: usize = 32;
/// Bytes of one custom header's value, and of a secret.
const VALUE_BYTES_MAX: usize = 4_096;
/// Milliseconds of one attempt's timeout.
const TIMEOUT_MS: std::ops::RangeInclusive<u64> = 100..=120_000;
/// How a secret is shown, and what clients send back to keep it.
const KEPT_SECRET: &str = "***";

const AGENT: &str = concat!("causality/", env!("CARGO_PKG_VERSION"));
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");

/// Headers set by the connection, by the body or by us.
const RESERVED_HEADERS: [&str; 14] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A webhook, prepared for requests.
pub(super) struct Endpoint {
    pub(super) enabled: bool,
    pub(super) timeout: Duration,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    signer: Signer,
}

/// Validates a webhook. Returns every error; empty when the webhook can be stored.
pub fn check_webhook(webhook: &NewWebhook) -> Vec<FieldError> {
    let mut errors = Vec::from_iter(check_name(&webhook.name));
    if let Err(detail) = parse_url(&webhook.url) {
        errors.push(FieldError::new("/url", detail));
    }
    if parse_method(&webhook.method).is_none() {
        errors.push(FieldError::new("/method", "must be POST, PUT or PATCH"));
    }
    if !TIMEOUT_MS.contains(&webhook.timeout_ms) {
        let (min, max) = (TIMEOUT_MS.start(), TIMEOUT_MS.end());
        errors.push(FieldError::new("/timeout_ms", format!("must be from {min} to {max}")));
    }
    if webhook.headers.len() > HEADERS_MAX {
        errors.push(FieldError::new("/headers", format!("must have at most {HEADERS_MAX} members")));
    }
    for (name, value) in webhook.headers.iter().take(HEADERS_MAX) {
        let pointer = || format!("/headers/{}", escaped(name));
        if let Err(detail) = parse_header_name(name).and_then(|parsed| check_header(&parsed, value, webhook)) {
            errors.push(FieldError::new(pointer(), detail));
        }
        let twin = webhook.headers.keys().find(|other| *other < name && other.eq_ignore_ascii_case(name));
        if let Some(twin) = twin {
            errors.push(FieldError::new(pointer(), format!("is the same header as {twin}: names have no case")));
        }
    }
    errors.extend(check_auth(&webhook.auth));
    errors
}

/// Checks that a header with this value can be sent together with the webhook's other headers.
fn check_header(name: &HeaderName, value: &str, webhook: &NewWebhook) -> Result<(), String> {
    if value.len() > VALUE_BYTES_MAX || !value.is_ascii() || HeaderValue::from_str(value).is_err() {
        return Err(format!("must be at most {VALUE_BYTES_MAX} bytes, of visible ASCII characters and spaces"));
    }
    if value.trim_matches([' ', '\t']).len() < value.len() {
        return Err("must not begin or end with a space: what is sent would be another value".to_owned());
    }
    if *name == CONTENT_TYPE && value != KEPT_SECRET && !is_json(value) {
        return Err("must be application/json or application/...+json, which the body is".to_owned());
    }
    let of_auth = match &webhook.auth {
        Auth::Basic { .. } | Auth::Bearer { .. } => *name == AUTHORIZATION,
        Auth::Hmac { header, .. } => header.eq_ignore_ascii_case(name.as_str()),
        Auth::None | Auth::Standard { .. } => false,
    };
    if of_auth { Err(format!("is what auth_type `{}` sends", webhook.auth.kind())) } else { Ok(()) }
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

impl Endpoint {
    pub(super) fn is_https(&self) -> bool {
        self.uri.scheme() == Some(&Scheme::HTTPS)
    }

    /// The error is a clause that never contains a secret.
    pub(super) fn new(webhook: &Webhook, timeout_max: Duration) -> Result<Self, String> {
        let document = &webhook.document;
        let mut headers = HeaderMap::with_capacity(document.headers.len() + 6);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        for (name, value) in &document.headers {
            let mut value = HeaderValue::from_str(value).map_err(|_| format!("header {name} cannot be carried"))?;
            // Keep it out of debug output and of HPACK tables.
            value.set_sensitive(true);
            headers.insert(parse_header_name(name)?, value);
        }
        Ok(Self {
            enabled: document.enabled,
            timeout: Duration::from_millis(document.timeout_ms).min(timeout_max),
            method: parse_method(&document.method).ok_or("the method is not allowed")?,
            uri: parse_url(&document.url)?,
            headers,
            signer: Signer::new(&document.auth)?,
        })
    }

    /// The request of one attempt: the same `webhook-id` each time, with a new timestamp and signature.
    pub(super) fn request(&self, delivery: Uuid, timestamp_seconds: i64, body: Bytes) -> Request<Full<Bytes>> {
        let mut text = Uuid::encode_buffer();
        let id: &str = delivery.hyphenated().encode_lower(&mut text);
        let mut headers = self.headers.clone();
        if let Ok(value) = HeaderValue::from_str(id) {
            headers.insert(WEBHOOK_ID, value);
        }
        self.signer.sign(&mut headers, id, timestamp_seconds, &body);
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = headers;
        request
    }
}

/// Parses a URL to the form that is sent: host in ASCII, path and query percent-encoded. Input that the URL standard
/// would silently repair is refused, since its author meant something else.
fn parse_url(text: &str) -> Result<Uri, String> {
    if text.len() > URL_BYTES_MAX {
        return Err(format!("must be at most {URL_BYTES_MAX} bytes long"));
    }
    let rest = text
        .split_once("://")
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https"));
    let Some((_, rest)) = rest else { return Err("must begin with http:// or https://".to_owned()) };
    if text.contains(|c: char| c.is_control() || c == '\\') || text.trim() != text {
        return Err("must not have control characters, backslashes or spaces around it".to_owned());
    }
    if text.contains('#') {
        return Err("must not have a fragment (#), which is never sent; write # as %23".to_owned());
    }
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err("must not hold a user or password: use auth_type basic".to_owned());
    }
    let no_port = || "must name a host and, if any, a port from 1 to 65535".to_owned();
    if authority.is_empty() || authority.ends_with(':') {
        return Err(no_port());
    }
    let escapes = rest.split('%').skip(1);
    if escapes.map(str::as_bytes).any(|after| after.len() < 2 || !after[..2].iter().all(u8::is_ascii_hexdigit)) {
        return Err("has a % that two hexadecimal digits do not follow; write % as %25".to_owned());
    }
    let url = Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
    if url.port() == Some(0) || url.host_str().is_none_or(str::is_empty) {
        return Err(no_port());
    }
    let (scheme, authority) = (url.scheme(), url.authority());
    let mut sent = format!("{scheme}://{authority}{}", utf8_percent_encode(url.path(), NOT_ALLOWED));
    if let Some(query) = url.query() {
        sent.push('?');
        sent.extend(utf8_percent_encode(query, NOT_ALLOWED));
    }
    sent.parse().map_err(|_| "is not a URL".to_owned())
}

/// Characters that RFC 3986 does not allow in a path or query; the URL standard leaves some of them as they are.
const NOT_ALLOWED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}')
    .add(b'#');

/// Only methods that carry a body are allowed.
fn parse_method(text: &str) -> Option<Method> {
    [Method::POST, Method::PUT, Method::PATCH].into_iter().find(|method| method.as_str() == text)
}

fn parse_header_name(text: &str) -> Result<HeaderName, String> {
    let name = HeaderName::try_from(text).map_err(|_| "is not the name of a header")?;
    if RESERVED_HEADERS.contains(&name.as_str()) || name.as_str().starts_with("webhook-") {
        return Err("is set by the connection or by us".to_owned());
    }
    Ok(name)
}

fn check_auth(auth: &Auth) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut wrong = |field: &str, detail: &str| {
        errors.push(FieldError::new(format!("/auth_config/{field}"), detail));
    };
    let fits = |text: &str| !text.is_empty() && text.len() <= VALUE_BYTES_MAX;
    let length = format!("must be from 1 to {VALUE_BYTES_MAX} bytes long");
    match auth {
        Auth::None => {}
        Auth::Basic { username, password } => {
            if !fits(username) || username.contains(':') || username.chars().any(char::is_control) {
                wrong("username", &format!("{length}, without `:` and control characters"));
            }
            if password.len() > VALUE_BYTES_MAX || password.chars().any(char::is_control) {
                wrong("password", &format!("must be at most {VALUE_BYTES_MAX} bytes without control characters"));
            }
        }
        Auth::Bearer { token } => {
            if !fits(token) || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                wrong("token", &format!("{length}, of visible ASCII characters"));
            }
        }
        Auth::Hmac { secret, header } => {
            if !fits(secret) {
                wrong("secret", &length);
            }
            match parse_header_name(header) {
                Err(detail) => wrong("header", &detail),
                Ok(name) if name == CONTENT_TYPE || name == USER_AGENT => {
                    wrong("header", "must be a header of its own: this one says something else");
                }
                Ok(_) => {}
            }
        }
        Auth::Standard { secret, previous_secret } => {
            for (field, secret) in [("secret", Some(secret)), ("previous_secret", previous_secret.as_ref())] {
                let Some(secret) = secret.filter(|secret| *secret != KEPT_SECRET) else { continue };
                if let Err(detail) = standard_key(secret) {
                    wrong(field, detail);
                }
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn webhook(change: impl FnOnce(&mut NewWebhook)) -> NewWebhook {
        let mut webhook = NewWebhook {
            name: "ops".to_owned(),
            url: "https://ops.example.com/hook?x=1".to_owned(),
            method: "POST".to_owned(),
            enabled: true,
            timeout_ms: 30_000,
            headers: [("X-Env".to_owned(), "prod".to_owned())].into(),
            int64_as_string: false,
            auth: Auth::None,
        };
        change(&mut webhook);
        webhook
    }

    fn wrong(change: impl FnOnce(&mut NewWebhook)) -> Vec<String> {
        check_webhook(&webhook(change)).into_iter().map(|error| error.pointer).collect()
    }

    #[test]
    fn urls_are_plain_http() {
        for good in ["http://localhost:8080/x", "https://[::1]:9/", "http://10.0.0.1", "http://ops.example.com/a?b=c"] {
            assert_eq!(wrong(|w| w.url = good.to_owned()), [""; 0], "{good}");
        }
        for bad in [
            "",
            "/hook",
            "ops.example.com",
            "ftp://ops.example.com/",
            "file:///etc/passwd",
            "http://",
            "http:///x",
            "http://user:pw@ops.example.com/",
            "http://user@ops.example.com/",
            "http://ops.example.com:0/",
            "http://ops.example.com:99999/",
            "http://ops.example.com:/",
            "http://ops example.com/",
            "javascript:alert(1)",
            "http://ops.example.com/#hook",
            "http://ops.example.com/100%",
            "http://ops.example.com/%zz",
            "http://ops.example.com/a\\b",
            "http://ops.example.com/a\tb",
            " http://ops.example.com/",
            "http://xn--a/",
        ] {
            assert_eq!(wrong(|w| w.url = bad.to_owned()), ["/url"], "{bad}");
        }
        assert_eq!(wrong(|w| w.url = format!("http://a/{}", "x".repeat(URL_BYTES_MAX))), ["/url"]);
    }

    fn owned((name, value): (&str, &str)) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn requests_are_ascii() {
        for (written, sent) in [
            ("http://ops.example.com/größe?q=ü&r= x", "http://ops.example.com/gr%C3%B6%C3%9Fe?q=%C3%BC&r=%20x"),
            ("https://bücher.example/", "https://xn--bcher-kva.example/"),
            ("https://ops.example.com:8443/a%20b|c[1]^", "https://ops.example.com:8443/a%20b%7Cc%5B1%5D%5E"),
            ("http://ops.example.com", "http://ops.example.com/"),
            ("HTTP://OPS.example.com:80/A?B={c}", "http://ops.example.com/A?B=%7Bc%7D"),
            ("https://[2001:DB8::1]:9/", "https://[2001:db8::1]:9/"),
        ] {
            assert_eq!(parse_url(written).unwrap().to_string(), sent);
        }
    }

    #[test]
    fn every_other_field_is_checked() {
        assert_eq!(wrong(|w| w.name = String::new()), ["/name"]);
        assert_eq!(wrong(|w| w.method = "GET".into()), ["/method"]);
        assert_eq!(wrong(|w| w.timeout_ms = 99), ["/timeout_ms"]);
        assert_eq!(wrong(|w| w.timeout_ms = 120_001), ["/timeout_ms"]);
        for name in ["Host", "Content-Length", "Connection", "Transfer-Encoding", "Webhook-Id", "a b", ""] {
            let pointer = format!("/headers/{name}");
            assert_eq!(wrong(|w| drop(w.headers.insert(name.into(), "x".into()))), [pointer], "{name}");
        }
        for value in ["a\r\nb", "é", " a", "a\t", "a\u{7f}"] {
            assert_eq!(wrong(|w| drop(w.headers.insert("X-A".into(), value.into()))), ["/headers/X-A"], "{value:?}");
        }
        assert_eq!(wrong(|w| w.headers.extend([("X-A", "1"), ("x-a", "2")].map(owned))), ["/headers/x-a"]);
        assert_eq!(wrong(|w| w.headers.extend([("Content-Type", "text/plain")].map(owned))), ["/headers/Content-Type"]);
        assert_eq!(wrong(|w| w.headers.extend([("Content-Type", "application/x+json; a=b")].map(owned))), [""; 0]);
        let authorized = |auth: Auth| {
            wrong(|w| {
                w.headers.extend([("authorization", "x"), ("x-SIGNATURE", "y")].map(owned));
                w.auth = auth;
            })
        };
        assert_eq!(authorized(Auth::Bearer { token: "t".into() }), ["/headers/authorization"]);
        assert_eq!(
            authorized(Auth::Hmac { secret: "s".into(), header: "X-Signature".into() }),
            ["/headers/x-SIGNATURE"]
        );
        assert_eq!(wrong(|w| w.headers = (0..33).map(|n| (format!("x-{n}"), "v".into())).collect()), ["/headers"]);
        let basic = |user: &str| Auth::Basic { username: user.into(), password: "p".into() };
        assert_eq!(wrong(|w| w.auth = basic("a:b")), ["/auth_config/username"]);
        assert_eq!(wrong(|w| w.auth = Auth::Bearer { token: "a b".into() }), ["/auth_config/token"]);
        let hmac = |secret: &str, header: &str| Auth::Hmac { secret: secret.into(), header: header.into() };
        assert_eq!(wrong(|w| w.auth = hmac("", "Host")), ["/auth_config/secret", "/auth_config/header"]);
        for header in ["Content-Type", "User-Agent", "content-length", "Transfer-Encoding", "webhook-signature", ""] {
            assert_eq!(wrong(|w| w.auth = hmac("s", header)), ["/auth_config/header"], "{header}");
        }
        let standard = |secret: &str, previous: &str| Auth::Standard {
            secret: secret.into(),
            previous_secret: Some(previous.into()),
        };
        assert_eq!(
            wrong(|w| w.auth = standard("whsec_x", "nope")),
            ["/auth_config/secret", "/auth_config/previous_secret"]
        );
        let key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        assert_eq!(wrong(|w| w.auth = standard("***", key)), [""; 0]);
        assert_eq!(wrong(|w| w.auth = hmac("***", "X-Signature")), [""; 0]);
    }

    #[test]
    fn a_request_carries_the_document_and_one_id() {
        let now = Timestamp::UNIX_EPOCH;
        let document = webhook(|w| w.method = "PUT".into());
        let stored = Webhook {
            id: Uuid::now_v7(),
            document,
            disabled_reason: None,
            deliveries_given_up: 0,
            created_at: now,
            updated_at: now,
        };
        let endpoint = Endpoint::new(&stored, Duration::from_secs(5)).unwrap();
        assert_eq!(endpoint.timeout, Duration::from_secs(5));
        let id = Uuid::now_v7();
        let request = endpoint.request(id, 7, Bytes::from_static(b"{}"));
        assert_eq!(request.method(), Method::PUT);
        assert_eq!(request.uri(), "https://ops.example.com/hook?x=1");
        assert_eq!(request.headers()["x-env"], "prod");
        assert_eq!(request.headers()["content-type"], "application/json");
        assert_eq!(request.headers()["user-agent"], AGENT);
        assert_eq!(request.headers()["webhook-id"], id.to_string().as_str());
    }
}
