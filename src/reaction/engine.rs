//! The engine: messages in, effects out, acknowledged in between.
//!
//! Invariants: the effects of a message are committed with its sequence before it is
//! acknowledged, so each happens once however often the message comes; the rules that judge
//! a batch are those in force when it was fetched or later ones. With the store away the
//! batch in hand waits under a renewed lease and nothing more is fetched.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::anomalies::detection::{GroupKey, Groups};
use super::blocking::off_the_runtime;
use super::error::ReactionError;
use super::evaluate::{Evaluation, Undecodable, cause};
use super::faults::Ledger;
use super::ruleset::Ruleset;
use super::settings::EngineSettings;
use crate::base::backoff::{Backoff, random_unit};
use crate::bus::{
    Acker, Bus, BusError, BusErrorKind, BusStatus, ConsumerSpec, Delivery, Interest, Receipt, Subscription,
    TrialOutcome,
};
use crate::metrics;
use crate::store::{Cause, Effects, Recorded, Store, StoreError, StoreErrorKind};

/// Acknowledgements and other work on their way while the next batches are judged.
const BESIDE_MAX: usize = 8;
/// How often faults of rules are handed to the store.
const FAULTS_INTERVAL: Duration = Duration::from_secs(1);
/// How a batch waits for a store that fails.
const STORE_BACKOFF: Backoff =
    Backoff { initial: Duration::from_millis(50), multiplier: 2.0, max: Duration::from_secs(2) };

/// How a batch waits when another engine has written the windows that it changes: about as long as a commit takes.
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
            pending_max: self.fetch_messages_max.saturating_mul(BESIDE_MAX + 2),
        }
    }
}

/// Runs until `stop`; then waits for the acknowledgements on their way.
pub async fn run_engine(
    settings: EngineSettings,
    bus: Bus,
    store: Store,
    stop: CancellationToken,
) -> Result<(), ReactionError> {
    let mut subscription = bus.subscribe(settings.consumer()).await?;
    let needs = Arc::new(Needs { changes: store.changes(), none_as_of: AtomicU64::new(u64::MAX) });
    subscription.set_interest(needs.clone());
    let mut engine = Engine {
        needs,
        groups: Groups::new(settings.groups_max),
        acker: subscription.acker(),
        consumer: String::new(),
        ruleset: Ruleset::default(),
        loaded: None,
        latest_ms: 0,
        acknowledged: None,
        told: None,
        floor_at: Instant::now(),
        beside: FuturesUnordered::new(),
        faults: Ledger::default(),
        faults_at: Instant::now(),
        cleanup_at: Instant::now() + settings.state_cleanup_interval,
        settings,
        bus,
        store,
        stop,
        trying: false,
    };
    // Rules are compiled before the first event, so that it does not pay for them.
    engine.bring_up_to_date().await?;
    info!(rules = engine.ruleset.rules.len(), anomalies = engine.ruleset.anomalies.len(), "engine started");
    while let Some(batch) = engine.fetch(&mut subscription).await? {
        engine.follow(&subscription.stream_id());
        if batch.first().is_some_and(|delivery| delivery.isolated) {
            info!(messages = batch.len(), "messages that may have ended the process are tried apart from others");
            engine.finish_beside().await;
        }
        engine.settle(&batch).await?;
    }
    engine.tell_faults();
    engine.finish_beside().await;
    if let Err(error) = subscription.release().await {
        warn!(%error, "messages read ahead are not given back, they come again when their leases end");
    }
    Ok(())
}

struct Engine {
    settings: EngineSettings,
    bus: Bus,
    store: Store,
    /// The consumer in this life of the stream: sequences of another stream are others.
    consumer: String,
    acker: Acker,
    stop: CancellationToken,
    needs: Arc<Needs>,
    ruleset: Ruleset,
    /// The version of the changes that `ruleset` holds, and when it was read. `None`: it must be read, and the
    /// groups with it.
    loaded: Option<(u64, Instant)>,
    groups: Groups,
    /// The latest time of a message with effects.
    latest_ms: i64,
    /// See [`Effects::acknowledged`].
    acknowledged: Option<Cause>,
    /// The same, as the store knows it.
    told: Option<Cause>,
    /// When the floor was last asked for.
    floor_at: Instant,
    /// What goes on beside the judging.
    beside: FuturesUnordered<BoxFuture<'static, Beside>>,
    /// What rules failed at since the store was last told.
    faults: Ledger,
    /// When the store may be told next.
    faults_at: Instant,
    cleanup_at: Instant,
    /// A trial of isolated messages is under way.
    trying: bool,
}

/// What the bus is asked for.
struct Needs {
    changes: watch::Receiver<u64>,
    /// The version of the changes in which there is nothing to judge by.
    none_as_of: AtomicU64,
}

impl Interest for Needs {
    fn has_interest(&self) -> bool {
        *self.changes.borrow() != self.none_as_of.load(Ordering::Acquire)
    }

    fn skipped(&self, messages: u64) {
        metrics::reaction_events(messages, 0, 0, 0);
    }
}

/// Something beside the judging has ended.
enum Beside {
    Acknowledged(Result<(), BusError>),
    CleanedUp(Result<u64, StoreError>),
    Told(Result<(), StoreError>),
    /// Asked for this consumer in this life of the stream, when no later message had effects.
    Status(String, i64, Result<BusStatus, BusError>),
}

impl Engine {
    /// The next messages; `None` on stop.
    async fn fetch(&mut self, subscription: &mut Subscription) -> Result<Option<Vec<Delivery>>, ReactionError> {
        let stop = self.stop.clone();
        let mut fetch = pin!(subscription.fetch(self.settings.fetch_messages_max, self.settings.fetch_bytes_max));
        loop {
            let refresh_at = self.refresh_at();
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(None),
                Some(ended) = self.beside.next(), if !self.beside.is_empty() => self.ended(ended),
                batch = &mut fetch => return Ok(Some(batch?)),
                () = sleep_until(self.faults_at), if !self.faults.is_empty() => self.tell_faults(),
                () = sleep_until(self.cleanup_at) => {
                    self.cleanup_at = Instant::now() + self.settings.state_cleanup_interval;
                    self.clean_up();
                }
                // Messages that are passed over do not bring the rules up to date.
                () = sleep_until(refresh_at), if self.ruleset.is_empty() => {
                    if let Err(error) = self.bring_up_to_date().await {
                        warn!(error = %describe(&error), "rules could not be read, the next event tries again");
                        self.loaded = None;
                        self.needs.none_as_of.store(u64::MAX, Ordering::Release);
                    }
                }
            }
        }
    }

    /// Sequences count anew in another life of the stream: the store keeps them apart by it.
    fn follow(&mut self, stream_id: &str) {
        let is_known = self.consumer.strip_suffix(stream_id).is_some_and(|before| before.ends_with('@'));
        if !is_known {
            self.consumer = format!("{}@{stream_id}", self.settings.consumer_name);
            self.groups.follow(stream_id);
            (self.acknowledged, self.told) = (None, None);
            // The first status asked for is of this life.
            self.floor_at = Instant::now();
        }
    }

    /// Carries a batch through: effects committed, then acknowledged. Returns early when its lease was lost
    /// or on stop; the bus brings it again then.
    async fn settle(&mut self, batch: &[Delivery]) -> Result<(), ReactionError> {
        let mut undecodable = Vec::new();
        let mut settled = 0;
        let mut ask_all = false;
        let mut failures = 0;
        while settled < batch.len() {
            let error = match self.commit_some(&batch[settled..], ask_all, &mut undecodable).await {
                Ok(taken) => {
                    settled += taken;
                    failures = 0;
                    // What is left comes again: nothing of it is committed.
                    if self.stop.is_cancelled() {
                        break;
                    }
                    continue;
                }
                Err(error) => error,
            };
            // That the store fails says nothing against a message.
            if std::mem::take(&mut self.trying) {
                self.acker.end_trial(TrialOutcome::Withdrawn).await;
            }
            // What was judged in vain is still in the groups: they come from the store again, and what may
            // have been committed after all is asked for.
            self.loaded = None;
            ask_all = true;
            undecodable.retain(|found: &Undecodable| batch[..settled].iter().any(|d| d.receipt == found.receipt));
            if matches!(error.kind, StoreErrorKind::Closed | StoreErrorKind::Corrupt) {
                return Err(error.into());
            }
            failures += 1;
            warn!(error = %describe(&error), failures, "effects were not committed, trying again");
            tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                () = sleep(STORE_BACKOFF.delay(failures, random_unit())) => {}
            }
            if !self.renew(&batch[settled..]).await {
                break;
            }
        }
        // The next fetch ends it.
        self.trying = false;
        self.answer(&batch[..settled], undecodable).await;
        Ok(())
    }

    /// Waits for the acknowledgements on their way.
    async fn finish_beside(&mut self) {
        while let Some(ended) = self.beside.next().await {
            self.ended(ended);
        }
    }

    /// Has it on record that isolated messages are tried.
    async fn begin_trial(&mut self, batch: &[Delivery]) {
        if batch.first().is_some_and(|delivery| delivery.isolated) && !std::mem::replace(&mut self.trying, true) {
            let receipts: Vec<Receipt> = batch.iter().map(|delivery| delivery.receipt).collect();
            self.acker.begin_trial(&receipts).await;
        }
    }

    /// Judges the head of the messages and commits its effects; answers how many messages that were.
    async fn commit_some(
        &mut self,
        batch: &[Delivery],
        ask_all: bool,
        undecodable: &mut Vec<Undecodable>,
    ) -> Result<usize, StoreError> {
        self.bring_up_to_date().await?;
        let mut consumed = self.already_consumed(batch, ask_all).await?;
        self.begin_trial(batch).await;
        let decodable = undecodable.len();
        let mut refusals = 0;
        let acknowledged = self.acknowledged.filter(|acknowledged| self.told != Some(*acknowledged));
        loop {
            undecodable.truncate(decodable);
            let effects = Effects { consumer: self.consumer.clone(), acknowledged, ..Effects::default() };
            let (ruleset, groups, faults) = (&mut self.ruleset, &mut self.groups, &mut self.faults);
            let mut evaluation = Evaluation::new(ruleset, groups, faults, &self.stop, effects, &self.settings);
            let taken = off_the_runtime(|| evaluation.take(batch, &consumed, undecodable));
            let (evaluated, matches) = (evaluation.evaluated, evaluation.matches);
            let effects = evaluation.finish();
            let found = effects.anomaly_events.len() as u64;
            let latest_ms = effects.causes.iter().map(|cause| cause.published_at_ms).fold(self.latest_ms, i64::max);
            if !effects.causes.is_empty() {
                let written: Vec<GroupKey> = effects.anomaly_states.iter().map(GroupKey::of).collect();
                let started = std::time::Instant::now();
                let recorded = self.store.record_effects(effects).await?;
                metrics::reaction_commit(started.elapsed());
                if let Recorded::Refused { consumed: theirs, states } = recorded {
                    refusals += 1;
                    metrics::reaction_refused_commit();
                    debug!(refusals, messages = theirs.len(), windows = states.len(), "another engine was first");
                    self.groups.restore(&written, states, &self.ruleset.detectors());
                    consumed.extend(theirs);
                    // Who waits a random while does not meet the same one again and again.
                    sleep(REFUSED_BACKOFF.delay(refusals, random_unit())).await;
                    continue;
                }
                self.latest_ms = latest_ms;
                self.told = self.acknowledged;
                self.ask_for_floor();
            }
            metrics::reaction_events(taken as u64, evaluated, matches, found);
            return Ok(taken);
        }
    }

    /// Those whose effects were committed in an earlier life of the message. Asked only where it can be.
    async fn already_consumed(&mut self, batch: &[Delivery], ask_all: bool) -> Result<HashSet<Cause>, StoreError> {
        let mut asked = Vec::new();
        for delivery in batch {
            if (delivery.possibly_redelivered || ask_all) && self.ruleset.index.candidates(delivery.subject()).is_some()
            {
                asked.push(cause(delivery));
            }
        }
        if asked.is_empty() {
            return Ok(HashSet::new());
        }
        Ok(self.store.consumed(&self.consumer, &asked).await?.into_iter().collect())
    }

    /// Reads the rules anew when something changed since they were read, or the interval has passed.
    async fn bring_up_to_date(&mut self) -> Result<(), StoreError> {
        let version = *self.needs.changes.borrow();
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
        self.faults.keep(in_force);
        self.ruleset = ruleset;
        self.loaded = Some((version, Instant::now()));
        self.needs.none_as_of.store(if self.ruleset.is_empty() { version } else { u64::MAX }, Ordering::Release);
        debug!(version, rules = self.ruleset.rules.len(), "rules are up to date");
        Ok(())
    }

    fn refresh_at(&self) -> Instant {
        self.loaded.map_or_else(
            || Instant::now() + self.settings.refresh_interval,
            |(_, at)| at + self.settings.refresh_interval,
        )
    }

    /// False when the lease is gone.
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

    /// Acknowledges what is settled, without waiting for it to be durable, and gives up what cannot be decoded.
    async fn answer(&mut self, settled: &[Delivery], undecodable: Vec<Undecodable>) {
        let mut receipts: Vec<Receipt> = settled.iter().map(|delivery| delivery.receipt).collect();
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
        self.beside.push(Box::pin(async move { Beside::Acknowledged(acker.ack(&receipts).await) }));
        // A future runs only when it is asked: the first poll hands the acknowledgement to the bus.
        if let std::task::Poll::Ready(Some(ended)) = futures_util::poll!(self.beside.next()) {
            self.ended(ended);
        }
        while self.beside.len() >= BESIDE_MAX {
            if let Some(ended) = self.beside.next().await {
                self.ended(ended);
            }
        }
    }

    fn ended(&mut self, ended: Beside) {
        match ended {
            Beside::Acknowledged(Ok(())) | Beside::CleanedUp(Ok(_)) | Beside::Told(Ok(())) => {}
            Beside::Acknowledged(Err(error)) if error.kind == BusErrorKind::Closed => {
                debug!("bus closed before the acknowledgement");
            }
            // It costs a redelivery, which the store recognizes.
            Beside::Acknowledged(Err(error)) => {
                warn!(%error, "acknowledgement was not stored, the bus brings the messages again");
            }
            Beside::Told(Err(error)) => warn!(error = %describe(&error), "faults of rules were not stored"),
            Beside::CleanedUp(Err(error)) => warn!(error = %describe(&error), "stale state was not forgotten"),
            // The floor of one life of the stream says nothing in the next.
            Beside::Status(consumer, _, Ok(_)) if consumer != self.consumer => {}
            Beside::Status(_, asked_ms, Ok(status)) => {
                let consumer = status.consumers.iter().find(|consumer| consumer.name == self.settings.consumer_name);
                let floor = consumer.map_or(0, |consumer| consumer.ack_floor.min(status.last_sequence));
                self.acknowledged = (floor > 0).then(|| Cause::new(floor, asked_ms)).or(self.acknowledged);
            }
            Beside::Status(_, _, Err(error)) => debug!(%error, "bus did not tell how far it has acknowledged"),
        }
    }

    /// Hands the faults to the store, which shows them on their documents.
    fn tell_faults(&mut self) {
        if self.faults.is_empty() {
            return;
        }
        self.faults_at = Instant::now() + FAULTS_INTERVAL;
        let (store, faults) = (self.store.clone(), self.faults.take());
        self.beside.push(Box::pin(async move { Beside::Told(store.add_faults(faults).await) }));
    }

    fn ask_for_floor(&mut self) {
        if self.floor_at.elapsed() < self.settings.floor_interval {
            return;
        }
        self.floor_at = Instant::now();
        let (bus, consumer, asked_ms) = (self.bus.clone(), self.consumer.clone(), self.latest_ms);
        self.beside.push(Box::pin(async move { Beside::Status(consumer, asked_ms, bus.status().await) }));
    }

    /// Forgets windows that nobody touched for long, and gives up what disabled webhooks were owed for too long.
    fn clean_up(&mut self) {
        let retention_ms = i64::try_from(self.settings.state_retention.as_millis()).unwrap_or(i64::MAX);
        let before_ms = Timestamp::now().as_millisecond().saturating_sub(retention_ms);
        let (store, disabled_owed) = (self.store.clone(), self.settings.disabled_owed);
        self.beside.push(Box::pin(async move {
            let forgotten = store.forget_stale(before_ms).await;
            match store.give_up_owed(disabled_owed).await {
                Ok(0) => {}
                Ok(deliveries) => {
                    warn!(deliveries, "deliveries of disabled webhooks waited too long and were given up")
                }
                Err(error) => warn!(error = %describe(&error), "what disabled webhooks are owed was not bounded"),
            }
            Beside::CleanedUp(forgotten)
        }));
    }
}

fn describe(error: &StoreError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
