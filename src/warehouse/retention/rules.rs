//! Decides which partitions have expired, as a pure function.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::settings::{Reader, Setting};
use crate::event::is_app_id;
use crate::warehouse::layout::{HOUR_MS, Partition};

const DAY: Duration = Duration::from_secs(24 * 3_600);
/// Keeps events forever.
const FOREVER: &str = "forever";

/// What is removed, and how.
#[derive(Clone, Debug, Default)]
pub struct RetentionSettings {
    pub rules: RetentionRules,
    /// Keeps removed files for readers of older versions of the table, until a vacuum removes them.
    pub keep_removed: bool,
}

impl RetentionSettings {
    /// `None` if everything is kept forever.
    pub fn read(from: &mut Reader<'_>) -> Option<Self> {
        let rules = from.optional::<RetentionRules>("warehouse_retention");
        let keep_removed = from.get("compaction_keep_replaced") && from.get("delta_enabled");
        rules.filter(RetentionRules::is_finite).map(|rules| Self { rules, keep_removed })
    }
}

/// How long each hour of events is kept. `None` keeps it forever.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetentionRules {
    /// For apps that are not in `apps`.
    pub all: Option<Duration>,
    pub apps: BTreeMap<String, Option<Duration>>,
}

impl RetentionRules {
    /// Whether any events expire.
    pub fn is_finite(&self) -> bool {
        self.all.is_some() || self.apps.values().any(Option::is_some)
    }

    /// Whether the partition's hour ended longer ago than its app's events are kept. A future hour never expires.
    pub(super) fn is_expired(&self, partition: &Partition, now_ms: i64) -> bool {
        let Some(age_max) = *self.apps.get(&partition.app_id).unwrap_or(&self.all) else { return false };
        let age_max_ms = i64::try_from(age_max.as_millis()).unwrap_or(i64::MAX);
        let end_ms = partition.hour.saturating_add(1).saturating_mul(HOUR_MS);
        end_ms <= now_ms && now_ms.saturating_sub(end_ms) > age_max_ms
    }
}

/// `400d, shop: 90d, 007: forever`.
impl Setting for RetentionRules {
    fn parse(text: &str) -> Result<Self, String> {
        let invalid = || {
            "durations from 1d, or forever, separated by commas: one for all apps, and one for each app that has \
             another, such as 400d, shop: 90d, 007: forever"
                .to_owned()
        };
        let (mut all, mut apps) = (None, BTreeMap::new());
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (app, age) = part.rsplit_once(':').map_or((None, part), |(app, age)| (Some(app.trim()), age.trim()));
            let age = match age {
                FOREVER => None,
                age => Some(Duration::parse(age).ok().filter(|age| *age >= DAY).ok_or_else(invalid)?),
            };
            let is_first = match app {
                None => all.replace(age).is_none(),
                Some(app) if is_app_id(app) => apps.insert(app.to_owned(), age).is_none(),
                Some(_) => false,
            };
            if !is_first {
                return Err(invalid());
            }
        }
        Ok(Self { all: all.flatten(), apps })
    }

    fn show(&self) -> String {
        let age = |age: &Option<Duration>| match age {
            None => FOREVER.to_owned(),
            Some(age) if age.as_millis().is_multiple_of(DAY.as_millis()) => {
                format!("{}d", age.as_secs() / DAY.as_secs())
            }
            Some(age) => age.show(),
        };
        let apps = self.apps.iter().map(|(app, of_app)| format!("{app}: {}", age(of_app)));
        std::iter::once(age(&self.all)).chain(apps).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::settings::read_with;

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

    #[test]
    fn retentions_read_and_write() {
        for (text, shown) in [
            ("", "forever"),
            ("forever", "forever"),
            ("400d", "400d"),
            ("400d, shop: 90d, 007: forever", "400d, 007: forever, shop: 90d"),
            ("shop:36h,", "forever, shop: 36h"),
            ("a.b-c_1 : 1d , 9600h", "400d, a.b-c_1: 1d"),
        ] {
            let retention = RetentionRules::parse(text).unwrap();
            assert_eq!(retention.show(), shown, "{text}");
            assert_eq!(RetentionRules::parse(shown).unwrap(), retention);
            assert_eq!(retention.is_finite(), shown.contains(|c: char| c.is_ascii_digit() && shown != "forever"));
        }
    }

    #[test]
    fn invalid_retentions_are_reported_with_the_allowed_ones() {
        for invalid in
            ["400", "23h", "1d, 2d", "shop: 1d, shop: 2d", "shop", "shop: ", ": 1d", "a b: 1d", "x/y: 1d", "never"]
        {
            let read = read_with(&[("WAREHOUSE_RETENTION", invalid)], RetentionSettings::read);
            let error = read.unwrap_err();
            assert!(error.contains("warehouse_retention") && error.contains("shop: 90d"), "{invalid}: {error}");
        }
        let settings = read_with(&[("WAREHOUSE_RETENTION", "shop: 2d")], RetentionSettings::read).unwrap();
        assert!(settings.unwrap().rules.is_finite());
    }
}
