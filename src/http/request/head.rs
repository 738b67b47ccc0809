//! Checks that apply to the head of every request, before a service sees it.

use http::header::{HOST, TRANSFER_ENCODING};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Version};

use crate::http::reply::problem::Problem;

/// Overhead of a header in addition to its name and value.
const HEADER_BYTES: usize = 96;

/// The values of a header. Compares the name with each header: hashing it, as the map does, takes longer for the few
/// headers of a request.
pub fn header_values(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &HeaderValue> {
    headers.iter().filter_map(move |(other, value)| (*other == name).then_some(value))
}

/// The first value of a header.
pub fn header_value(headers: &HeaderMap, name: HeaderName) -> Option<&HeaderValue> {
    header_values(headers, name).next()
}

/// Approximate memory of a parsed head.
pub(crate) fn size<B>(request: &Request<B>) -> usize {
    let headers: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    headers + target + request.headers().len() * HEADER_BYTES
}

/// Refuses requests that hops of a proxy chain could interpret differently.
pub(crate) fn check<B>(request: &Request<B>) -> Result<(), Problem> {
    check_target(request)?;
    check_host(request)?;
    if request.version() == Version::HTTP_2 { check_values(request.headers()) } else { check_coding(request.headers()) }
}

fn refuse(detail: &'static str) -> Result<(), Problem> {
    Err(Problem::new(StatusCode::BAD_REQUEST, detail))
}

/// The target forms of RFC 9112, 3.2, each with its methods.
fn check_target<B>(request: &Request<B>) -> Result<(), Problem> {
    let (method, uri) = (request.method(), request.uri());
    if method == Method::CONNECT {
        return Err(Problem::new(StatusCode::NOT_IMPLEMENTED, "This is no proxy: it takes no CONNECT."));
    }
    match uri.path() {
        "*" if method != Method::OPTIONS => return refuse("The target * is for OPTIONS."),
        "*" => {}
        path if path.starts_with('/') => {}
        _ => return refuse("The target does not begin with a slash."),
    }
    if uri.scheme().is_some_and(|scheme| *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS) {
        return refuse("The target is of another scheme than http and https.");
    }
    match uri.authority() {
        Some(authority) if !is_host(authority) => refuse("The target names no host with an optional port."),
        _ => Ok(()),
    }
}

/// Requires exactly one host (RFC 9112, 3.2).
fn check_host<B>(request: &Request<B>) -> Result<(), Problem> {
    let mut hosts = header_values(request.headers(), HOST);
    let host = hosts.next();
    if hosts.next().is_some() {
        return refuse("There is more than one Host header.");
    }
    let target = request.uri().authority();
    let Some(host) = host else {
        // HTTP/1.1 requires the header whatever the target is; HTTP/2 may have the host in the target only.
        let is_missing = match request.version() {
            Version::HTTP_11 => true,
            version => version > Version::HTTP_11 && target.is_none(),
        };
        return if is_missing { refuse("The Host header is missing.") } else { Ok(()) };
    };
    let Some(host) = Authority::try_from(host.as_bytes()).ok().filter(is_host) else {
        return refuse("The Host header is not a host with an optional port.");
    };
    match target {
        Some(target) if !same(&host, target, default_port(request)) => {
            refuse("The Host header names another host than the target.")
        }
        _ => Ok(()),
    }
}

/// A host with an optional port and no user info (RFC 9110, 4.2.4).
fn is_host(authority: &Authority) -> bool {
    let host = authority.host();
    // After the host comes a colon or nothing; user info would precede it.
    !host.is_empty()
        && authority
            .as_str()
            .strip_prefix(host)
            .is_some_and(|rest| matches!(rest, "" | ":") || authority.port().is_some())
}

/// Allows only `chunked`, once: hyper accepts any list that ends in it, and leaves the other codings in the body (RFC
/// 9112, 6.1).
fn check_coding(headers: &HeaderMap) -> Result<(), Problem> {
    let lines = header_values(headers, TRANSFER_ENCODING);
    let codings = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let (mut chunked, mut others) = (0, 0);
    // Empty list elements are ignored (RFC 9110, 5.6.1).
    for coding in codings.filter(|coding| !coding.is_empty()) {
        *(if coding.eq_ignore_ascii_case(b"chunked") { &mut chunked } else { &mut others }) += 1;
    }
    if others > 0 {
        let detail = "Transfer-Encoding names a coding other than chunked.";
        return Err(Problem::new(StatusCode::NOT_IMPLEMENTED, detail).closing());
    }
    if chunked > 1 {
        let detail = "Transfer-Encoding names chunked more than once.";
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail).closing());
    }
    Ok(())
}

/// White space around a value is insignificant in HTTP/1 but not allowed in HTTP/2 (RFC 9113, 8.2.1).
fn check_values(headers: &HeaderMap) -> Result<(), Problem> {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let padded = |value: &HeaderValue| is_space(value.as_bytes().first()) || is_space(value.as_bytes().last());
    if headers.values().any(padded) { refuse("A header's value begins or ends with white space.") } else { Ok(()) }
}

/// The port of a host without one.
fn default_port<B>(request: &Request<B>) -> u16 {
    if request.uri().scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 }
}

fn same(one: &Authority, other: &Authority, default_port: u16) -> bool {
    let port = |of: &Authority| of.port_u16().unwrap_or(default_port);
    one.host().eq_ignore_ascii_case(other.host()) && port(one) == port(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(version: Version, target: &str, hosts: &[&str]) -> bool {
        let mut request = Request::get(target).version(version);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        check(&request.body(()).unwrap()).is_ok()
    }

    #[test]
    fn hosts_must_be_unique_and_consistent() {
        let (old, new, h2) = (Version::HTTP_10, Version::HTTP_11, Version::HTTP_2);
        assert!(accepts(new, "/", &["a.example"]));
        assert!(accepts(new, "/", &["[::1]:8080"]));
        assert!(accepts(new, "/", &["a.example:"]));
        assert!(accepts(old, "/", &[]));
        assert!(accepts(new, "http://A.example/", &["a.example"]));
        assert!(accepts(new, "http://a.example/", &["a.example:80"]));
        assert!(accepts(h2, "http://a.example:81/", &[]));
        assert!(accepts(h2, "http://a.example:81/", &["a.example:81"]));
        assert!(accepts(h2, "https://a.example/", &["a.example:443"]));
        assert!(!accepts(h2, "https://a.example/", &["a.example:80"]));
        assert!(!accepts(new, "/", &[]));
        assert!(!accepts(h2, "/", &[]));
        assert!(!accepts(new, "/", &["a.example", "b.example"]));
        assert!(!accepts(new, "/", &["a.example", "a.example"]));
        assert!(!accepts(old, "/", &["a.example", "b.example"]));
        assert!(!accepts(new, "http://a.example/", &["b.example"]));
        assert!(!accepts(new, "http://a.example:81/", &["a.example"]));
        assert!(!accepts(h2, "http://a.example/", &["b.example"]));
        assert!(!accepts(new, "http://a.example/", &[]), "also beside a whole target");
        assert!(!accepts(new, "http://user@a.example/", &["a.example"]));
        assert!(!accepts(h2, "http://user@a.example/", &[]));
        assert!(!accepts(h2, "ftp://a.example/", &[]));
        for host in ["", "a b", "user@a.example", "a.example/x", "a.example:http", "a.example:99999", ":80"] {
            assert!(!accepts(new, "/", &[host]), "{host:?}");
        }
    }

    #[test]
    fn target_forms_match_their_methods() {
        let accepts = |method: &str, target: &str| {
            let request = Request::builder().method(method).uri(target).header(HOST, "a.example");
            check(&request.body(()).unwrap()).err().map(|problem| problem.status().as_u16())
        };
        assert_eq!(accepts("GET", "/"), None);
        assert_eq!(accepts("GET", "http://a.example"), None);
        assert_eq!(accepts("OPTIONS", "*"), None);
        assert_eq!(accepts("GET", "*"), Some(400));
        assert_eq!(accepts("GET", "a.example"), Some(400), "the form of CONNECT");
        assert_eq!(accepts("CONNECT", "a.example:80"), Some(501));
    }

    #[test]
    fn transfer_encoding_must_be_chunked_once() {
        let accepts = |lines: &[&'static str]| {
            let lines = lines.iter().map(|line| (TRANSFER_ENCODING, HeaderValue::from_static(line)));
            check_coding(&lines.collect()).err().map(|problem| problem.status().as_u16())
        };
        for right in [&[][..], &["chunked"], &["Chunked"], &[", chunked,"]] {
            assert_eq!(accepts(right), None, "{right:?}");
        }
        for twice in [&["chunked, chunked"][..], &["chunked", "chunked"]] {
            assert_eq!(accepts(twice), Some(400), "{twice:?}");
        }
        for unknown in [&["gzip, chunked"][..], &["gzip", "chunked"], &["identity", "chunked"], &["chunked;q=1"]] {
            assert_eq!(accepts(unknown), Some(501), "{unknown:?}");
        }
    }

    #[test]
    fn http2_header_values_are_not_padded() {
        let accepts = |value| check_values(&HeaderMap::from_iter([(HOST, HeaderValue::from_static(value))])).is_ok();
        assert!(accepts("") && accepts("a b"));
        assert!(!accepts(" a") && !accepts("a ") && !accepts("a\t") && !accepts(" "));
    }
}
