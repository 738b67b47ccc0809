//! The durable log between the gateway and everything that reacts to events.
//!
//! Invariants: `publish` answers a message only after it is durable; a message id seen
//! within the window is stored once; a message leaves the log only after every durable
//! consumer has acknowledged it. Knows subjects and bytes, never what an event means.

mod batch;
mod buffers;
#[cfg(test)]
pub(crate) mod conformance;
#[cfg(test)]
pub(crate) mod conformance_erase;
#[cfg(test)]
pub(crate) mod conformance_input;
mod embedded;
mod erase;
mod error;
mod input;
mod nats;
mod receiving;
mod settings;
mod subject;
mod trials;

use std::time::Duration;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::Serialize;

pub use batch::Batch;
pub use erase::{ErasePredicate, EraseSpan, Erased, ErasedDeadLetters, acked_through};
pub use error::{BusError, BusErrorKind};
pub use input::{KeptInput, RefusedInput};
use receiving::Receiving;
pub use receiving::{Acker, Interest, LeaseGrant, LeaseState, Subscription};
pub use settings::{EmbeddedSettings, NatsSettings, PublishMode, StreamStorage};
pub use trials::TrialOutcome;

/// The bus, over the engine that the configuration chose. Cheap to clone.
#[derive(Clone)]
pub struct Bus(Inner);

#[derive(Clone)]
enum Inner {
    Embedded(embedded::Engine),
    Nats(nats::Engine),
}

/// The fate of one published message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// The stream sequence, from 1; 0 of a duplicate, and of a message that need not be kept and is not.
    pub sequence: u64,
    /// True when the message id was seen within the window: nothing was stored now.
    pub duplicate: bool,
    /// Of a duplicate: where the first message of its id is.
    pub original: Original,
}

impl Published {
    fn new(sequence: u64) -> Self {
        Self { sequence, duplicate: false, original: Original::default() }
    }
}

/// Where a message is that was published before: see [`Bus::originals`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Original {
    /// Of the message, or the first of the group that it is in; 0 when it is not known.
    sequence: u64,
    /// Tells it from the others of its group.
    key: [u8; 16],
}

/// A durable consumer: its position survives restarts under its name.
#[derive(Clone, Debug)]
pub struct ConsumerSpec {
    pub name: String,
    /// A subject filter: tokens, `*` for one, a closing `>` for one or more.
    pub filter: String,
    /// Nearly every message in the stream passes the filter.
    pub matches_most: bool,
    /// What is acknowledged may come again, as suspect, together with neighbours that are not: for a consumer that
    /// recognizes what it has handled. Its leases and acknowledgements are cheaper where the bus is a server.
    pub coarse_acks: bool,
    /// A delivered message that is neither acknowledged nor renewed for this long is delivered again.
    pub ack_wait: Duration,
    /// A message that failed (see [`Acker::nak`]) this many times goes to the dead letters. A delivery that ended without
    /// an answer is no failure.
    pub max_deliver: u32,
    /// Delivered and unacknowledged messages at which `fetch` waits.
    pub pending_max: usize,
}

/// One message as a consumer gets it.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Names this delivery to [`Acker`]; from 1, unique in the stream.
    pub receipt: Receipt,
    /// A whole record as `batch` lays it out: one share of the buffer that it came in.
    record: Bytes,
    /// When the bus stored the message, milliseconds since the Unix epoch.
    pub published_at_ms: i64,
    /// 1 for the first delivery.
    pub delivery_count: u32,
    /// True when an earlier delivery may have been handled without the bus knowing it:
    /// the message is redelivered, or was already stored when this process connected.
    pub possibly_redelivered: bool,
    /// True for all messages of a fetch or for none: earlier deliveries may have ended the processes that had them, so
    /// these are to be tried apart from others. See [`Acker::begin_trial`].
    pub isolated: bool,
}

impl Delivery {
    pub fn subject(&self) -> &[u8] {
        batch::layout(&self.record, 0).map_or(&[], |layout| &self.record[layout.subject])
    }

    pub fn payload(&self) -> &[u8] {
        batch::layout(&self.record, 0).map_or(&[], |layout| &self.record[layout.payload])
    }

    pub fn sequence(&self) -> u64 {
        self.receipt.sequence
    }
}

/// Names one delivery of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Receipt {
    pub(crate) sequence: u64,
    /// Counts the deliveries of the consumer; 0 on an engine that needs none.
    pub(crate) consumer_sequence: u64,
    pub(crate) delivery_count: u32,
}

/// What the bus holds, for readiness, status and metrics.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct BusStatus {
    pub engine: &'static str,
    pub messages: u64,
    pub bytes: u64,
    pub bytes_max: u64,
    pub last_sequence: u64,
    /// Publishing is refused for want of room; why.
    pub full: Option<String>,
    pub dead_letters: u64,
    /// Publishing was refused last, for whatever reason.
    #[serde(skip)]
    pub refused: Option<String>,
    pub consumers: Vec<ConsumerStatus>,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ConsumerStatus {
    pub name: String,
    /// Messages not yet acknowledged.
    pub backlog: u64,
    /// Delivered, not yet acknowledged.
    pub pending: u64,
    /// Age of the oldest message not yet acknowledged.
    pub oldest_age_ms: Option<u64>,
    pub ack_floor: u64,
}

/// A message that could not be handled, kept with the reason.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct DeadLetter {
    pub id: u64,
    pub consumer: String,
    pub subject: String,
    pub sequence: u64,
    pub reason: String,
    pub delivery_count: u32,
    pub published_at_ms: i64,
    pub dead_at_ms: i64,
    #[serde(skip)]
    pub payload: Bytes,
}

/// Why a message is a dead letter; a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DeadReason {
    /// A consumer said that no attempt will ever succeed.
    Refused,
    /// It failed `max_deliver` times.
    Failed,
    /// It ended the process each time that it was tried alone.
    Fatal,
}

impl DeadReason {
    fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Fatal => "fatal",
        }
    }
}

impl Bus {
    /// Opens the embedded engine; creates what is missing. Starts its writer thread.
    pub fn open_embedded(settings: EmbeddedSettings) -> Result<Self, BusError> {
        Ok(Self(Inner::Embedded(embedded::Engine::open(settings)?)))
    }

    /// Connects to a NATS server and brings its streams to what the settings say.
    pub async fn connect_nats(settings: NatsSettings) -> Result<Self, BusError> {
        Ok(Self(Inner::Nats(nats::Engine::connect(settings).await?)))
    }

    /// Names this life of the stream: a stream that is deleted and made anew has another one.
    pub fn stream_id(&self) -> String {
        match &self.0 {
            Inner::Embedded(engine) => engine.stream_id(),
            Inner::Nats(engine) => engine.stream_id(),
        }
    }

    /// Stores the batch; one answer a message, in order, each given only when its message is durable. Only one that need
    /// not be kept may be answered `Ok` without being stored.
    /// A call that is cancelled may still store it.
    pub async fn publish(&self, batch: Batch) -> Vec<Result<Published, BusError>> {
        match &self.0 {
            Inner::Embedded(engine) => engine.publish(batch).await,
            Inner::Nats(engine) => engine.publish(batch).await,
        }
    }

    /// What `read` makes of the payloads of messages that were published before; none where one has left the bus, or is
    /// not known. It costs reading them, a bounded number at a time.
    pub async fn originals<T: Send + 'static>(
        &self,
        wanted: Vec<Original>,
        read: fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<Option<T>>, BusError> {
        match &self.0 {
            Inner::Embedded(engine) => engine.originals(wanted, read).await,
            Inner::Nats(engine) => engine.originals(&wanted, read).await,
        }
    }

    /// Attaches to a durable consumer, creating or updating it. A new consumer starts at the first stored message.
    pub async fn subscribe(&self, spec: ConsumerSpec) -> Result<Subscription, BusError> {
        match &self.0 {
            Inner::Embedded(engine) => Ok(Subscription(Receiving::Embedded(engine.subscribe(spec).await?))),
            Inner::Nats(engine) if spec.coarse_acks => {
                Ok(Subscription(Receiving::NatsRanges(Box::new(engine.subscribe_to_ranges(spec).await?))))
            }
            Inner::Nats(engine) => Ok(Subscription(Receiving::Nats(Box::new(engine.subscribe(spec).await?)))),
        }
    }

    /// Creates the durable consumer that `subscribe` would attach to, or changes it to what the spec says: from then on
    /// nothing leaves the bus that it has not acknowledged.
    pub async fn ensure_consumer(&self, spec: &ConsumerSpec) -> Result<(), BusError> {
        match &self.0 {
            Inner::Embedded(engine) => engine.ensure_consumer(spec).await,
            Inner::Nats(engine) => engine.ensure_consumer(spec).await.map(drop),
        }
    }

    /// Returns when the server was given up for good; nothing works from then on.
    pub async fn until_reconnects_exhausted(&self) -> BusError {
        match &self.0 {
            Inner::Embedded(_) => std::future::pending().await,
            Inner::Nats(engine) => engine.until_reconnects_exhausted().await,
        }
    }

    /// What makes a 2xx weaker than an event on disk, as far as can be seen from here.
    pub fn durability_warning(&self) -> Option<&'static str> {
        match &self.0 {
            Inner::Embedded(_) => None,
            Inner::Nats(engine) => engine.durability_warning(),
        }
    }

    /// What an operator should know although everything works, each under a name of its own.
    pub fn warnings(&self) -> Vec<(&'static str, Option<String>)> {
        match &self.0 {
            Inner::Embedded(engine) => vec![engine.warning()],
            Inner::Nats(engine) => engine.warnings().into(),
        }
    }

    /// Fails when the bus cannot be reached, lacks something that is needed there, or has files that cannot be written or
    /// found again.
    pub async fn ping(&self) -> Result<(), BusError> {
        match &self.0 {
            Inner::Embedded(engine) => engine.ping().await,
            Inner::Nats(engine) => engine.ping().await,
        }
    }

    pub async fn status(&self) -> Result<BusStatus, BusError> {
        match &self.0 {
            Inner::Embedded(engine) => engine.status().await,
            Inner::Nats(engine) => engine.status().await,
        }
    }

    /// How many messages are dead letters.
    pub async fn dead_letter_count(&self) -> Result<u64, BusError> {
        match &self.0 {
            Inner::Embedded(engine) => Ok(engine.dead_letter_count()),
            Inner::Nats(engine) => engine.dead_letter_count().await,
        }
    }

    /// Newest first, ids below `before`.
    pub async fn dead_letters(&self, before: Option<u64>, limit: usize) -> Result<Vec<DeadLetter>, BusError> {
        match &self.0 {
            Inner::Embedded(engine) => engine.dead_letters(before, limit).await,
            Inner::Nats(engine) => engine.dead_letters(before, limit).await,
        }
    }

    pub async fn dead_letter(&self, id: u64) -> Result<Option<DeadLetter>, BusError> {
        match &self.0 {
            Inner::Embedded(engine) => engine.dead_letter(id).await,
            Inner::Nats(engine) => engine.dead_letter(id).await,
        }
    }

    /// Publishes the message again, for the consumer that gave it up and no other, and removes the dead letter,
    /// in one step. False when there is none.
    pub async fn replay_dead_letter(&self, id: u64) -> Result<bool, BusError> {
        match &self.0 {
            Inner::Embedded(engine) => engine.replay_dead_letter(id).await,
            Inner::Nats(engine) => engine.replay_dead_letter(id).await,
        }
    }

    /// False when there is none.
    pub async fn delete_dead_letter(&self, id: u64) -> Result<bool, BusError> {
        match &self.0 {
            Inner::Embedded(engine) => engine.delete_dead_letter(id).await,
            Inner::Nats(engine) => engine.delete_dead_letter(id).await,
        }
    }

    /// Deletes the dead letters that died before then, or all of them; answers how many.
    pub async fn purge_dead_letters(&self, before_ms: Option<i64>) -> Result<u64, BusError> {
        match &self.0 {
            Inner::Embedded(engine) => engine.purge_dead_letters(before_ms).await,
            Inner::Nats(engine) => engine.purge_dead_letters(before_ms).await,
        }
    }

    /// Purges what every consumer has acknowledged, when usage passes 80 % or age passes the limit, and old
    /// dead letters. The composition root calls it on a timer. Answers how many messages went.
    pub async fn purge_acknowledged(&self) -> Result<u64, BusError> {
        buffers::RECORDS.trim();
        buffers::GROUPS.trim();
        match &self.0 {
            Inner::Embedded(engine) => engine.purge_acknowledged().await,
            Inner::Nats(engine) => engine.purge_acknowledged().await,
        }
    }

    /// Ends the writer after what is queued; later calls fail with `Closed`.
    pub async fn close(&self) {
        match &self.0 {
            Inner::Embedded(engine) => engine.close().await,
            Inner::Nats(engine) => engine.close().await,
        }
    }
}
