//! Parses times as people write them: how long ago, a date, or RFC 3339. Reads no clock; the caller passes the current time.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::duration;

/// The formats that [`parse`] accepts, for messages and help.
pub const FORMS: &str = "how long ago (30m, 1h, 7d), a date (2026-01-31, UTC) or RFC 3339 (2026-01-31T09:00:00Z)";

/// Parses a span before `now`, or a [`date`].
pub fn parse(text: &str, now: Timestamp) -> Option<Timestamp> {
    date(text).or_else(|| now.checked_sub(duration::parse(text)?).ok())
}

/// Midnight of a day in UTC, or a time with its offset.
fn date(text: &str) -> Option<Timestamp> {
    if let Ok(at) = text.parse() {
        return Some(at);
    }
    // A time without an offset is refused rather than truncated to its day: it names no time zone.
    let day = text.parse::<Date>().ok().filter(|_| text.len() == "2026-01-31".len())?;
    Some(day.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_nothing_else() {
        let now: Timestamp = "2026-03-10T12:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("90s", "2026-03-10T11:58:30Z"),
            ("30m", "2026-03-10T11:30:00Z"),
            ("1h", "2026-03-10T11:00:00Z"),
            ("1h30m", "2026-03-10T10:30:00Z"),
            ("7d", "2026-03-03T12:00:00Z"),
            ("2w", "2026-02-24T12:00:00Z"),
            ("2026-01-31", "2026-01-31T00:00:00Z"),
            ("2026-01-31T09:00:00Z", "2026-01-31T09:00:00Z"),
            ("2026-01-31T09:00:00.5+02:00", "2026-01-31T07:00:00.5Z"),
        ] {
            assert_eq!(parse(text, now), Some(expected.parse().unwrap()), "{text}");
        }
        for text in [
            "",
            "h",
            "1",
            "1x",
            "1.5h",
            "-1h",
            "1h ",
            "30m1h",
            "1m1m",
            "yesterday",
            "2026-13-01",
            "2026-01-31T09:00:00",
            "99999999999999999999h",
            "9999999999999w",
            "999999999d",
        ] {
            assert_eq!(parse(text, now), None, "{text}");
        }
    }
}
