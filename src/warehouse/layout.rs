//! Where a row lives: one directory per app and UTC hour.
//!
//! Invariant: the partition of an event depends on the event and on the time the bus
//! stored it, never on the clock of whoever writes it, so that a redelivered message
//! always meets the files that may hold it already.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

const HOUR_MS: i64 = 3_600_000;
/// 2000-01-01T00:00:00Z: a device clock before it was never set.
const TIMESTAMP_MIN_MS: i64 = 946_684_800_000;
/// How far a device clock may run ahead and still choose the partition.
const AHEAD_MAX_MS: i64 = 24 * HOUR_MS;
/// The longest app id that becomes a directory.
const APP_ID_BYTES_MAX: usize = 128;

/// One directory of the warehouse.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Partition {
    pub app_id: String,
    /// Hours since the Unix epoch.
    pub hour: i64,
}

/// The hour that partitions an event, from its own clock when that can be believed and
/// from the receive time when not.
pub fn hour_of(timestamp_ms: i64, received_at_ms: i64) -> i64 {
    let believable = (TIMESTAMP_MIN_MS..=received_at_ms.saturating_add(AHEAD_MAX_MS)).contains(&timestamp_ms);
    (if believable { timestamp_ms } else { received_at_ms }).div_euclid(HOUR_MS)
}

/// True for an app id that can be a directory name as it is.
pub fn is_path_safe(app_id: &str) -> bool {
    let bytes = app_id.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.len() <= APP_ID_BYTES_MAX
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

impl Partition {
    /// The directory below the warehouse's root: `app_id=a/year=2026/month=01/day=31/hour=23`.
    pub fn path(&self) -> String {
        let (year, month, day, hour) = self.date();
        format!("app_id={}/year={year:04}/month={month:02}/day={day:02}/hour={hour:02}", self.app_id)
    }

    /// Year, month, day and hour.
    pub(super) fn date(&self) -> (i16, i16, i16, i16) {
        let second = self.hour.saturating_mul(HOUR_MS / 1_000);
        let time = Timestamp::from_second(second).unwrap_or(Timestamp::UNIX_EPOCH).to_zoned(TimeZone::UTC);
        (time.year(), time.month().into(), time.day().into(), time.hour().into())
    }

    /// The partition of a directory below the warehouse's root; none when it is no partition of ours.
    pub(super) fn parse(directory: &str) -> Option<Self> {
        let mut parts = directory.split('/');
        let mut part = |name: &str| parts.next()?.strip_prefix(name)?.strip_prefix('=');
        let app_id = part("app_id").filter(|app_id| is_path_safe(app_id))?.to_owned();
        let date = (part("year")?.parse().ok()?, part("month")?.parse().ok()?, part("day")?.parse().ok()?);
        let time = DateTime::new(date.0, date.1, date.2, part("hour")?.parse().ok()?, 0, 0, 0).ok()?;
        let hour = time.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second().div_euclid(HOUR_MS / 1_000);
        let partition = Self { app_id, hour };
        (partition.path() == directory).then_some(partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_767_225_599_999; // 2025-12-31T23:59:59.999Z

    fn path(timestamp_ms: i64) -> String {
        Partition { app_id: "shop".into(), hour: hour_of(timestamp_ms, NOW) }.path()
    }

    #[test]
    fn the_utc_hour_of_the_event_names_the_directory() {
        assert_eq!(path(NOW), "app_id=shop/year=2025/month=12/day=31/hour=23");
        assert_eq!(path(NOW + 1), "app_id=shop/year=2026/month=01/day=01/hour=00");
        assert_eq!(path(TIMESTAMP_MIN_MS), "app_id=shop/year=2000/month=01/day=01/hour=00");
        assert_eq!(path(NOW + AHEAD_MAX_MS), "app_id=shop/year=2026/month=01/day=01/hour=23");
    }

    #[test]
    fn unbelievable_clocks_fall_back_to_the_receive_time() {
        for timestamp in [0, -1, i64::MIN, i64::MAX, TIMESTAMP_MIN_MS - 1, NOW + AHEAD_MAX_MS + 1, 253_402_300_799_000]
        {
            assert_eq!(path(timestamp), path(NOW), "{timestamp}");
        }
    }

    #[test]
    fn a_partition_is_known_by_its_directory() {
        for hour in [0, 262_968, 490_886, 500_000] {
            let partition = Partition { app_id: "1e5".into(), hour };
            assert_eq!(Partition::parse(&partition.path()), Some(partition));
        }
        for other in [
            "",
            "_late",
            "app_id=shop",
            "app_id=shop/year=2026/month=1/day=01/hour=00",
            "app_id=shop/year=2026/month=02/day=30/hour=00",
            "app_id=shop/year=2026/month=02/day=03/hour=00/more",
            "x/app_id=shop/year=2026/month=02/day=03/hour=00",
        ] {
            assert_eq!(Partition::parse(other), None, "{other}");
        }
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
