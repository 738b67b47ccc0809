//! Durations as people write them: `500ms`, `30s`, `1h30m`, `7d`.

use std::time::Duration;

use jiff::SpanRelativeTo;
use jiff::fmt::friendly::{Spacing, SpanParser, SpanPrinter};

/// Parses whole numbers with their units, without spaces, the largest unit first. A day has 24 hours.
pub fn parse(text: &str) -> Option<Duration> {
    let span = text.chars().all(char::is_alphanumeric).then(|| SpanParser::new().parse_span(text))?.ok()?;
    span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?.try_into().ok()
}

/// Days are parsed but not written: a week is commonly written as `168h` here.
pub fn show(duration: Duration) -> String {
    SpanPrinter::new().spacing(Spacing::None).unsigned_duration_to_string(&duration)
}
