//! Times for people: near ones relative to now, others as a date.

use jiff::Timestamp;
use serde_json::Value;

use crate::base::time;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// "12s ago", "in 5m", "7h ago"; from two days on, "2026-03-01 12:03Z".
pub(super) fn relative(at: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second() - at.as_second();
    let span = match seconds.abs() {
        0 => return "now".to_owned(),
        s if s < 2 * DAY => duration(s),
        _ => return at.strftime("%Y-%m-%d %H:%MZ").to_string(),
    };
    if seconds > 0 { format!("{span} ago") } else { format!("in {span}") }
}

/// A duration in its largest useful unit: "45s", "12m", "7h", "3d".
pub(super) fn duration(seconds: i64) -> String {
    match seconds {
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 2 * HOUR => format!("{}m", s / MINUTE),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s => format!("{}d", s / DAY),
    }
}

/// Parses an argument: how long ago, a date, or RFC 3339.
pub(super) fn past(text: &str) -> Result<Timestamp, String> {
    time::parse(text, Timestamp::now()).ok_or_else(|| format!("must be {}", time::FORMS))
}

/// Parses an argument: in how long, a date, or RFC 3339.
pub(super) fn future(text: &str) -> Result<Timestamp, String> {
    let now = Timestamp::now();
    let at = time::parse(text, now).and_then(|at| {
        // Spans are parsed as times in the past. The other two formats have dashes.
        if text.contains('-') { Some(at) } else { now.checked_add(now.duration_since(at)).ok() }
    });
    at.filter(|at| *at > now).ok_or_else(|| {
        "must lie ahead: in how long (12h, 90d), a date (2100-01-31, UTC) or RFC 3339 (2100-01-31T09:00:00Z)".to_owned()
    })
}

/// Formats a member with an RFC 3339 time or epoch milliseconds. "-" if it is null, absent or neither.
pub(super) fn member(document: &Value, name: &str, now: Timestamp) -> String {
    let at = match &document[name] {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.as_i64().and_then(|ms| Timestamp::from_millisecond(ms).ok()),
        _ => None,
    };
    at.map_or_else(|| "-".to_owned(), |at| relative(at, now))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn near_times_are_relative_and_far_ones_are_dates() {
        let now: Timestamp = "2026-03-10T12:00:00Z".parse().unwrap();
        for (at, expected) in [
            ("2026-03-10T12:00:00Z", "now"),
            ("2026-03-10T11:59:48Z", "12s ago"),
            ("2026-03-10T12:05:00Z", "in 5m"),
            ("2026-03-10T05:00:00Z", "7h ago"),
            ("2026-03-09T00:00:00Z", "36h ago"),
            ("2026-03-01T12:03:00Z", "2026-03-01 12:03Z"),
        ] {
            assert_eq!(relative(at.parse().unwrap(), now), expected);
        }
        assert_eq!(member(&json!({"at": now.as_millisecond() - 12_000}), "at", now), "12s ago");
        assert_eq!(member(&json!({"at": null}), "at", now), "-");
    }

    #[test]
    fn future_times_take_the_same_formats_as_past_ones() {
        let seconds = future("90d").unwrap().as_second() - Timestamp::now().as_second();
        assert!((90 * DAY - 5..=90 * DAY).contains(&seconds), "{seconds}");
        assert_eq!(future("2100-01-31"), Ok("2100-01-31T00:00:00Z".parse().unwrap()));
        for wrong in ["", "0s", "2020-01-31", "2020-01-31T09:00:00Z", "soon"] {
            assert!(future(wrong).is_err(), "{wrong}");
        }
    }
}
