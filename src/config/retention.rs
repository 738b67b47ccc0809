//! How long events are kept, by default and for single apps.

use std::collections::BTreeMap;
use std::time::Duration;

use super::value::{Period, Setting};

const DAY: Duration = Duration::from_secs(24 * 3_600);
/// Keeps events forever.
const FOREVER: &str = "forever";

/// `400d, shop: 90d, 007: forever`. `None` is forever.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// The default of all other apps.
    pub all: Option<Duration>,
    pub apps: BTreeMap<String, Option<Duration>>,
}

impl Retention {
    /// Whether any events expire.
    pub fn is_finite(&self) -> bool {
        self.all.is_some() || self.apps.values().any(Option::is_some)
    }
}

impl Setting for Retention {
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
                age => Some(Period::parse(age).ok().filter(|age| age.0 >= DAY).ok_or_else(invalid)?.0),
            };
            let is_first = match app {
                None => all.replace(age).is_none(),
                Some(app) if is_app(app) => apps.insert(app.to_owned(), age).is_none(),
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
            Some(age) => Period(*age).show(),
        };
        let apps = self.apps.iter().map(|(app, of_app)| format!("{app}: {}", age(of_app)));
        std::iter::once(age(&self.all)).chain(apps).collect::<Vec<_>>().join(", ")
    }
}

fn is_app(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::load_env;

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
            let retention = Retention::parse(text).unwrap();
            assert_eq!(retention.show(), shown, "{text}");
            assert_eq!(Retention::parse(shown).unwrap(), retention);
            assert_eq!(retention.is_finite(), shown.contains(|c: char| c.is_ascii_digit() && shown != "forever"));
        }
    }

    #[test]
    fn invalid_retentions_are_reported_with_the_allowed_ones() {
        for invalid in
            ["400", "23h", "1d, 2d", "shop: 1d, shop: 2d", "shop", "shop: ", ": 1d", "a b: 1d", "x/y: 1d", "never"]
        {
            let error = load_env(&[("WAREHOUSE_RETENTION", invalid)]).unwrap_err().to_string();
            assert!(error.contains("warehouse_retention") && error.contains("shop: 90d"), "{invalid}: {error}");
        }
        let config = load_env(&[("WAREHOUSE_RETENTION", "shop: 2d")]).unwrap().config;
        assert!(config.warehouse_retention.unwrap().is_finite());
    }
}
