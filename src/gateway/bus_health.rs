//! What the gateway knows of the bus's health, told to readiness.
//!
//! Publishing itself shows a failure. An unready process gets no traffic that could show the
//! recovery: while the bus fails it is asked about itself, and once nothing speaks against it
//! the next request is the trial.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::settings::Destination;
use crate::base::errors::chain;
use crate::bus::{BusError, BusErrorKind, BusStatus, Published};
use crate::http::Readiness;

const COMPONENT: &str = "bus";
/// How often a failing bus is asked whether it works again.
const ASK_INTERVAL: Duration = Duration::from_millis(500);
/// How long after its last refusal the bus is tried again; only a publish can show that a disk has room again.
const TRIAL_AFTER: Duration = Duration::from_secs(3);
/// Usage of the bus above which a trial is no use: its janitor works towards less than this.
const TRIAL_USAGE_PERCENT_MAX: u64 = 90;

pub(super) struct BusHealth {
    readiness: Readiness,
    failing: AtomicBool,
    failed: Notify,
    last_failure: Mutex<Instant>,
}

impl BusHealth {
    pub(super) fn new(readiness: Readiness) -> Self {
        readiness.set(COMPONENT, Ok(()));
        Self {
            readiness,
            failing: AtomicBool::new(false),
            failed: Notify::new(),
            last_failure: Mutex::new(Instant::now()),
        }
    }

    /// Learns from what publishing answered.
    pub(super) fn learn(&self, answers: &[Result<Published, BusError>]) {
        let failure = answers.iter().find_map(|answer| match answer {
            Err(error) if error.kind != BusErrorKind::Invalid => Some(error),
            _ => None,
        });
        match failure {
            Some(error) => self.fails(&chain(error)),
            None if self.failing.load(Relaxed) && answers.iter().any(Result::is_ok) => self.recovered(),
            None => {}
        }
    }

    /// Asks the bus while it fails; never returns.
    pub(super) async fn watch_recovery(&self, destination: &Destination) -> Infallible {
        let Destination::Bus(bus) = destination else { return std::future::pending().await };
        loop {
            self.failed.notified().await;
            while self.failing.load(Relaxed) {
                tokio::time::sleep(ASK_INTERVAL).await;
                let status = match bus.ping().await {
                    Ok(()) => bus.status().await,
                    Err(error) => Err(error),
                };
                match status {
                    Ok(status) => self.consider(&status),
                    Err(error) => self.still_fails(&chain(&error)),
                }
            }
        }
    }

    fn consider(&self, status: &BusStatus) {
        let has_room = status.bytes.saturating_mul(100) < status.bytes_max.saturating_mul(TRIAL_USAGE_PERCENT_MAX);
        match &status.refused {
            None => self.recovered(),
            Some(_) if has_room && self.last_failure().elapsed() >= TRIAL_AFTER => self.recovered(),
            Some(reason) => self.still_fails(reason),
        }
    }

    fn last_failure(&self) -> MutexGuard<'_, Instant> {
        self.last_failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // The lock makes a change of state and what readiness hears of it one step: whoever asked the bus before it worked
    // again must not have the last word.

    fn fails(&self, reason: &str) {
        let mut last_failure = self.last_failure();
        *last_failure = Instant::now();
        if !self.failing.swap(true, Relaxed) {
            tracing::warn!(reason, "bus refuses events: unready");
            self.readiness.set(COMPONENT, Err(reason.to_owned()));
            self.failed.notify_one();
        }
    }

    fn still_fails(&self, reason: &str) {
        let _state = self.last_failure();
        if self.failing.load(Relaxed) {
            self.readiness.set(COMPONENT, Err(reason.to_owned()));
        }
    }

    fn recovered(&self) {
        let _state = self.last_failure();
        if self.failing.swap(false, Relaxed) {
            tracing::info!("take events again");
            self.readiness.set(COMPONENT, Ok(()));
        }
    }
}
