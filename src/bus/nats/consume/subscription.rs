//! The receiving side: pull requests and the messages they deliver.
//!
//! Invariants: `leased_at` is never later than the time at which the server leased the oldest message of the last
//! fetch. Messages that have waited for most of their lease are dropped instead of handed out. After each loss of the
//! connection or of the consumer, all messages then in the stream are possibly redelivered.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use async_nats::{Message, StatusCode, Subscriber};
use futures_util::StreamExt;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::acker::{AckSubject, Acker, Consumer};
use super::incarnation::Incarnation;
use super::isolation::{IsolationQueue, must_isolate};
use super::pull::{
    NOTE_INTERVAL, PullScope, REFUSED_PAUSE, SILENCE_MAX, delivery, next_arrived, open_inbox, pull, record, takes,
};
use super::trials::TrialStore;
use crate::base::clock::{self, sleep_until};
use crate::bus::nats::failed::failed;
use crate::bus::nats::shared::Shared;
use crate::bus::nats::topology::state::stream_id;
use crate::bus::subject::Filter;
use crate::bus::trials::TrialOutcome;
use crate::bus::{BusError, BusErrorKind, ConsumerSpec, Delivery, LeaseGrant, Receipt};

/// The status with which the server ends the pull requests of a deleted consumer.
const CONSUMER_DELETED: &str = "Consumer Deleted";

pub(crate) struct Subscription {
    pub(crate) acker: Acker,
    /// Receives the answers to the pull requests of this connection.
    inbox: String,
    incoming: Subscriber,
    epochs: watch::Receiver<u64>,
    /// The epoch that `redelivery_horizon` and `pull` belong to.
    epoch: u64,
    /// Messages up to here are possibly redelivered; `None` until it is known for the current connection.
    redelivery_horizon: Option<u64>,
    /// The incarnation of the stream of these messages.
    stream_id: String,
    pub(crate) consumer: Option<Incarnation>,
    pull: Option<Pull>,
    /// The last fetched messages were leased after this.
    leased_at: Instant,
    /// When nothing had arrived last: messages here now were leased after this.
    empty_at: Instant,
    /// The last received message of the stream, and when it was stored.
    pub(crate) latest: Option<(u64, i64)>,
    /// Taken, but not handed out because the fetch was cancelled.
    ready: Vec<Delivery>,
    ready_bytes: usize,
    /// Not for this consumer (another subject, or a replay for another consumer); to be acknowledged.
    skipped: Vec<Receipt>,
    /// Delivered often without an answer.
    isolation: IsolationQueue,
    /// Ended the process in each trial; to be dead-lettered.
    fatal: Vec<Receipt>,
}

/// The pull request that the server is working on.
struct Pull {
    /// Messages it may still deliver.
    missing: usize,
    heard_at: Instant,
}

impl Subscription {
    pub(crate) async fn open(
        shared: Arc<Shared>,
        stream: &str,
        spec: ConsumerSpec,
        (filter, isolates): (Filter, bool),
    ) -> Result<Self, BusError> {
        let epochs = shared.link.epochs();
        let (inbox, incoming) = open_inbox(&shared).await?;
        let consumer = Arc::new(Consumer {
            stream: stream.to_owned(),
            name: spec.name,
            filter,
            max_deliver: spec.max_deliver,
            isolates,
            ack_wait: spec.ack_wait,
            ack_prefix: OnceLock::new(),
        });
        let trials = TrialStore::new(shared.clone(), consumer.name.clone());
        let mut subscription = Self {
            acker: Acker { shared, consumer, trials },
            inbox,
            incoming,
            epochs,
            epoch: 0,
            redelivery_horizon: None,
            stream_id: String::new(),
            consumer: None,
            pull: None,
            leased_at: Instant::now(),
            empty_at: Instant::now(),
            latest: None,
            ready: Vec::new(),
            ready_bytes: 0,
            skipped: Vec::new(),
            isolation: IsolationQueue::default(),
            fatal: Vec::new(),
        };
        subscription.reconnected().await?;
        Ok(subscription)
    }

    pub(crate) fn acker(&self) -> Acker {
        self.acker.clone()
    }

    pub(crate) fn lease_grant(&self) -> LeaseGrant {
        let shared = &self.acker.shared;
        let stream = (shared.topology.stream(), self.stream_id.clone());
        LeaseGrant { at: self.leased_at, epochs: Some((shared.link.epochs(), self.epoch)), stream: Some(stream) }
    }

    pub(crate) async fn fetch(&mut self, messages_max: usize, bytes_max: usize) -> Result<Vec<Delivery>, BusError> {
        let shared = self.acker.shared.clone();
        let note_interval = NOTE_INTERVAL.min(self.acker.consumer.ack_wait / 8);
        let mut pause_until: Option<tokio::time::Instant> = None;
        // A consumer that fetches again has survived its trial.
        self.acker.end_trial(TrialOutcome::Survived).await;
        loop {
            shared.check_open("fetch messages")?;
            let moved = self.epochs.has_changed().unwrap_or(true) || self.redelivery_horizon.is_none();
            if moved && let Err(error) = self.reconnected().await {
                // The server is away: it returns, or the link stops reconnecting.
                debug!(%error, consumer = self.acker.consumer.name, "waiting for NATS");
                tokio::time::sleep(REFUSED_PAUSE).await;
                continue;
            }
            if let Err(error) = self.receive(messages_max, bytes_max).await {
                debug!(%error, consumer = self.acker.consumer.name, "waiting for NATS");
                tokio::time::sleep(REFUSED_PAUSE).await;
                continue;
            }
            if self.redelivery_horizon.is_none() {
                self.release_ready().await;
                continue;
            }
            self.flush_answers().await;
            if !self.isolation.is_empty() || !self.ready.is_empty() {
                let current = match &mut self.consumer {
                    Some(seen) => seen.is_current(&self.acker).await,
                    None => Some(false),
                };
                match current {
                    Some(true) => {
                        let isolated = self.isolate((messages_max, bytes_max)).await;
                        if !isolated.is_empty() {
                            return Ok(isolated);
                        }
                        if !self.ready.is_empty() {
                            self.ready_bytes = 0;
                            return Ok(std::mem::take(&mut self.ready));
                        }
                    }
                    Some(false) => {
                        self.release_ready().await;
                        self.request_check();
                        continue;
                    }
                    None => continue,
                }
            }
            if self.pull.as_ref().is_none_or(|pull| pull.missing == 0) {
                if let Some(pause_until) = pause_until {
                    // The last request of this fetch ended without a message.
                    tokio::time::sleep_until(pause_until).await;
                }
                if let Err(error) = self.request(messages_max, bytes_max).await {
                    debug!(%error, consumer = self.acker.consumer.name, "messages are not requested");
                }
                pause_until = Some(tokio::time::Instant::now() + REFUSED_PAUSE);
            }
            tokio::select! {
                message = self.incoming.next() => match message {
                    Some(message) => self.take(message),
                    None => return Err(BusError::new(BusErrorKind::Closed, "fetch messages")),
                },
                _ = self.epochs.changed() => self.redelivery_horizon = None,
                () = shared.closing.cancelled() => {}
                () = sleep_until(self.isolation.choose_at()) => {}
                () = tokio::time::sleep(note_interval) => self.check_silence().await,
            }
        }
    }

    /// The isolated messages to try next. Messages that ended the process too often are to be dead-lettered.
    async fn isolate(&mut self, limits: (usize, usize)) -> Vec<Delivery> {
        let half = self.acker.consumer.ack_wait / 2;
        let now = clock::now();
        self.isolation.drop_stale(|_, leased_at| clock::between(leased_at, now) < half);
        let chosen = match self.isolation.choose(&self.acker.trials, limits).await {
            Ok(chosen) => chosen,
            Err(error) => {
                debug!(%error, consumer = self.acker.consumer.name, "suspects wait for NATS");
                return Vec::new();
            }
        };
        self.fatal.extend(chosen.fatal);
        self.leased_at = chosen.leased_at.map_or(self.leased_at, |leased_at| leased_at.min(self.leased_at));
        chosen.next
    }

    pub(crate) async fn release(&mut self) -> Result<(), BusError> {
        self.acker.end_trial(TrialOutcome::Withdrawn).await;
        let (shared, context) = (self.acker.shared.clone(), "give messages back");
        shared.link.check(&shared.client, context)?;
        // First, or the pending pull request would receive them again. Messages sent before it ended are taken.
        self.incoming.drain().await.map_err(|error| failed(context, error))?;
        let ends = async {
            while let Some(message) = self.incoming.next().await {
                self.take(message);
            }
        };
        let ended = tokio::time::timeout(shared.settings.timeout, ends).await;
        ended.map_err(|_| failed(context, "NATS did not answer"))?;
        self.flush_answers().await;
        (self.ready_bytes, self.pull, self.redelivery_horizon) = (0, None, None);
        let mut receipts = self.isolation.receipts();
        self.isolation.clear();
        receipts.extend(std::mem::take(&mut self.ready).iter().map(|delivery| delivery.receipt));
        self.acker.release(&receipts, Duration::ZERO).await
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Messages of the main stream up to here are possibly redelivered.
    pub(crate) fn redelivery_horizon(&self) -> u64 {
        self.redelivery_horizon.unwrap_or(u64::MAX)
    }

    /// Starts over on the current connection: determines the redelivery horizon, and drops everything the last
    /// connection delivered, read or not. The server may have crashed and leased it to another process since; a new
    /// inbox per connection keeps it apart from new messages.
    pub(crate) async fn reconnected(&mut self) -> Result<(), BusError> {
        self.redelivery_horizon = None;
        self.pull = None;
        self.ready.clear();
        self.ready_bytes = 0;
        self.skipped.clear();
        self.isolation.clear();
        self.fatal.clear();
        self.epoch = *self.epochs.borrow_and_update();
        let seen = Incarnation::observe(&self.acker).await?;
        self.check_position(&seen).await?;
        self.consumer = Some(seen);
        let shared = &self.acker.shared;
        // Read after the consumer: what the consumer delivers again was stored before this.
        let info = shared.stream_info().await?;
        (self.inbox, self.incoming) = open_inbox(shared).await?;
        self.empty_at = Instant::now();
        self.stream_id = stream_id(&info);
        self.redelivery_horizon = Some(info.state.last_sequence);
        Ok(())
    }

    /// The consumer is gone or was replaced.
    fn request_check(&mut self) {
        self.redelivery_horizon = None;
        self.acker.shared.topology.request_check();
    }

    /// Releases the ready messages, if possible: nothing is known about their consumer.
    async fn release_ready(&mut self) {
        let mut receipts = self.isolation.receipts();
        self.isolation.clear();
        receipts.extend(std::mem::take(&mut self.ready).iter().map(|delivery| delivery.receipt));
        if let Err(error) = self.acker.release(&receipts, Duration::ZERO).await {
            debug!(%error, consumer = self.acker.consumer.name, "messages come again when their leases end");
        }
    }

    /// The incarnation of the stream that the last fetched messages belong to.
    pub(crate) fn stream_id(&self) -> &str {
        &self.stream_id
    }

    async fn request(&mut self, messages_max: usize, bytes_max: usize) -> Result<(), BusError> {
        let Acker { shared, consumer, .. } = &self.acker;
        pull(shared, (&consumer.stream, &consumer.name), &self.inbox, (messages_max, bytes_max), PullScope::Upcoming)
            .await?;
        self.pull = Some(Pull { missing: messages_max, heard_at: Instant::now() });
        Ok(())
    }

    /// Takes arrived messages, with a lower bound of the start of their leases.
    ///
    /// Unread messages may have waited in the connection for as long as the process did not run. So after a gap, an
    /// empty queue proves nothing: only a round trip does, since its answer arrives after everything sent before it.
    async fn receive(&mut self, messages_max: usize, bytes_max: usize) -> Result<(), BusError> {
        let seen = clock::now();
        let oldest = if self.ready.is_empty() { self.empty_at } else { self.leased_at };
        let (gap, ack_wait) = (clock::between(oldest, seen), self.acker.consumer.ack_wait);
        if gap > ack_wait / 8 {
            self.acker.shared.round_trip().await?;
        }
        if gap >= ack_wait / 2 {
            self.drop_stale();
            self.leased_at = seen;
        } else {
            if self.ready.is_empty() {
                self.leased_at = self.empty_at;
            }
            if !self.take_arrived(messages_max, bytes_max) {
                return Ok(());
            }
        }
        self.empty_at = seen;
        Ok(())
    }

    /// Takes arrived messages, up to both limits. Returns `true` when none are left.
    fn take_arrived(&mut self, messages_max: usize, bytes_max: usize) -> bool {
        while self.ready.len() < messages_max && (self.ready.is_empty() || self.ready_bytes < bytes_max) {
            match next_arrived(&mut self.incoming) {
                Some(message) => self.take(message),
                _ => return true,
            }
        }
        false
    }

    fn take(&mut self, message: Message) {
        self.acker.shared.link.heard();
        if let Some(pull) = &mut self.pull {
            pull.heard_at = Instant::now();
        }
        match message.status {
            None | Some(StatusCode::OK) => {}
            Some(StatusCode::IDLE_HEARTBEAT) => return,
            Some(status) => {
                let description = message.description.as_deref();
                debug!(%status, description, consumer = self.acker.consumer.name, "pull ended");
                self.pull = None;
                if status == StatusCode::NO_RESPONDERS || description == Some(CONSUMER_DELETED) {
                    self.request_check();
                }
                return;
            }
        }
        if let Some(pull) = &mut self.pull {
            pull.missing = pull.missing.saturating_sub(1);
        }
        let Some(reply) = message.reply.as_deref().and_then(AckSubject::parse) else { return };
        self.acker.consumer.ack_prefix.get_or_init(|| reply.prefix.to_owned());
        let receipt = reply.receipt;
        // After a reconnect, only once the position was checked: it must not hide a loss.
        let is_checked = !self.epochs.has_changed().unwrap_or(true);
        if is_checked && self.latest.is_none_or(|(latest, _)| latest < receipt.sequence) {
            self.latest = Some((receipt.sequence, reply.published_at_ms));
        }
        if !self.consumer.as_mut().is_some_and(|seen| seen.follows(receipt.consumer_sequence)) {
            self.request_check();
        }
        if !takes(&self.acker.consumer.name, &self.acker.consumer.filter, &message) {
            self.skipped.push(receipt);
        } else {
            let redelivery_horizon = self.redelivery_horizon.unwrap_or(u64::MAX);
            let delivery = delivery(record(&message), receipt, reply.published_at_ms, redelivery_horizon);
            if self.acker.consumer.isolates && must_isolate(receipt.delivery_count) {
                self.isolation.push(delivery, self.leased_at);
                return;
            }
            self.ready_bytes += delivery.record.len();
            self.ready.push(delivery);
        }
    }

    /// Drops messages that arrived while nothing fetched and whose leases are more than half over; they are
    /// redelivered.
    fn drop_stale(&mut self) {
        let mut drop_stale = self.ready.len();
        self.ready.clear();
        self.ready_bytes = 0;
        while let Some(message) = next_arrived(&mut self.incoming) {
            drop_stale += usize::from(message.reply.is_some());
        }
        self.pull = None;
        if drop_stale > 0 {
            let consumer = &self.acker.consumer.name;
            warn!(messages = drop_stale, consumer, "messages waited too long here, they come again");
        }
    }

    /// Answers skipped and fatal messages; those that cannot be answered are redelivered.
    async fn flush_answers(&mut self) {
        if !self.skipped.is_empty() {
            let skipped = std::mem::take(&mut self.skipped);
            if let Err(error) = self.acker.ack(&skipped).await {
                warn!(%error, "messages for another consumer could not be passed over");
            }
        }
        for receipt in std::mem::take(&mut self.fatal) {
            if let Err(error) = self.acker.dead_letter_fatal(receipt).await {
                warn!(%error, consumer = self.acker.consumer.name, "cannot store dead letter");
            }
        }
    }

    /// Considers a pull request lost when nothing was heard of it, not even a heartbeat.
    async fn check_silence(&mut self) {
        if self.pull.as_ref().is_some_and(|pull| pull.heard_at.elapsed() > SILENCE_MAX) {
            self.pull = None;
            let shared = self.acker.shared.clone();
            shared.link.unanswered(&shared.client).await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.acker.trials.abandon();
    }
}
