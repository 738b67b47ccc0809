//! The only place that spawns: services that are restarted when they fail, and the
//! short tasks that they start. Stops them stage by stage.
//!
//! Invariant: a service that ends before it was told to is a failure; too many failures
//! end the process. Knows nothing of what the services do.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::backoff::{Backoff, random_unit};
use crate::metrics;

/// Restarts of one service within [`RESTART_WINDOW`] that end the process.
const RESTARTS_MAX: usize = 8;
const RESTART_WINDOW: Duration = Duration::from_secs(120);
const RESTART_BACKOFF: Backoff =
    Backoff { initial: Duration::from_millis(100), multiplier: 2.0, max: Duration::from_secs(10) };
/// How often a stop says what it still waits for.
const REPORT_INTERVAL: Duration = Duration::from_secs(2);

type Run = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

/// Spawns short-lived tasks (a connection, a request, an upload) and waits for them at the end.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    pub fn new(stop: CancellationToken) -> Self {
        Self { tracker: TaskTracker::new(), stop }
    }

    /// Cancelled when the owner of these tasks is told to stop.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    pub fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn(task);
    }

    /// How many still run.
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Returns when all of them have ended; no new ones are expected.
    pub async fn wait(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// What stops together: its services are told at once and share one time budget.
struct Stage {
    name: &'static str,
    budget: Duration,
    stop: CancellationToken,
    services: Vec<Service>,
}

struct Service {
    name: &'static str,
    handle: JoinHandle<()>,
}

/// Runs services until told to stop, then stops them in the order in which their stages were added.
pub struct Supervisor {
    stages: Vec<Stage>,
    failed: mpsc::Sender<&'static str>,
    failures: mpsc::Receiver<&'static str>,
}

impl Default for Supervisor {
    fn default() -> Self {
        // One place is enough: the first failure ends the process.
        let (failed, failures) = mpsc::channel(1);
        Self { stages: Vec::new(), failed, failures }
    }
}

impl Supervisor {
    /// Adds a stage; its token tells everything in it to stop.
    pub fn stage(&mut self, name: &'static str, budget: Duration) -> CancellationToken {
        let stop = CancellationToken::new();
        self.stages.push(Stage { name, budget, stop: stop.clone(), services: Vec::new() });
        stop
    }

    /// Starts a service in the stage that was added last. `start` is called again after each failure.
    pub fn supervise<F, R>(&mut self, name: &'static str, mut start: F)
    where
        F: FnMut(CancellationToken) -> R + Send + 'static,
        R: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let Some(stage) = self.stages.last_mut() else { unreachable!("a service needs a stage") };
        let start = move |stop| Box::pin(start(stop)) as Run;
        #[expect(clippy::disallowed_methods, reason = "this is the one place")]
        let handle = tokio::spawn(keep_running(name, Box::new(start), stage.stop.clone(), self.failed.clone()));
        stage.services.push(Service { name, handle });
    }

    /// Returns the name of a service that failed too often. Never returns while all is well.
    pub async fn failure(&mut self) -> &'static str {
        match self.failures.recv().await {
            Some(name) => name,
            None => std::future::pending().await,
        }
    }

    /// Stops stage after stage, each within its budget. True when all of them ended in time.
    pub async fn stop(self) -> bool {
        let mut all_ended = true;
        for stage in self.stages {
            let started = Instant::now();
            stage.stop.cancel();
            let ended = end_services(stage.name, stage.services, stage.budget).await;
            all_ended &= ended;
            if ended {
                info!(stage = stage.name, elapsed_ms = started.elapsed().as_millis() as u64, "stage stopped");
            }
        }
        all_ended
    }
}

async fn end_services(stage: &'static str, mut services: Vec<Service>, budget: Duration) -> bool {
    let deadline = tokio::time::Instant::now() + budget;
    loop {
        services.retain(|service| !service.handle.is_finished());
        let Some(first) = services.first_mut() else { return true };
        let report_at = (tokio::time::Instant::now() + REPORT_INTERVAL).min(deadline);
        if tokio::time::timeout_at(report_at, &mut first.handle).await.is_ok() {
            services.remove(0);
            continue;
        }
        let waiting: Vec<_> = services.iter().map(|service| service.name).collect();
        if tokio::time::Instant::now() >= deadline {
            error!(stage, ?waiting, ?budget, "stage did not stop in time, going on without it");
            services.iter().for_each(|service| service.handle.abort());
            return false;
        }
        warn!(stage, ?waiting, "still waiting");
    }
}

async fn keep_running(
    name: &'static str,
    mut start: Box<dyn FnMut(CancellationToken) -> Run + Send>,
    stop: CancellationToken,
    failed: mpsc::Sender<&'static str>,
) {
    let mut failures: VecDeque<Instant> = VecDeque::new();
    loop {
        // A task of its own, so that a panic is a failure of this service alone.
        #[expect(clippy::disallowed_methods, reason = "this is the one place")]
        let run = tokio::spawn(start(stop.clone()));
        let guard = AbortOnDrop(run.abort_handle());
        let result = run.await;
        drop(guard);
        if stop.is_cancelled() {
            if let Ok(Err(error)) = result {
                error!(service = name, error = format!("{error:#}"), "failed while stopping");
            }
            return;
        }
        let cause = match result {
            Ok(Ok(())) => "ended before it was told to".to_owned(),
            Ok(Err(error)) => format!("{error:#}"),
            Err(panic) => format!("panicked: {panic}"),
        };
        let now = Instant::now();
        failures.push_back(now);
        while failures.front().is_some_and(|first| now - *first > RESTART_WINDOW) {
            failures.pop_front();
        }
        if failures.len() > RESTARTS_MAX {
            error!(service = name, error = cause, restarts = RESTARTS_MAX, "failed too often, ending the process");
            // Full means that another service already ends the process.
            let _ = failed.try_send(name);
            return;
        }
        let delay = RESTART_BACKOFF.delay(failures.len() as u32, random_unit());
        error!(service = name, error = cause, restart_in_ms = delay.as_millis() as u64, "service failed");
        metrics::task_restarts(name);
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Aborting the keeper must abort what it keeps.
struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_failing_service_is_restarted() {
        let starts = Arc::new(AtomicUsize::new(0));
        let mut supervisor = Supervisor::default();
        supervisor.stage("only", Duration::from_secs(5));
        let seen = starts.clone();
        supervisor.supervise("flaky", move |stop| {
            let start = seen.fetch_add(1, Ordering::SeqCst);
            async move {
                match start {
                    0 => anyhow::bail!("first"),
                    1 => Ok(()),
                    2 => panic!("third"),
                    _ => {
                        stop.cancelled().await;
                        Ok(())
                    }
                }
            }
        });
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(starts.load(Ordering::SeqCst), 4);
        assert!(supervisor.stop().await);
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_failures_end_the_process() {
        let mut supervisor = Supervisor::default();
        supervisor.stage("only", Duration::from_secs(5));
        supervisor.supervise("hopeless", |_| async { anyhow::bail!("always") });
        let failed = tokio::time::timeout(Duration::from_secs(600), supervisor.failure()).await;
        assert_eq!(failed, Ok("hopeless"));
    }

    #[tokio::test(start_paused = true)]
    async fn stages_stop_in_order_and_a_stuck_one_is_left_behind() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut supervisor = Supervisor::default();
        for name in ["first", "stuck", "last"] {
            supervisor.stage(name, Duration::from_secs(3));
            let order = order.clone();
            supervisor.supervise(name, move |stop| {
                let order = order.clone();
                async move {
                    stop.cancelled().await;
                    if name == "stuck" {
                        std::future::pending::<()>().await;
                    }
                    order.lock().unwrap().push(name);
                    Ok(())
                }
            });
        }
        tokio::task::yield_now().await;
        let started = tokio::time::Instant::now();
        assert!(!supervisor.stop().await);
        assert_eq!(started.elapsed().as_secs(), 3);
        assert_eq!(*order.lock().unwrap(), ["first", "last"]);
    }
}
