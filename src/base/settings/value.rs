//! Parses settings: durations, sizes, addresses, lists, choices.
//!
//! Invariant: parsing the output of `show` gives the same value, except for secrets. Every error says what is allowed,
//! and nothing about other settings.

use std::net::{IpAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use super::redaction::shown;
use crate::base::duration;
use crate::base::network::Networks;

/// A value written as text in the environment, a file or a flag.
pub trait Setting: Sized {
    /// Whether it may contain a password or a key; errors then do not repeat the text.
    const CONFIDENTIAL: bool = false;

    /// The error is a clause that says what is allowed.
    fn parse(text: &str) -> Result<Self, String>;
    fn show(&self) -> String;
}

/// Such as `30s`, `5m`, `1h30m` or `500ms`.
impl Setting for Duration {
    fn parse(text: &str) -> Result<Self, String> {
        duration::parse(text.trim()).ok_or_else(|| "a duration such as 500ms, 30s, 5m or 168h".into())
    }

    fn show(&self) -> String {
        duration::show(*self)
    }
}

/// A number of bytes such as `5242880`, `64KiB`, `5MB` or `10GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

impl Setting for Size {
    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let unit = text[digits..].trim();
        let factor = if unit.is_empty() {
            Some(1)
        } else {
            SIZES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, size)| *size)
        };
        let count: Option<u64> = text[..digits].parse().ok();
        count
            .zip(factor)
            .and_then(|(count, factor)| count.checked_mul(factor))
            .map(Self)
            .ok_or_else(|| "a number of bytes such as 5242880, 64KiB, 5MB or 10GiB".into())
    }

    fn show(&self) -> String {
        let unit = SIZES[..4].iter().find(|(_, size)| self.0 >= *size && self.0.is_multiple_of(*size));
        unit.map_or(self.0.to_string(), |(name, size)| format!("{}{name}", self.0 / size))
    }
}

/// A listen address: `host:port`, or `:port` for all interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    host: String,
    pub port: u16,
}

impl Address {
    /// The address to bind.
    pub fn host_port(&self) -> String {
        match &*self.host {
            "" => format!("0.0.0.0:{}", self.port),
            host if host.contains(':') => format!("[{host}]:{}", self.port),
            host => format!("{host}:{}", self.port),
        }
    }

    /// The address to connect to from this machine: loopback if bound to all interfaces.
    pub fn to_connect(&self) -> String {
        match &*self.host {
            "" | "0.0.0.0" => format!("127.0.0.1:{}", self.port),
            "::" => format!("[::1]:{}", self.port),
            _ => self.host_port(),
        }
    }

    /// Whether only this machine can reach it.
    pub fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => (&*self.host, self.port)
                .to_socket_addrs()
                .is_ok_and(|mut all| all.len() > 0 && all.all(|address| address.ip().is_loopback())),
        }
    }
}

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

impl Setting for Address {
    fn parse(text: &str) -> Result<Self, String> {
        let invalid = || "host:port, or :port for every interface".to_owned();
        let (host, port) = text.trim().rsplit_once(':').ok_or_else(invalid)?;
        let port = port.parse().map_err(|_| invalid())?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.contains(|c: char| c.is_whitespace() || matches!(c, '/' | '@' | '?' | '#')) {
            return Err(invalid());
        }
        Ok(Self { host: host.to_owned(), port })
    }

    fn show(&self) -> String {
        if self.host.is_empty() { format!(":{}", self.port) } else { self.host_port() }
    }
}

impl Setting for Networks {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(str::to_owned)
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for String {
    fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() { Err("some text".into()) } else { Ok(text.to_owned()) }
    }

    fn show(&self) -> String {
        // A misplaced URL in the setting of a host or a name.
        if self.contains("://") { shown(self) } else { self.clone() }
    }
}

/// A path of this machine.
impl Setting for PathBuf {
    fn parse(text: &str) -> Result<Self, String> {
        String::parse(text).map(Self::from)
    }

    fn show(&self) -> String {
        self.display().to_string().show()
    }
}

/// A count, from 1.
impl Setting for usize {
    fn parse(text: &str) -> Result<Self, String> {
        let count = text.trim().parse().ok().filter(|count| (1..=1_000_000_000).contains(count));
        count.ok_or_else(|| "a whole number from 1 to 1000000000".into())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// An integer from 1, or 0 for no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit(pub Option<usize>);

impl Setting for Limit {
    fn parse(text: &str) -> Result<Self, String> {
        if text.trim() == "0" {
            return Ok(Self(None));
        }
        usize::parse(text).map(|count| Self(Some(count))).map_err(|allowed| format!("{allowed}, or 0 for none"))
    }

    fn show(&self) -> String {
        self.0.unwrap_or_default().to_string()
    }
}

/// A factor of at least 1.
impl Setting for f64 {
    fn parse(text: &str) -> Result<Self, String> {
        let factor = text.trim().parse().ok().filter(|factor| (1.0..=100.0).contains(factor));
        factor.ok_or_else(|| "a number from 1 to 100".into())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// On or off.
impl Setting for bool {
    fn parse(text: &str) -> Result<Self, String> {
        match text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" | "on" | "yes" => Ok(true),
            "false" | "0" | "off" | "no" => Ok(false),
            _ => Err("true or false".into()),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// A number of attempts, or -1 for no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempts(pub Option<usize>);

impl Setting for Attempts {
    fn parse(text: &str) -> Result<Self, String> {
        match text.trim().parse::<i64>() {
            Ok(-1) => Ok(Self(None)),
            // The client treats 0 as no limit.
            Ok(count) if count > 0 => Ok(Self(Some(count as usize))),
            _ => Err("a whole number from 1, or -1 for no limit".into()),
        }
    }

    fn show(&self) -> String {
        self.0.map_or_else(|| "-1".into(), |count| count.to_string())
    }
}

/// A comma-separated list with at least one element.
impl Setting for Vec<String> {
    fn parse(text: &str) -> Result<Self, String> {
        let parts: Vec<_> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect();
        if parts.is_empty() { Err("some texts, separated by commas".into()) } else { Ok(parts) }
    }

    fn show(&self) -> String {
        self.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_write() {
        for (text, ms) in
            [("30s", 30_000), ("5m", 300_000), ("168h", 604_800_000), ("1h30m", 5_400_000), ("7d", 604_800_000)]
        {
            let period = Duration::parse(text).unwrap();
            assert_eq!(period, Duration::from_millis(ms), "{text}");
            assert_eq!(Duration::parse(&period.show()).unwrap(), period);
        }
        assert_eq!(Duration::parse("0s").unwrap(), Duration::ZERO);
        for invalid in ["", "5", "m", "5 m", "-1s", "5x", "99999999999999999h", "1h2"] {
            assert!(Duration::parse(invalid).is_err(), "{invalid:?}");
        }
    }

    #[test]
    fn sizes_read_and_write() {
        for (text, bytes, shown) in [
            ("5MiB", 5 << 20, "5MiB"),
            ("10gib", 10 << 30, "10GiB"),
            ("1000", 1000, "1000"),
            ("5 MB", 5_000_000, "5000000"),
        ] {
            assert_eq!(Size::parse(text).unwrap(), Size(bytes));
            assert_eq!(Size(bytes).show(), shown);
        }
        for invalid in ["", "MB", "-1", "5 XB", "99999999999TiB"] {
            assert!(Size::parse(invalid).is_err(), "{invalid:?}");
        }
    }

    #[test]
    fn networks_are_validated() {
        assert_eq!(Networks::parse("10.0.0.0/8, loopback,::1").unwrap().show(), "10.0.0.0/8,loopback,::1");
        for invalid in ["10.0.0.0/33", "everything", "10.0.0/8", "::1/129"] {
            assert!(Networks::parse(invalid).is_err(), "{invalid:?}");
        }
    }

    #[test]
    fn addresses_know_loopback() {
        assert!(Address::parse("127.0.0.1:8080").unwrap().is_loopback());
        assert!(Address::parse("[::1]:0").unwrap().is_loopback());
        assert!(Address::parse("localhost:1").unwrap().is_loopback());
        let everywhere = Address::parse(":8080").unwrap();
        assert_eq!((everywhere.host_port().as_str(), everywhere.is_loopback()), ("0.0.0.0:8080", false));
        for invalid in ["8080", "127.0.0.1", "host:99999", "http://x:1", ""] {
            assert!(Address::parse(invalid).is_err(), "{invalid:?}");
        }
    }
}
