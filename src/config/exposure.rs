//! Who can reach the gateway, which decides the defaults of API keys, rate limits, CORS and error details.

use crate::http::HttpSettings;

/// Where requests to the gateway come from, according to the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// Only from this machine, such as a laptop.
    Machine,
    /// From proxies on this machine that serve others, as `trusted_proxies` says.
    Proxies,
    /// From other machines.
    Network,
}

impl Exposure {
    pub(super) fn of(http: &HttpSettings) -> Self {
        match (http.addr.is_loopback(), http.trusted_proxies.is_empty()) {
            (false, _) => Self::Network,
            (true, false) => Self::Proxies,
            (true, true) => Self::Machine,
        }
    }

    /// The text for the log.
    pub fn text(self) -> &'static str {
        match self {
            Self::Machine => "this machine",
            Self::Proxies => "whoever the proxies let through (trusted_proxies)",
            Self::Network => "whoever reaches http_addr",
        }
    }

    /// Whether requests can come from anyone but the users of this machine.
    pub fn is_public(self) -> bool {
        self != Self::Machine
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::load_env;
    use super::*;

    #[test]
    fn keys_and_limits_apply_to_other_machines_unless_the_settings_say_otherwise() {
        let (everywhere, proxied) = (("HTTP_ADDR", ":8080"), ("TRUSTED_PROXIES", "loopback"));
        let (no_keys, no_limits) = (("AUTH_ENABLED", "false"), ("RATE_LIMIT_ENABLED", "false"));
        let (keys, limits) = (("AUTH_ENABLED", "true"), ("RATE_LIMIT_ENABLED", "true"));
        for (environment, exposure, asks, limited) in [
            (&[][..], Exposure::Machine, false, false),
            (&[("HTTP_ADDR", "localhost:0")][..], Exposure::Machine, false, false),
            (&[everywhere][..], Exposure::Network, true, true),
            (&[("HTTP_ADDR", "192.0.2.1:80")][..], Exposure::Network, true, true),
            (&[everywhere, no_keys][..], Exposure::Network, false, true),
            (&[everywhere, no_limits][..], Exposure::Network, true, false),
            (&[keys][..], Exposure::Machine, true, false),
            (&[limits][..], Exposure::Machine, false, true),
            (&[proxied][..], Exposure::Proxies, true, true),
            (&[("TRUSTED_PROXIES", "10.0.0.0/8")][..], Exposure::Proxies, true, true),
            (&[("TRUSTED_PROXIES", ",")][..], Exposure::Machine, false, false),
            (&[proxied, no_keys][..], Exposure::Proxies, false, true),
            (&[proxied, no_keys, no_limits][..], Exposure::Proxies, false, false),
            (&[proxied, everywhere][..], Exposure::Network, true, true),
        ] {
            let config = load_env(environment).unwrap().config;
            let found = (config.exposure, config.requires_api_keys, config.gateway.rate_limits.is_some());
            assert_eq!(found, (exposure, asks, limited), "{environment:?}");
        }
        assert!(load_env(&[("AUTH_ENABLED", "maybe")]).unwrap_err().to_string().contains("auth_enabled"));
    }
}
