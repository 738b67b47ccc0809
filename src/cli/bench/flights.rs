//! When each event was sent, acknowledged, and came back as a webhook.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::histogram::Histogram;

/// Events past this number are not timed: 48 bytes each must stay below 100 MB.
const EVENTS_MAX: usize = 2_000_000;

#[derive(Clone, Copy, Debug, Default)]
struct Flight {
    sent: Option<Instant>,
    acknowledged: Option<Instant>,
    received: Option<Instant>,
}

/// Shared by the workers and the webhook listener; each takes the lock once a request.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<Log>);

#[derive(Debug, Default)]
struct Log {
    flights: Vec<Flight>,
    /// Webhooks for an event that one had come for: at least once is what is promised.
    repeated: u64,
}

/// What the times say at the end.
#[derive(Clone, Debug, Default)]
pub(super) struct Landings {
    pub(super) received: u64,
    pub(super) missing: u64,
    pub(super) repeated: u64,
    pub(super) since_sent: Histogram,
    pub(super) since_acknowledged: Histogram,
}

impl Flights {
    pub(super) fn sent(&self, first: u64, count: usize, at: Instant) {
        self.each(first, count, |flight| flight.sent = Some(at));
    }

    pub(super) fn acknowledged(&self, first: u64, count: usize, at: Instant) {
        self.each(first, count, |flight| flight.acknowledged = Some(at));
    }

    pub(super) fn received(&self, number: u64, at: Instant) {
        let mut log = self.lock();
        let Some(flight) = log.flights.get_mut(number as usize) else { return };
        if flight.received.is_some() {
            log.repeated += 1;
        } else {
            flight.received = Some(at);
        }
    }

    /// How many acknowledged events have not come back yet.
    pub(super) fn missing(&self) -> u64 {
        let log = self.lock();
        log.flights.iter().filter(|f| f.acknowledged.is_some() && f.received.is_none()).count() as u64
    }

    pub(super) fn landings(&self) -> Landings {
        let log = self.lock();
        let mut landings = Landings { repeated: log.repeated, ..Landings::default() };
        for flight in &log.flights {
            match (flight.sent, flight.acknowledged, flight.received) {
                (Some(sent), Some(acknowledged), Some(received)) => {
                    landings.received += 1;
                    landings.since_sent.record(received.saturating_duration_since(sent));
                    // A webhook may overtake the answer: that is no time at all.
                    landings.since_acknowledged.record(received.saturating_duration_since(acknowledged));
                }
                (_, Some(_), None) => landings.missing += 1,
                _ => {}
            }
        }
        landings
    }

    fn each(&self, first: u64, count: usize, set: impl Fn(&mut Flight)) {
        let end = (first as usize + count).min(EVENTS_MAX);
        let mut log = self.lock();
        if log.flights.len() < end {
            log.flights.resize(end, Flight::default());
        }
        log.flights[(first as usize).min(end)..end].iter_mut().for_each(set);
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_matched_by_number() {
        let (flights, start) = (Flights::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        flights.sent(0, 3, at(0));
        flights.acknowledged(0, 3, at(10));
        flights.received(0, at(30));
        flights.received(2, at(5));
        flights.received(2, at(50));
        flights.received(900, at(50));
        assert_eq!(flights.missing(), 1);
        let landings = flights.landings();
        assert_eq!((landings.received, landings.missing, landings.repeated), (2, 1, 1));
        assert_eq!(landings.since_acknowledged.max(), Duration::from_millis(20));
        assert_eq!(landings.since_acknowledged.percentile(50.0), Duration::ZERO);
        assert_eq!(landings.since_sent.max(), Duration::from_millis(30));
    }
}
