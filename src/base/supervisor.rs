//! The only place that spawns tasks: services, which are restarted when they fail, and the short-lived tasks that they
//! start. Stops them stage by stage.
//!
//! Invariant: a service that returns before the stop signal has failed; too many failures end the process. The supervisor
//! knows nothing of what the services do.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::base::backoff::{Backoff, random_unit};
use crate::metrics;

/// Restarts of one service within [`RESTART_WINDOW`] that end the process.
const RESTARTS_MAX: usize = 8;
const RESTART_WINDOW: Duration = Duration::from_secs(120);
const RESTART_BACKOFF: Backoff =
    Backoff { initial: Duration::from_millis(100), multiplier: 2.0, max: Duration::from_secs(10) };
/// How often a stop logs the services that it still waits for.
const REPORT_INTERVAL: Duration = Duration::from_secs(2);
/// The share of its stage's time that a service sees, so that it ends by itself before the stage is aborted.
const SERVICE_SHARE: f64 = 0.9;

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

    /// Cancelled when the owner of these tasks is to stop.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    pub fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn(task);
    }

    /// The number of tasks that still run.
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Waits until all of them have ended. No new ones may be spawned.
    pub async fn wait(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// How long a service may take to stop. Final only when the stop begins: time that earlier stages left over is added.
#[derive(Clone, Debug)]
pub struct StopBudget {
    /// The budget without a supervisor.
    least: Duration,
    at_most: Duration,
    deadline: Arc<OnceLock<tokio::time::Instant>>,
}

impl StopBudget {
    fn new(least: Duration, at_most: Duration) -> Self {
        Self { least, at_most, deadline: Arc::default() }
    }

    /// Caps the budget.
    pub fn at_most(mut self, at_most: Duration) -> Self {
        self.at_most = at_most;
        self
    }

    /// The time left. Call it once, right after the stop signal.
    pub fn left(&self) -> Duration {
        let left = self
            .deadline
            .get()
            .map(|deadline| deadline.saturating_duration_since(tokio::time::Instant::now()).mul_f64(SERVICE_SHARE));
        left.unwrap_or(self.least).min(self.at_most)
    }
}

impl From<Duration> for StopBudget {
    fn from(fixed: Duration) -> Self {
        Self::new(fixed, fixed)
    }
}

/// Services that stop together and share one time budget. Cheap to clone.
#[derive(Clone)]
pub struct Stage(Arc<Shared>);

struct Shared {
    name: &'static str,
    budget: StopBudget,
    stop: CancellationToken,
    services: Mutex<Vec<Service>>,
    failed: mpsc::Sender<Failed>,
}

struct Service {
    name: &'static str,
    handle: JoinHandle<()>,
}

impl Stage {
    /// How long the services of this stage may take to stop.
    pub fn stop_budget(&self) -> StopBudget {
        self.0.budget.clone()
    }

    /// Starts a service. `start` is called again after each failure.
    pub fn supervise<F, R>(&self, name: &'static str, start: F)
    where
        F: FnMut(CancellationToken) -> R + Send + 'static,
        R: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.keep(name, RESTARTS_MAX, start);
    }

    /// Starts a service whose first failure ends the process, because no restart can mend it.
    pub fn supervise_once<F, R>(&self, name: &'static str, start: F)
    where
        F: FnMut(CancellationToken) -> R + Send + 'static,
        R: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.keep(name, 0, start);
    }

    fn keep<F, R>(&self, name: &'static str, restarts_max: usize, mut start: F)
    where
        F: FnMut(CancellationToken) -> R + Send + 'static,
        R: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let start = move |stop| Box::pin(start(stop)) as Run;
        let kept = keep_running((name, restarts_max), Box::new(start), self.0.stop.clone(), self.0.failed.clone());
        #[expect(clippy::disallowed_methods, reason = "this is the one place")]
        let handle = tokio::spawn(kept);
        self.0.services.lock().push(Service { name, handle });
    }
}

/// Runs services until it is told to stop, then stops the stages in the order in which they were added.
pub struct Supervisor {
    stages: Vec<Stage>,
    failed: mpsc::Sender<Failed>,
    failures: mpsc::Receiver<Failed>,
}

/// A service whose failure ends the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    pub service: &'static str,
    pub cause: String,
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} failed for good: {}", self.service, self.cause)
    }
}

impl Default for Supervisor {
    fn default() -> Self {
        // One slot is enough: the first failure ends the process.
        let (failed, failures) = mpsc::channel(1);
        Self { stages: Vec::new(), failed, failures }
    }
}

impl Supervisor {
    /// Adds a stage. It has at least `least` to stop, however long the stages before it take.
    pub fn stage(&mut self, name: &'static str, least: Duration) -> Stage {
        let stage = Stage(Arc::new(Shared {
            name,
            budget: StopBudget::new(least, Duration::MAX),
            stop: CancellationToken::new(),
            services: Mutex::default(),
            failed: self.failed.clone(),
        }));
        self.stages.push(stage.clone());
        stage
    }

    /// Waits for a service that failed too often.
    pub async fn failure(&mut self) -> Failed {
        match self.failures.recv().await {
            Some(failed) => failed,
            None => std::future::pending().await,
        }
    }

    /// Stops the stages in order within `total`. Each has all the time that is left, minus the minimum of those after it.
    /// Returns whether all of them ended in time.
    pub async fn stop(self, total: Duration) -> bool {
        let mut all_ended = true;
        let mut reserved: Duration = self.stages.iter().map(|stage| stage.0.budget.least).sum();
        let end = tokio::time::Instant::now() + total;
        for stage in self.stages {
            let Shared { name, budget, stop, .. } = &*stage.0;
            let started = Instant::now();
            reserved -= budget.least;
            let left = end.saturating_duration_since(tokio::time::Instant::now());
            let time = left.saturating_sub(reserved).max(budget.least);
            // Set once: a supervisor stops once.
            let _ = budget.deadline.set(tokio::time::Instant::now() + time);
            stop.cancel();
            let services = std::mem::take(&mut *stage.0.services.lock());
            let ended = end_services(name, services, time).await;
            all_ended &= ended;
            if ended {
                info!(stage = name, elapsed_ms = started.elapsed().as_millis() as u64, "stage stopped");
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
    (name, restarts_max): (&'static str, usize),
    mut start: Box<dyn FnMut(CancellationToken) -> Run + Send>,
    stop: CancellationToken,
    failed: mpsc::Sender<Failed>,
) {
    let mut failures: VecDeque<Instant> = VecDeque::new();
    loop {
        // In a task of its own, so that a panic fails this service alone.
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
        if failures.len() > restarts_max {
            error!(service = name, error = cause, restarts = restarts_max, "failed too often, ending the process");
            // A full channel means that another service already ends the process.
            let _ = failed.try_send(Failed { service: name, cause });
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

/// Aborting the task that restarts a service must abort the service too.
struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_failing_service_is_restarted() {
        let starts = Arc::new(AtomicUsize::new(0));
        let mut supervisor = Supervisor::default();
        let stage = supervisor.stage("only", Duration::from_secs(5));
        let seen = starts.clone();
        stage.supervise("flaky", move |stop| {
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
        assert!(supervisor.stop(Duration::from_secs(5)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_failures_end_the_process() {
        let mut supervisor = Supervisor::default();
        let stage = supervisor.stage("only", Duration::from_secs(5));
        stage.supervise("hopeless", |_| async { anyhow::bail!("always") });
        let failed = tokio::time::timeout(Duration::from_secs(600), supervisor.failure()).await;
        assert_eq!(failed, Ok(Failed { service: "hopeless", cause: "always".to_owned() }));
    }

    #[tokio::test(start_paused = true)]
    async fn one_failure_ends_the_process_where_no_restart_can_mend_it() {
        let mut supervisor = Supervisor::default();
        let stage = supervisor.stage("only", Duration::from_secs(5));
        stage.supervise_once("gone", |_| async { anyhow::bail!("away") });
        let failed = tokio::time::timeout(Duration::from_millis(1), supervisor.failure()).await;
        assert_eq!(failed.unwrap().to_string(), "gone failed for good: away");
    }

    #[tokio::test(start_paused = true)]
    async fn stages_stop_in_order_and_a_stuck_one_is_left_behind() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut supervisor = Supervisor::default();
        for name in ["first", "stuck", "last"] {
            let stage = supervisor.stage(name, Duration::from_secs(3));
            let order = order.clone();
            stage.supervise(name, move |stop| {
                let order = order.clone();
                async move {
                    stop.cancelled().await;
                    if name == "stuck" {
                        std::future::pending::<()>().await;
                    }
                    order.lock().push(name);
                    Ok(())
                }
            });
        }
        tokio::task::yield_now().await;
        let started = tokio::time::Instant::now();
        assert!(!supervisor.stop(Duration::from_secs(9)).await);
        assert_eq!(started.elapsed().as_secs(), 6, "the first left its time, the last keeps its own");
        assert_eq!(*order.lock(), ["first", "last"]);
    }

    /// A stage whose one service takes `takes` seconds to stop. Returns the seconds that the service believed it had.
    fn slow(supervisor: &mut Supervisor, name: &'static str, least: u64, takes: u64) -> Arc<OnceLock<u64>> {
        let stage = supervisor.stage(name, Duration::from_secs(least));
        let (budget, told) = (stage.stop_budget(), Arc::new(OnceLock::new()));
        let tells = told.clone();
        stage.supervise(name, move |stop| {
            let (budget, tells) = (budget.clone(), tells.clone());
            async move {
                stop.cancelled().await;
                let _ = tells.set(budget.left().as_secs());
                tokio::time::sleep(Duration::from_secs(takes)).await;
                Ok(())
            }
        });
        told
    }

    #[tokio::test(start_paused = true)]
    async fn time_that_a_stage_leaves_is_for_the_later_ones() {
        let mut supervisor = Supervisor::default();
        let gateway = slow(&mut supervisor, "gateway", 5, 10);
        let sink = slow(&mut supervisor, "sink", 5, 0);
        let webhooks = slow(&mut supervisor, "webhooks", 2, 15);
        let admin = slow(&mut supervisor, "admin", 1, 0);
        tokio::task::yield_now().await;
        let started = tokio::time::Instant::now();
        assert!(supervisor.stop(Duration::from_secs(30)).await);
        assert_eq!(started.elapsed().as_secs(), 25);
        let told = [gateway, sink, webhooks, admin].map(|told| *told.get().unwrap());
        assert_eq!(told, [19, 15, 17, 4], "nine tenths of 22, 17, 19 and 5 seconds");
    }

    #[test]
    fn a_service_without_a_supervisor_has_its_fixed_time() {
        assert_eq!(StopBudget::from(Duration::from_secs(3)).left(), Duration::from_secs(3));
        assert_eq!(StopBudget::from(Duration::from_secs(3)).at_most(Duration::from_secs(1)).left().as_secs(), 1);
    }
}
