//! The result of a run, as JSON and as text.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use super::histogram::Histogram;
use super::round_trips::RoundTripSummary;
use super::tally::Tally;
use super::verify::Verification;
use crate::cli::failure::Failure;

#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) seed: u64,
    pub(super) event_bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) compressed: Option<Compressed>,
    pub(super) batch_events: usize,
    pub(super) connections: usize,
    #[serde(flatten)]
    pub(super) target: ServerReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) baseline: Option<ServerReport>,
    /// The target's rate as a percentage of the baseline's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) percent_of_baseline: Option<f64>,
    /// Processor time of this process per event: the cost of the generator itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) generator_cpu_us_per_event: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) webhooks: Option<WebhookReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) verification: Option<Verification>,
}

/// How bodies were compressed before the run.
#[derive(Debug, Serialize)]
pub(super) struct Compressed {
    pub(super) encoding: &'static str,
    /// Compressed bytes per event.
    pub(super) event_bytes: usize,
}

#[derive(Debug, Serialize)]
pub(super) struct ServerReport {
    pub(super) url: String,
    pub(super) seconds: f64,
    pub(super) accepted: u64,
    pub(super) events_per_second: f64,
    pub(super) requests: u64,
    pub(super) requests_per_second: f64,
    pub(super) latency_ms: Option<Percentiles>,
    pub(super) duplicates: u64,
    pub(super) rejected: u64,
    pub(super) refused: u64,
    pub(super) unacknowledged: u64,
    pub(super) retries: u64,
    pub(super) broken_connections: u64,
    pub(super) statuses: BTreeMap<u16, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) first_problem: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct WebhookReport {
    pub(super) received: u64,
    pub(super) missing: u64,
    pub(super) repeated: u64,
    pub(super) since_accepted_ms: Option<Percentiles>,
    pub(super) since_sent_ms: Option<Percentiles>,
}

#[derive(Debug, Serialize)]
pub(super) struct Percentiles {
    p50: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
}

impl Percentiles {
    /// `None` if the histogram is empty.
    fn of(histogram: &Histogram) -> Option<Self> {
        let ms = |latency: Duration| (latency.as_secs_f64() * 1e6).round() / 1e3;
        (histogram.len() > 0).then(|| Self {
            p50: ms(histogram.percentile(50.0)),
            p99: ms(histogram.percentile(99.0)),
            p99_9: ms(histogram.percentile(99.9)),
            max: ms(histogram.max()),
        })
    }
}

impl From<&RoundTripSummary> for WebhookReport {
    fn from(summary: &RoundTripSummary) -> Self {
        Self {
            received: summary.received,
            missing: summary.missing,
            repeated: summary.repeated,
            since_accepted_ms: Percentiles::of(&summary.since_acknowledged),
            since_sent_ms: Percentiles::of(&summary.since_sent),
        }
    }
}

impl ServerReport {
    pub(super) fn new(url: &str, elapsed: Duration, tally: &Tally) -> Self {
        let seconds = elapsed.as_secs_f64();
        let per_second = |count: u64| if seconds > 0.0 { (count as f64 / seconds).round() } else { 0.0 };
        Self {
            url: url.to_owned(),
            seconds: (seconds * 1e3).round() / 1e3,
            accepted: tally.accepted,
            events_per_second: per_second(tally.accepted),
            requests: tally.requests,
            requests_per_second: per_second(tally.requests),
            latency_ms: Percentiles::of(&tally.latency),
            duplicates: tally.duplicates,
            rejected: tally.rejected,
            refused: tally.refused,
            unacknowledged: tally.unacknowledged,
            retries: tally.retries,
            broken_connections: tally.broken_connections,
            statuses: tally.statuses.clone(),
            first_problem: tally.first_problem.clone(),
        }
    }

    fn write(&self, out: &mut String) {
        let _ = writeln!(out, "{}", self.url);
        let line = |out: &mut String, label: &str, text: String| {
            let _ = writeln!(out, "  {label:<15}{text}");
        };
        let (events, requests) = (self.events_per_second, self.requests_per_second);
        let seconds = self.seconds;
        line(
            out,
            "accepted",
            format!("{} events in {seconds:.1} s: {} events/s", grouped(self.accepted), grouped(events as u64)),
        );
        line(out, "requests", format!("{}: {} requests/s", grouped(self.requests), grouped(requests as u64)));
        line(out, "latency", latencies(&self.latency_ms));
        let statuses: Vec<String> =
            self.statuses.iter().map(|(status, count)| format!("{status}: {}", grouped(*count))).collect();
        line(out, "answers", if statuses.is_empty() { "none".to_owned() } else { statuses.join(", ") });
        for (label, count, note) in [
            ("duplicates", self.duplicates, "events, known by their idempotency keys"),
            ("rejected", self.rejected, "events, each with its reason"),
            ("refused", self.refused, "events, with their whole request"),
            ("unacknowledged", self.unacknowledged, "events, stored or not: their answer never came"),
            ("retries", self.retries, "requests sent again"),
            ("broken", self.broken_connections, "connections"),
        ] {
            if count > 0 {
                line(out, label, format!("{} {note}", grouped(count)));
            }
        }
        if let Some(problem) = &self.first_problem {
            line(out, "first problem", problem.clone());
        }
    }
}

impl Report {
    /// Fails if nothing was accepted, or events or webhooks were lost.
    pub(super) fn check(&self) -> Result<(), Failure> {
        if self.target.accepted == 0 {
            let problem = self.target.first_problem.as_deref().unwrap_or("nothing was sent");
            return Err(Failure::failed(format!("no event was accepted: {problem}")));
        }
        if let Some(v) = self.verification.as_ref().filter(|verification| !verification.is_clean()) {
            return Err(Failure::failed(format!(
                "the warehouse is not right: {} events lost, {} doubled; if the sink is only late, allow it more time with --verify-timeout",
                v.lost, v.doubled
            )));
        }
        match &self.webhooks {
            Some(webhooks) if webhooks.missing > 0 => Err(Failure::failed(format!(
                "{} webhooks did not come; `causality deliveries list` shows what is owed",
                webhooks.missing
            ))),
            _ => Ok(()),
        }
    }

    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        self.target.write(&mut out);
        if let Some(baseline) = &self.baseline {
            baseline.write(&mut out);
        }
        if let Some(percent) = self.percent_of_baseline {
            let _ = writeln!(out, "of the baseline  {percent:.1} %");
        }
        if let Some(webhooks) = &self.webhooks {
            let WebhookReport { received, missing, repeated, .. } = webhooks;
            let _ = writeln!(
                out,
                "webhooks         {} received, {missing} missing, {repeated} repeated",
                grouped(*received)
            );
            let _ = writeln!(out, "  after accepted {}", latencies(&webhooks.since_accepted_ms));
            let _ = writeln!(out, "  after sent     {}", latencies(&webhooks.since_sent_ms));
        }
        if let Some(v) = &self.verification {
            let _ = writeln!(
                out,
                "warehouse        {} accepted, {} found, {} lost, {} doubled, {} unacknowledged but present ({:.0} s)",
                grouped(v.accepted),
                grouped(v.found),
                grouped(v.lost),
                grouped(v.doubled),
                grouped(v.unacknowledged_but_present),
                v.waited_seconds
            );
        }
        let Self { event_bytes, batch_events, connections, seed, .. } = self;
        let _ = write!(out, "load             {event_bytes} bytes an event, ");
        if let Some(Compressed { encoding, event_bytes }) = &self.compressed {
            let _ = write!(out, "{event_bytes} as {encoding}, ");
        }
        let _ = write!(out, "{batch_events} a request, ");
        let _ = write!(out, "{connections} connections, seed {seed}");
        if let Some(us) = self.generator_cpu_us_per_event {
            let _ = write!(out, "; {us:.2} µs of processor an event");
        }
        out.push('\n');
        out
    }
}

fn latencies(percentiles: &Option<Percentiles>) -> String {
    match percentiles {
        None => "none".to_owned(),
        Some(Percentiles { p50, p99, p99_9, max }) => {
            format!("p50 {p50:.2} ms, p99 {p99:.2} ms, p99.9 {p99_9:.2} ms, max {max:.2} ms")
        }
    }
}

/// 1234567 as 1,234,567.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_shows_rates_and_errors() {
        let mut tally = Tally { requests: 12_345, accepted: 1_234_500, rejected: 2, ..Tally::default() };
        tally.statuses.insert(200, 12_345);
        tally.latency.record(Duration::from_millis(4));
        let report = Report {
            seed: 1,
            event_bytes: 730,
            compressed: Some(Compressed { encoding: "gzip", event_bytes: 120 }),
            batch_events: 100,
            connections: 8,
            target: ServerReport::new("http://a", Duration::from_secs(10), &tally),
            baseline: None,
            percent_of_baseline: Some(61.25),
            generator_cpu_us_per_event: Some(0.4),
            webhooks: None,
            verification: Some(Verification { accepted: 1_234_500, lost: 1, ..Verification::default() }),
        };
        let page = report.text();
        for part in [
            "1,234,500 events in 10.0 s: 123,450 events/s",
            "p50 4.00 ms",
            "200: 12,345",
            "2 events, each with its reason",
            "61.2 %",
            "1 lost, 0 doubled",
            "0.40 µs",
            "730 bytes an event, 120 as gzip, 100 a request",
        ] {
            assert!(page.contains(part), "{part} in {page}");
        }
        assert!(!page.contains("refused"), "{page}");
        let document = serde_json::to_value(&report).unwrap();
        assert_eq!(document["events_per_second"], 123_450.0);
        assert_eq!(document["latency_ms"]["p99_9"], 4.0);
    }
}
