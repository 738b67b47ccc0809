//! Decides which addresses webhooks may reach.
//!
//! Invariant: an address outside the public internet is refused unless a network that contains it was explicitly
//! allowed, whatever IPv6 form it is wrapped in. The connector resolves names; this module decides about single
//! addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::base::network::Networks;

/// Non-public networks that webhooks may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedNetworks(pub Networks);

impl AllowedNetworks {
    /// The networks allowed on a laptop: its own services.
    pub fn loopback() -> Self {
        Self(Networks::loopback())
    }

    /// Whether a webhook may be sent to this address.
    pub(super) fn permits(&self, address: IpAddr) -> bool {
        // A mapped address counts as its plain form: `::ffff:127.0.0.1` is loopback, allowed or not.
        let address = address.to_canonical();
        if self.0.contains(address) {
            return true;
        }
        match address {
            IpAddr::V4(address) => is_public_v4(address),
            IpAddr::V6(address) => is_public_v6(address),
        }
    }
}

/// The IANA special-purpose registry (RFC 6890 and its updates), and multicast.
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = match a {
        0 | 10 | 127 | 224..=255 => true,
        100 => (64..128).contains(&b),
        169 => b == 254,
        172 => (16..32).contains(&b),
        192 => {
            b == 168
                || (b == 0 && (c == 0 || c == 2))
                || (b == 31 && c == 196)
                || (b == 52 && c == 193)
                || (b == 88 && c == 99)
                || (b == 175 && c == 48)
        }
        198 => b == 18 || b == 19 || (b == 51 && c == 100),
        203 => b == 0 && c == 113,
        _ => false,
    };
    !special
}

/// Global unicast, `2000::/3`, without its special-purpose blocks. Everything outside it that carries an IPv4 address
/// (compatible, mapped, NAT64 `64:ff9b::/96` and `64:ff9b:1::/48`) is refused with the rest.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    let global_unicast = a & 0xe000 == 0x2000;
    let special = match a {
        // IETF protocol assignments: Teredo, benchmarking, ORCHID and others; and documentation.
        0x2001 => b < 0x0200 || b == 0x0db8,
        // 6to4.
        0x2002 => true,
        // Documentation, RFC 9637.
        0x3fff => b < 0x1000,
        // AS112.
        0x2620 => b == 0x004f,
        // ISATAP and the retired 6bone.
        0x3ffe => true,
        _ => false,
    };
    let isatap = matches!(address.segments()[4..6], [0x0000 | 0x0200, 0x5efe]);
    global_unicast && !special && !isatap
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permitted(allowed: &[&str], address: &str) -> bool {
        AllowedNetworks(allowed.join(",").parse().unwrap()).permits(address.parse().unwrap())
    }

    #[test]
    fn public_addresses_are_permitted() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "172.32.0.1",
            "100.128.0.1",
            "192.0.1.1",
            "223.255.255.255",
            "2606:4700:4700::1111",
            "2a00:1450:4001:80b::200e",
            "2001:4860:4860::8888",
            "::ffff:8.8.8.8",
        ] {
            assert!(permitted(&[], address), "{address}");
        }
    }

    #[test]
    fn everything_else_is_refused_in_every_form() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.250",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "::8.8.8.8",
            "64:ff9b::7f00:1",
            "64:ff9b::808:808",
            "64:ff9b:1::1",
            "2002:7f00:1::1",
            "2002:808:808::1",
            "2001::1",
            "2001:0:7f00:1::",
            "2001:2::1",
            "2001:10::1",
            "2001:db8::1",
            "3fff::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "2a00::5efe:7f00:1",
            "2a00::200:5efe:a00:1",
            "5f00::1",
            "4000::1",
        ] {
            assert!(!permitted(&[], address), "{address}");
        }
    }

    #[test]
    fn only_named_networks_are_allowed() {
        assert!(permitted(&["loopback"], "127.9.9.9"));
        assert!(permitted(&["loopback"], "::1"));
        assert!(permitted(&["loopback"], "::ffff:127.0.0.1"));
        assert!(!permitted(&["loopback"], "10.0.0.1"));
        assert!(!permitted(&["loopback"], "::127.0.0.1"));
        assert!(permitted(&["10.1.0.0/16", " fd00::/8 "], "10.1.255.1"));
        assert!(!permitted(&["10.1.0.0/16"], "10.2.0.1"));
        assert!(permitted(&["fd00::/8"], "fd99::1"));
        assert!(permitted(&["192.168.1.7"], "192.168.1.7"));
        assert!(!permitted(&["192.168.1.7"], "192.168.1.8"));
        assert!(permitted(&["0.0.0.0/0"], "10.0.0.1"));
        assert!(permitted(&["::/0"], "fe80::1"));
        assert_eq!(AllowedNetworks::loopback(), AllowedNetworks("LOOPBACK,".parse().unwrap()));
        for wrong in ["10.0.0.0/33", "fd00::/129", "localhost", "10.0.0/8", "10.0.0.0/", "10.0.0.0/-1"] {
            assert!(wrong.parse::<Networks>().is_err(), "{wrong}");
        }
    }
}
