//! Limits failed attempts per address: a short burst, then one every few seconds. Guessing a token becomes hopeless and
//! costs this process nothing.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// How often an address that has used up its attempts gets another one.
const INTERVAL: Duration = Duration::from_secs(6);
/// Addresses that are remembered. When there are more, the one that may try again soonest is dropped.
const ADDRESSES_MAX: usize = 4_096;

/// The time at which each address has all its attempts back.
pub(in crate::admin) struct Attempts {
    burst: u32,
    restored: HashMap<IpAddr, Instant>,
}

impl Attempts {
    /// `burst` attempts may fail before an address is throttled.
    pub(in crate::admin) fn new(burst: u32) -> Self {
        Self { burst: burst.max(1), restored: HashMap::new() }
    }

    /// How long this address must wait before its next attempt, if at all.
    pub(in crate::admin) fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let restored = self.restored.get(&network(address))?;
        let left = restored.saturating_duration_since(now);
        left.checked_sub(INTERVAL * (self.burst - 1)).filter(|wait| !wait.is_zero())
    }

    pub(in crate::admin) fn failed(&mut self, address: IpAddr, now: Instant) {
        let network = network(address);
        if self.restored.len() >= ADDRESSES_MAX && !self.restored.contains_key(&network) {
            self.restored.retain(|_, restored| *restored > now);
            if self.restored.len() >= ADDRESSES_MAX
                && let Some(soonest) = self.restored.iter().min_by_key(|(_, restored)| **restored).map(|(of, _)| *of)
            {
                self.restored.remove(&soonest);
            }
        }
        let restored = self.restored.entry(network).or_insert(now);
        *restored = (*restored).max(now) + INTERVAL;
    }
}

/// A client with one IPv6 address usually has the whole /64 network.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_one_per_interval() {
        let (mut attempts, start) = (Attempts::new(3), Instant::now());
        let [one, other]: [IpAddr; 2] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
        for _ in 0..3 {
            assert_eq!(attempts.wait(one, start), None);
            attempts.failed(one, start);
        }
        assert_eq!(attempts.wait(one, start), Some(INTERVAL));
        assert_eq!(attempts.wait(other, start), None);
        assert_eq!(attempts.wait(one, start + INTERVAL), None);
        attempts.failed(one, start + INTERVAL);
        assert_eq!(attempts.wait(one, start + INTERVAL), Some(INTERVAL));
        assert_eq!(attempts.wait(one, start + INTERVAL * 10), None);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address_and_the_memory_is_bounded() {
        let (mut attempts, now) = (Attempts::new(1), Instant::now());
        attempts.failed("2001:db8::1".parse().unwrap(), now);
        assert!(attempts.wait("2001:db8::2".parse().unwrap(), now).is_some());
        assert!(attempts.wait("2001:db8:0:1::1".parse().unwrap(), now).is_none());
        for index in 0..2 * ADDRESSES_MAX as u32 {
            attempts.failed(IpAddr::V4((0x0a00_0000 + index).into()), now);
        }
        assert_eq!(attempts.restored.len(), ADDRESSES_MAX);
    }
}
