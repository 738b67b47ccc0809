//! Decides which partitions have expired, as a pure function.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::warehouse::layout::{HOUR_MS, Partition};

/// How long each hour of events is kept. `None` keeps it forever.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetentionRules {
    /// For apps that are not in `apps`.
    pub all: Option<Duration>,
    pub apps: BTreeMap<String, Option<Duration>>,
}

impl RetentionRules {
    /// Whether the partition's hour ended longer ago than its app's events are kept. A future hour never expires.
    pub(super) fn is_expired(&self, partition: &Partition, now_ms: i64) -> bool {
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
    fn an_hour_expires_when_its_end_is_older_than_its_apps_retention() {
        const DAY_MS: i64 = 24 * HOUR_MS;
        let days = |days: u64| Some(Duration::from_secs(days * 24 * 3_600));
        let apps = BTreeMap::from([("shop".to_owned(), days(1)), ("007".to_owned(), None)]);
        let rules = RetentionRules { all: days(3), apps };
        let is_expired =
            |app: &str, hour, now_ms| rules.is_expired(&Partition { app_id: app.to_owned(), hour }, now_ms);
        let hour = 491_000;
        let end_ms = (hour + 1) * HOUR_MS;
        for (app, days) in [("other", 3), ("shop", 1)] {
            assert!(!is_expired(app, hour, end_ms + days * DAY_MS), "{app}");
            assert!(is_expired(app, hour, end_ms + days * DAY_MS + 1), "{app}");
            // A clock that is far behind, and future hours.
            assert!(
                !is_expired(app, hour, 0) && !is_expired(app, hour, i64::MIN) && !is_expired(app, i64::MAX, end_ms)
            );
        }
        assert!(!is_expired("007", hour, i64::MAX) && is_expired("shop", hour, i64::MAX));
        assert!(!RetentionRules::default().is_expired(&Partition { app_id: "x".to_owned(), hour: 0 }, i64::MAX));
        let longest = RetentionRules { all: Some(Duration::MAX), ..RetentionRules::default() };
        assert!(!longest.is_expired(&Partition { app_id: "x".to_owned(), hour: i64::MIN }, end_ms));
    }
}
