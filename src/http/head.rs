//! What the head of any request has to be like, before a service sees it.

use http::header::HOST;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Version};

use super::Problem;

/// What a header takes beside its name and value.
const HEADER_BYTES: usize = 96;

/// The values of a header. Its name is compared with each: hashing it, as the map does, takes longer than comparing it
/// with the few that a request has.
pub fn header_values(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &HeaderValue> {
    headers.iter().filter_map(move |(other, value)| (*other == name).then_some(value))
}

/// The first value of a header.
pub fn header_value(headers: &HeaderMap, name: HeaderName) -> Option<&HeaderValue> {
    header_values(headers, name).next()
}

/// About what a head takes in memory, once it is read.
pub(super) fn size<B>(request: &Request<B>) -> usize {
    let headers: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    headers + target + request.headers().len() * HEADER_BYTES
}

/// One host, told once (RFC 9112, 3.2): requests that parts of a chain could read in two ways are refused.
pub(super) fn check<B>(request: &Request<B>) -> Result<(), Problem> {
    let refuse = |detail| Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    let mut hosts = header_values(request.headers(), HOST);
    let host = hosts.next();
    if hosts.next().is_some() {
        return refuse("There is more than one Host header.");
    }
    let target = request.uri().authority();
    match (host, target) {
        // HTTP/1.1 and later always name the host.
        (None, None) if request.version() >= Version::HTTP_11 => refuse("The Host header is missing."),
        (None, _) => Ok(()),
        (Some(host), target) => match Authority::try_from(host.as_bytes()) {
            Ok(host) if host.as_str().contains('@') => refuse("The Host header is not a host with an optional port."),
            // The target of CONNECT is where to, not who is asked.
            Ok(host) => match target.filter(|_| request.method() != Method::CONNECT) {
                Some(target) if !same(&host, target, default_port(request)) => {
                    refuse("The Host header names another host than the target.")
                }
                _ => Ok(()),
            },
            Err(_) => refuse("The Host header is not a host with an optional port."),
        },
    }
}

/// What a host without a port means.
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

    fn verdict(version: Version, target: &str, hosts: &[&str]) -> bool {
        let mut request = Request::get(target).version(version);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        check(&request.body(()).unwrap()).is_ok()
    }

    #[test]
    fn one_host_told_once() {
        let (old, new, h2) = (Version::HTTP_10, Version::HTTP_11, Version::HTTP_2);
        assert!(verdict(new, "/", &["a.example"]));
        assert!(verdict(new, "/", &["[::1]:8080"]));
        assert!(verdict(old, "/", &[]));
        assert!(verdict(new, "http://A.example/", &["a.example"]));
        assert!(verdict(new, "http://a.example/", &["a.example:80"]));
        assert!(verdict(h2, "http://a.example:81/", &[]));
        assert!(verdict(h2, "http://a.example:81/", &["a.example:81"]));
        assert!(verdict(h2, "https://a.example/", &["a.example:443"]));
        assert!(!verdict(h2, "https://a.example/", &["a.example:80"]));
        assert!(!verdict(new, "/", &[]));
        assert!(!verdict(h2, "/", &[]));
        assert!(!verdict(new, "/", &["a.example", "b.example"]));
        assert!(!verdict(new, "/", &["a.example", "a.example"]));
        assert!(!verdict(old, "/", &["a.example", "b.example"]));
        assert!(!verdict(new, "http://a.example/", &["b.example"]));
        assert!(!verdict(new, "http://a.example:81/", &["a.example"]));
        assert!(!verdict(h2, "http://a.example/", &["b.example"]));
        for host in ["", "a b", "user@a.example", "a.example/x"] {
            assert!(!verdict(new, "/", &[host]), "{host:?}");
        }
    }
}
