//! Matches the origins of web pages against the allowed ones.
//!
//! Invariant: scheme, host and port must match exactly. Browsers write an origin in one canonical form (lower case, no
//! default port, no path), so any difference means another origin.

/// Allowed origins, each `*`, `https://app.example.com:8443` or `https://*.example.com`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origins {
    any: bool,
    patterns: Vec<Pattern>,
}

#[derive(Clone, Debug)]
enum Pattern {
    Whole(String),
    /// All subdomains of a host: the text before and after the wildcard.
    Below {
        scheme: String,
        parent: String,
    },
}

/// Why an origin is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allowed {
    /// Listed by name or by pattern.
    Listed,
    /// By the wildcard `*`.
    Any,
}

impl Origins {
    /// Expects lower case, without default ports and paths.
    pub(crate) fn new(origins: &[String]) -> Self {
        let named = origins.iter().filter(|origin| *origin != "*");
        let pattern = |origin: &String| match origin.split_once("*.") {
            Some((scheme, parent)) => Pattern::Below { scheme: scheme.to_owned(), parent: format!(".{parent}") },
            None => Pattern::Whole(origin.clone()),
        };
        Self { any: origins.iter().any(|origin| origin == "*"), patterns: named.map(pattern).collect() }
    }

    pub(crate) fn check(&self, origin: &[u8]) -> Option<Allowed> {
        if self.patterns.iter().any(|pattern| pattern.matches(origin)) {
            return Some(Allowed::Listed);
        }
        self.any.then_some(Allowed::Any)
    }
}

impl Pattern {
    fn matches(&self, origin: &[u8]) -> bool {
        match self {
            Self::Whole(allowed) => allowed.as_bytes() == origin,
            Self::Below { scheme, parent } => origin
                .strip_prefix(scheme.as_bytes())
                .and_then(|host| host.strip_suffix(parent.as_bytes()))
                .is_some_and(are_labels),
        }
    }
}

/// Whether this is one or more DNS labels and nothing else: no port, no user, no path.
fn are_labels(name: &[u8]) -> bool {
    let is_label = |label: &[u8]| {
        !label.is_empty()
            && label
                .iter()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_'))
    };
    name.split(|byte| *byte == b'.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(allowed: &[&str], origin: &str) -> Option<Allowed> {
        let allowed: Vec<_> = allowed.iter().map(|text| (*text).to_owned()).collect();
        Origins::new(&allowed).check(origin.as_bytes())
    }

    #[test]
    fn origins_are_compared_whole() {
        let allowed = ["https://example.com", "http://localhost:3000", "https://[::1]:8443"];
        for origin in allowed {
            assert_eq!(check(&allowed, origin), Some(Allowed::Listed), "{origin}");
        }
        for origin in [
            "http://example.com",
            "https://example.com:8443",
            "https://example.com:443",
            "https://example.com.",
            "https://example.com/",
            "https://Example.com",
            "HTTPS://example.com",
            "https://example.com.evil.test",
            "https://evil-example.com",
            "https://www.example.com",
            "https://example.co",
            "http://localhost",
            "http://localhost:30000",
            "http://127.0.0.1:3000",
            "null",
            "",
            "*",
        ] {
            assert_eq!(check(&allowed, origin), None, "{origin}");
        }
    }

    #[test]
    fn a_pattern_matches_subdomains() {
        let allowed = ["https://*.example.com", "http://*.dev.test:8080"];
        for origin in ["https://a.example.com", "https://a.b-c.d_1.example.com", "http://x.dev.test:8080"] {
            assert_eq!(check(&allowed, origin), Some(Allowed::Listed), "{origin}");
        }
        for origin in [
            "https://example.com",
            "https://.example.com",
            "https://a..example.com",
            "https://*.example.com",
            "https://evilexample.com",
            "https://a.example.com.",
            "https://a.example.com:8443",
            "https://a.example.com.evil.test",
            "https://evil.test/.example.com",
            "https://evil.test?.example.com",
            "https://evil.test#.example.com",
            "https://evil.test:1.example.com",
            "https://user@a.example.com",
            "https://A.example.com",
            "http://a.example.com",
            "http://x.dev.test",
            "null",
        ] {
            assert_eq!(check(&allowed, origin), None, "{origin}");
        }
    }

    #[test]
    fn wildcard_and_listed_origins_are_distinguished() {
        assert_eq!(check(&["*"], "https://evil.test"), Some(Allowed::Any));
        assert_eq!(check(&["*"], "null"), Some(Allowed::Any));
        assert_eq!(check(&["*", "https://a.test"], "https://a.test"), Some(Allowed::Listed));
        assert_eq!(check(&[], "https://a.test"), None);
    }
}
