//! Who reaches the gateway. The defaults of keys, limits, web pages and details hang on this one answer.

use super::Config;

/// From where requests reach the gateway, as far as the settings tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// Only from this machine: a laptop.
    Machine,
    /// From this machine, by proxies that serve others: `trusted_proxies` says so.
    Proxies,
    /// From other machines.
    Network,
}

impl Exposure {
    /// For the log.
    pub fn text(self) -> &'static str {
        match self {
            Self::Machine => "this machine",
            Self::Proxies => "whoever the proxies let through (trusted_proxies)",
            Self::Network => "whoever reaches http_addr",
        }
    }

    /// Whether requests come from others than those who are logged in to this machine.
    pub fn is_public(self) -> bool {
        self != Self::Machine
    }
}

impl Config {
    pub fn exposure(&self) -> Exposure {
        let has_proxies = self.trusted_proxies.as_ref().is_some_and(|proxies| !proxies.0.is_empty());
        match (self.http_addr.is_loopback(), has_proxies) {
            (false, _) => Exposure::Network,
            (true, true) => Exposure::Proxies,
            (true, false) => Exposure::Machine,
        }
    }

    /// Whether the gateway asks for API keys.
    pub fn asks_for_keys(&self) -> bool {
        self.auth_enabled.map_or_else(|| self.exposure().is_public(), |enabled| enabled.0)
    }

    /// Whether there are rate limits: what only this machine reaches has none unless somebody says so.
    pub fn is_rate_limited(&self) -> bool {
        self.rate_limit_enabled.map_or_else(|| self.exposure().is_public(), |enabled| enabled.0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::load_env;
    use super::*;

    #[test]
    fn keys_and_limits_are_for_whoever_is_not_on_this_machine_unless_the_settings_say_otherwise() {
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
            let found = (config.exposure(), config.asks_for_keys(), config.is_rate_limited());
            assert_eq!(found, (exposure, asks, limited), "{environment:?}");
        }
        assert!(load_env(&[("AUTH_ENABLED", "maybe")]).unwrap_err().to_string().contains("auth_enabled"));
    }
}
