//! Protects an API without authentication from web pages of other origins.
//!
//! It stops two attacks: a page that posts to 127.0.0.1 (recognized by its `Origin`), and DNS rebinding, where a page's
//! own name resolves to 127.0.0.1 and the browser takes it for the same origin (recognized by `Host`).

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::state::Settings;
use crate::http::{Problem, own_origin};

const NOT_OWN_NAME: &str = "The admin API answers to localhost and IP addresses only, so that no web page can reach it \
                            under a name of its own. Send the request to one of these.";

pub(super) async fn admit(State(settings): State<Arc<Settings>>, request: Request, next: Next) -> Response {
    match check(&settings, request.method(), request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn check(settings: &Settings, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    let is_allowed = |host: &str| settings.allowed_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host));
    // Only HTTP/1.0 omits the host, and no browser speaks it.
    if settings.loopback
        && let Some(host) = own_origin::host(uri, headers)
        && !own_origin::is_own_name(host.host())
        && !is_allowed(host.host())
    {
        return Err(Problem::new(StatusCode::FORBIDDEN, NOT_OWN_NAME));
    }
    if method.is_safe() {
        return Ok(());
    }
    own_origin::check(uri, headers, settings.loopback, &settings.allowed_hosts)
}

#[cfg(test)]
mod tests {
    use axum::http::header::{HOST, ORIGIN};

    use super::*;

    fn is_allowed_from(method: Method, host: &str, origin: Option<&str>) -> bool {
        let settings =
            Settings { loopback: true, allowed_hosts: vec!["admin.example.com".to_owned()], ..Settings::default() };
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, origin.parse().unwrap());
        }
        check(&settings, &method, &Uri::from_static("/api/admin/rules"), &headers).is_ok()
    }

    #[test]
    fn loopback_accepts_only_names_of_this_machine() {
        for host in [
            "localhost",
            "LOCALHOST:9090",
            "127.0.0.1:9090",
            "[::1]:9090",
            "10.0.0.7",
            "a.localhost",
            "admin.example.com",
        ] {
            assert!(is_allowed_from(Method::GET, host, None), "{host}");
        }
        for host in
            ["evil.example", "evil.example:9090", "localhost.evil.example", "evillocalhost", "127.0.0.1.evil.example"]
        {
            assert!(!is_allowed_from(Method::GET, host, None), "{host}");
        }
        let open = Settings::default();
        let mut headers = HeaderMap::new();
        headers.insert(HOST, "causality.internal".parse().unwrap());
        assert!(check(&open, &Method::GET, &Uri::from_static("/"), &headers).is_ok());
    }

    #[test]
    fn pages_may_write_only_to_their_own_origin() {
        let host = "localhost:9090";
        assert!(is_allowed_from(Method::POST, host, None));
        assert!(is_allowed_from(Method::POST, host, Some("http://localhost:9090")));
        assert!(is_allowed_from(Method::POST, "127.0.0.1", Some("http://127.0.0.1")));
        assert!(is_allowed_from(Method::POST, host, Some("https://admin.example.com")));
        assert!(is_allowed_from(Method::GET, host, Some("https://evil.example")));
        for origin in ["http://localhost:3000", "https://evil.example", "null", "http://localhost", "file://", "x"] {
            for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
                assert!(!is_allowed_from(method, host, Some(origin)), "{origin}");
            }
        }
    }
}
