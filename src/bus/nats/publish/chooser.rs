//! Decides whether batches or single publishes are faster on this server.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::bus::PublishMode;

/// The minimum number of messages in a measurement.
const MEASURED_MESSAGES_MIN: u64 = 50;
/// Single publishes per second below which the server must be syncing each of them. Without syncing it reaches tens of
/// thousands; with syncing, a few thousand at best.
const SYNCING_RATE_MAX: f64 = 10_000.0;
/// The maximum duration of a measurement.
const MEASURED_FOR: Duration = Duration::from_millis(200);
/// Consecutive slow measurements after which batches are used.
const SLOW_MAX: u32 = 2;
/// How long batches are used before single publishes are measured again: the configuration of the server may have
/// changed.
const BATCHES_FOR: Duration = Duration::from_secs(60);

/// Decides between batches and single publishes.
#[derive(Debug)]
pub(crate) struct Chooser {
    mode: PublishMode,
    state: Mutex<Measuring>,
}

#[derive(Debug)]
struct Measuring {
    in_flight: usize,
    since: Instant,
    acknowledged: u64,
    slow: u32,
    batches_until: Option<Instant>,
}

impl Chooser {
    /// `able`: the server supports atomic batches.
    pub(crate) fn new(mode: PublishMode, able: bool) -> Self {
        let mode = if able { mode } else { PublishMode::Single };
        let state = Measuring { in_flight: 0, since: Instant::now(), acknowledged: 0, slow: 0, batches_until: None };
        Self { mode, state: Mutex::new(state) }
    }

    pub(crate) fn prefers_batches(&self) -> bool {
        match self.mode {
            PublishMode::Atomic => true,
            PublishMode::Single => false,
            PublishMode::Auto => {
                let mut state = self.state.lock();
                state.batches_until = state.batches_until.filter(|until| Instant::now() < *until);
                state.batches_until.is_some()
            }
        }
    }

    /// Single publishes have begun.
    pub(crate) fn began(&self, messages: usize) {
        if self.mode == PublishMode::Auto {
            let mut state = self.state.lock();
            if state.in_flight == 0 {
                (state.since, state.acknowledged) = (Instant::now(), 0);
            }
            state.in_flight += messages;
        }
    }

    /// They have ended; `acknowledged` of them successfully.
    pub(crate) fn ended(&self, messages: usize, acknowledged: usize) {
        if self.mode != PublishMode::Auto {
            return;
        }
        let mut state = self.state.lock();
        state.in_flight = state.in_flight.saturating_sub(messages);
        state.acknowledged += acknowledged as u64;
        let elapsed = state.since.elapsed();
        if state.acknowledged < MEASURED_MESSAGES_MIN || (state.in_flight > 0 && elapsed < MEASURED_FOR) {
            return;
        }
        let rate = state.acknowledged as f64 / elapsed.as_secs_f64().max(1e-6);
        state.slow = if rate < SYNCING_RATE_MAX { state.slow + 1 } else { 0 };
        (state.since, state.acknowledged) = (Instant::now(), 0);
        if state.slow >= SLOW_MAX {
            state.slow = 0;
            state.batches_until = Some(Instant::now() + BATCHES_FOR);
            tracing::debug!(rate, "single publishes are slow: publishing in batches");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_single_publishes_lead_to_batches_and_fast_ones_do_not() {
        let chooser = Chooser::new(PublishMode::Auto, true);
        for _ in 0..20 {
            chooser.began(1_000);
            chooser.ended(1_000, 1_000);
        }
        assert!(!chooser.prefers_batches());
        for _ in 0..SLOW_MAX {
            chooser.began(100);
            std::thread::sleep(Duration::from_millis(30));
            chooser.ended(100, 100);
        }
        assert!(chooser.prefers_batches());
        assert!(!Chooser::new(PublishMode::Atomic, false).prefers_batches(), "the server has none");
        assert!(Chooser::new(PublishMode::Atomic, true).prefers_batches());
    }
}
