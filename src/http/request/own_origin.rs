//! Protects a listener without authentication from web pages of other origins.
//!
//! Browsers send the origin of a page with each request that can change something. If the page's host name resolves to
//! this machine, the browser considers the page same-origin with the listener; therefore host names that do not belong
//! to this machine are refused. Requests without `Origin` (curl, SDKs, servers) do not come from a page and pass.

use std::net::IpAddr;

use http::header::{HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, StatusCode, Uri};

use crate::http::reply::problem::Problem;

/// The host of a request. Its syntax was checked with the head.
pub fn host(uri: &Uri, headers: &HeaderMap) -> Option<Authority> {
    let header = || Authority::try_from(headers.get(HOST)?.as_bytes()).ok();
    uri.authority().cloned().or_else(header)
}

/// A name that can only mean this machine, or an address, which a page cannot claim as its name.
pub fn is_own_name(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let local = b".localhost";
    let is_local = host.len() > local.len() && host.as_bytes()[host.len() - local.len()..].eq_ignore_ascii_case(local);
    host.eq_ignore_ascii_case("localhost") || is_local || address.parse::<IpAddr>().is_ok()
}

/// Refuses a request from a page unless the page is of the listener's own origin or of an allowed host. On loopback,
/// the listener's name must belong to this machine.
pub fn check(uri: &Uri, headers: &HeaderMap, loopback: bool, allowed_hosts: &[String]) -> Result<(), Problem> {
    let mut origins = headers.get_all(ORIGIN).iter();
    let Some(origin) = origins.next() else { return Ok(()) };
    let is_allowed = |host: &str| allowed_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host));
    let own = split_origin(origin.as_bytes()).is_some_and(|(port, origin)| {
        let is_host = |host: Authority| {
            (!loopback || is_own_name(host.host()))
                && host.host().eq_ignore_ascii_case(origin.host())
                && host.port_u16().unwrap_or(port) == origin.port_u16().unwrap_or(port)
        };
        is_allowed(origin.host()) || host(uri, headers).is_some_and(is_host)
    });
    if own && origins.next().is_none() {
        return Ok(());
    }
    Err(Problem::new(StatusCode::FORBIDDEN, "A web page of another origin may not send this request."))
}

/// The default port of the origin's scheme, and its authority; `None` for `null` and for other schemes.
fn split_origin(origin: &[u8]) -> Option<(u16, Authority)> {
    let (port, rest) = match (origin.strip_prefix(b"http://"), origin.strip_prefix(b"https://")) {
        (Some(rest), _) => (80, rest),
        (_, Some(rest)) => (443, rest),
        _ => return None,
    };
    Authority::try_from(rest).ok().map(|authority| (port, authority))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(host: &str, origins: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        for origin in origins {
            headers.append(ORIGIN, origin.parse().unwrap());
        }
        check(&Uri::from_static("/"), &headers, true, &["app.example.com".to_owned()]).is_ok()
    }

    #[test]
    fn only_same_origin_pages_pass() {
        let host = "localhost:8080";
        assert!(accepts(host, &[]));
        assert!(accepts("anything.example", &[]), "no page: a forwarded port, a container's name");
        assert!(accepts(host, &["http://localhost:8080"]));
        assert!(accepts("App.localhost:8080", &["http://app.localhost:8080"]));
        assert!(accepts("127.0.0.1", &["http://127.0.0.1"]));
        assert!(accepts("[::1]:80", &["http://[::1]"]));
        assert!(accepts(host, &["https://app.example.com"]));
        for origin in ["http://localhost:3000", "https://evil.example", "null", "http://localhost", "file://", "x", ""]
        {
            assert!(!accepts(host, &[origin]), "{origin}");
        }
        assert!(!accepts("evil.example:8080", &["http://evil.example:8080"]), "a name that resolves to this machine");
        assert!(!accepts(host, &["http://localhost:8080", "https://evil.example"]));
        assert!(!accepts("localhost.evil.example", &["http://localhost.evil.example"]));
    }
}
