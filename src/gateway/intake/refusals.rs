//! What is refused for what it is: counted by reason, and told in the log now and then.
//!
//! Invariants: nothing here costs an accepted event anything; however much is refused, the log gets a line for each
//! reason in [`LOG_INTERVAL`]. A line has a reason, a place and names, never what was sent.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::outcome::{Verdict, Verdicts};
use crate::bus::BusErrorKind;
use crate::event::request::Refused;
use crate::event::{FieldError, Reason};
use crate::gateway::exchange::Exchange;
use crate::metrics::GatewayRejected;

/// How often each reason is told of.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// What the bus alone finds too large.
const TOO_LARGE: usize = Reason::ALL.len();
const PLACES: usize = TOO_LARGE + 1;

pub(crate) struct Refusals {
    counters: GatewayRejected,
    told: [Mutex<Told>; PLACES],
}

/// What the log knows of one reason.
#[derive(Default)]
struct Told {
    at: Option<Instant>,
    left_out: u64,
}

impl Told {
    /// Whether a line is due; how many refusals it stands for that had none.
    fn due(&mut self, count: u64, now: Instant) -> Option<u64> {
        if self.at.is_some_and(|at| now.saturating_duration_since(at) < LOG_INTERVAL) {
            self.left_out += count;
            return None;
        }
        self.at = Some(now);
        Some(std::mem::take(&mut self.left_out) + count - 1)
    }
}

fn place(reason: Reason) -> usize {
    Reason::ALL.iter().position(|known| *known == reason).unwrap_or_default()
}

fn name(place: usize) -> &'static str {
    Reason::ALL.get(place).map_or("too_large", |reason| reason.name())
}

impl Refusals {
    pub(crate) fn lookup() -> Self {
        Self {
            counters: GatewayRejected::lookup((0..PLACES).map(name)),
            told: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// Of the events of a request, some of which were refused.
    pub(crate) fn note(&self, verdicts: &Verdicts, exchange: &Exchange) {
        let mut counts = [0; PLACES];
        let mut firsts: [Option<&FieldError>; PLACES] = [None; PLACES];
        for verdict in verdicts.iter() {
            match verdict {
                Verdict::Invalid(errors) => {
                    let place = place(Reason::of(errors));
                    counts[place] += 1;
                    firsts[place] = firsts[place].or(errors.first());
                }
                Verdict::NotStored { kind: BusErrorKind::Invalid, .. } => counts[TOO_LARGE] += 1,
                _ => {}
            }
        }
        for (place, count) in counts.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            self.add(place, count, firsts[place], exchange);
        }
    }

    /// Of a body that was refused as a whole.
    pub(crate) fn note_whole(&self, refused: &Refused, exchange: &Exchange) {
        self.add(place(Reason::of_body(refused)), 1, refused.errors.first(), exchange);
    }

    fn add(&self, place: usize, count: u64, first: Option<&FieldError>, exchange: &Exchange) {
        self.counters.add(place, count);
        // Whoever holds it is writing the line.
        let Ok(mut told) = self.told[place].try_lock() else { return };
        let Some(more) = told.due(count, Instant::now()) else { return };
        drop(told);
        tracing::info!(
            request_id = exchange.ids.request(),
            correlation_id = exchange.ids.correlation(),
            app_id = exchange.caller.app().unwrap_or_default(),
            reason = name(place),
            pointer = first.map_or("", |error| error.pointer.as_str()),
            more,
            "refused an event for what it is"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stands_for_those_that_had_none() {
        let (mut told, start) = (Told::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(told.due(1, at(0)), Some(0));
        assert_eq!((told.due(1, at(1)), told.due(500, at(9))), (None, None));
        assert_eq!(told.due(2, at(10)), Some(502));
        assert_eq!(told.due(3, at(30)), Some(2));
    }

    #[test]
    fn each_reason_has_a_counter_of_its_own() {
        let names: std::collections::BTreeSet<_> = (0..PLACES).map(name).collect();
        assert_eq!(names.len(), PLACES);
        assert!(Reason::ALL.into_iter().all(|reason| name(place(reason)) == reason.name()));
    }
}
