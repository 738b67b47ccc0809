//! Networks as settings name them: addresses, CIDRs, and the word `loopback`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// A comma-separated list of networks, such as `10.0.0.0/8, 192.168.1.7, loopback`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<Network>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Network {
    Loopback,
    Net(IpNet),
}

impl Networks {
    pub fn loopback() -> Self {
        Self(vec![Network::Loopback])
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of the networks contains the address. An IPv4-mapped address is in no IPv4 network.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| match network {
            Network::Loopback => address.is_loopback(),
            Network::Net(net) => net.contains(&address),
        })
    }
}

impl FromStr for Networks {
    /// A clause that says what is allowed.
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let networks: Option<Vec<_>> =
            text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(network).collect();
        networks.map(Self).ok_or("addresses, CIDRs such as 10.0.0.0/8, or loopback, separated by commas")
    }
}

fn network(text: &str) -> Option<Network> {
    if text.eq_ignore_ascii_case("loopback") {
        return Some(Network::Loopback);
    }
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| address()).ok().map(Network::Net)
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, network) in self.0.iter().enumerate() {
            f.write_str(if position == 0 { "" } else { "," })?;
            match network {
                Network::Loopback => f.write_str("loopback")?,
                Network::Net(net) if net.prefix_len() == net.max_prefix_len() => net.addr().fmt(f)?,
                Network::Net(net) => net.fmt(f)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_read_and_write() {
        for (text, shown) in [
            ("10.0.0.0/8, loopback,::1", "10.0.0.0/8,loopback,::1"),
            ("LOOPBACK,", "loopback"),
            ("192.168.1.7/32, fd00::/8", "192.168.1.7,fd00::/8"),
            ("", ""),
        ] {
            let networks: Networks = text.parse().unwrap();
            assert_eq!(networks.to_string(), shown);
            assert_eq!(shown.parse(), Ok(networks));
        }
        for wrong in ["10.0.0.0/33", "everything", "10.0.0/8", "::1/129", "10.0.0.0/", "10.0.0.0/-1", "localhost"] {
            assert!(wrong.parse::<Networks>().is_err(), "{wrong}");
        }
    }
}
