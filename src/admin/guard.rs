//! Keeps web pages of other origins away from an API that asks for no password.
//!
//! Two attacks: a page that posts to 127.0.0.1 (told by its `Origin`), and a page whose own
//! name resolves to 127.0.0.1, which the browser takes for the same origin (told by `Host`).

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, StatusCode, Uri, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Settings;
use crate::http::Problem;

const NOT_OWN_NAME: &str = "The admin API answers to localhost and IP addresses only, so that no web page can reach it \
                            under a name of its own. Send the request to one of these.";

pub(super) async fn admit(State(settings): State<Arc<Settings>>, request: Request, next: Next) -> Response {
    if lacks_host(request.version(), request.uri(), request.headers()) {
        return Problem::new(StatusCode::BAD_REQUEST, "The Host header is missing.").into_response();
    }
    match judge(&settings, request.method(), request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(detail) => Problem::new(StatusCode::FORBIDDEN, detail).into_response(),
    }
}

/// HTTP/1.1 and later always name the host; what leaves it out is no browser, and broken.
fn lacks_host(version: Version, uri: &Uri, headers: &HeaderMap) -> bool {
    version == Version::HTTP_11 && uri.authority().is_none() && !headers.contains_key(HOST)
}

fn judge(settings: &Settings, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), &'static str> {
    let host = match (uri.authority(), headers.get(HOST)) {
        (Some(authority), _) => Some(authority.clone()),
        (None, Some(value)) => Some(authority(value.as_bytes()).ok_or("The Host header cannot be read.")?),
        // Only HTTP/1.0 leaves it out, which no browser speaks.
        (None, None) => None,
    };
    if settings.loopback
        && let Some(host) = &host
        && !is_own_name(host.host())
        && !is_allowed(settings, host.host())
    {
        return Err(NOT_OWN_NAME);
    }
    if matches!(*method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    match headers.get(ORIGIN) {
        None => Ok(()),
        Some(origin) => {
            let same = split_origin(origin.as_bytes()).is_some_and(|(port, origin)| {
                is_allowed(settings, origin.host())
                    || host.as_ref().is_some_and(|host| {
                        host.host().eq_ignore_ascii_case(origin.host())
                            && host.port_u16().unwrap_or(port) == origin.port_u16().unwrap_or(port)
                    })
            });
            if same { Ok(()) } else { Err("A page of another origin may not send this request.") }
        }
    }
}

fn authority(bytes: &[u8]) -> Option<Authority> {
    Authority::try_from(bytes).ok()
}

/// The default port of the origin's scheme, and its authority; nothing for `null` and other schemes.
fn split_origin(origin: &[u8]) -> Option<(u16, Authority)> {
    let (port, rest) = match (origin.strip_prefix(b"http://"), origin.strip_prefix(b"https://")) {
        (Some(rest), _) => (80, rest),
        (_, Some(rest)) => (443, rest),
        _ => return None,
    };
    authority(rest).map(|authority| (port, authority))
}

fn is_own_name(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

fn is_allowed(settings: &Settings, host: &str) -> bool {
    settings.allowed_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(method: Method, host: &str, origin: Option<&str>) -> bool {
        let settings = Settings { loopback: true, allowed_hosts: vec!["admin.example.com".to_owned()] };
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, origin.parse().unwrap());
        }
        judge(&settings, &method, &Uri::from_static("/api/admin/rules"), &headers).is_ok()
    }

    #[test]
    fn only_names_of_this_machine_are_answered_on_loopback() {
        for host in ["localhost", "LOCALHOST:9090", "127.0.0.1:9090", "[::1]:9090", "10.0.0.7", "admin.example.com"] {
            assert!(verdict(Method::GET, host, None), "{host}");
        }
        for host in ["evil.example", "evil.example:9090", "localhost.evil.example", "127.0.0.1.evil.example"] {
            assert!(!verdict(Method::GET, host, None), "{host}");
        }
        let open = Settings::default();
        let mut headers = HeaderMap::new();
        headers.insert(HOST, "causality.internal".parse().unwrap());
        assert!(judge(&open, &Method::GET, &Uri::from_static("/"), &headers).is_ok());
    }

    #[test]
    fn a_page_may_write_only_to_its_own_origin() {
        let host = "localhost:9090";
        assert!(verdict(Method::POST, host, None));
        assert!(verdict(Method::POST, host, Some("http://localhost:9090")));
        assert!(verdict(Method::POST, "127.0.0.1", Some("http://127.0.0.1")));
        assert!(verdict(Method::POST, host, Some("https://admin.example.com")));
        assert!(verdict(Method::GET, host, Some("https://evil.example")));
        for origin in ["http://localhost:3000", "https://evil.example", "null", "http://localhost", "file://", "x"] {
            for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
                assert!(!verdict(method, host, Some(origin)), "{origin}");
            }
        }
    }
}
