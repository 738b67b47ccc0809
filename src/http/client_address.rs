//! Whose request it is, by address: the peer's, or behind proxies that are trusted the address that they tell.
//!
//! Invariant: nothing that a client writes itself is believed. Each proxy appends the address of its own peer, so a list
//! is read from its right end: the first address that is no trusted proxy's is the client's. An entry that is no
//! address (`unknown`, a hidden name, anything malformed) ends the reading: what stands to its left was not told by a
//! trusted proxy, and the proxy that told the entry is the nearest that is known.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use http::header::{FORWARDED, HeaderName};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
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

fn x_forwarded_for(line: &str) -> Option<Vec<Hop>> {
    Some(line.split(',').map(|entry| Hop::of(entry.trim())).collect())
}

/// The `for` of each element of a `Forwarded` header (RFC 7239); nothing when its syntax is wrong.
fn forwarded(line: &str) -> Option<Vec<Hop>> {
    let mut hops = Vec::new();
    let mut rest = line.trim();
    loop {
        let mut hop = Hop::Unknown;
        loop {
            let (name, after) = rest.split_once('=')?;
            let (value, after) = value(after)?;
            if name.trim().eq_ignore_ascii_case("for") {
                hop = Hop::of(&value);
            }
            rest = after.trim_start();
            match rest.strip_prefix(';') {
                Some(after) => rest = after,
                None => break,
            }
        }
        hops.push(hop);
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None if rest.is_empty() => return Some(hops),
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
            ("203.0.113.7,", "10.0.0.1"),
            ("", "10.0.0.1"),
            ("203.0.113.7 198.51.100.1", "10.0.0.1"),
        ] {
            assert_eq!(client("10.0.0.1", &[("x-forwarded-for", list)]), expected, "{list}");
        }
        let long = ", 203.0.113.7".repeat(LIST_BYTES_MAX / 10);
        assert_eq!(client("10.0.0.1", &[("x-forwarded-for", &long)]), "10.0.0.1", "too long to read");
        let two = [("x-forwarded-for", "203.0.113.7"), ("x-forwarded-for", "198.51.100.9, 10.4.4.4")];
        assert_eq!(client("10.0.0.1", &two), "198.51.100.9", "the last line was added last");
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
            ("for=203.0.113.7,", "10.0.0.1"),
            (";;;", "10.0.0.1"),
        ] {
            assert_eq!(client("10.0.0.1", &[("forwarded", list)]), expected, "{list}");
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
