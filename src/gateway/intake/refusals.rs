//! Counts refused events by reason, and logs a sample of them.
//!
//! Invariants: refusals cost accepted events nothing; however many events are refused, the log gets at most one line
//! per reason in [`LOG_INTERVAL`]. A line has the reason, the pointer and ids, but never content.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::outcome::{ItemOutcome, ItemOutcomes};
use crate::bus::BusErrorKind;
use crate::event::request::Refused;
use crate::event::{FieldError, Reason};
use crate::gateway::exchange::Exchange;
use crate::metrics::GatewayRejected;

/// How often each reason is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Events that only the bus finds too large.
const TOO_LARGE: usize = Reason::ALL.len();
const REASONS: usize = TOO_LARGE + 1;

pub(crate) struct Refusals {
    counters: GatewayRejected,
    log_state: [Mutex<LogState>; REASONS],
}

/// The log state of one reason.
#[derive(Default)]
struct LogState {
    at: Option<Instant>,
    suppressed: u64,
}

impl LogState {
    /// The number of suppressed refusals to report, if a log line is due.
    fn due(&mut self, count: u64, now: Instant) -> Option<u64> {
        if self.at.is_some_and(|at| now.saturating_duration_since(at) < LOG_INTERVAL) {
            self.suppressed += count;
            return None;
        }
        self.at = Some(now);
        Some(std::mem::take(&mut self.suppressed) + count - 1)
    }
}

fn index(reason: Reason) -> usize {
    Reason::ALL.iter().position(|known| *known == reason).unwrap_or_default()
}

fn name(index: usize) -> &'static str {
    Reason::ALL.get(index).map_or("too_large", |reason| reason.name())
}

impl Refusals {
    pub(crate) fn lookup() -> Self {
        Self {
            counters: GatewayRejected::lookup((0..REASONS).map(name)),
            log_state: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// Records the refused events of a request.
    pub(crate) fn record(&self, outcomes: &ItemOutcomes, exchange: &Exchange) {
        let mut counts = [0; REASONS];
        let mut firsts: [Option<&FieldError>; REASONS] = [None; REASONS];
        for outcome in outcomes.iter() {
            match outcome {
                ItemOutcome::Invalid(errors) => {
                    let index = index(Reason::of(errors));
                    counts[index] += 1;
                    firsts[index] = firsts[index].or(errors.first());
                }
                ItemOutcome::NotStored { kind: BusErrorKind::Invalid, .. } => counts[TOO_LARGE] += 1,
                _ => {}
            }
        }
        for (index, count) in counts.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            self.add(index, count, firsts[index], exchange);
        }
    }

    /// Records a body that was refused as a whole.
    pub(crate) fn record_body(&self, refused: &Refused, exchange: &Exchange) {
        self.add(index(Reason::of_body(refused)), 1, refused.errors.first(), exchange);
    }

    fn add(&self, index: usize, count: u64, first: Option<&FieldError>, exchange: &Exchange) {
        self.counters.add(index, count);
        // Another thread is already writing the line.
        let Some(mut log_state) = self.log_state[index].try_lock() else { return };
        let Some(more) = log_state.due(count, Instant::now()) else { return };
        drop(log_state);
        tracing::info!(
            request_id = exchange.ids.request(),
            correlation_id = exchange.ids.correlation(),
            app_id = exchange.caller.app().unwrap_or_default(),
            reason = name(index),
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
    fn a_log_line_counts_suppressed_refusals() {
        let (mut log_state, start) = (LogState::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(log_state.due(1, at(0)), Some(0));
        assert_eq!((log_state.due(1, at(1)), log_state.due(500, at(9))), (None, None));
        assert_eq!(log_state.due(2, at(10)), Some(502));
        assert_eq!(log_state.due(3, at(30)), Some(2));
    }

    #[test]
    fn each_reason_has_its_own_counter() {
        let names: std::collections::BTreeSet<_> = (0..REASONS).map(name).collect();
        assert_eq!(names.len(), REASONS);
        assert!(Reason::ALL.into_iter().all(|reason| name(index(reason)) == reason.name()));
    }
}
