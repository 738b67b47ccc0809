//! The dispatcher: claims what is due, sends it, records what became of it.
//!
//! Invariants: a delivery is on its way at most once in this process; an attempt is over only
//! when its outcome is committed; a delivery whose outcome was not committed is due again when
//! its lease ends, or at once when the store is opened again after a crash. Nothing here
//! waits for one endpoint: everything that takes time is a future beside the others, and what
//! an endpoint may hold of them is its share (see `share`).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use jiff::Timestamp;
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use super::attempt::{Answer, RetryPlan, outcome, send};
use super::claim::{Claim, HELD_BYTES_MAX, Held};
use super::connect::HttpClient;
use super::endpoint::Endpoint;
use super::endpoints::{Endpoints, Room, Target};
use super::outbox::run_outbox;
use super::settings::DispatcherSettings;
use super::share::Window;
use super::tls::tls;
use crate::base::backoff::{Backoff, random_unit};
use crate::base::clock;
use crate::base::supervisor::Tasks;
use crate::bus::Bus;
use crate::metrics;
use crate::reaction::error::ReactionError;
use crate::store::{ClaimLimits, Delivery, DeliveryOutcome, Store, StoreError, Webhook};

/// How soon what is due and was not claimed is looked for again: another process had its rows locked.
const CROWDED_POLL: Duration = Duration::from_millis(250);
/// Webhooks that get their first delivery at a time when there is no room for more.
const FIRSTS_MAX: usize = 16;
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
    let client = HttpClient::new(settings.allowed_networks.clone(), tls(&settings.tls)?, tasks);
    let poll_interval = settings.poll_interval;
    let mut dispatcher = Dispatcher {
        plan: RetryPlan { backoff: settings.backoff, retry_after_max: settings.retry_after_max },
        changes: store.changes(),
        endpoints: Endpoints::default(),
        held: Held::new(store.is_shared()),
        ended: Vec::new(),
        steps: FuturesUnordered::new(),
        in_flight: 0,
        aside: 0,
        blocked: false,
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
    held: Held,
    /// Outcomes that wait for the next commit.
    ended: Vec<DeliveryOutcome>,
    steps: FuturesUnordered<BoxFuture<'static, Step>>,
    in_flight: usize,
    /// Webhooks that are being disabled, and releases.
    aside: usize,
    /// An endpoint has something to send, and others have what it would need.
    blocked: bool,
    claiming: bool,
    finishing: bool,
    /// Something may be due that was not claimed.
    due: bool,
    store_failures: u32,
}

/// Something that took time has ended.
enum Step {
    Claimed(Result<Claim, StoreError>),
    Loaded {
        id: Uuid,
        version: u64,
        result: Result<Option<Webhook>, StoreError>,
    },
    Sent {
        delivery: Box<Delivery>,
        answer: Answer,
        attempted_at_ms: i64,
        probe: bool,
    },
    Finished(Vec<Uuid>),
    /// A webhook was disabled, or deliveries were given back.
    Aside,
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

    /// Waits for what is on its way; what waits in a queue is given back.
    async fn drain(&mut self) {
        let deadline = Instant::now() + self.settings.stop_budget.left();
        for id in self.endpoints.waiting() {
            let queue = std::mem::take(&mut self.endpoints.lane(id).queue);
            self.release(queue);
        }
        while self.in_flight + self.aside > 0 || self.finishing || !self.ended.is_empty() {
            self.finish();
            tokio::select! {
                Some(step) = self.steps.next() => {
                    // What a claim still brings is left alone.
                    if !matches!(step, Step::Claimed(_) | Step::Loaded { .. }) {
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

    fn room(&self) -> Room {
        let (workers, batch) = (self.settings.workers, self.settings.batch_size);
        let free = workers.saturating_add(batch).saturating_sub(self.held.len());
        Room {
            active_max: self.settings.endpoint_concurrency_max,
            batch,
            hand_free: if self.held.bytes() >= HELD_BYTES_MAX { 0 } else { free },
        }
    }

    /// Starts a claim, when something may be due. Without room, whoever has nothing still gets its first.
    fn claim(&mut self) {
        if !self.due || self.claiming {
            return;
        }
        self.due = false;
        self.claiming = true;
        let room = self.room();
        let limits = ClaimLimits {
            deliveries: room.batch.min(room.hand_free).max(FIRSTS_MAX),
            payload_bytes: HELD_BYTES_MAX.saturating_sub(self.held.bytes()),
            per_webhook: Window::default().hand(room.active_max, room.batch).min(room.hand_free).max(1),
            quotas: self.endpoints.quotas(Instant::now(), room),
            lease: self.settings.lease,
        };
        let store = self.store.clone();
        self.steps.push(Box::pin(async move { Step::Claimed(Claim::take(store, limits).await) }));
    }

    /// Gives back what was claimed and not sent, so that it does not wait for the end of its lease.
    fn release(&mut self, queue: VecDeque<Delivery>) {
        let now = clock::now();
        let mut ids = Vec::with_capacity(queue.len());
        for delivery in queue {
            // One whose lease has lapsed may be somebody else's by now.
            if self.held.is_leased(delivery.id, now) {
                ids.push(delivery.id);
            }
            self.held.remove(delivery.id);
        }
        if ids.is_empty() {
            return;
        }
        let store = self.store.clone();
        self.aside += 1;
        self.steps.push(Box::pin(async move {
            if let Err(error) = store.release_deliveries(ids).await {
                warn!(%error, "deliveries were not given back; they are due again when their leases end");
            }
            Step::Aside
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
            Step::Claimed(result) => return self.claimed(result),
            Step::Loaded { id, version, result } => self.loaded(id, version, result),
            Step::Sent { delivery, answer, attempted_at_ms, probe } => {
                self.sent(&delivery, &answer, attempted_at_ms, probe);
            }
            Step::Finished(ids) => {
                self.finishing = false;
                for id in ids {
                    self.held.remove(id);
                }
            }
            Step::Aside => self.aside -= 1,
        }
        None
    }

    fn claimed(&mut self, result: Result<Claim, StoreError>) -> Option<Instant> {
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
            self.endpoints.lane(id).more = more;
        }
        let mut lanes = Vec::new();
        for delivery in claim.deliveries {
            let id = delivery.webhook_id;
            // One that is here already had its lease lapse: it is claimed again, and not sent again.
            if self.held.insert(&delivery, claim.lease) {
                self.endpoints.lane(id).queue.push_back(delivery);
                if !lanes.contains(&id) {
                    lanes.push(id);
                }
            }
        }
        self.endpoints.forget_idle(*self.changes.borrow());
        for id in lanes {
            self.pump(id);
        }
        Some(self.next_look(claim.next_due_ms))
    }

    /// When something becomes due, or an endpoint may be tried again, or at the latest the poll interval.
    fn next_look(&self, next_due_ms: Option<i64>) -> Instant {
        let now = Instant::now();
        let mut at = now + self.settings.poll_interval;
        if let Some(due_ms) = next_due_ms {
            let wait_ms = u64::try_from(due_ms - Timestamp::now().as_millisecond()).unwrap_or(0);
            let wait = Duration::from_millis(wait_ms);
            at = at.min(now + if wait.is_zero() { CROWDED_POLL } else { wait });
        }
        self.endpoints.next_reopening(now).map_or(at, |reopening| at.min(reopening))
    }

    fn loaded(&mut self, id: Uuid, version: u64, result: Result<Option<Webhook>, StoreError>) {
        let lane = self.endpoints.lane(id);
        lane.target = Target::Unknown;
        let invalid = match result {
            Ok(Some(webhook)) => match Endpoint::new(&webhook, self.settings.request_timeout) {
                Ok(endpoint) if endpoint.enabled => {
                    lane.target = Target::Known(version, endpoint.into());
                    self.pump(id);
                    return;
                }
                Ok(_) => None,
                Err(reason) => Some(reason),
            },
            Ok(None) => None,
            // Tried again when the queue is next looked at.
            Err(error) => {
                warn!(webhook_id = %id, %error, "webhook was not read");
                return;
            }
        };
        let queue = std::mem::take(&mut lane.queue);
        match invalid {
            // They wait until it is enabled, or were cancelled with it.
            None => self.release(queue),
            // Due again when their leases end: given back, they would be claimed again at once.
            Some(reason) => {
                warn!(webhook_id = %id, reason, deliveries = queue.len(), "webhook cannot be called as it is stored");
                for delivery in queue {
                    self.held.remove(delivery.id);
                }
            }
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
        let now = clock::now();
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
        loop {
            let free = self.settings.workers.saturating_sub(self.in_flight);
            let Some(mut delivery) = lane.next(now, self.settings.endpoint_concurrency_max, free) else {
                // Whoever ends next may make room for it.
                self.blocked |= !lane.queue.is_empty();
                return;
            };
            // Somebody else may have claimed it.
            if !self.held.is_leased(delivery.id, now) {
                self.held.remove(delivery.id);
                continue;
            }
            let probe = lane.circuit.sent();
            lane.active += 1;
            self.in_flight += 1;
            let (client, endpoint) = (self.client.clone(), endpoint.clone());
            self.steps.push(Box::pin(async move {
                let attempted_at_ms = Timestamp::now().as_millisecond();
                let payload = std::mem::replace(&mut delivery.payload, RawValue::NULL.to_owned());
                let body = Bytes::from(Box::<str>::from(payload).into_boxed_bytes());
                let answer = send(&client, &endpoint, delivery.id, body).await;
                Step::Sent { delivery: delivery.into(), answer, attempted_at_ms, probe }
            }));
        }
    }

    fn sent(&mut self, delivery: &Delivery, answer: &Answer, attempted_at_ms: i64, probe: bool) {
        let id = delivery.webhook_id;
        self.in_flight -= 1;
        let (now, room) = (Instant::now(), self.room());
        let lane = self.endpoints.lane(id);
        lane.active -= 1;
        match answer {
            Answer::Status { .. } => lane.window.answered(room.active_max),
            Answer::Nothing(_) => lane.window.unanswered(),
        }
        if answer.endpoint_failed() {
            lane.circuit.failed(probe, now, &self.settings.backoff, random_unit());
        } else {
            lane.circuit.alive();
        }
        if let Some(pause) = answer.pause(self.plan.retry_after_max) {
            lane.circuit.pause(now, pause);
        }
        // It could not take more until now, so nothing was claimed for it; or it is left alone from now on, and
        // the time to try it again is found with the next claim.
        self.due |= (lane.more && lane.hungry(now, room)) || answer.endpoint_failed();
        let left_alone = !lane.circuit.permits(now) && lane.active == 0;
        let queue = if left_alone { std::mem::take(&mut lane.queue) } else { VecDeque::new() };
        self.release(queue);
        let outcome = outcome(delivery, answer, attempted_at_ms, &self.plan, random_unit());
        if let Some(error) = &outcome.error {
            let (attempt, status) = (outcome.attempts, outcome.status);
            warn!(delivery_id = %delivery.id, webhook_id = %id, attempt, ?status, error, "webhook was not delivered");
        }
        self.ended.push(outcome);
        if answer.gone() {
            self.disable(id);
        }
        if std::mem::take(&mut self.blocked) {
            self.pump_all();
        } else {
            self.pump(id);
        }
    }

    /// The endpoint said that it is gone: nobody calls it until a person enables it again.
    fn disable(&mut self, id: Uuid) {
        let lane = self.endpoints.lane(id);
        lane.target = Target::Unknown;
        let queue = std::mem::take(&mut lane.queue);
        let store = self.store.clone();
        self.aside += 1;
        self.steps.push(Box::pin(async move {
            match store.disable_webhook(id, "the endpoint answered 410 Gone").await {
                Ok(()) => warn!(webhook_id = %id, "webhook answered 410 Gone and was disabled"),
                Err(error) => warn!(webhook_id = %id, %error, "webhook answered 410 Gone and was not disabled"),
            }
            Step::Aside
        }));
        self.release(queue);
    }
}
