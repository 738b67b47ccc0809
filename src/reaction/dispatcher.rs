//! The dispatcher: claims what is due, sends it, records what became of it.
//!
//! Invariants: a delivery is on its way at most once in this process; an attempt is over only
//! when its outcome is committed; a delivery whose outcome was not committed is due again when
//! its lease ends, or at once when the store is opened again after a crash. Nothing here
//! waits for one endpoint: everything that takes time is a future beside the others.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use super::attempt::{Answer, RetryPlan, outcome, send};
use super::connect::{HttpClient, client};
use super::endpoints::{Endpoints, Target};
use super::outbox::run_outbox;
use super::webhook::Endpoint;
use super::{DispatcherSettings, ReactionError};
use crate::backoff::{Backoff, random_unit};
use crate::bus::Bus;
use crate::metrics;
use crate::store::{Delivery, DeliveryOutcome, Store, StoreError, Webhook};
use crate::supervisor::Tasks;

/// How often a webhook that cannot take more is looked past for others that became due.
const CROWDED_POLL: Duration = Duration::from_millis(250);
/// How the store is tried again.
const STORE_BACKOFF: Backoff =
    Backoff { initial: Duration::from_millis(100), multiplier: 2.0, max: Duration::from_secs(2) };

/// Runs until `stop`; then waits for requests on their way, at most as long as the budget.
pub async fn run_dispatcher(
    settings: DispatcherSettings,
    store: Store,
    bus: Bus,
    tasks: Tasks,
    stop: CancellationToken,
) -> Result<(), ReactionError> {
    let client = client(settings.allowed_networks.clone(), tasks)?;
    let poll_interval = settings.poll_interval;
    let mut dispatcher = Dispatcher {
        plan: RetryPlan { backoff: settings.backoff, retry_after_max: settings.retry_after_max },
        changes: store.changes(),
        endpoints: Endpoints::default(),
        held: HashMap::new(),
        ended: Vec::new(),
        steps: FuturesUnordered::new(),
        in_flight: 0,
        disabling: 0,
        claiming: false,
        finishing: false,
        due: true,
        store_failures: 0,
        settings,
        client,
        store: store.clone(),
    };
    info!(workers = dispatcher.settings.workers, "dispatcher started");
    tokio::join!(dispatcher.run(&stop), run_outbox(&store, &bus, poll_interval, &stop));
    Ok(())
}

struct Dispatcher {
    settings: DispatcherSettings,
    plan: RetryPlan,
    store: Store,
    client: HttpClient,
    changes: watch::Receiver<u64>,
    endpoints: Endpoints,
    /// Claimed deliveries whose outcome is not committed, and when their lease ends.
    held: HashMap<Uuid, Instant>,
    /// Outcomes that wait for the next commit.
    ended: Vec<DeliveryOutcome>,
    steps: FuturesUnordered<BoxFuture<'static, Step>>,
    in_flight: usize,
    /// Webhooks that are being disabled.
    disabling: usize,
    claiming: bool,
    finishing: bool,
    /// Something may be due that was not claimed.
    due: bool,
    store_failures: u32,
}

/// Something that took time has ended.
enum Step {
    Claimed { leased_until: Instant, full: bool, result: Result<(Vec<Delivery>, Option<i64>), StoreError> },
    Loaded { id: Uuid, version: u64, result: Result<Option<Webhook>, StoreError> },
    Sent { delivery: Box<Delivery>, answer: Answer, attempted_at_ms: i64, probe: bool },
    Finished(Vec<Uuid>),
    Disabled,
}

impl Dispatcher {
    async fn run(&mut self, stop: &CancellationToken) {
        let mut work = self.store.work();
        let mut wake_at = Instant::now();
        while !stop.is_cancelled() {
            self.claim();
            self.finish();
            tokio::select! {
                () = stop.cancelled() => {}
                Some(step) = self.steps.next(), if !self.steps.is_empty() => {
                    if let Some(at) = self.handle(step) {
                        wake_at = at;
                    }
                }
                Ok(()) = work.changed() => self.due = true,
                () = sleep_until(wake_at.into()) => {
                    wake_at = Instant::now() + self.settings.poll_interval;
                    self.due = true;
                    self.pump_all();
                }
            }
        }
        self.drain().await;
    }

    /// Waits for what is on its way; what waits in a queue is due again later.
    async fn drain(&mut self) {
        let deadline = Instant::now() + self.settings.stop_budget.left();
        for id in self.endpoints.waiting() {
            self.endpoints.lane(id).queue.clear();
        }
        while self.in_flight + self.disabling > 0 || self.finishing || !self.ended.is_empty() {
            self.finish();
            tokio::select! {
                Some(step) = self.steps.next() => {
                    // What a claim still brings is left alone.
                    if !matches!(step, Step::Claimed { .. } | Step::Loaded { .. }) {
                        self.handle(step);
                    }
                }
                () = sleep_until(deadline.into()) => {
                    warn!(requests = self.in_flight, outcomes = self.ended.len(), "dispatcher stops before its requests end");
                    return;
                }
            }
        }
    }

    /// Starts a claim, when something may be due and there is room for it.
    fn claim(&mut self) {
        let held_max = self.settings.workers.saturating_add(self.settings.batch_size);
        let limit = self.settings.batch_size.min(held_max.saturating_sub(self.held.len()));
        if !self.due || self.claiming || limit == 0 {
            return;
        }
        self.due = false;
        self.claiming = true;
        let skip = self.endpoints.busy(Instant::now(), self.settings.endpoint_concurrency_max);
        let (store, lease) = (self.store.clone(), self.settings.lease);
        self.steps.push(Box::pin(async move {
            let leased_until = Instant::now() + lease;
            let claimed = store.claim_due_deliveries(limit, lease, &skip).await;
            let full = claimed.as_ref().is_ok_and(|claimed| claimed.len() >= limit);
            let result = match claimed {
                Ok(claimed) if full => Ok((claimed, None)),
                Ok(claimed) => store.next_due_ms().await.map(|next| (claimed, next)),
                Err(error) => Err(error),
            };
            Step::Claimed { leased_until, full, result }
        }));
    }

    /// Starts a commit of the outcomes that have gathered, one at a time. It does not end before it succeeds.
    fn finish(&mut self) {
        if self.finishing || self.ended.is_empty() {
            return;
        }
        self.finishing = true;
        let outcomes = std::mem::take(&mut self.ended);
        let store = self.store.clone();
        self.steps.push(Box::pin(async move {
            let ids = outcomes.iter().map(|outcome| outcome.id).collect();
            let mut failures = 0;
            while let Err(error) = store.finish_deliveries(outcomes.clone()).await {
                failures += 1;
                warn!(%error, failures, "outcomes of deliveries were not committed, trying again");
                sleep(STORE_BACKOFF.delay(failures, random_unit())).await;
            }
            Step::Finished(ids)
        }));
    }

    /// Answers when to look again, where the step tells it.
    fn handle(&mut self, step: Step) -> Option<Instant> {
        match step {
            Step::Claimed { leased_until, full, result } => return self.claimed(leased_until, full, result),
            Step::Loaded { id, version, result } => self.loaded(id, version, result),
            Step::Sent { delivery, answer, attempted_at_ms, probe } => {
                self.sent(&delivery, &answer, attempted_at_ms, probe);
            }
            Step::Finished(ids) => {
                self.finishing = false;
                for id in ids {
                    self.held.remove(&id);
                }
            }
            Step::Disabled => self.disabling -= 1,
        }
        None
    }

    fn claimed(
        &mut self,
        leased_until: Instant,
        full: bool,
        result: Result<(Vec<Delivery>, Option<i64>), StoreError>,
    ) -> Option<Instant> {
        self.claiming = false;
        let (deliveries, next_due_ms) = match result {
            Ok(claimed) => claimed,
            Err(error) => {
                self.store_failures += 1;
                warn!(%error, failures = self.store_failures, "deliveries were not claimed, trying again");
                return Some(Instant::now() + STORE_BACKOFF.delay(self.store_failures, random_unit()));
            }
        };
        self.store_failures = 0;
        self.due |= full;
        metrics::dispatcher_state(self.in_flight, self.endpoints.circuits_open(Instant::now()));
        self.endpoints.forget_idle(*self.changes.borrow());
        let mut lanes = Vec::new();
        for delivery in deliveries {
            let id = delivery.webhook_id;
            // One that is here already had its lease lapse: it is claimed again, and not sent again.
            if self.held.insert(delivery.id, leased_until).is_none() {
                self.endpoints.lane(id).queue.push_back(delivery);
                if !lanes.contains(&id) {
                    lanes.push(id);
                }
            }
        }
        for id in lanes {
            self.pump(id);
        }
        Some(self.next_look(next_due_ms))
    }

    /// When something becomes due, or an endpoint may be tried again, or at the latest the poll interval.
    fn next_look(&self, next_due_ms: Option<i64>) -> Instant {
        let now = Instant::now();
        let mut at = now + self.settings.poll_interval;
        if let Some(due_ms) = next_due_ms {
            let wait_ms = u64::try_from(due_ms - Timestamp::now().as_millisecond()).unwrap_or(0);
            let wait = Duration::from_millis(wait_ms);
            // What is due and was not claimed belongs to an endpoint that cannot take it. It hides when the
            // others become due, so those are looked for now and then.
            at = at.min(now + if wait.is_zero() { CROWDED_POLL } else { wait });
        }
        self.endpoints.next_reopening(now).map_or(at, |reopening| at.min(reopening))
    }

    fn loaded(&mut self, id: Uuid, version: u64, result: Result<Option<Webhook>, StoreError>) {
        let lane = self.endpoints.lane(id);
        lane.target = Target::Unknown;
        let reason = match result {
            Ok(Some(webhook)) => match Endpoint::new(&webhook, self.settings.request_timeout) {
                Ok(endpoint) if endpoint.enabled => {
                    lane.target = Target::Known(version, endpoint.into());
                    self.pump(id);
                    return;
                }
                Ok(_) => "webhook is disabled".to_owned(),
                Err(reason) => reason,
            },
            Ok(None) => "webhook was deleted".to_owned(),
            // Tried again when the queue is next looked at.
            Err(error) => {
                warn!(webhook_id = %id, %error, "webhook was not read");
                return;
            }
        };
        // Their leases end, and whoever claims them then sees what has become of the webhook.
        warn!(webhook_id = %id, reason, deliveries = lane.queue.len(), "webhook cannot be called now");
        for delivery in lane.queue.drain(..) {
            self.held.remove(&delivery.id);
        }
    }

    fn pump_all(&mut self) {
        for id in self.endpoints.waiting() {
            self.pump(id);
        }
    }

    /// Sends what an endpoint can take.
    fn pump(&mut self, id: Uuid) {
        let version = *self.changes.borrow_and_update();
        let now = Instant::now();
        let lane = self.endpoints.lane(id);
        if lane.queue.is_empty() {
            return;
        }
        let Some(endpoint) = lane.current(version) else {
            if !matches!(lane.target, Target::Loading) {
                lane.target = Target::Loading;
                let store = self.store.clone();
                self.steps.push(Box::pin(async move {
                    Step::Loaded { id, version, result: store.webhook(&id.to_string()).await }
                }));
            }
            return;
        };
        while self.in_flight < self.settings.workers {
            let Some(delivery) = lane.next(now, self.settings.endpoint_concurrency_max) else { return };
            // Somebody else may have claimed it.
            if self.held.get(&delivery.id).is_none_or(|leased_until| *leased_until <= now) {
                self.held.remove(&delivery.id);
                continue;
            }
            let probe = lane.circuit.sent();
            lane.active += 1;
            self.in_flight += 1;
            let (client, endpoint) = (self.client.clone(), endpoint.clone());
            self.steps.push(Box::pin(async move {
                let attempted_at_ms = Timestamp::now().as_millisecond();
                let body = Bytes::copy_from_slice(delivery.payload.get().as_bytes());
                let answer = send(&client, &endpoint, delivery.id, body).await;
                Step::Sent { delivery: delivery.into(), answer, attempted_at_ms, probe }
            }));
        }
    }

    fn sent(&mut self, delivery: &Delivery, answer: &Answer, attempted_at_ms: i64, probe: bool) {
        let id = delivery.webhook_id;
        let was_full = self.in_flight >= self.settings.workers;
        self.in_flight -= 1;
        let now = Instant::now();
        let lane = self.endpoints.lane(id);
        let was_busy = lane.active >= self.settings.endpoint_concurrency_max || probe;
        lane.active -= 1;
        if answer.endpoint_failed() {
            lane.circuit.failed(probe, now, &self.settings.backoff, random_unit());
        } else {
            lane.circuit.alive();
        }
        let outcome = outcome(delivery, answer, attempted_at_ms, &self.plan, random_unit());
        if let Some(error) = &outcome.error {
            let (attempt, status) = (outcome.attempts, outcome.status);
            warn!(delivery_id = %delivery.id, webhook_id = %id, attempt, ?status, error, "webhook was not delivered");
        }
        self.ended.push(outcome);
        if answer.gone() {
            self.disable(id);
        }
        if was_full {
            self.pump_all();
        } else {
            self.pump(id);
        }
        // It could not take more until now, so nothing was claimed for it; or it is left alone from now on, and
        // the time to try it again is found with the next claim.
        self.due |= was_busy || answer.endpoint_failed();
    }

    /// The endpoint said that it is gone: nobody calls it until a person enables it again.
    fn disable(&mut self, id: Uuid) {
        let lane = self.endpoints.lane(id);
        lane.target = Target::Unknown;
        for delivery in lane.queue.drain(..) {
            self.held.remove(&delivery.id);
        }
        let store = self.store.clone();
        self.disabling += 1;
        self.steps.push(Box::pin(async move {
            match store.disable_webhook(id, "the endpoint answered 410 Gone").await {
                Ok(()) => warn!(webhook_id = %id, "webhook answered 410 Gone and was disabled"),
                Err(error) => warn!(webhook_id = %id, %error, "webhook answered 410 Gone and was not disabled"),
            }
            Step::Disabled
        }));
    }
}
