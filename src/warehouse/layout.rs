//! Where a row is stored: one directory per app and UTC hour; and the names of files.
//!
//! Invariant: the partition of an event depends on the event and on the time the bus
//! stored it, never on the writer's clock, so a redelivered message always
//! maps to the directory that may already hold it.

use std::fmt;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use percent_encoding::percent_decode_str;
use uuid::Uuid;

pub(super) const HOUR_MS: i64 = 3_600_000;
/// 2000-01-01T00:00:00Z: an earlier device clock was never set.
const TIMESTAMP_MIN_MS: i64 = 946_684_800_000;
/// How far a device clock may run ahead and still determine the partition.
const AHEAD_MAX_MS: i64 = 24 * HOUR_MS;
/// The longest app id that can name a directory.
const APP_ID_BYTES_MAX: usize = 128;

/// The directory of the marks of fenced writes. Query engines skip names that begin with an underscore.
pub(super) const MARKS: &str = "_late";

/// One directory of the warehouse.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Partition {
    pub app_id: String,
    /// Hours since the Unix epoch.
    pub hour: i64,
}

/// The hour that an event is partitioned by: of its own timestamp if that is plausible, otherwise of the
/// receive time.
pub fn hour_of(timestamp_ms: i64, received_at_ms: i64) -> i64 {
    let believable = (TIMESTAMP_MIN_MS..=received_at_ms.saturating_add(AHEAD_MAX_MS)).contains(&timestamp_ms);
    (if believable { timestamp_ms } else { received_at_ms }).div_euclid(HOUR_MS)
}

/// True if an app id can be used as a directory name unchanged.
pub fn is_path_safe(app_id: &str) -> bool {
    let bytes = app_id.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.len() <= APP_ID_BYTES_MAX
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// How app ids become directory names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Naming {
    /// Unchanged.
    #[default]
    Plain,
    /// For case-insensitive file systems: capital letters are written as `%53`, which readers of Hive partitions
    /// decode.
    FoldedCase,
}

impl Naming {
    /// The directory below the warehouse's root: `app_id=a/year=2026/month=01/day=31/hour=23`.
    pub(super) fn directory(self, partition: &Partition) -> String {
        let (year, month, day, hour) = partition.date();
        let mut directory = String::with_capacity(64);
        directory.push_str("app_id=");
        match self {
            Self::Plain => directory.push_str(&partition.app_id),
            Self::FoldedCase => partition.app_id.chars().for_each(|c| match c {
                'A'..='Z' => directory.push_str(&format!("%{:02X}", u32::from(c))),
                c => directory.push(c),
            }),
        }
        directory.push_str(&format!("/year={year:04}/month={month:02}/day={day:02}/hour={hour:02}"));
        directory
    }

    /// The partition of a directory below the warehouse's root, if it is one of ours.
    pub(super) fn partition(self, directory: &str) -> Option<Partition> {
        let mut parts = directory.split('/');
        let mut part = |name: &str| parts.next()?.strip_prefix(name)?.strip_prefix('=');
        let app_id = match self {
            Self::Plain => part("app_id")?.to_owned(),
            Self::FoldedCase => percent_decode_str(part("app_id")?).decode_utf8().ok()?.into_owned(),
        };
        let date = (part("year")?.parse().ok()?, part("month")?.parse().ok()?, part("day")?.parse().ok()?);
        let time = DateTime::new(date.0, date.1, date.2, part("hour")?.parse().ok()?, 0, 0, 0).ok()?;
        let hour = time.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second().div_euclid(HOUR_MS / 1_000);
        let partition = Partition { app_id, hour };
        let named = self.directory(&partition);
        // Some of these file systems list names in lower case.
        let is_it = if self == Self::Plain { named == directory } else { named.eq_ignore_ascii_case(directory) };
        (is_path_safe(&partition.app_id) && is_it).then_some(partition)
    }
}

/// For messages; [`Naming`] decides where files go.
impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Naming::Plain.directory(self))
    }
}

impl Partition {
    /// The hour, for messages: `2026-01-31T09Z`.
    pub fn hour_text(&self) -> String {
        let (year, month, day, hour) = self.date();
        format!("{year:04}-{month:02}-{day:02}T{hour:02}Z")
    }

    /// Year, month, day and hour.
    pub(super) fn date(&self) -> (i16, i16, i16, i16) {
        let second = self.hour.saturating_mul(HOUR_MS / 1_000);
        let time = Timestamp::from_second(second).unwrap_or(Timestamp::UNIX_EPOCH).to_zoned(TimeZone::UTC);
        (time.year(), time.month().into(), time.day().into(), time.hour().into())
    }
}

/// A unique name for a data file.
pub(super) fn new_file_name() -> String {
    format!("events_{}.parquet", Uuid::now_v7())
}

/// A unique name for a compacted file. It starts as all data files do, so that patterns match it.
pub(super) fn new_compacted_name() -> String {
    format!("{COMPACTED}{}.parquet", Uuid::now_v7())
}

const COMPACTED: &str = "events_compacted_";

pub(super) fn is_compacted(name: &str) -> bool {
    name.starts_with(COMPACTED) && is_data_file(name)
}

/// True for the names that this product gives to data files.
pub(super) fn is_data_file(name: &str) -> bool {
    name.starts_with("events_") && name.ends_with(".parquet")
}

/// The name of a fenced write's mark, which query engines do not mistake for a data file.
pub(super) fn mark_name(name: &str) -> String {
    format!("{name}.late")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_767_225_599_999; // 2025-12-31T23:59:59.999Z

    fn path(timestamp_ms: i64) -> String {
        Partition { app_id: "shop".into(), hour: hour_of(timestamp_ms, NOW) }.to_string()
    }

    #[test]
    fn the_utc_hour_of_the_event_names_the_directory() {
        assert_eq!(path(NOW), "app_id=shop/year=2025/month=12/day=31/hour=23");
        assert_eq!(path(NOW + 1), "app_id=shop/year=2026/month=01/day=01/hour=00");
        assert_eq!(path(TIMESTAMP_MIN_MS), "app_id=shop/year=2000/month=01/day=01/hour=00");
        assert_eq!(path(NOW + AHEAD_MAX_MS), "app_id=shop/year=2026/month=01/day=01/hour=23");
    }

    #[test]
    fn implausible_clocks_fall_back_to_the_receive_time() {
        for timestamp in [0, -1, i64::MIN, i64::MAX, TIMESTAMP_MIN_MS - 1, NOW + AHEAD_MAX_MS + 1, 253_402_300_799_000]
        {
            assert_eq!(path(timestamp), path(NOW), "{timestamp}");
        }
    }

    #[test]
    fn a_directory_parses_to_its_partition() {
        for hour in [0, 262_968, 490_886, 500_000] {
            for naming in [Naming::Plain, Naming::FoldedCase] {
                let partition = Partition { app_id: "My-App_1.2".into(), hour };
                assert_eq!(naming.partition(&naming.directory(&partition)), Some(partition));
            }
        }
        for other in [
            "",
            "_late",
            "app_id=shop",
            "app_id=shop/year=2026/month=1/day=01/hour=00",
            "app_id=shop/year=2026/month=02/day=30/hour=00",
            "app_id=shop/year=2026/month=02/day=03/hour=00/more",
            "x/app_id=shop/year=2026/month=02/day=03/hour=00",
            "app_id=%2E%2E/year=2026/month=02/day=03/hour=00",
            "app_id=%2/year=2026/month=02/day=03/hour=00",
            "app_id=%C3%A9/year=2026/month=02/day=03/hour=00",
            "app_id=%73hop/year=2026/month=02/day=03/hour=00",
        ] {
            for naming in [Naming::Plain, Naming::FoldedCase] {
                assert_eq!(naming.partition(other), None, "{other}");
            }
        }
    }

    #[test]
    fn apps_that_differ_in_case_are_distinct_on_a_case_insensitive_file_system() {
        let directory = |app: &str| Naming::FoldedCase.directory(&Partition { app_id: app.into(), hour: 0 });
        assert_eq!(directory("SHop"), "app_id=%53%48op/year=1970/month=01/day=01/hour=00");
        let apps = ["shop", "Shop", "sHop", "SHOP", "jZ", "Jz", "4a", "4A"];
        let folded: std::collections::HashSet<String> =
            apps.iter().map(|app| directory(app).to_ascii_lowercase()).collect();
        assert_eq!(folded.len(), apps.len());
        let partition = |directory: &str| Naming::FoldedCase.partition(directory).map(|partition| partition.app_id);
        assert_eq!(partition("app_id=%4aane/year=1970/month=01/day=01/hour=00").as_deref(), Some("Jane"));
        // Written by a version that did not escape: it could be either app's.
        assert_eq!(partition("app_id=Shop/year=1970/month=01/day=01/hour=00"), None);
    }

    #[test]
    fn only_plain_names_become_directories() {
        for app in ["a", "My-App_1.2", "0"] {
            assert!(is_path_safe(app), "{app}");
        }
        let long = "a".repeat(129);
        for app in ["", ".", "..", "../x", "a/b", "-a", "a b", "a\0", "ä", "a=b", long.as_str()] {
            assert!(!is_path_safe(app), "{app}");
        }
    }
}
