//! Reads the messages of chunks in stream order, without acknowledgements.
//!
//! Invariant: nothing between `complete_from` and the message at the head was left out, so a message that does not
//! arrive does not exist. When that is not certain, another consumer reads again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull::Config};
use async_nats::{HeaderMap, Message, StatusCode, Subscriber};
use futures_util::StreamExt;
use tracing::debug;

use crate::bus::nats::consume::acker::AckSubject;
use crate::bus::nats::consume::pull::{PullScope, SILENCE_MAX, next_arrived, open_inbox, pull};
use crate::bus::nats::dead_letter;
use crate::bus::nats::failed::failed;
use crate::bus::nats::shared::Shared;
use crate::bus::{BusError, Receipt};

/// The server deletes a consumer that has been inactive for this long.
const INACTIVE_MAX: Duration = Duration::from_secs(60);
/// Header of a pull request that ended early: the messages it did not deliver.
const PENDING_MESSAGES: &str = "Nats-Pending-Messages";
/// Messages of others that are read and dropped rather than skipped with a new consumer.
const SKIPPED_MAX: u64 = 1_000;
/// The minimum interval between two consumers when one does not find messages that must exist: its server is behind.
const RETRY_AFTER: Duration = Duration::from_millis(100);

pub(crate) struct Reader {
    shared: Arc<Shared>,
    /// The consumer it reads for, used in the description of its consumers on the server.
    reads_for: String,
    consumer: Option<Consumer>,
}

/// A consumer on the server that belongs to this process alone: the server tracks its position and nothing else.
struct Consumer {
    name: String,
    inbox: String,
    incoming: Subscriber,
    /// The common prefix of the reply subjects of its messages.
    prefix: String,
    head: Option<Read>,
    complete_from: u64,
    /// Messages delivered so far: a gap means that some were lost on the way.
    delivered: u64,
    /// Messages that pending pull requests may still deliver.
    missing: usize,
    /// Something arrived since `heard_at` was set.
    heard: bool,
    heard_at: Instant,
    /// A pull request had nothing more to deliver.
    idle: bool,
    /// The last sequence requested.
    requested_to: u64,
    begun_at: Instant,
    /// When the consumer was created, no messages up to here were left.
    nothing_to: u64,
}

/// A message and the metadata of its delivery.
pub(crate) struct Read {
    pub(super) message: Message,
    pub(super) sequence: u64,
    pub(super) published_at_ms: i64,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, reads_for: String) -> Self {
        Self { shared, reads_for, consumer: None }
    }

    /// Drops the consumer.
    pub(super) fn forget(&mut self) {
        if let Some(Consumer { name, .. }) = self.consumer.take() {
            let shared = self.shared.clone();
            // If this fails, the server deletes it by itself.
            self.shared.tasks.spawn(async move {
                let deleting = shared.stream.delete_consumer(&name);
                let _ = shared.closing.run_until_cancelled(deleting).await;
            });
        }
    }

    /// Requests the messages `first` to `last`, except those already on their way. Returns `false` when the stream,
    /// which held them, no longer extends that far.
    pub(super) async fn read(&mut self, first: u64, last: u64, bytes_max: usize) -> Result<bool, BusError> {
        let reached = self.consumer.as_ref().is_some_and(|consumer| consumer.reaches(first));
        // In a cluster, the consumer may be on a server that is behind: only the leader knows what does not exist.
        if !reached
            && self.begin(first).await? == 0
            && dead_letter::raw_from(&self.shared.stream, first).await?.is_none_or(|next| next.sequence > last)
        {
            if self.shared.stream_info().await?.state.last_sequence < last {
                return Ok(false);
            }
            if let Some(consumer) = &mut self.consumer {
                consumer.nothing_to = last;
            }
        }
        self.ask(last, bytes_max, PullScope::Stored).await.map(|()| true)
    }

    /// Requests one message that is yet to come.
    pub(super) async fn watch(&mut self, next: u64, bytes_max: usize) -> Result<(), BusError> {
        if self.consumer.as_ref().is_none_or(|consumer| !consumer.reaches(next)) {
            self.begin(next).await?;
        }
        self.ask(next, bytes_max, PullScope::Upcoming).await
    }

    async fn ask(&mut self, last: u64, bytes_max: usize, of: PullScope) -> Result<(), BusError> {
        let Some(consumer) = &mut self.consumer else { return Ok(()) };
        let wanted = (last + 1).saturating_sub(consumer.complete_from) as usize;
        let on_their_way = consumer.missing + usize::from(consumer.head.is_some());
        if wanted <= on_their_way {
            return Ok(());
        }
        let from = (self.shared.settings.stream.as_str(), consumer.name.as_str());
        pull(&self.shared, from, &consumer.inbox, (wanted - on_their_way, bytes_max), of).await?;
        consumer.missing = wanted - usize::from(consumer.head.is_some());
        (consumer.heard_at, consumer.idle, consumer.requested_to) = (Instant::now(), false, last);
        Ok(())
    }

    /// Creates a consumer. Returns the number of messages from `first` on.
    async fn begin(&mut self, first: u64) -> Result<u64, BusError> {
        self.forget();
        let wanted = Config {
            description: Some(format!("reads for {}", self.reads_for)),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: first.max(1) },
            ack_policy: AckPolicy::None,
            inactive_threshold: INACTIVE_MAX,
            memory_storage: true,
            num_replicas: 1,
            ..Config::default()
        };
        let created = self.shared.stream.create_consumer(wanted).await;
        let created = created.map_err(|error| failed("create consumer", error))?;
        let info = created.cached_info();
        let (inbox, incoming) = open_inbox(&self.shared).await?;
        self.consumer = Some(Consumer {
            name: info.name.clone(),
            inbox,
            incoming,
            prefix: String::new(),
            head: None,
            complete_from: first,
            delivered: 0,
            missing: 0,
            heard: false,
            heard_at: Instant::now(),
            idle: false,
            requested_to: 0,
            begun_at: Instant::now(),
            nothing_to: 0,
        });
        Ok(info.num_pending)
    }

    /// The first message that has arrived and was not taken.
    pub(super) fn head(&mut self) -> Option<&Read> {
        let consumer = self.consumer.as_mut()?;
        while consumer.head.is_none() {
            let message = next_arrived(&mut consumer.incoming)?;
            if !consumer.take(message) {
                self.forget();
                return None;
            }
        }
        self.consumer.as_ref()?.head.as_ref()
    }

    /// Takes the head.
    pub(super) fn pop(&mut self) -> Option<Read> {
        let consumer = self.consumer.as_mut()?;
        let head = consumer.head.take()?;
        consumer.complete_from = head.sequence + 1;
        Some(head)
    }

    /// All existing messages from here to the head have been taken.
    pub(super) fn complete_from(&self) -> Option<u64> {
        self.consumer.as_ref().map(|consumer| consumer.complete_from)
    }

    /// Up to here, all existing messages have been taken.
    pub(super) fn nothing_to(&self) -> u64 {
        self.consumer.as_ref().map_or(0, |consumer| consumer.nothing_to)
    }

    /// Returns once there is a head or the server was heard.
    pub(super) async fn wait(&mut self) {
        let Some(consumer) = &mut self.consumer else { return std::future::pending().await };
        if consumer.head.is_some() || consumer.missing == 0 {
            return std::future::pending().await;
        }
        let heard = match consumer.incoming.next().await {
            Some(message) => consumer.take(message),
            None => false,
        };
        self.note_heard();
        if !heard {
            self.forget();
        }
    }

    /// Call after taking messages. Reading the clock for each of them would cost more than everything else.
    pub(super) fn note_heard(&mut self) {
        if let Some(consumer) = &mut self.consumer
            && std::mem::take(&mut consumer.heard)
        {
            consumer.heard_at = Instant::now();
            self.shared.link.heard();
        }
    }

    /// When to retry, if a pull request for this message had nothing to deliver.
    pub(super) fn retry_at(&self, wanted: u64) -> Option<Instant> {
        let idle = |consumer: &&Consumer| consumer.idle && consumer.head.is_none() && wanted <= consumer.requested_to;
        self.consumer.as_ref().filter(idle).map(|consumer| consumer.begun_at + RETRY_AFTER)
    }

    /// Considers a pull request lost when nothing was heard of it, not even a heartbeat.
    pub(super) async fn check_silence(&mut self) {
        let silent = |consumer: &Consumer| consumer.missing > 0 && consumer.heard_at.elapsed() > SILENCE_MAX;
        if self.consumer.as_ref().is_some_and(silent) {
            self.forget();
            self.shared.link.unanswered(&self.shared.client).await;
        }
    }
}

impl Consumer {
    fn reaches(&self, first: u64) -> bool {
        let next = self.head.as_ref().map_or(self.complete_from, |head| head.sequence);
        self.complete_from <= first && first <= next.saturating_add(SKIPPED_MAX)
    }

    /// Returns `false` when the consumer is no longer usable.
    fn take(&mut self, message: Message) -> bool {
        self.heard = true;
        match message.status {
            None | Some(StatusCode::OK) => {}
            Some(StatusCode::IDLE_HEARTBEAT) => {
                self.idle = true;
                return true;
            }
            Some(status) => {
                debug!(%status, description = message.description, consumer = self.name, "pull ended");
                // A request that begins at the end of the stream is answered without headers.
                let nothing = (status == StatusCode::NOT_FOUND).then_some(usize::MAX);
                return match undelivered(message.headers.as_ref()).or(nothing) {
                    Some(pending) => {
                        self.missing = self.missing.saturating_sub(pending);
                        self.idle = true;
                        true
                    }
                    None => false,
                };
            }
        }
        let Some(reply) = message.reply.as_deref() else { return true };
        let read = AckSubject::parse_after(&self.prefix, reply).or_else(|| {
            let read = AckSubject::parse(reply)?;
            self.prefix = read.prefix.to_owned();
            Some(read)
        });
        let Some(AckSubject { receipt: Receipt { sequence, consumer_sequence, .. }, published_at_ms, .. }) = read
        else {
            return true;
        };
        if consumer_sequence != self.delivered + 1 {
            return false;
        }
        self.delivered = consumer_sequence;
        self.missing = self.missing.saturating_sub(1);
        self.idle = false;
        self.head = Some(Read { message, sequence, published_at_ms });
        true
    }
}

fn undelivered(headers: Option<&HeaderMap>) -> Option<usize> {
    headers?.get(PENDING_MESSAGES)?.as_str().parse().ok()
}
