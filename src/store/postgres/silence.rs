//! Connections whose peer is gone without notice: how calls and the pool detect it.
//!
//! Invariant: a live server ends every statement within `statement_timeout`. A connection that is silent for longer is
//! dead, and other connections of the same age are no longer trusted.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_postgres::{ClientWrapper, HookError, Metrics};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use parking_lot::Mutex;

/// A connection idle for this long is probed before it is used again.
const PROBE_AFTER: Duration = Duration::from_secs(2);
/// The timeout of the probe.
const PROBE_TIMEOUT: Duration = Duration::from_millis(2_500);

/// The server was silent for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ServerSilent;

/// Runs a use case while the server responds: every wake-up means that something was received.
pub(super) async fn fail_on_silence<T>(limit: Duration, run: impl Future<Output = T>) -> Result<T, ServerSilent> {
    let last_activity = Mutex::new(Instant::now());
    let mut run = Box::pin(run);
    let tracked = std::future::poll_fn(|context| {
        *last_activity.lock() = Instant::now();
        run.as_mut().poll(context)
    });
    // The set polls it only when it is woken itself, not with everything else that the caller waits for.
    let mut set = FuturesUnordered::new();
    set.push(tracked);
    loop {
        let silent_at = *last_activity.lock() + limit;
        if silent_at <= Instant::now() {
            return Err(ServerSilent);
        }
        tokio::select! {
            Some(done) = set.next() => return Ok(done),
            () = tokio::time::sleep_until(silent_at.into()) => {}
        }
    }
}

/// Pooled connections last used before this time are not trusted. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct StaleCutoff(Arc<Mutex<Instant>>);

impl StaleCutoff {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    /// A connection was silent: those last used before now are not used again.
    pub(super) fn advance(&self) {
        *self.0.lock() = Instant::now();
    }

    /// Checks whether an idle connection may be handed out.
    pub(super) async fn check(&self, client: &ClientWrapper, metrics: &Metrics) -> Result<(), HookError> {
        let used_at = metrics.recycled.unwrap_or(metrics.created);
        if used_at < *self.0.lock() {
            return Err(HookError::message("a connection of its time was silent"));
        }
        if used_at.elapsed() < PROBE_AFTER {
            return Ok(());
        }
        match tokio::time::timeout(PROBE_TIMEOUT, client.batch_execute("")).await {
            Ok(answered) => answered.map_err(HookError::Backend),
            Err(_) => {
                self.advance();
                Err(HookError::message("no sign of life"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(300);

    #[tokio::test]
    async fn a_use_case_that_progresses_may_exceed_the_limit() {
        let slow = async {
            for _ in 0..10 {
                tokio::time::sleep(LIMIT / 4).await;
            }
            1
        };
        assert_eq!(fail_on_silence(LIMIT, slow).await, Ok(1));
    }

    /// Also detected when the same task is woken by other work all the time.
    #[tokio::test]
    async fn silence_is_detected_next_to_busy_futures() {
        let started = Instant::now();
        let silent = fail_on_silence(LIMIT, std::future::pending::<()>());
        let busy = async {
            loop {
                tokio::time::sleep(LIMIT / 10).await;
            }
        };
        let (silent, busy) = (std::pin::pin!(silent), std::pin::pin!(busy));
        let ended = futures_util::future::select(silent, busy);
        let ended = tokio::time::timeout(10 * LIMIT, ended).await.expect("noticed in time");
        assert!(matches!(ended, futures_util::future::Either::Left((Err(ServerSilent), _))));
        assert!(started.elapsed() >= LIMIT);
    }
}
