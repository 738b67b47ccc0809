//! The settings of rate limits, with their mutual defaults.

use super::limits::RateLimitSettings;
use super::rate::Quota;
use crate::base::settings::{Limit, Reader};

/// Refills of the token bucket per second: tokens of one refill that exceed the burst are lost.
const REFILLS_MAX: u32 = 100;

impl RateLimitSettings {
    /// `None` if there are no limits: by default where only this machine reaches the gateway.
    pub fn read(from: &mut Reader<'_>, is_public: bool) -> Option<Self> {
        let is_limited = from.optional("rate_limit_enabled").unwrap_or(is_public);
        // Counts have at most ten digits.
        let mut count = |name| from.get::<usize>(name) as u32;
        let global =
            Quota { per_second: count("rate_limit_requests_per_second"), burst: count("rate_limit_burst_size") };
        let mut count = |name| from.optional::<usize>(name).map(|count| count as u32);
        let (per_second, burst) = (count("rate_limit_per_key_rps"), count("rate_limit_per_key_burst"));
        // The limit on each caller defaults to the limit on all; if only the rate is set, the burst is twice the rate.
        let each = match per_second {
            Some(per_second) => Quota { per_second, burst: burst.unwrap_or(2 * per_second) },
            None => Quota { burst: burst.unwrap_or(global.burst), ..global },
        };
        let events_per_second = from.optional("rate_limit_events_per_second").and_then(|Limit(count)| count);
        let is_too_small = |quota: Quota| quota.burst.saturating_mul(REFILLS_MAX) < quota.per_second;
        if is_too_small(global) {
            from.refuse("rate_limit_burst_size", "at least a hundredth of rate_limit_requests_per_second");
        }
        if burst.is_some() && is_too_small(each) {
            from.refuse("rate_limit_per_key_burst", "at least a hundredth of rate_limit_per_key_rps");
        }
        let events_per_second = events_per_second.map(|count| count as u32);
        is_limited.then_some(Self { global, each, events_per_second })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::settings::read_with;

    fn read(values: &[(&str, &str)]) -> Result<Option<RateLimitSettings>, String> {
        read_with(values, |from| RateLimitSettings::read(from, false))
    }

    fn limits(values: &[(&str, &str)]) -> [u32; 4] {
        let limits = read_with(values, |from| RateLimitSettings::read(from, true)).unwrap().unwrap();
        [limits.global.per_second, limits.global.burst, limits.each.per_second, limits.each.burst]
    }

    #[test]
    fn limits_default_to_one_another() {
        let (rps, burst) = ("RATE_LIMIT_PER_KEY_RPS", "RATE_LIMIT_PER_KEY_BURST");
        assert_eq!(read(&[]), Ok(None), "a laptop has none");
        assert_eq!(limits(&[]), [1_000, 2_000, 1_000, 2_000]);
        let on = [("RATE_LIMIT_ENABLED", "true")];
        assert!(read(&on).unwrap().is_some());
        let off = read_with(&[("RATE_LIMIT_ENABLED", "false")], |from| RateLimitSettings::read(from, true));
        assert_eq!(off, Ok(None));
        assert_eq!(limits(&[(rps, "50")]), [1_000, 2_000, 50, 100]);
        assert_eq!(limits(&[(rps, "50"), (burst, "60")]), [1_000, 2_000, 50, 60]);
        assert_eq!(limits(&[(burst, "60")]), [1_000, 2_000, 1_000, 60]);
    }

    #[test]
    fn events_are_unlimited_by_default() {
        let rate = |value: &str| {
            let values = [("RATE_LIMIT_ENABLED", "true"), ("RATE_LIMIT_EVENTS_PER_SECOND", value)];
            read(&values).map(|limits| limits.unwrap().events_per_second)
        };
        assert_eq!(read(&[("RATE_LIMIT_ENABLED", "true")]).unwrap().unwrap().events_per_second, None);
        // In the environment, 0 is the only way to undo a file's limit.
        assert_eq!(rate("0").unwrap(), None);
        assert_eq!(rate("10000").unwrap(), Some(10_000));
        for invalid in ["-1", "off", "1.5", "1000000001"] {
            let error = rate(invalid).unwrap_err();
            assert!(error.contains("rate_limit_events_per_second") && error.contains("0 for none"), "{error}");
        }
    }

    #[test]
    fn a_burst_too_small_for_its_rate_is_refused() {
        for (name, value) in [("RATE_LIMIT_BURST_SIZE", "9"), ("RATE_LIMIT_PER_KEY_BURST", "9")] {
            let error = read(&[(name, value)]).unwrap_err();
            assert!(error.contains(&name.to_ascii_lowercase()) && error.contains("hundredth"), "{error}");
            read(&[(name, "10")]).unwrap();
        }
        for invalid in ["0", "-1", "many", "1.5"] {
            read(&[("RATE_LIMIT_REQUESTS_PER_SECOND", invalid)]).unwrap_err();
        }
    }
}
