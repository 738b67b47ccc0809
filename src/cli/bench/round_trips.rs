//! The times at which each event was sent, acknowledged, and received as a webhook.

use std::time::Instant;

use parking_lot::Mutex;

use super::histogram::Histogram;

/// Events after this number are not timed: at 48 bytes each, memory must stay below 100 MB.
const EVENTS_MAX: usize = 2_000_000;

#[derive(Clone, Copy, Debug, Default)]
struct RoundTrip {
    sent: Option<Instant>,
    acknowledged: Option<Instant>,
    received: Option<Instant>,
}

/// Shared by the workers and the webhook listener. Each locks it once per request.
#[derive(Debug, Default)]
pub(super) struct RoundTrips(Mutex<Log>);

#[derive(Debug, Default)]
struct Log {
    round_trips: Vec<RoundTrip>,
    /// Webhooks that repeat one for the same event: delivery is at least once.
    repeated: u64,
}

/// The statistics at the end of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct RoundTripSummary {
    pub(super) received: u64,
    pub(super) missing: u64,
    pub(super) repeated: u64,
    pub(super) since_sent: Histogram,
    pub(super) since_acknowledged: Histogram,
}

impl RoundTrips {
    pub(super) fn sent(&self, first: u64, count: usize, at: Instant) {
        self.each(first, count, |round_trip| round_trip.sent = Some(at));
    }

    pub(super) fn acknowledged(&self, first: u64, count: usize, at: Instant) {
        self.each(first, count, |round_trip| round_trip.acknowledged = Some(at));
    }

    pub(super) fn received(&self, number: u64, at: Instant) {
        let mut log = self.0.lock();
        let Some(round_trip) = log.round_trips.get_mut(number as usize) else { return };
        if round_trip.received.is_some() {
            log.repeated += 1;
        } else {
            round_trip.received = Some(at);
        }
    }

    /// The number of acknowledged events whose webhook has not arrived.
    pub(super) fn missing(&self) -> u64 {
        let log = self.0.lock();
        log.round_trips.iter().filter(|f| f.acknowledged.is_some() && f.received.is_none()).count() as u64
    }

    pub(super) fn summary(&self) -> RoundTripSummary {
        let log = self.0.lock();
        let mut summary = RoundTripSummary { repeated: log.repeated, ..RoundTripSummary::default() };
        for round_trip in &log.round_trips {
            match (round_trip.sent, round_trip.acknowledged, round_trip.received) {
                (Some(sent), Some(acknowledged), Some(received)) => {
                    summary.received += 1;
                    summary.since_sent.record(received.saturating_duration_since(sent));
                    // A webhook may arrive before the response; that counts as zero.
                    summary.since_acknowledged.record(received.saturating_duration_since(acknowledged));
                }
                (_, Some(_), None) => summary.missing += 1,
                _ => {}
            }
        }
        summary
    }

    fn each(&self, first: u64, count: usize, set: impl Fn(&mut RoundTrip)) {
        let end = (first as usize + count).min(EVENTS_MAX);
        let mut log = self.0.lock();
        if log.round_trips.len() < end {
            log.round_trips.resize(end, RoundTrip::default());
        }
        log.round_trips[(first as usize).min(end)..end].iter_mut().for_each(set);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_matched_by_number() {
        let (round_trips, start) = (RoundTrips::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        round_trips.sent(0, 3, at(0));
        round_trips.acknowledged(0, 3, at(10));
        round_trips.received(0, at(30));
        round_trips.received(2, at(5));
        round_trips.received(2, at(50));
        round_trips.received(900, at(50));
        assert_eq!(round_trips.missing(), 1);
        let summary = round_trips.summary();
        assert_eq!((summary.received, summary.missing, summary.repeated), (2, 1, 1));
        assert_eq!(summary.since_acknowledged.max(), Duration::from_millis(20));
        assert_eq!(summary.since_acknowledged.percentile(50.0), Duration::ZERO);
        assert_eq!(summary.since_sent.max(), Duration::from_millis(30));
    }
}
