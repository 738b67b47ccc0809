//! The receiving side: standing pull requests and the messages that they bring.
//!
//! Invariants: `leased_at` is never later than the moment at which the server leased the oldest
//! message of the last fetch; messages that waited here for most of their lease are let go
//! instead of handed out; after every loss of the connection, and of the consumer, everything that
//! the stream held then is suspect.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use async_nats::{Message, StatusCode, Subscriber};
use futures_util::StreamExt;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::acker::{AckSubject, Acker, Consumer};
use super::pull::{
    NOTE_INTERVAL, REFUSED_PAUSE, SILENCE_MAX, Wanted, at_hand, delivery, open_inbox, pull, record, takes,
};
use super::seen::Seen;
use super::suspects::{Suspects, is_suspect};
use super::trials::Record;
use crate::base::clock::{self, sleep_until};
use crate::bus::nats::failed::failed;
use crate::bus::nats::shared::Shared;
use crate::bus::nats::topology::state::stream_id;
use crate::bus::subject::Filter;
use crate::bus::trials::TrialOutcome;
use crate::bus::{BusError, BusErrorKind, ConsumerSpec, Delivery, LeaseGrant, Receipt};

/// How the server ends the pull requests of a consumer that is deleted.
const CONSUMER_DELETED: &str = "Consumer Deleted";

pub(crate) struct Subscription {
    pub(crate) acker: Acker,
    /// Where the pull requests of this connection are answered.
    inbox: String,
    incoming: Subscriber,
    epochs: watch::Receiver<u64>,
    /// The epoch of the connection that `suspect_to` and `pull` are of.
    epoch: u64,
    /// Up to here messages are suspect; none until it is known for the connection at hand.
    suspect_to: Option<u64>,
    /// The life of the stream that the messages are of.
    stream_id: String,
    consumer: Option<Seen>,
    pull: Option<Pull>,
    /// What the last fetch brought was leased after this.
    leased_at: Instant,
    /// When nothing was here last: what is here now was leased after this.
    empty_at: Instant,
    /// The last message of the stream that came, and when it was stored.
    pub(crate) latest: Option<(u64, i64)>,
    /// Taken, and not handed out because the fetch was cancelled.
    ready: Vec<Delivery>,
    ready_bytes: usize,
    /// Not for us (another subject, or a replay for another consumer), to be acknowledged.
    passed: Vec<Receipt>,
    /// Delivered often and not answered.
    suspects: Suspects,
    /// Ended the process each time, to be given up.
    fatal: Vec<Receipt>,
}

/// The pull request that the server is working on.
struct Pull {
    /// What it may still bring.
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
        let record = Record::new(shared.clone(), consumer.name.clone());
        let mut subscription = Self {
            acker: Acker { shared, consumer, record },
            inbox,
            incoming,
            epochs,
            epoch: 0,
            suspect_to: None,
            stream_id: String::new(),
            consumer: None,
            pull: None,
            leased_at: Instant::now(),
            empty_at: Instant::now(),
            latest: None,
            ready: Vec::new(),
            ready_bytes: 0,
            passed: Vec::new(),
            suspects: Suspects::default(),
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
        let stream = (shared.keeper.stream(), self.stream_id.clone());
        LeaseGrant { at: self.leased_at, epochs: Some((shared.link.epochs(), self.epoch)), stream: Some(stream) }
    }

    pub(crate) async fn fetch(&mut self, messages_max: usize, bytes_max: usize) -> Result<Vec<Delivery>, BusError> {
        let shared = self.acker.shared.clone();
        let note_interval = NOTE_INTERVAL.min(self.acker.consumer.ack_wait / 8);
        let mut pause_until: Option<tokio::time::Instant> = None;
        // Who comes back for more has lived through it.
        self.acker.end_trial(TrialOutcome::Survived).await;
        loop {
            shared.check_open("fetch messages")?;
            let moved = self.epochs.has_changed().unwrap_or(true) || self.suspect_to.is_none();
            if moved && let Err(error) = self.reconnected().await {
                // The server is away: it comes back, or the link gives up.
                debug!(%error, consumer = self.acker.consumer.name, "waiting for NATS");
                tokio::time::sleep(REFUSED_PAUSE).await;
                continue;
            }
            if let Err(error) = self.look(messages_max, bytes_max).await {
                debug!(%error, consumer = self.acker.consumer.name, "waiting for NATS");
                tokio::time::sleep(REFUSED_PAUSE).await;
                continue;
            }
            if self.suspect_to.is_none() {
                self.give_back_ready().await;
                continue;
            }
            self.settle_aside().await;
            if !self.suspects.is_empty() || !self.ready.is_empty() {
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
                        self.give_back_ready().await;
                        self.doubt();
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
                _ = self.epochs.changed() => self.suspect_to = None,
                () = shared.closing.cancelled() => {}
                () = sleep_until(self.suspects.choose_at()) => {}
                () = tokio::time::sleep(note_interval) => self.notice_silence().await,
            }
        }
    }

    /// The suspects that are to be tried next; those that ended the process too often are given up.
    async fn isolate(&mut self, limits: (usize, usize)) -> Vec<Delivery> {
        let half = self.acker.consumer.ack_wait / 2;
        let now = clock::now();
        self.suspects.let_go(|_, leased_at| clock::between(leased_at, now) < half);
        let chosen = match self.suspects.choose(&self.acker.record, limits).await {
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
        // First, or the standing pull request would get them again; what was sent before it ended is taken.
        self.incoming.drain().await.map_err(|error| failed(context, error))?;
        let ends = async {
            while let Some(message) = self.incoming.next().await {
                self.take(message);
            }
        };
        let ended = tokio::time::timeout(shared.settings.timeout, ends).await;
        ended.map_err(|_| failed(context, "NATS did not answer"))?;
        self.settle_aside().await;
        (self.ready_bytes, self.pull, self.suspect_to) = (0, None, None);
        let mut receipts = self.suspects.receipts();
        self.suspects.clear();
        receipts.extend(std::mem::take(&mut self.ready).iter().map(|delivery| delivery.receipt));
        self.acker.give_back(&receipts, Duration::ZERO).await
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Up to here the messages of the main stream are suspect.
    pub(crate) fn suspect_to(&self) -> u64 {
        self.suspect_to.unwrap_or(u64::MAX)
    }

    /// Begins anew on the connection at hand: learns up to where messages are suspect, and forgets what the last one
    /// brought, read or not. The server may have crashed and leased it to somebody else since; an inbox of its own
    /// for each connection keeps it apart from what comes now.
    pub(crate) async fn reconnected(&mut self) -> Result<(), BusError> {
        self.suspect_to = None;
        self.pull = None;
        self.ready.clear();
        self.ready_bytes = 0;
        self.passed.clear();
        self.suspects.clear();
        self.fatal.clear();
        self.epoch = *self.epochs.borrow_and_update();
        let seen = Seen::look(&self.acker).await?;
        self.check_place(&seen).await?;
        self.consumer = Some(seen);
        let shared = &self.acker.shared;
        // Read after the consumer was seen: what it brings a second time was stored before that.
        let info = shared.stream_info().await?;
        (self.inbox, self.incoming) = open_inbox(shared).await?;
        self.empty_at = Instant::now();
        self.stream_id = stream_id(&info);
        self.suspect_to = Some(info.state.last_sequence);
        Ok(())
    }

    /// The consumer is gone, or another one.
    fn doubt(&mut self) {
        self.suspect_to = None;
        self.acker.shared.keeper.doubt();
    }

    /// What is ready is of a consumer that nothing is known of: it is given back, if it can be.
    async fn give_back_ready(&mut self) {
        let mut receipts = self.suspects.receipts();
        self.suspects.clear();
        receipts.extend(std::mem::take(&mut self.ready).iter().map(|delivery| delivery.receipt));
        if let Err(error) = self.acker.give_back(&receipts, Duration::ZERO).await {
            debug!(%error, consumer = self.acker.consumer.name, "messages come again when their leases end");
        }
    }

    /// The life of the stream that the last fetch's messages are of.
    pub(crate) fn stream_id(&self) -> &str {
        &self.stream_id
    }

    async fn request(&mut self, messages_max: usize, bytes_max: usize) -> Result<(), BusError> {
        let Acker { shared, consumer, .. } = &self.acker;
        pull(shared, (&consumer.stream, &consumer.name), &self.inbox, (messages_max, bytes_max), Wanted::ToCome)
            .await?;
        self.pull = Some(Pull { missing: messages_max, heard_at: Instant::now() });
        Ok(())
    }

    /// Takes what is here, knowing since when at most it has been leased.
    ///
    /// What this process has not read yet may wait in the connection for as long as the process did not run, so after
    /// a gap an empty queue alone says nothing: only a round trip, whose answer comes behind everything
    /// that was sent before it, does.
    async fn look(&mut self, messages_max: usize, bytes_max: usize) -> Result<(), BusError> {
        let seen = clock::now();
        let oldest = if self.ready.is_empty() { self.empty_at } else { self.leased_at };
        let (gap, ack_wait) = (clock::between(oldest, seen), self.acker.consumer.ack_wait);
        if gap > ack_wait / 8 {
            self.acker.shared.round_trip().await?;
        }
        if gap >= ack_wait / 2 {
            self.let_go();
            self.leased_at = seen;
        } else {
            if self.ready.is_empty() {
                self.leased_at = self.empty_at;
            }
            if !self.take_at_hand(messages_max, bytes_max) {
                return Ok(());
            }
        }
        self.empty_at = seen;
        Ok(())
    }

    /// Takes what has arrived, up to both limits; true when nothing is left.
    fn take_at_hand(&mut self, messages_max: usize, bytes_max: usize) -> bool {
        while self.ready.len() < messages_max && (self.ready.is_empty() || self.ready_bytes < bytes_max) {
            match at_hand(&mut self.incoming) {
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
                    self.doubt();
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
        if self.latest.is_none_or(|(latest, _)| latest < receipt.sequence) {
            self.latest = Some((receipt.sequence, reply.published_at_ms));
        }
        if !self.consumer.as_mut().is_some_and(|seen| seen.counts(receipt.consumer_sequence)) {
            self.doubt();
        }
        if !takes(&self.acker.consumer.name, &self.acker.consumer.filter, &message) {
            self.passed.push(receipt);
        } else {
            let suspect_to = self.suspect_to.unwrap_or(u64::MAX);
            let delivery = delivery(record(&message), receipt, reply.published_at_ms, suspect_to);
            if self.acker.consumer.isolates && is_suspect(receipt.delivery_count) {
                self.suspects.push(delivery, self.leased_at);
                return;
            }
            self.ready_bytes += delivery.record.len();
            self.ready.push(delivery);
        }
    }

    /// Messages that arrived while nobody fetched, and whose leases are more than half over, come again.
    fn let_go(&mut self) {
        let mut let_go = self.ready.len();
        self.ready.clear();
        self.ready_bytes = 0;
        while let Some(message) = at_hand(&mut self.incoming) {
            let_go += usize::from(message.reply.is_some());
        }
        self.pull = None;
        if let_go > 0 {
            let consumer = &self.acker.consumer.name;
            warn!(messages = let_go, consumer, "messages waited too long here, they come again");
        }
    }

    /// Answers what was set aside; what cannot be answered comes again.
    async fn settle_aside(&mut self) {
        if !self.passed.is_empty() {
            let passed = std::mem::take(&mut self.passed);
            if let Err(error) = self.acker.ack(&passed).await {
                warn!(%error, "messages for another consumer could not be passed over");
            }
        }
        for receipt in std::mem::take(&mut self.fatal) {
            if let Err(error) = self.acker.bury_fatal(receipt).await {
                warn!(%error, consumer = self.acker.consumer.name, "cannot store dead letter");
            }
        }
    }

    /// A pull request of which nothing is heard, not even a heartbeat, is lost.
    async fn notice_silence(&mut self) {
        if self.pull.as_ref().is_some_and(|pull| pull.heard_at.elapsed() > SILENCE_MAX) {
            self.pull = None;
            let shared = self.acker.shared.clone();
            shared.link.unanswered(&shared.client).await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.acker.record.leave();
    }
}
