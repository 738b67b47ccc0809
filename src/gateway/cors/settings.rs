//! The settings of CORS: origins, and lists of methods and headers.
//!
//! Invariant: parsed values are normalized to the form that browsers send, so that the gateway compares byte by byte.

use std::time::Duration;

use crate::base::settings::{Reader, Setting};

/// What web pages may do.
#[derive(Clone, Debug, Default)]
pub struct CorsSettings {
    /// Each `*`, `https://app.example.com:8443` or `https://*.example.com`, in lower case. If empty, only pages of the
    /// gateway's own origin are allowed.
    pub origins: Vec<String>,
    pub methods: Vec<String>,
    pub request_headers: Vec<String>,
    pub exposed_headers: Vec<String>,
    pub credentials: bool,
    pub max_age_seconds: u64,
}

impl CorsSettings {
    /// `None` turns CORS off.
    pub fn read(from: &mut Reader<'_>, is_public: bool) -> Option<Self> {
        // Any page in a browser can reach a server on the same laptop, so there each origin needs to be allowed by name.
        let unset = || if is_public { vec!["*".to_owned()] } else { Vec::new() };
        let is_enabled = from.get("cors_enabled");
        let settings = Self {
            origins: from.optional::<OriginList>("cors_allowed_origins").map_or_else(unset, |origins| origins.0),
            methods: from.get::<Tokens>("cors_allowed_methods").0,
            request_headers: from.get::<Tokens>("cors_allowed_headers").0,
            exposed_headers: from.get::<Tokens>("cors_exposed_headers").0,
            credentials: from.get("cors_allow_credentials"),
            max_age_seconds: from.get::<Seconds>("cors_max_age").0,
        };
        if is_enabled && settings.credentials {
            settings.check_names(from);
        }
        is_enabled.then_some(settings)
    }

    /// With credentials, `*` is no wildcard.
    fn check_names(&self, from: &mut Reader<'_>) {
        let any = |list: &[String]| list.iter().any(|item| item == "*");
        if any(&self.origins) && from.is_set("cors_allowed_origins") {
            let allowed = "origins by name or pattern where cors_allow_credentials is true: with * any page could act \
                           for whoever visits it";
            from.refuse("cors_allowed_origins", allowed);
        } else if any(&self.origins) {
            let allowed = "false, or set together with cors_allowed_origins, which is * otherwise";
            from.refuse("cors_allow_credentials", allowed);
        }
        for (key, list) in [
            ("cors_allowed_methods", &self.methods),
            ("cors_allowed_headers", &self.request_headers),
            ("cors_exposed_headers", &self.exposed_headers),
        ] {
            if any(list) {
                from.refuse(key, "names where cors_allow_credentials is true: * is a name like others then");
            }
        }
    }
}

/// Allowed origins: `*`, `https://app.example.com:8443`, or `https://*.example.com` for all subdomains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OriginList(pub Vec<String>);

const ORIGINS: &str = "*, or origins such as https://app.example.com, http://localhost:3000 and \
                       https://*.example.com, separated by commas; null stands for any sandboxed page and is none";

impl Setting for OriginList {
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
pub(crate) struct Tokens(pub Vec<String>);

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
pub(crate) struct Seconds(pub u64);

impl Setting for Seconds {
    fn parse(text: &str) -> Result<Self, String> {
        let plain = text.trim().parse().ok();
        let seconds = plain.or_else(|| Duration::parse(text).ok().map(|period| period.as_secs()));
        seconds.map(Self).ok_or_else(|| "seconds such as 86400, or a duration such as 24h".into())
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::settings::read_with;

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
            let origins = OriginList::parse(text).unwrap();
            assert_eq!(origins.show(), shown, "{text}");
            assert_eq!(OriginList::parse(shown).unwrap(), origins);
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
            assert!(OriginList::parse(invalid).is_err(), "{invalid:?}");
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

    #[test]
    fn credentials_need_origins_by_name() {
        let refused = |values: &[(&str, &str)], is_public, key: &str| {
            let error = read_with(values, |from| CorsSettings::read(from, is_public)).unwrap_err();
            assert!(error.contains(key), "{error}");
        };
        let read = |values: &[(&str, &str)], is_public| {
            read_with(values, |from| CorsSettings::read(from, is_public)).unwrap();
        };
        let (on, origins) = (("CORS_ALLOW_CREDENTIALS", "true"), ("CORS_ALLOWED_ORIGINS", "https://a.test"));
        refused(&[on, ("CORS_ALLOWED_ORIGINS", "https://a.test,*")], false, "cors_allowed_origins");
        refused(&[on], true, "cors_allow_credentials");
        refused(&[on, origins, ("CORS_ALLOWED_HEADERS", "*")], false, "cors_allowed_headers");
        read(&[on, origins], true);
        read(&[on], false);
        read(&[on, ("CORS_ALLOWED_ORIGINS", "*"), ("CORS_ENABLED", "false")], false);
        read(&[("CORS_ALLOWED_ORIGINS", "*"), ("CORS_ALLOWED_HEADERS", "*")], false);
    }
}
