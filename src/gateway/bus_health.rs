//! Tracks the health of the bus and reports it to readiness.
//!
//! Publishing itself detects a failure. It cannot detect the recovery, because an unready process gets no traffic:
//! while the bus fails, it is pinged, and once it reports no fault, the next request is the test.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::settings::Destination;
use crate::base::errors::chain;
use crate::bus::{BusError, BusErrorKind, BusStatus, Published};
use crate::http::Readiness;

const COMPONENT: &str = "bus";
/// How often a failing bus is pinged.
const PING_INTERVAL: Duration = Duration::from_millis(500);
/// How long after its last failure the bus is tried again. Only a publish can show that a full disk has room again.
const TRIAL_AFTER: Duration = Duration::from_secs(3);
/// Usage of the bus above which a trial is pointless: its janitor frees space down to less than this.
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

    /// Records the results of a publish.
    pub(super) fn record_answers(&self, answers: &[Result<Published, BusError>]) {
        let failure = answers.iter().find_map(|answer| match answer {
            Err(error) if error.kind != BusErrorKind::Invalid => Some(error),
            _ => None,
        });
        match failure {
            Some(error) => self.mark_failing(&chain(error)),
            None if self.failing.load(Relaxed) && answers.iter().any(Result::is_ok) => self.mark_recovered(),
            None => {}
        }
    }

    /// Pings the bus while it fails. Never returns.
    pub(super) async fn watch_recovery(&self, destination: &Destination) -> Infallible {
        let Destination::Bus(bus) = destination else { return std::future::pending().await };
        loop {
            self.failed.notified().await;
            while self.failing.load(Relaxed) {
                tokio::time::sleep(PING_INTERVAL).await;
                let status = match bus.ping().await {
                    Ok(()) => bus.status().await,
                    Err(error) => Err(error),
                };
                match status {
                    Ok(status) => self.evaluate(&status),
                    Err(error) => self.mark_still_failing(&chain(&error)),
                }
            }
        }
    }

    fn evaluate(&self, status: &BusStatus) {
        let has_room = status.bytes.saturating_mul(100) < status.bytes_max.saturating_mul(TRIAL_USAGE_PERCENT_MAX);
        match &status.refused {
            None => self.mark_recovered(),
            Some(_) if has_room && self.last_failure.lock().elapsed() >= TRIAL_AFTER => self.mark_recovered(),
            Some(reason) => self.mark_still_failing(reason),
        }
    }

    // The lock makes the state change and its report to readiness one step; otherwise a stale ping result could
    // overwrite a newer one.

    fn mark_failing(&self, reason: &str) {
        let mut last_failure = self.last_failure.lock();
        *last_failure = Instant::now();
        if !self.failing.swap(true, Relaxed) {
            tracing::warn!(reason, "bus refuses events: unready");
            self.readiness.set(COMPONENT, Err(reason.to_owned()));
            self.failed.notify_one();
        }
    }

    fn mark_still_failing(&self, reason: &str) {
        let _state = self.last_failure.lock();
        if self.failing.load(Relaxed) {
            self.readiness.set(COMPONENT, Err(reason.to_owned()));
        }
    }

    fn mark_recovered(&self) {
        let _state = self.last_failure.lock();
        if self.failing.swap(false, Relaxed) {
            tracing::info!("take events again");
            self.readiness.set(COMPONENT, Ok(()));
        }
    }
}
