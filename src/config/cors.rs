//! The settings of CORS: origins, and lists of methods and headers.
//!
//! Invariant: parsed values are normalized to the form that browsers send, so that the gateway compares byte by byte.

use super::value::{Period, Setting};

/// Allowed origins: `*`, `https://app.example.com:8443`, or `https://*.example.com` for all subdomains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origins(pub Vec<String>);

const ORIGINS: &str = "*, or origins such as https://app.example.com, http://localhost:3000 and \
                       https://*.example.com, separated by commas; null stands for any sandboxed page and is none";

impl Setting for Origins {
    fn parse(text: &str) -> Result<Self, String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        match parts.map(origin).collect::<Option<Vec<_>>>() {
            Some(origins) if !origins.is_empty() => Ok(Self(origins)),
            _ => Err(ORIGINS.into()),
        }
    }

    fn show(&self) -> String {
        self.0.join(",")
    }
}

/// Normalizes an origin: lower case, without the default port and the trailing slash.
fn origin(text: &str) -> Option<String> {
    if text == "*" {
        return Some(text.to_owned());
    }
    let text = text.to_ascii_lowercase();
    let (scheme, rest) = text.split_once("://")?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    let default_port = match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port.parse::<u16>().ok()?)),
        _ => (rest, None),
    };
    let port = port.filter(|port| Some(*port) != default_port).map_or(String::new(), |port| format!(":{port}"));
    (is_scheme && is_host(host)).then(|| format!("{scheme}://{host}{port}"))
}

/// A host name, an IPv6 address, or `*.` before a name of at least two labels.
fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let (name, labels_min) = host.strip_prefix("*.").map_or((host, 1), |name| (name, 2));
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    (name.split('.').count() >= labels_min || name == "localhost") && name.split('.').all(is_label)
}

/// A comma-separated list of HTTP tokens: methods or header names; `*` matches any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens(pub Vec<String>);

impl Setting for Tokens {
    fn parse(text: &str) -> Result<Self, String> {
        let parts: Vec<_> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect();
        if !parts.is_empty() && parts.iter().all(|part| part.bytes().all(is_token_byte)) {
            Ok(Self(parts))
        } else {
            Err("names of methods or headers, separated by commas, or *".into())
        }
    }

    fn show(&self) -> String {
        self.0.join(",")
    }
}

/// RFC 9110, section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A duration that is sent in seconds, written as `86400` or `24h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seconds(pub u64);

impl Setting for Seconds {
    fn parse(text: &str) -> Result<Self, String> {
        let plain = text.trim().parse().ok();
        let seconds = plain.or_else(|| Period::parse(text).ok().map(|period| period.0.as_secs()));
        seconds.map(Self).ok_or_else(|| "seconds such as 86400, or a duration such as 24h".into())
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_normalized_as_browsers_send_them() {
        for (text, shown) in [
            ("*", "*"),
            ("https://App.Example.com", "https://app.example.com"),
            ("https://app.example.com:443/, http://localhost:3000", "https://app.example.com,http://localhost:3000"),
            ("http://a.test:80,http://a.test:443", "http://a.test,http://a.test:443"),
            ("https://*.example.com:8443", "https://*.example.com:8443"),
            ("http://*.localhost:3000", "http://*.localhost:3000"),
            ("http://[::1]:3000,http://[::1]", "http://[::1]:3000,http://[::1]"),
            ("capacitor://localhost", "capacitor://localhost"),
        ] {
            let origins = Origins::parse(text).unwrap();
            assert_eq!(origins.show(), shown, "{text}");
            assert_eq!(Origins::parse(shown).unwrap(), origins);
        }
        for invalid in [
            "",
            "null",
            "example.com",
            "https://",
            "https://*",
            "https://*.com",
            "https://a.*.example.com",
            "https://a*.example.com",
            "https://example.com.",
            "https://example.com/path",
            "https://user@example.com",
            "https://example.com:0x50",
            "https://example.com:99999",
            "https://a b",
            "https://[::g]",
            "//example.com",
            "https://example.com null",
        ] {
            assert!(Origins::parse(invalid).is_err(), "{invalid:?}");
        }
    }

    #[test]
    fn lists_and_seconds_are_validated() {
        assert_eq!(Tokens::parse("GET, X-API-Key,*").unwrap().show(), "GET,X-API-Key,*");
        for invalid in ["", ",", "X API", "a:b", "a\r\nb", "é"] {
            assert!(Tokens::parse(invalid).is_err(), "{invalid:?}");
        }
        assert_eq!(Seconds::parse("86400").unwrap(), Seconds::parse("24h").unwrap());
        for invalid in ["", "-1", "soon"] {
            assert!(Seconds::parse(invalid).is_err(), "{invalid:?}");
        }
    }
}
