//! The settings of rate limits with their mutual defaults, and checks on them.

use super::settings::Config;
use super::value::{Count, Limit, Setting};

/// Requests per second, and the burst.
pub struct Rate {
    pub per_second: usize,
    pub burst: usize,
}

/// Refills of the token bucket per second: tokens of one refill that exceed the burst are lost.
const REFILLS_MAX: usize = 100;

impl Config {
    /// The limit on all callers together.
    pub fn rate_limit(&self) -> Rate {
        Rate { per_second: self.rate_limit_requests_per_second.0, burst: self.rate_limit_burst_size.0 }
    }

    /// The limit on each key or address. Defaults to the limit on all callers; if only the rate is set, the burst is
    /// twice the rate.
    pub fn rate_limit_per_key(&self) -> Rate {
        let all = self.rate_limit();
        let burst = self.rate_limit_per_key_burst.map(|burst| burst.0);
        match self.rate_limit_per_key_rps {
            Some(Count(per_second)) => Rate { per_second, burst: burst.unwrap_or(2 * per_second) },
            None => Rate { burst: burst.unwrap_or(all.burst), ..all },
        }
    }

    /// Events per second of each key or address, if limited.
    pub fn rate_limit_events(&self) -> Option<usize> {
        self.rate_limit_events_per_second.and_then(|Limit(per_second)| per_second)
    }
}

/// Calls `refuse` with key, value and allowed values.
pub(super) fn check(config: &Config, refuse: &mut impl FnMut(&str, String, &str)) {
    let too_small = |rate: &Rate| rate.burst.saturating_mul(REFILLS_MAX) < rate.per_second;
    if too_small(&config.rate_limit()) {
        let allowed = "at least a hundredth of rate_limit_requests_per_second";
        refuse("rate_limit_burst_size", config.rate_limit_burst_size.show(), allowed);
    }
    if let Some(burst) = config.rate_limit_per_key_burst
        && too_small(&config.rate_limit_per_key())
    {
        refuse("rate_limit_per_key_burst", burst.show(), "at least a hundredth of rate_limit_per_key_rps");
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::load_env;

    fn limits(environment: &[(&str, &str)]) -> (bool, [usize; 4]) {
        let config = load_env(environment).unwrap().config;
        let (all, each) = (config.rate_limit(), config.rate_limit_per_key());
        (config.is_rate_limited(), [all.per_second, all.burst, each.per_second, each.burst])
    }

    #[test]
    fn limits_default_to_one_another() {
        let everywhere = ("HTTP_ADDR", ":8080");
        let (rps, burst) = ("RATE_LIMIT_PER_KEY_RPS", "RATE_LIMIT_PER_KEY_BURST");
        assert_eq!(limits(&[]), (false, [1_000, 2_000, 1_000, 2_000]), "a laptop has none");
        assert!(limits(&[("RATE_LIMIT_ENABLED", "true")]).0);
        assert_eq!(limits(&[everywhere]), (true, [1_000, 2_000, 1_000, 2_000]));
        assert!(!limits(&[everywhere, ("RATE_LIMIT_ENABLED", "false")]).0);
        assert_eq!(limits(&[(rps, "50")]).1, [1_000, 2_000, 50, 100]);
        assert_eq!(limits(&[(rps, "50"), (burst, "60")]).1, [1_000, 2_000, 50, 60]);
        assert_eq!(limits(&[(burst, "60")]).1, [1_000, 2_000, 1_000, 60]);
    }

    #[test]
    fn events_are_unlimited_by_default() {
        let rate = |value: &str| load_env(&[("RATE_LIMIT_EVENTS_PER_SECOND", value)]).map(|loaded| loaded.config);
        assert_eq!(load_env(&[]).unwrap().config.rate_limit_events(), None);
        // In the environment, 0 is the only way to undo a file's limit.
        assert_eq!(rate("0").unwrap().rate_limit_events(), None);
        assert_eq!(rate("10000").unwrap().rate_limit_events(), Some(10_000));
        for invalid in ["-1", "off", "1.5", "1000000001"] {
            let error = rate(invalid).unwrap_err().to_string();
            assert!(error.contains("rate_limit_events_per_second") && error.contains("0 for none"), "{error}");
        }
    }

    #[test]
    fn a_burst_too_small_for_its_rate_is_refused() {
        for (name, value) in [("RATE_LIMIT_BURST_SIZE", "9"), ("RATE_LIMIT_PER_KEY_BURST", "9")] {
            let error = load_env(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(&name.to_ascii_lowercase()) && error.contains("hundredth"), "{error}");
            load_env(&[(name, "10")]).unwrap();
        }
        for invalid in ["0", "-1", "many", "1.5"] {
            load_env(&[("RATE_LIMIT_REQUESTS_PER_SECOND", invalid)]).unwrap_err();
        }
    }
}
