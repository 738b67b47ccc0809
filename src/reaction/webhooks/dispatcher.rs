//! The dispatcher: claims due deliveries, sends them, and commits their outcomes.
//!
//! Invariants: a delivery has at most one outstanding request in this process; an attempt is over only when its
//! outcome is committed; a delivery without a committed outcome is due again when its lease expires, or immediately
//! when the embedded store is reopened after a crash. Nothing here waits for a single endpoint: everything that takes
//! time is a future of its own, and `concurrency` limits how many of them one endpoint may use.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use super::attempt::{AttemptResult, RetryPlan, outcome, result_label, send};
use super::claim::{CLAIMED_BYTES_MAX, Claim, ClaimedDeliveries};
use super::concurrency::ConcurrencyWindow;
use super::connect::HttpClient;
use super::endpoint::Endpoint;
use super::endpoint_state::{Capacity, EndpointStates, LoadState};
use super::outbox::run_outbox;
use super::settings::DispatcherSettings;
use super::tls::client_config;
use crate::base::backoff::{Backoff, random_unit};
use crate::base::clock;
use crate::base::clock::unix_ms;
use crate::base::supervisor::Tasks;
use crate::bus::Bus;
use crate::metrics::{self, LabelNames};
use crate::reaction::error::ReactionError;
use crate::store::{ClaimLimits, Delivery, DeliveryOutcome, NewWebhook, Store, StoreError, Webhook};

/// Poll delay for due deliveries that were not claimed because another process had their rows locked.
const LOCKED_POLL_DELAY: Duration = Duration::from_millis(250);
/// Webhooks that get a first delivery from one claim when there is no free capacity.
const FIRST_DELIVERIES_MAX: usize = 16;
/// Backoff of operations on the store.
const STORE_BACKOFF: Backoff =
    Backoff { initial: Duration::from_millis(100), multiplier: 2.0, max: Duration::from_secs(2) };

/// Runs until `stop`, then waits for outstanding requests within the stop budget.
pub async fn run_dispatcher(
    settings: DispatcherSettings,
    store: Store,
    bus: Bus,
    tasks: Tasks,
    stop: CancellationToken,
) -> Result<(), ReactionError> {
    let client = HttpClient::new(settings.allowed_networks.clone(), client_config(&settings.tls)?, tasks);
    let poll_interval = settings.poll_interval;
    let mut dispatcher = Dispatcher {
        plan: RetryPlan { backoff: settings.backoff, retry_after_max: settings.retry_after_max },
        changes: store.changes(),
        endpoints: EndpointStates::default(),
        claimed: ClaimedDeliveries::new(store.is_shared()),
        outcomes: Vec::new(),
        background: FuturesUnordered::new(),
        in_flight: 0,
        side_tasks: 0,
        blocked: false,
        claiming: false,
        finishing: false,
        due: true,
        store_failures: 0,
        names: LabelNames::default(),
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
    endpoints: EndpointStates,
    claimed: ClaimedDeliveries,
    /// Outcomes waiting for the next commit.
    outcomes: Vec<DeliveryOutcome>,
    background: FuturesUnordered<BoxFuture<'static, Completion>>,
    in_flight: usize,
    /// Releases and disabling of webhooks in progress.
    side_tasks: usize,
    /// An endpoint has queued deliveries but no capacity to send them.
    blocked: bool,
    claiming: bool,
    finishing: bool,
    /// Deliveries may be due that were not claimed.
    due: bool,
    store_failures: u32,
    names: LabelNames,
}

/// A future has completed.
enum Completion {
    Claimed(Result<Claim, StoreError>),
    Loaded {
        id: Uuid,
        version: u64,
        result: Result<Option<Webhook>, StoreError>,
    },
    Sent {
        delivery: Box<Delivery>,
        result: AttemptResult,
        attempted_at_ms: i64,
        probe: bool,
    },
    Finished(Vec<Uuid>),
    /// A webhook was disabled, or deliveries were released.
    SideTask,
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
                Some(completion) = self.background.next(), if !self.background.is_empty() => {
                    if let Some(at) = self.handle(completion) {
                        wake_at = at;
                    }
                }
                Ok(()) = work.changed() => self.due = true,
                () = sleep_until(wake_at.into()) => {
                    wake_at = Instant::now() + self.settings.poll_interval;
                    self.due = true;
                    self.send_all_queued();
                }
            }
        }
        self.drain().await;
    }

    /// Releases queued deliveries and waits for outstanding requests.
    async fn drain(&mut self) {
        let deadline = Instant::now() + self.settings.stop_budget.left();
        for id in self.endpoints.waiting() {
            let queue = std::mem::take(&mut self.endpoints.state(id).queue);
            self.release(queue);
        }
        while self.in_flight + self.side_tasks > 0 || self.finishing || !self.outcomes.is_empty() {
            self.finish();
            tokio::select! {
                Some(completion) = self.background.next() => {
                    // Ignore deliveries that a late claim returns.
                    if !matches!(completion, Completion::Claimed(_) | Completion::Loaded { .. }) {
                        self.handle(completion);
                    }
                }
                () = sleep_until(deadline.into()) => {
                    warn!(requests = self.in_flight, outcomes = self.outcomes.len(), "dispatcher stops before its requests end");
                    return;
                }
            }
        }
    }

    fn capacity(&self) -> Capacity {
        let (workers, batch) = (self.settings.workers, self.settings.batch_size);
        let free = workers.saturating_add(batch).saturating_sub(self.claimed.len());
        Capacity {
            active_max: self.settings.endpoint_concurrency_max,
            batch,
            claimable: if self.claimed.bytes() >= CLAIMED_BYTES_MAX { 0 } else { free },
        }
    }

    /// Starts a claim when deliveries may be due. Even without free capacity, webhooks without a claimed delivery get
    /// their first.
    fn claim(&mut self) {
        if !self.due || self.claiming {
            return;
        }
        self.due = false;
        self.claiming = true;
        let capacity = self.capacity();
        let limits = ClaimLimits {
            deliveries: capacity.batch.min(capacity.claimable).max(FIRST_DELIVERIES_MAX),
            payload_bytes: CLAIMED_BYTES_MAX.saturating_sub(self.claimed.bytes()),
            per_webhook: ConcurrencyWindow::default()
                .claim_target(capacity.active_max, capacity.batch)
                .min(capacity.claimable)
                .max(1),
            quotas: self.endpoints.quotas(Instant::now(), capacity),
            lease: self.settings.lease,
        };
        let store = self.store.clone();
        self.background.push(Box::pin(async move { Completion::Claimed(Claim::take(store, limits).await) }));
    }

    /// Releases claimed deliveries that were not sent, so that they do not wait for the end of their lease.
    fn release(&mut self, queue: VecDeque<Delivery>) {
        let now = clock::now();
        let mut ids = Vec::with_capacity(queue.len());
        for delivery in queue {
            // A delivery whose lease has expired may belong to another process by now.
            if self.claimed.is_leased(delivery.id, now) {
                ids.push(delivery.id);
            }
            self.claimed.remove(delivery.id);
        }
        if ids.is_empty() {
            return;
        }
        let store = self.store.clone();
        self.side_tasks += 1;
        self.background.push(Box::pin(async move {
            if let Err(error) = store.release_deliveries(ids).await {
                warn!(%error, "deliveries were not given back; they are due again when their leases end");
            }
            Completion::SideTask
        }));
    }

    /// Starts a commit of the collected outcomes, one commit at a time. It retries until it succeeds.
    fn finish(&mut self) {
        if self.finishing || self.outcomes.is_empty() {
            return;
        }
        self.finishing = true;
        let outcomes = std::mem::take(&mut self.outcomes);
        let store = self.store.clone();
        self.background.push(Box::pin(async move {
            let ids = outcomes.iter().map(|outcome| outcome.id).collect();
            let mut failures = 0;
            while let Err(error) = store.finish_deliveries(outcomes.clone()).await {
                failures += 1;
                warn!(%error, failures, "outcomes of deliveries were not committed, trying again");
                sleep(STORE_BACKOFF.delay(failures, random_unit())).await;
            }
            Completion::Finished(ids)
        }));
    }

    /// Handles a completed future. Returns when to poll next, if known.
    fn handle(&mut self, completion: Completion) -> Option<Instant> {
        match completion {
            Completion::Claimed(result) => return self.on_claimed(result),
            Completion::Loaded { id, version, result } => self.on_loaded(id, version, result),
            Completion::Sent { delivery, result, attempted_at_ms, probe } => {
                self.on_sent(&delivery, &result, attempted_at_ms, probe);
            }
            Completion::Finished(ids) => {
                self.finishing = false;
                for id in ids {
                    self.claimed.remove(id);
                }
            }
            Completion::SideTask => self.side_tasks -= 1,
        }
        None
    }

    fn on_claimed(&mut self, result: Result<Claim, StoreError>) -> Option<Instant> {
        self.claiming = false;
        let claim = match result {
            Ok(claim) => claim,
            Err(error) => {
                self.store_failures += 1;
                warn!(%error, failures = self.store_failures, "deliveries were not claimed, trying again");
                return Some(Instant::now() + STORE_BACKOFF.delay(self.store_failures, random_unit()));
            }
        };
        self.store_failures = 0;
        self.due |= claim.full;
        let now = Instant::now();
        metrics::dispatcher_state(self.in_flight, self.endpoints.circuits_open(now));
        for (id, more) in claim.counts() {
            self.endpoints.state(id).more = more;
        }
        let mut touched = Vec::new();
        for delivery in claim.deliveries {
            let id = delivery.webhook_id;
            // A delivery that is already here was claimed again after its lease expired: it is not sent twice.
            if self.claimed.insert(&delivery, claim.lease) {
                self.endpoints.state(id).queue.push_back(delivery);
                if !touched.contains(&id) {
                    touched.push(id);
                }
            }
        }
        self.endpoints.forget_idle(*self.changes.borrow());
        for id in touched {
            self.send_queued(id);
        }
        Some(self.next_poll_at(claim.next_due_ms))
    }

    /// When the next delivery is due or the next endpoint may be probed, at the latest after the poll interval.
    fn next_poll_at(&self, next_due_ms: Option<i64>) -> Instant {
        let now = Instant::now();
        let mut at = now + self.settings.poll_interval;
        if let Some(due_ms) = next_due_ms {
            let wait_ms = u64::try_from(due_ms - unix_ms()).unwrap_or(0);
            let wait = Duration::from_millis(wait_ms);
            at = at.min(now + if wait.is_zero() { LOCKED_POLL_DELAY } else { wait });
        }
        self.endpoints.next_reopening(now).map_or(at, |reopening| at.min(reopening))
    }

    fn on_loaded(&mut self, id: Uuid, version: u64, result: Result<Option<Webhook>, StoreError>) {
        let state = self.endpoints.state(id);
        state.load = LoadState::NotLoaded;
        if let Ok(Some(webhook)) = &result {
            state.label = self.names.label(&webhook.document.name).to_owned();
        }
        let invalid = match result {
            Ok(Some(webhook)) => match Endpoint::new(&webhook, self.settings.request_timeout) {
                Ok(endpoint) if endpoint.enabled => {
                    state.load = LoadState::Loaded(version, endpoint.into());
                    self.send_queued(id);
                    return;
                }
                Ok(_) => None,
                Err(reason) => Some(reason),
            },
            Ok(None) => None,
            // Loaded again when the queue is processed next.
            Err(error) => {
                warn!(webhook_id = %id, %error, "webhook was not read");
                return;
            }
        };
        let queue = std::mem::take(&mut state.queue);
        match invalid {
            // They wait until the webhook is enabled, or were cancelled with it.
            None => self.release(queue),
            // They are due again when their leases expire: released, they would be claimed again immediately.
            Some(reason) => {
                warn!(webhook_id = %id, reason, deliveries = queue.len(), "webhook cannot be called as it is stored");
                for delivery in queue {
                    self.claimed.remove(delivery.id);
                }
            }
        }
    }

    fn send_all_queued(&mut self) {
        for id in self.endpoints.waiting() {
            self.send_queued(id);
        }
    }

    /// Sends as many queued deliveries as the endpoint can take.
    fn send_queued(&mut self, id: Uuid) {
        let version = *self.changes.borrow_and_update();
        let now = clock::now();
        let state = self.endpoints.state(id);
        if state.queue.is_empty() {
            return;
        }
        let Some(endpoint) = state.current(version) else {
            if !matches!(state.load, LoadState::Loading) {
                state.load = LoadState::Loading;
                let store = self.store.clone();
                self.background.push(Box::pin(async move {
                    Completion::Loaded { id, version, result: store.find::<NewWebhook>(&id.to_string()).await }
                }));
            }
            return;
        };
        loop {
            let free = self.settings.workers.saturating_sub(self.in_flight);
            let Some(mut delivery) = state.next(now, self.settings.endpoint_concurrency_max, free) else {
                // The next completed request may free capacity.
                self.blocked |= !state.queue.is_empty();
                return;
            };
            // Another process may have claimed it.
            if !self.claimed.is_leased(delivery.id, now) {
                self.claimed.remove(delivery.id);
                continue;
            }
            let probe = state.circuit.sent();
            state.active += 1;
            self.in_flight += 1;
            let (client, endpoint) = (self.client.clone(), endpoint.clone());
            self.background.push(Box::pin(async move {
                let attempted_at_ms = unix_ms();
                let payload = std::mem::replace(&mut delivery.payload, RawValue::NULL.to_owned());
                let body = Bytes::from(Box::<str>::from(payload).into_boxed_bytes());
                let result = send(&client, &endpoint, delivery.id, body).await;
                Completion::Sent { delivery: delivery.into(), result, attempted_at_ms, probe }
            }));
        }
    }

    fn on_sent(&mut self, delivery: &Delivery, result: &AttemptResult, attempted_at_ms: i64, probe: bool) {
        let id = delivery.webhook_id;
        self.in_flight -= 1;
        let (now, capacity) = (Instant::now(), self.capacity());
        let state = self.endpoints.state(id);
        state.active -= 1;
        match result {
            AttemptResult::Status { .. } => state.window.responded(capacity.active_max),
            AttemptResult::NoResponse(_) => state.window.timed_out(),
        }
        if result.endpoint_failed() {
            state.circuit.failed(probe, now, &self.settings.backoff, random_unit());
        } else {
            state.circuit.responded();
        }
        if let Some(pause) = result.pause(self.plan.retry_after_max) {
            state.circuit.pause(now, pause);
        }
        // Nothing was claimed while the endpoint was at capacity, so claim now. After a failure, the next claim also
        // computes when to probe the endpoint.
        self.due |= (state.more && state.wants_more(now, capacity)) || result.endpoint_failed();
        let paused = !state.circuit.permits(now) && state.active == 0;
        let queue = if paused { std::mem::take(&mut state.queue) } else { VecDeque::new() };
        self.release(queue);
        let outcome = outcome(delivery, result, attempted_at_ms, &self.plan, random_unit());
        metrics::dispatcher_delivery(&self.endpoints.state(id).label, result_label(outcome.status));
        if delivery.attempts == 0 {
            let waited_ms = attempted_at_ms - delivery.created_at.as_millisecond();
            metrics::dispatcher_wait(Duration::from_millis(waited_ms.try_into().unwrap_or(0)));
        }
        if let Some(error) = &outcome.error {
            let (attempt, status) = (outcome.attempts, outcome.status);
            warn!(delivery_id = %delivery.id, webhook_id = %id, attempt, ?status, error, "webhook was not delivered");
        }
        self.outcomes.push(outcome);
        if result.is_gone() {
            self.disable(id);
        }
        if std::mem::take(&mut self.blocked) {
            self.send_all_queued();
        } else {
            self.send_queued(id);
        }
    }

    /// The endpoint is gone: it is not called until a user enables the webhook again.
    fn disable(&mut self, id: Uuid) {
        let state = self.endpoints.state(id);
        state.load = LoadState::NotLoaded;
        let queue = std::mem::take(&mut state.queue);
        let store = self.store.clone();
        self.side_tasks += 1;
        self.background.push(Box::pin(async move {
            match store.disable_webhook(id, "the endpoint answered 410 Gone").await {
                Ok(()) => warn!(webhook_id = %id, "webhook answered 410 Gone and was disabled"),
                Err(error) => warn!(webhook_id = %id, %error, "webhook answered 410 Gone and was not disabled"),
            }
            Completion::SideTask
        }));
        self.release(queue);
    }
}
