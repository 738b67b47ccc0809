//! The address of the client, and the scheme and host of the original request: from the peer, or from the headers of
//! trusted proxies.
//!
//! Invariant: nothing that a client can write itself is trusted. Each proxy appends the address of its own peer, so a
//! list is read from the right: the first address that does not belong to a trusted proxy is the client's. An entry
//! that is no address (`unknown`, an obfuscated name, anything malformed) ends the search: no trusted proxy wrote what
//! is left of it, and the proxy that wrote the entry is the nearest known hop.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use http::header::{FORWARDED, HeaderName};
use http::uri::Authority;

use crate::base::network::Networks;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Longer address lists are ignored.
const LIST_BYTES_MAX: usize = 4 * 1024;

/// The networks of trusted proxies. Empty means none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(pub Networks);

impl TrustedProxies {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The address of the client behind a peer.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        if !self.trusts(peer) {
            return peer;
        }
        let by = |name: &HeaderName, read: fn(&str) -> Option<Vec<Hop>>| {
            headers.contains_key(name).then(|| self.nearest_untrusted(peer, headers, name, read))
        };
        match (by(&FORWARDED, forwarded), by(&X_FORWARDED_FOR, x_forwarded_for)) {
            (None, None) => peer,
            (Some(address), None) | (None, Some(address)) => address,
            (Some(one), Some(other)) if one == other => one,
            // A proxy sets one of the headers and passes on the other as the client sent it; there is no way to tell
            // which.
            (Some(_), Some(_)) => peer,
        }
    }

    /// The scheme and host of the client's request, as reported by trusted proxies. Omits what they do not report, and
    /// what two headers report differently.
    pub fn forwarded_target(&self, peer: IpAddr, headers: &HeaderMap) -> ForwardedTarget {
        if !self.trusts(peer) {
            return ForwardedTarget::default();
        }
        let by_forwarded = self.target_of_forwarded(headers);
        let scheme = last_entry(headers, &X_FORWARDED_PROTO).and_then(|text| Scheme::of(&text));
        let host = last_entry(headers, &X_FORWARDED_HOST).and_then(|text| host_of(&text));
        ForwardedTarget { scheme: consistent(by_forwarded.scheme, scheme), host: consistent(by_forwarded.host, host) }
    }

    /// From the elements of `Forwarded`, right to left; the proxy closest to the client takes precedence.
    fn target_of_forwarded(&self, headers: &HeaderMap) -> ForwardedTarget {
        let mut target = ForwardedTarget::default();
        for line in headers.get_all(FORWARDED).iter().rev() {
            let line = line.to_str().ok().filter(|line| line.len() <= LIST_BYTES_MAX);
            let Some(elements) = line.and_then(elements) else { return target };
            for element in elements.into_iter().rev() {
                target.scheme = element.scheme.or(target.scheme);
                target.host = element.host.or(target.host);
                if !matches!(element.hop, Hop::Known(address) if self.trusts(address)) {
                    return target;
                }
            }
        }
        target
    }

    /// Whether a trusted proxy reports that it forwards a request for another client.
    pub fn is_forwarded(&self, peer: IpAddr, headers: &HeaderMap) -> bool {
        self.trusts(peer) && [FORWARDED, X_FORWARDED_FOR].iter().any(|name| headers.contains_key(name))
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.0.contains(address)
    }

    fn nearest_untrusted(
        &self,
        peer: IpAddr,
        headers: &HeaderMap,
        name: &HeaderName,
        read: fn(&str) -> Option<Vec<Hop>>,
    ) -> IpAddr {
        let mut nearest = peer;
        for line in headers.get_all(name).iter().rev() {
            let line = line.to_str().ok().filter(|line| line.len() <= LIST_BYTES_MAX);
            let Some(hops) = line.and_then(read) else { return nearest };
            for hop in hops.into_iter().rev() {
                match hop {
                    Hop::Unknown => return nearest,
                    Hop::Known(address) if !self.trusts(address) => return address,
                    Hop::Known(address) => nearest = address,
                }
            }
        }
        nearest
    }
}

/// One entry of an address list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hop {
    Known(IpAddr),
    Unknown,
}

impl Hop {
    /// An address, with or without a port; IPv6 with a port is in brackets.
    fn of(text: &str) -> Self {
        let address = text.parse::<IpAddr>().ok();
        let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
        let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
        let found = address.or_else(with_port).or_else(in_brackets);
        found.map_or(Self::Unknown, |address| Self::Known(address.to_canonical()))
    }
}

/// Skips empty list elements (RFC 9110, 5.6.1).
fn x_forwarded_for(line: &str) -> Option<Vec<Hop>> {
    Some(line.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(Hop::of).collect())
}

/// The scheme and host that a client sent its request to, as far as known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardedTarget {
    pub scheme: Option<Scheme>,
    /// Includes the port, if there is one.
    pub host: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    fn of(text: &str) -> Option<Self> {
        [("https", Self::Https), ("http", Self::Http)]
            .into_iter()
            .find_map(|(name, scheme)| text.eq_ignore_ascii_case(name).then_some(scheme))
    }
}

/// A host with or without a port.
fn host_of(text: &str) -> Option<String> {
    let authority = text.parse::<Authority>().ok()?;
    (!authority.host().is_empty() && !text.contains('@')).then(|| text.to_owned())
}

/// The value on which both agree, or the only one present.
fn consistent<T: PartialEq>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => (one == other).then_some(one),
        (one, other) => one.or(other),
    }
}

/// The last entry of a list, written by the nearest proxy.
fn last_entry(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let line = headers.get_all(name).iter().next_back()?.to_str().ok()?;
    line.rsplit(',').map(str::trim).find(|entry| !entry.is_empty()).map(str::to_owned)
}

/// One proxy's element in a `Forwarded` header.
struct Element {
    hop: Hop,
    scheme: Option<Scheme>,
    host: Option<String>,
}

/// The `for` of each element of a `Forwarded` header; `None` on a syntax error.
fn forwarded(line: &str) -> Option<Vec<Hop>> {
    Some(elements(line)?.into_iter().map(|element| element.hop).collect())
}

/// The elements of a `Forwarded` header (RFC 7239); `None` on a syntax error.
fn elements(line: &str) -> Option<Vec<Element>> {
    let mut elements = Vec::new();
    let mut rest = line.trim();
    loop {
        let mut element = Element { hop: Hop::Unknown, scheme: None, host: None };
        let mut is_empty = true;
        loop {
            rest = rest.trim_start();
            // Pairs may be empty, and an element without pairs does not count.
            if !rest.is_empty() && !rest.starts_with([',', ';']) {
                is_empty = false;
                let (name, after) = rest.split_once('=')?;
                let (value, after) = value(after)?;
                match name.trim() {
                    name if name.eq_ignore_ascii_case("for") => element.hop = Hop::of(&value),
                    name if name.eq_ignore_ascii_case("proto") => element.scheme = Scheme::of(&value),
                    name if name.eq_ignore_ascii_case("host") => element.host = host_of(&value),
                    _ => {}
                }
                rest = after.trim_start();
            }
            match rest.strip_prefix(';') {
                Some(after) => rest = after,
                None => break,
            }
        }
        if !is_empty {
            elements.push(element);
        }
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None if rest.is_empty() => return Some(elements),
            None => return None,
        }
    }
}

/// A token or a quoted string, and the rest of the text.
fn value(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start();
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ';', ' ', '\t']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(letters.next()?.1),
            _ => value.push(letter),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, lines: &[(&'static str, &str)]) -> String {
        let proxies = TrustedProxies("10.0.0.0/8, 2001:db8:1::/48, loopback".parse().unwrap());
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        proxies.client(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn the_rightmost_untrusted_address_is_the_client() {
        for (list, expected) in [
            ("203.0.113.7", "203.0.113.7"),
            ("198.51.100.1, 203.0.113.7", "203.0.113.7"),
            ("198.51.100.1,203.0.113.7 , 10.1.1.1,10.2.2.2", "203.0.113.7"),
            ("10.9.9.9, 10.1.1.1", "10.9.9.9"),
            ("203.0.113.7:4711", "203.0.113.7"),
            ("2001:db8:2::7", "2001:db8:2::7"),
            ("[2001:db8:2::7]:443, 2001:db8:1::9", "2001:db8:2::7"),
            ("[2001:db8:2::7]", "2001:db8:2::7"),
            ("::ffff:203.0.113.7, ::ffff:10.0.0.9", "203.0.113.7"),
            // Nothing left of an invalid entry is trusted.
            ("203.0.113.7, unknown", "10.0.0.1"),
            ("203.0.113.7, unknown, 10.3.3.3", "10.3.3.3"),
            ("203.0.113.7, 999.1.1.1", "10.0.0.1"),
            ("", "10.0.0.1"),
            // Empty elements are skipped.
            ("203.0.113.7,", "203.0.113.7"),
            (",203.0.113.7, ,\t,10.1.1.1,,", "203.0.113.7"),
            (" , ,", "10.0.0.1"),
            ("203.0.113.7 198.51.100.1", "10.0.0.1"),
        ] {
            assert_eq!(client("10.0.0.1", &[("x-forwarded-for", list)]), expected, "{list}");
        }
        let long = ", 203.0.113.7".repeat(LIST_BYTES_MAX / 10);
        assert_eq!(client("10.0.0.1", &[("x-forwarded-for", &long)]), "10.0.0.1", "too long to read");
        let two = [("x-forwarded-for", "203.0.113.7"), ("x-forwarded-for", "198.51.100.9, 10.4.4.4")];
        assert_eq!(client("10.0.0.1", &two), "198.51.100.9", "the last line was added last");
        let empty = [("x-forwarded-for", "203.0.113.7"), ("x-forwarded-for", " ")];
        assert_eq!(client("10.0.0.1", &empty), "203.0.113.7", "lines are one list");
        assert_eq!(client("127.0.0.1", &[("x-forwarded-for", "203.0.113.7")]), "203.0.113.7");
    }

    #[test]
    fn forwarded_is_parsed_per_rfc() {
        for (list, expected) in [
            ("for=203.0.113.7", "203.0.113.7"),
            ("For=\"203.0.113.7:47011\";proto=https;by=10.0.0.1", "203.0.113.7"),
            ("for=198.51.100.1, for=203.0.113.7;host=\"a, b\"", "203.0.113.7"),
            ("proto=http;for=\"[2001:db8:2::17]:4711\" , for=10.0.0.2", "2001:db8:2::17"),
            ("for=\"[2001:\\db8:2::17]\"", "2001:db8:2::17"),
            ("for=203.0.113.7, for=_hidden", "10.0.0.1"),
            ("for=203.0.113.7, for=unknown, for=10.0.0.2", "10.0.0.2"),
            ("for=203.0.113.7, proto=https", "10.0.0.1"),
            // Syntax errors.
            ("for", "10.0.0.1"),
            ("for=\"203.0.113.7", "10.0.0.1"),
            ("for=203.0.113.7 for=198.51.100.1", "10.0.0.1"),
            ("for=\"203.0.113.7\"x", "10.0.0.1"),
            ("for=203.0.113.7,=", "10.0.0.1"),
            // Empty elements are skipped, and pairs may be empty.
            ("for=203.0.113.7,", "203.0.113.7"),
            (", for=203.0.113.7 ,, for=10.0.0.2;,;,", "203.0.113.7"),
            ("for=203.0.113.7;;proto=https; , ", "203.0.113.7"),
            (";;;", "10.0.0.1"),
            ("", "10.0.0.1"),
        ] {
            assert_eq!(client("10.0.0.1", &[("forwarded", list)]), expected, "{list}");
        }
    }

    #[test]
    fn scheme_and_host_come_from_the_outermost_trusted_proxy() {
        let proxies = TrustedProxies("10.0.0.0/8".parse().unwrap());
        let forwarded_target = |peer: &str, lines: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(*name, value.parse().unwrap());
            }
            let ForwardedTarget { scheme, host } = proxies.forwarded_target(peer.parse().unwrap(), &headers);
            (scheme, host.unwrap_or_default())
        };
        let https = Some(Scheme::Https);
        let proto = ("x-forwarded-proto", "https");
        for (lines, scheme, host) in [
            (&[proto] as &[_], https, ""),
            (
                &[("x-forwarded-proto", "http, HTTPS"), ("x-forwarded-host", "a.test, b.test:8443")],
                https,
                "b.test:8443",
            ),
            (&[("x-forwarded-proto", "httpsx"), ("x-forwarded-host", "user@a.test")], None, ""),
            (&[("forwarded", "for=203.0.113.7;proto=https;host=a.test")], https, "a.test"),
            (&[("forwarded", "for=203.0.113.7;proto=https, for=10.0.0.2;proto=http;host=\"in:80\"")], https, "in:80"),
            // Whatever is left of the client's address was written by the client.
            (
                &[("forwarded", "for=1.1.1.1;proto=https;host=evil.test, for=203.0.113.7;proto=http")],
                Some(Scheme::Http),
                "",
            ),
            (&[("forwarded", "for=1.1.1.1;proto=https, for=_hidden")], None, ""),
            (&[("forwarded", "proto=https;host=\"a b\"")], https, ""),
            (&[("forwarded", "proto")], None, ""),
            (&[proto, ("forwarded", "for=203.0.113.7;proto=https")], https, ""),
            (&[proto, ("forwarded", "for=203.0.113.7;proto=http")], None, ""),
        ] {
            assert_eq!(forwarded_target("10.0.0.1", lines), (scheme, host.to_owned()), "{lines:?}");
            assert_eq!(forwarded_target("203.0.113.7", lines), (None, String::new()), "{lines:?} of a stranger");
        }
    }

    #[test]
    fn headers_of_untrusted_peers_are_ignored() {
        let lines = [("x-forwarded-for", "198.51.100.1"), ("forwarded", "for=198.51.100.1")];
        assert_eq!(client("203.0.113.7", &lines), "203.0.113.7");
        assert_eq!(client("10.0.0.1", &lines), "198.51.100.1", "both headers agree");
        let lines = [("x-forwarded-for", "198.51.100.1"), ("forwarded", "for=192.0.2.1")];
        assert_eq!(client("10.0.0.1", &lines), "10.0.0.1", "one of them is the client's own word");
        let nobody = TrustedProxies::default();
        let headers = HeaderMap::from_iter([(X_FORWARDED_FOR, "198.51.100.1".parse().unwrap())]);
        assert_eq!(nobody.client([127, 0, 0, 1].into(), &headers).to_string(), "127.0.0.1");
        for wrong in ["10.0.0.0/33", "everything", "::1/129"] {
            assert!(wrong.parse::<Networks>().is_err(), "{wrong}");
        }
    }
}
