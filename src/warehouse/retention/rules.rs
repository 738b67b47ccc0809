//! Which partitions are over: a function of values.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::warehouse::layout::{HOUR_MS, Partition};

/// How long hours are kept. None is for ever.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetentionRules {
    /// Of apps that are not named.
    pub all: Option<Duration>,
    pub apps: BTreeMap<String, Option<Duration>>,
}

impl RetentionRules {
    /// Whether the end of the partition's hour is longer ago than its app's events are kept. What is to come never is.
    pub(super) fn is_over(&self, partition: &Partition, now_ms: i64) -> bool {
        let Some(age_max) = *self.apps.get(&partition.app_id).unwrap_or(&self.all) else { return false };
        let age_max_ms = i64::try_from(age_max.as_millis()).unwrap_or(i64::MAX);
        let end_ms = partition.hour.saturating_add(1).saturating_mul(HOUR_MS);
        end_ms <= now_ms && now_ms.saturating_sub(end_ms) > age_max_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_is_over_when_its_end_is_older_than_its_app_is_kept() {
        const DAY_MS: i64 = 24 * HOUR_MS;
        let days = |days: u64| Some(Duration::from_secs(days * 24 * 3_600));
        let apps = BTreeMap::from([("shop".to_owned(), days(1)), ("007".to_owned(), None)]);
        let rules = RetentionRules { all: days(3), apps };
        let is_over = |app: &str, hour, now_ms| rules.is_over(&Partition { app_id: app.to_owned(), hour }, now_ms);
        let hour = 491_000;
        let end_ms = (hour + 1) * HOUR_MS;
        for (app, days) in [("other", 3), ("shop", 1)] {
            assert!(!is_over(app, hour, end_ms + days * DAY_MS), "{app}");
            assert!(is_over(app, hour, end_ms + days * DAY_MS + 1), "{app}");
            // A clock that is far behind, and hours that are to come.
            assert!(!is_over(app, hour, 0) && !is_over(app, hour, i64::MIN) && !is_over(app, i64::MAX, end_ms));
        }
        assert!(!is_over("007", hour, i64::MAX) && is_over("shop", hour, i64::MAX));
        assert!(!RetentionRules::default().is_over(&Partition { app_id: "x".to_owned(), hour: 0 }, i64::MAX));
        let longest = RetentionRules { all: Some(Duration::MAX), ..RetentionRules::default() };
        assert!(!longest.is_over(&Partition { app_id: "x".to_owned(), hour: i64::MIN }, end_ms));
    }
}
