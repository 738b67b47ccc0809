//! Whose request it is, by address: the peer's, or behind proxies that are trusted the address that they tell; and by
//! which scheme and host it was sent to them.
//!
//! Invariant: nothing that a client writes itself is believed. Each proxy appends the address of its own peer, so a list
//! is read from its right end: the first address that is no trusted proxy's is the client's. An entry that is no
//! address (`unknown`, a hidden name, anything malformed) ends the reading: what stands to its left was not told by a
//! trusted proxy, and the proxy that told the entry is the nearest that is known.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use http::header::{FORWARDED, HeaderName};
use http::uri::Authority;
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// A longer list of addresses is not read.
const LIST_BYTES_MAX: usize = 4 * 1024;

/// The networks of proxies whose word on addresses counts. Empty: nobody's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// From elements such as `10.0.0.0/8`, `fd00::/8`, `192.168.1.7` or `loopback`.
    pub fn parse<'t>(elements: impl IntoIterator<Item = &'t str>) -> Result<Self, String> {
        let mut networks = Vec::new();
        for element in elements {
            if element.eq_ignore_ascii_case("loopback") {
                networks.extend(["127.0.0.0/8", "::1/128"].into_iter().filter_map(network));
            } else {
                networks.push(network(element).ok_or_else(|| format!("`{element}` is not a network"))?);
            }
        }
        Ok(Self(networks))
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
            (Some(told), None) | (None, Some(told)) => told,
            (Some(one), Some(other)) if one == other => one,
            // A proxy sets one of them and passes the other on as the client sent it: nobody can tell which.
            (Some(_), Some(_)) => peer,
        }
    }

    /// How the client sent its request, as the proxies in front tell; nothing of what they do not, and of what two
    /// headers tell differently.
    pub fn sent_to(&self, peer: IpAddr, headers: &HeaderMap) -> SentTo {
        if !self.trusts(peer) {
            return SentTo::default();
        }
        let by_forwarded = self.forwarded_to(headers);
        let scheme = last_entry(headers, &X_FORWARDED_PROTO).and_then(|text| Scheme::of(&text));
        let host = last_entry(headers, &X_FORWARDED_HOST).and_then(|text| host_of(&text));
        SentTo { scheme: agreed(by_forwarded.scheme, scheme), host: agreed(by_forwarded.host, host) }
    }

    /// By the elements of `Forwarded`, from the right: that of the proxy that the client itself sent to counts most.
    fn forwarded_to(&self, headers: &HeaderMap) -> SentTo {
        let mut told = SentTo::default();
        for line in headers.get_all(FORWARDED).iter().rev() {
            let line = line.to_str().ok().filter(|line| line.len() <= LIST_BYTES_MAX);
            let Some(elements) = line.and_then(elements) else { return told };
            for element in elements.into_iter().rev() {
                told.scheme = element.scheme.or(told.scheme);
                told.host = element.host.or(told.host);
                if !matches!(element.hop, Hop::Known(address) if self.trusts(address)) {
                    return told;
                }
            }
        }
        told
    }

    /// Whether a proxy that is trusted says that it has a request from somebody else, whoever that is.
    pub fn is_forwarded(&self, peer: IpAddr, headers: &HeaderMap) -> bool {
        self.trusts(peer) && [FORWARDED, X_FORWARDED_FOR].iter().any(|name| headers.contains_key(name))
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
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

fn network(text: &str) -> Option<IpNet> {
    let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    let address: IpAddr = address.parse().ok()?;
    match prefix {
        None => Some(address.into()),
        Some(prefix) => IpNet::new(address, prefix.parse().ok()?).ok(),
    }
}

/// One entry of a list of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hop {
    Known(IpAddr),
    Unknown,
}

impl Hop {
    /// An address, with or without a port; IPv6 in brackets where it has one.
    fn of(text: &str) -> Self {
        let address = text.parse::<IpAddr>().ok();
        let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
        let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
        let found = address.or_else(with_port).or_else(in_brackets);
        found.map_or(Self::Unknown, |address| Self::Known(address.to_canonical()))
    }
}

/// Empty elements of a list are none (RFC 9110, 5.6.1).
fn x_forwarded_for(line: &str) -> Option<Vec<Hop>> {
    Some(line.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(Hop::of).collect())
}

/// The scheme and the host that a client sent its request to, as far as they are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SentTo {
    pub scheme: Option<Scheme>,
    /// With its port, where it has one.
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

/// What one of two tells, or both.
fn agreed<T: PartialEq>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => (one == other).then_some(one),
        (one, other) => one.or(other),
    }
}

/// The last entry of a list: the one that the nearest proxy told.
fn last_entry(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let line = headers.get_all(name).iter().next_back()?.to_str().ok()?;
    line.rsplit(',').map(str::trim).find(|entry| !entry.is_empty()).map(str::to_owned)
}

/// What one proxy tells in a `Forwarded` header.
struct Element {
    hop: Hop,
    scheme: Option<Scheme>,
    host: Option<String>,
}

/// The `for` of each element of a `Forwarded` header; nothing when its syntax is wrong.
fn forwarded(line: &str) -> Option<Vec<Hop>> {
    Some(elements(line)?.into_iter().map(|element| element.hop).collect())
}

/// The elements of a `Forwarded` header (RFC 7239); nothing when its syntax is wrong.
fn elements(line: &str) -> Option<Vec<Element>> {
    let mut elements = Vec::new();
    let mut rest = line.trim();
    loop {
        let mut element = Element { hop: Hop::Unknown, scheme: None, host: None };
        let mut is_empty = true;
        loop {
            rest = rest.trim_start();
            // A pair may be left out, and an element without any is none.
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

/// A token or a quoted string, and what follows it.
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
        let proxies = TrustedProxies::parse(["10.0.0.0/8", "2001:db8:1::/48", "loopback"]).unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        proxies.client(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn the_rightmost_address_that_is_no_proxy_counts() {
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
            // What is left of an entry that is no address was told by nobody.
            ("203.0.113.7, unknown", "10.0.0.1"),
            ("203.0.113.7, unknown, 10.3.3.3", "10.3.3.3"),
            ("203.0.113.7, 999.1.1.1", "10.0.0.1"),
            ("", "10.0.0.1"),
            // Empty elements are none.
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
    fn forwarded_is_read_as_its_rfc_has_it() {
        for (list, expected) in [
            ("for=203.0.113.7", "203.0.113.7"),
            ("For=\"203.0.113.7:47011\";proto=https;by=10.0.0.1", "203.0.113.7"),
            ("for=198.51.100.1, for=203.0.113.7;host=\"a, b\"", "203.0.113.7"),
            ("proto=http;for=\"[2001:db8:2::17]:4711\" , for=10.0.0.2", "2001:db8:2::17"),
            ("for=\"[2001:\\db8:2::17]\"", "2001:db8:2::17"),
            ("for=203.0.113.7, for=_hidden", "10.0.0.1"),
            ("for=203.0.113.7, for=unknown, for=10.0.0.2", "10.0.0.2"),
            ("for=203.0.113.7, proto=https", "10.0.0.1"),
            // Broken syntax.
            ("for", "10.0.0.1"),
            ("for=\"203.0.113.7", "10.0.0.1"),
            ("for=203.0.113.7 for=198.51.100.1", "10.0.0.1"),
            ("for=\"203.0.113.7\"x", "10.0.0.1"),
            ("for=203.0.113.7,=", "10.0.0.1"),
            // Empty elements are none, and pairs may be left out.
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
    fn scheme_and_host_are_those_of_the_outermost_trusted_proxy() {
        let proxies = TrustedProxies::parse(["10.0.0.0/8"]).unwrap();
        let sent_to = |peer: &str, lines: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(*name, value.parse().unwrap());
            }
            let SentTo { scheme, host } = proxies.sent_to(peer.parse().unwrap(), &headers);
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
            // What stands to the left of the client's address is the client's own word.
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
            assert_eq!(sent_to("10.0.0.1", lines), (scheme, host.to_owned()), "{lines:?}");
            assert_eq!(sent_to("203.0.113.7", lines), (None, String::new()), "{lines:?} of a stranger");
        }
    }

    #[test]
    fn a_stranger_is_not_believed() {
        let lines = [("x-forwarded-for", "198.51.100.1"), ("forwarded", "for=198.51.100.1")];
        assert_eq!(client("203.0.113.7", &lines), "203.0.113.7");
        assert_eq!(client("10.0.0.1", &lines), "198.51.100.1", "both headers agree");
        let lines = [("x-forwarded-for", "198.51.100.1"), ("forwarded", "for=192.0.2.1")];
        assert_eq!(client("10.0.0.1", &lines), "10.0.0.1", "one of them is the client's own word");
        let nobody = TrustedProxies::default();
        let headers = HeaderMap::from_iter([(X_FORWARDED_FOR, "198.51.100.1".parse().unwrap())]);
        assert_eq!(nobody.client([127, 0, 0, 1].into(), &headers).to_string(), "127.0.0.1");
        for wrong in ["10.0.0.0/33", "everything", "::1/129"] {
            assert!(TrustedProxies::parse([wrong]).is_err(), "{wrong}");
        }
    }
}
