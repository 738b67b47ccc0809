//! The engine: fetches messages, commits their effects, then acknowledges them.
//!
//! Invariants: the effects of a message are committed together with its sequence before it is acknowledged, so each
//! happens once however often the message is redelivered; a batch is evaluated with the rules in force when it was
//! fetched, or later ones. While the store is unavailable, the current batch waits under a renewed lease and nothing
//! more is fetched.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::anomalies::detection::{GroupKey, Groups};
use super::blocking::off_the_runtime;
use super::error::ReactionError;
use super::evaluate::{Evaluation, Undecodable, cause};
use super::faults::FaultCounts;
use super::ruleset::Ruleset;
use super::settings::EngineSettings;
use crate::base::backoff::{Backoff, random_unit};
use crate::base::clock::unix_ms;
use crate::bus::{
    Acker, Bus, BusError, BusErrorKind, BusStatus, ConsumerSpec, Delivery, Interest, Receipt, Subscription,
    TrialOutcome,
};
use crate::metrics;
use crate::store::{Cause, Effects, RecordOutcome, Store, StoreError, StoreErrorKind};

/// Acks and other background operations that may be outstanding while the next batches are evaluated.
const BACKGROUND_MAX: usize = 8;
/// How often rule faults are written to the store.
const FAULTS_INTERVAL: Duration = Duration::from_secs(1);
/// Backoff of a batch while the store fails.
const STORE_BACKOFF: Backoff =
    Backoff { initial: Duration::from_millis(50), multiplier: 2.0, max: Duration::from_secs(2) };

/// Backoff of a batch after another engine has written the windows that it changes: about one commit.
const REFUSED_BACKOFF: Backoff =
    Backoff { initial: Duration::from_millis(2), multiplier: 2.0, max: Duration::from_millis(100) };

impl EngineSettings {
    /// The durable consumer that all reaction processes share.
    pub fn consumer(&self) -> ConsumerSpec {
        ConsumerSpec {
            name: self.consumer_name.clone(),
            filter: "events.>".to_owned(),
            matches_most: true,
            coarse_acks: false,
            ack_wait: self.ack_wait,
            max_deliver: self.max_deliver,
            pending_max: self.fetch_messages_max.saturating_mul(BACKGROUND_MAX + 2),
        }
    }
}

/// Runs until `stop`, then waits for outstanding acks.
pub async fn run_engine(
    settings: EngineSettings,
    bus: Bus,
    store: Store,
    stop: CancellationToken,
) -> Result<(), ReactionError> {
    let mut subscription = bus.subscribe(settings.consumer()).await?;
    let interest = Arc::new(RuleInterest { changes: store.changes(), empty_as_of: AtomicU64::new(u64::MAX) });
    subscription.set_interest(interest.clone());
    let mut engine = Engine {
        interest,
        groups: Groups::new(settings.groups_max),
        acker: subscription.acker(),
        consumer: String::new(),
        ruleset: Ruleset::default(),
        loaded: None,
        latest_ms: 0,
        acknowledged: None,
        recorded_ack: None,
        floor_requested_at: Instant::now(),
        background: FuturesUnordered::new(),
        faults: FaultCounts::default(),
        flush_faults_at: Instant::now(),
        cleanup_at: Instant::now() + settings.state_cleanup_interval,
        settings,
        bus,
        store,
        stop,
        trial_running: false,
    };
    // Compile the rules before the first event, so that it does not pay for them.
    engine.refresh_rules().await?;
    info!(rules = engine.ruleset.rules.len(), anomalies = engine.ruleset.anomalies.len(), "engine started");
    while let Some(batch) = engine.fetch(&mut subscription).await? {
        engine.follow_stream(&subscription.stream_id());
        if batch.first().is_some_and(|delivery| delivery.isolated) {
            info!(messages = batch.len(), "messages that may have ended the process are tried apart from others");
            engine.drain_background().await;
        }
        engine.process(&batch).await?;
    }
    engine.flush_faults();
    engine.drain_background().await;
    if let Err(error) = subscription.release().await {
        warn!(%error, "messages read ahead are not given back, they come again when their leases end");
    }
    Ok(())
}

struct Engine {
    settings: EngineSettings,
    bus: Bus,
    store: Store,
    /// The consumer name with the stream's id: sequences of a recreated stream start over.
    consumer: String,
    acker: Acker,
    stop: CancellationToken,
    interest: Arc<RuleInterest>,
    ruleset: Ruleset,
    /// The change version that `ruleset` reflects, and when it was loaded. `None` forces a reload of the rules and of
    /// the groups.
    loaded: Option<(u64, Instant)>,
    groups: Groups,
    /// The latest publish time of a message with effects.
    latest_ms: i64,
    /// See [`Effects::acknowledged`].
    acknowledged: Option<Cause>,
    /// The value that the store last recorded.
    recorded_ack: Option<Cause>,
    /// When the ack floor was last requested.
    floor_requested_at: Instant,
    /// Background operations, polled while messages are fetched and evaluated.
    background: FuturesUnordered<BoxFuture<'static, Completion>>,
    /// Rule faults since the last write to the store.
    faults: FaultCounts,
    /// When they may be written next.
    flush_faults_at: Instant,
    cleanup_at: Instant,
    /// A trial of isolated messages is running.
    trial_running: bool,
}

/// Tells the bus whether any message is of interest.
struct RuleInterest {
    changes: watch::Receiver<u64>,
    /// The change version at which no rule or anomaly config was in force.
    empty_as_of: AtomicU64,
}

impl Interest for RuleInterest {
    fn has_interest(&self) -> bool {
        *self.changes.borrow() != self.empty_as_of.load(Ordering::Acquire)
    }

    fn skipped(&self, messages: u64) {
        metrics::reaction_events(messages, 0, 0, 0);
    }
}

/// A background operation has completed.
enum Completion {
    Acked(Result<(), BusError>),
    CleanedUp(Result<u64, StoreError>),
    FaultsStored(Result<(), StoreError>),
    /// The consumer name at the time of the request, and the latest publish time of a message with effects by then.
    Status(String, i64, Result<BusStatus, BusError>),
}

impl Engine {
    /// Fetches the next messages; `None` on stop.
    async fn fetch(&mut self, subscription: &mut Subscription) -> Result<Option<Vec<Delivery>>, ReactionError> {
        let stop = self.stop.clone();
        let mut fetch = pin!(subscription.fetch(self.settings.fetch_messages_max, self.settings.fetch_bytes_max));
        loop {
            let refresh_at = self.refresh_at();
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(None),
                Some(completion) = self.background.next(), if !self.background.is_empty() => self.completed(completion),
                batch = &mut fetch => return Ok(Some(batch?)),
                () = sleep_until(self.flush_faults_at), if !self.faults.is_empty() => self.flush_faults(),
                () = sleep_until(self.cleanup_at) => {
                    self.cleanup_at = Instant::now() + self.settings.state_cleanup_interval;
                    self.clean_up();
                }
                // Skipped messages never trigger a reload.
                () = sleep_until(refresh_at), if self.ruleset.is_empty() => {
                    if let Err(error) = self.refresh_rules().await {
                        warn!(error = %describe(&error), "rules could not be read, the next event tries again");
                        self.loaded = None;
                        self.interest.empty_as_of.store(u64::MAX, Ordering::Release);
                    }
                }
            }
        }
    }

    /// Starts over when the stream was recreated: its sequences restart, and the store keeps the two apart by the
    /// stream's id.
    fn follow_stream(&mut self, stream_id: &str) {
        let is_known = self.consumer.strip_suffix(stream_id).is_some_and(|before| before.ends_with('@'));
        if !is_known {
            self.consumer = format!("{}@{stream_id}", self.settings.consumer_name);
            self.groups.follow(stream_id);
            (self.acknowledged, self.recorded_ack) = (None, None);
            // Request the status of the new stream immediately.
            self.floor_requested_at = Instant::now();
        }
    }

    /// Commits the effects of a batch and acknowledges it. Returns early on stop or when the lease was lost; the bus
    /// then redelivers the rest.
    async fn process(&mut self, batch: &[Delivery]) -> Result<(), ReactionError> {
        let mut undecodable = Vec::new();
        let mut done = 0;
        let mut check_all = false;
        let mut failures = 0;
        while done < batch.len() {
            let error = match self.commit_next(&batch[done..], check_all, &mut undecodable).await {
                Ok(taken) => {
                    done += taken;
                    failures = 0;
                    // The rest is redelivered: none of it is committed.
                    if self.stop.is_cancelled() {
                        break;
                    }
                    continue;
                }
                Err(error) => error,
            };
            // A store failure is no evidence against a message.
            if std::mem::take(&mut self.trial_running) {
                self.acker.end_trial(TrialOutcome::Withdrawn).await;
            }
            // The groups still contain the failed evaluation, so reload them, and look up whether the commit succeeded
            // after all.
            self.loaded = None;
            check_all = true;
            undecodable.retain(|found: &Undecodable| batch[..done].iter().any(|d| d.receipt == found.receipt));
            if matches!(error.kind, StoreErrorKind::Closed | StoreErrorKind::Corrupt) {
                return Err(error.into());
            }
            failures += 1;
            warn!(error = %describe(&error), failures, "effects were not committed, trying again");
            tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                () = sleep(STORE_BACKOFF.delay(failures, random_unit())) => {}
            }
            if !self.renew(&batch[done..]).await {
                break;
            }
        }
        // The next fetch ends the trial.
        self.trial_running = false;
        self.acknowledge(&batch[..done], undecodable).await;
        Ok(())
    }

    /// Waits for all background operations.
    async fn drain_background(&mut self) {
        while let Some(completion) = self.background.next().await {
            self.completed(completion);
        }
    }

    /// Records that a trial of isolated messages begins.
    async fn begin_trial(&mut self, batch: &[Delivery]) {
        if batch.first().is_some_and(|delivery| delivery.isolated) && !std::mem::replace(&mut self.trial_running, true)
        {
            let receipts: Vec<Receipt> = batch.iter().map(|delivery| delivery.receipt).collect();
            self.acker.begin_trial(&receipts).await;
        }
    }

    /// Evaluates messages from the front of the batch and commits their effects. Returns the number of messages
    /// consumed.
    async fn commit_next(
        &mut self,
        batch: &[Delivery],
        check_all: bool,
        undecodable: &mut Vec<Undecodable>,
    ) -> Result<usize, StoreError> {
        self.refresh_rules().await?;
        let mut consumed = self.already_consumed(batch, check_all).await?;
        self.begin_trial(batch).await;
        let decodable = undecodable.len();
        let mut refusals = 0;
        let acknowledged = self.acknowledged.filter(|acknowledged| self.recorded_ack != Some(*acknowledged));
        loop {
            undecodable.truncate(decodable);
            let effects = Effects { consumer: self.consumer.clone(), acknowledged, ..Effects::default() };
            let (ruleset, groups, faults) = (&mut self.ruleset, &mut self.groups, &mut self.faults);
            let mut evaluation = Evaluation::new(ruleset, groups, faults, &self.stop, effects, &self.settings);
            let taken = off_the_runtime(|| evaluation.evaluate(batch, &consumed, undecodable));
            let (evaluated, matches) = (evaluation.evaluated, evaluation.matches);
            let effects = evaluation.finish();
            let found = effects.anomaly_events.len() as u64;
            let latest_ms = effects.causes.iter().map(|cause| cause.published_at_ms).fold(self.latest_ms, i64::max);
            if !effects.causes.is_empty() {
                let written: Vec<GroupKey> = effects.anomaly_states.iter().map(GroupKey::of).collect();
                let started = std::time::Instant::now();
                let recorded = self.store.record_effects(effects).await?;
                metrics::reaction_commit(started.elapsed());
                if let RecordOutcome::Conflict { consumed: theirs, states } = recorded {
                    refusals += 1;
                    metrics::reaction_refused_commit();
                    debug!(refusals, messages = theirs.len(), windows = states.len(), "another engine was first");
                    self.groups.restore(&written, states, &self.ruleset.detectors());
                    consumed.extend(theirs);
                    // The random delay keeps two engines from colliding again and again.
                    sleep(REFUSED_BACKOFF.delay(refusals, random_unit())).await;
                    continue;
                }
                self.latest_ms = latest_ms;
                self.recorded_ack = self.acknowledged;
                self.request_ack_floor();
            }
            metrics::reaction_events(taken as u64, evaluated, matches, found);
            return Ok(taken);
        }
    }

    /// The messages whose effects were committed on an earlier delivery. Looked up only where that is possible.
    async fn already_consumed(&mut self, batch: &[Delivery], check_all: bool) -> Result<HashSet<Cause>, StoreError> {
        let mut lookups = Vec::new();
        for delivery in batch {
            if (delivery.possibly_redelivered || check_all)
                && self.ruleset.index.candidates(delivery.subject()).is_some()
            {
                lookups.push(cause(delivery));
            }
        }
        if lookups.is_empty() {
            return Ok(HashSet::new());
        }
        Ok(self.store.consumed(&self.consumer, &lookups).await?.into_iter().collect())
    }

    /// Reloads the rules when something has changed or the refresh interval has passed.
    async fn refresh_rules(&mut self) -> Result<(), StoreError> {
        let version = *self.interest.changes.borrow();
        if let Some((loaded, at)) = self.loaded
            && loaded == version
            && at.elapsed() < self.settings.refresh_interval
        {
            return Ok(());
        }
        let ruleset = Ruleset::load(&self.store, &self.ruleset).await?;
        let same_anomalies = ruleset.anomalies.len() == self.ruleset.anomalies.len()
            && ruleset
                .anomalies
                .iter()
                .zip(&self.ruleset.anomalies)
                .all(|(new, old)| new.id == old.id && new.document.config == old.document.config);
        if self.loaded.is_none() || !same_anomalies {
            let ids: Vec<_> = ruleset.anomalies.iter().map(|anomaly| anomaly.id).collect();
            let states = if ids.is_empty() { Vec::new() } else { self.store.anomaly_states(&ids).await? };
            self.groups.load(states, &ruleset.detectors());
        }
        let in_force = |id: &Uuid| {
            ruleset.rules.iter().any(|rule| rule.id == *id) || ruleset.anomalies.iter().any(|known| known.id == *id)
        };
        self.faults.retain(in_force);
        self.ruleset = ruleset;
        self.loaded = Some((version, Instant::now()));
        self.interest.empty_as_of.store(if self.ruleset.is_empty() { version } else { u64::MAX }, Ordering::Release);
        debug!(version, rules = self.ruleset.rules.len(), "rules are up to date");
        Ok(())
    }

    fn refresh_at(&self) -> Instant {
        self.loaded.map_or_else(
            || Instant::now() + self.settings.refresh_interval,
            |(_, at)| at + self.settings.refresh_interval,
        )
    }

    /// Returns `false` when the lease was lost.
    async fn renew(&mut self, batch: &[Delivery]) -> bool {
        let receipts: Vec<Receipt> = batch.iter().map(|delivery| delivery.receipt).collect();
        match self.acker.renew(&receipts).await {
            Ok(()) => true,
            Err(error) => {
                warn!(%error, messages = receipts.len(), "lease was lost");
                false
            }
        }
    }

    /// Acknowledges committed messages without waiting until the acks are durable, and dead-letters messages that
    /// cannot be decoded.
    async fn acknowledge(&mut self, done: &[Delivery], undecodable: Vec<Undecodable>) {
        let mut receipts: Vec<Receipt> = done.iter().map(|delivery| delivery.receipt).collect();
        for found in undecodable {
            receipts.retain(|receipt| *receipt != found.receipt);
            metrics::reaction_dead_letters(1);
            if let Err(error) = self.acker.dead_letter(found.receipt, &found.reason).await {
                warn!(%error, "dead letter was not stored, the bus brings it again");
            }
        }
        if receipts.is_empty() {
            return;
        }
        let acker = self.acker.clone();
        self.background.push(Box::pin(async move { Completion::Acked(acker.ack(&receipts).await) }));
        // Futures are lazy: the first poll hands the ack to the bus.
        if let std::task::Poll::Ready(Some(completion)) = futures_util::poll!(self.background.next()) {
            self.completed(completion);
        }
        while self.background.len() >= BACKGROUND_MAX {
            if let Some(completion) = self.background.next().await {
                self.completed(completion);
            }
        }
    }

    fn completed(&mut self, completion: Completion) {
        match completion {
            Completion::Acked(Ok(())) | Completion::CleanedUp(Ok(_)) | Completion::FaultsStored(Ok(())) => {}
            Completion::Acked(Err(error)) if error.kind == BusErrorKind::Closed => {
                debug!("bus closed before the acknowledgement");
            }
            // The cost is a redelivery, which the store detects.
            Completion::Acked(Err(error)) => {
                warn!(%error, "acknowledgement was not stored, the bus brings the messages again");
            }
            Completion::FaultsStored(Err(error)) => warn!(error = %describe(&error), "faults of rules were not stored"),
            Completion::CleanedUp(Err(error)) => warn!(error = %describe(&error), "stale state was not forgotten"),
            // The ack floor of the previous stream is meaningless for this one.
            Completion::Status(consumer, _, Ok(_)) if consumer != self.consumer => {}
            Completion::Status(_, latest_ms, Ok(status)) => {
                let consumer = status.consumers.iter().find(|consumer| consumer.name == self.settings.consumer_name);
                let floor = consumer.map_or(0, |consumer| consumer.ack_floor.min(status.last_sequence));
                self.acknowledged = (floor > 0).then(|| Cause::new(floor, latest_ms)).or(self.acknowledged);
            }
            Completion::Status(_, _, Err(error)) => debug!(%error, "bus did not tell how far it has acknowledged"),
        }
    }

    /// Writes the faults to the store, which shows them on their documents.
    fn flush_faults(&mut self) {
        if self.faults.is_empty() {
            return;
        }
        self.flush_faults_at = Instant::now() + FAULTS_INTERVAL;
        let (store, faults) = (self.store.clone(), self.faults.take());
        self.background.push(Box::pin(async move { Completion::FaultsStored(store.add_faults(faults).await) }));
    }

    fn request_ack_floor(&mut self) {
        if self.floor_requested_at.elapsed() < self.settings.floor_interval {
            return;
        }
        self.floor_requested_at = Instant::now();
        let (bus, consumer, latest_ms) = (self.bus.clone(), self.consumer.clone(), self.latest_ms);
        self.background.push(Box::pin(async move { Completion::Status(consumer, latest_ms, bus.status().await) }));
    }

    /// Deletes windows that were not touched for `state_retention`, and abandons deliveries that exceed the bounds of
    /// disabled webhooks.
    fn clean_up(&mut self) {
        let retention_ms = i64::try_from(self.settings.state_retention.as_millis()).unwrap_or(i64::MAX);
        let before_ms = unix_ms().saturating_sub(retention_ms);
        let (store, disabled_backlog) = (self.store.clone(), self.settings.disabled_backlog);
        self.background.push(Box::pin(async move {
            let forgotten = store.delete_expired(before_ms).await;
            match store.trim_backlog(disabled_backlog).await {
                Ok(0) => {}
                Ok(deliveries) => {
                    warn!(deliveries, "deliveries of disabled webhooks waited too long and were given up")
                }
                Err(error) => warn!(error = %describe(&error), "what disabled webhooks are owed was not bounded"),
            }
            Completion::CleanedUp(forgotten)
        }));
    }
}

fn describe(error: &StoreError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
