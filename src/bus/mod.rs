//! The durable log between the gateway and everything that reacts to events.
//!
//! Invariants: [`Bus::publish`] answers only after the message is durable; a message id is stored once within the
//! deduplication window; a message leaves the log only after every durable consumer has acknowledged it. The bus knows
//! subjects and bytes, never the meaning of an event.

mod batch;
mod buffers;
mod consumer;
mod dead_letter;
mod delivery;
mod erase;
mod error;
mod input;
mod lease;
mod published;
mod settings;
mod status;
mod subject;
mod trials;

mod embedded;
mod nats;
mod subscription;

#[cfg(test)]
pub(crate) mod conformance;

use std::time::{Duration, Instant};

pub use batch::Batch;
pub use consumer::{ConsumerSpec, Interest};
pub use dead_letter::DeadLetter;
pub use delivery::{Delivery, Receipt};
use erase::DeadLetterPredicate;
pub use erase::{ErasePredicate, EraseSpan, Erased, ErasedDeadLetters};
pub use error::{BusError, BusErrorKind};
pub use input::{KeptInput, RefusedInput};
pub use lease::{LeaseGrant, LeaseState};
pub use published::{Original, Published};
pub use settings::{
    EmbeddedSettings, NatsSettings, PublishMode, SINK_CONSUMER, StreamStorage, ack_wait, event_bytes_max,
    rules_consumer,
};
pub use status::{BusStatus, ConsumerStatus, acked_through};
use subscription::EngineSubscription;
pub use subscription::{Acker, Subscription};
pub use trials::TrialOutcome;

use crate::base::sqlite::FailedFsync;

/// Dead letters read in one page; each may have the largest size.
const LETTERS_AT_ONCE: usize = 32;

/// The bus, on the engine selected by the configuration. Cheap to clone.
#[derive(Clone)]
pub struct Bus(Inner);

#[derive(Clone)]
enum Inner {
    Embedded(embedded::Engine),
    Nats(nats::Engine),
}

impl Bus {
    /// Opens the embedded engine, creating missing files, and starts its writer thread.
    pub fn open_embedded(settings: EmbeddedSettings) -> Result<Self, BusError> {
        Ok(Self(Inner::Embedded(embedded::Engine::open(settings)?)))
    }

    /// Connects to a NATS server and reconciles its streams with the settings.
    pub async fn connect_nats(settings: NatsSettings) -> Result<Self, BusError> {
        Ok(Self(Inner::Nats(nats::Engine::connect(settings).await?)))
    }

    /// Identifies this incarnation of the stream. A stream that is deleted and created again gets a new id.
    pub fn stream_id(&self) -> String {
        match &self.0 {
            Inner::Embedded(engine) => engine.stream_id(),
            Inner::Nats(engine) => engine.stream_id(),
        }
    }

    /// Stores the batch. Returns one result per message, in order, each only once its message is durable; only a
    /// transient message may be answered `Ok` without being stored. A cancelled call may still store the batch.
    pub async fn publish(&self, batch: Batch) -> Vec<Result<Published, BusError>> {
        match &self.0 {
            Inner::Embedded(engine) => engine.publish(batch).await,
            Inner::Nats(engine) => engine.publish(batch).await,
        }
    }

    /// Applies `read` to the payloads of messages published earlier. Returns `None` for a message that has left the bus
    /// or is not known. Each payload has to be read, a bounded number at a time.
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
            Inner::Embedded(engine) => Ok(Subscription(EngineSubscription::Embedded(engine.subscribe(spec).await?))),
            Inner::Nats(engine) if spec.coarse_acks => {
                Ok(Subscription(EngineSubscription::NatsChunks(Box::new(engine.subscribe_to_chunks(spec).await?))))
            }
            Inner::Nats(engine) => Ok(Subscription(EngineSubscription::Nats(Box::new(engine.subscribe(spec).await?)))),
        }
    }

    /// Creates or updates the durable consumer that `subscribe` would attach to. From then on, nothing leaves the bus
    /// before this consumer has acknowledged it.
    pub async fn ensure_consumer(&self, spec: &ConsumerSpec) -> Result<(), BusError> {
        match &self.0 {
            Inner::Embedded(engine) => engine.ensure_consumer(spec).await,
            Inner::Nats(engine) => engine.ensure_consumer(spec).await.map(drop),
        }
    }

    /// Returns once reconnecting to the server has been abandoned. The bus does not work from then on.
    pub async fn until_reconnects_exhausted(&self) -> BusError {
        match &self.0 {
            Inner::Embedded(_) => std::future::pending().await,
            Inner::Nats(engine) => engine.until_reconnects_exhausted().await,
        }
    }

    /// Why a 2xx promises less than an event on disk, as far as the settings show.
    pub fn durability_warning(&self) -> Option<&'static str> {
        match &self.0 {
            Inner::Embedded(_) => None,
            Inner::Nats(engine) => engine.durability_warning(),
        }
    }

    /// Conditions that an operator should know about although everything works, each under its own key.
    pub fn warnings(&self) -> Vec<(&'static str, Option<String>)> {
        match &self.0 {
            Inner::Embedded(engine) => vec![engine.warning()],
            Inner::Nats(engine) => engine.warnings().into(),
        }
    }

    /// Calls `handler` when an fsync fails, on the thread on which it failed. The bus stores nothing from then on, and
    /// the process must end. Only the embedded engine syncs files itself.
    pub fn on_failed_fsync(&self, handler: fn(&FailedFsync)) {
        if let Inner::Embedded(engine) = &self.0 {
            engine.on_failed_fsync(handler);
        }
    }

    /// Fails when the bus cannot be reached, when a stream or consumer is missing, or when its files cannot be written
    /// or found again.
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

    /// The number of dead letters.
    pub async fn dead_letter_count(&self) -> Result<u64, BusError> {
        match &self.0 {
            Inner::Embedded(engine) => Ok(engine.dead_letter_count()),
            Inner::Nats(engine) => engine.dead_letter_count().await,
        }
    }

    /// Lists dead letters with ids below `before`, newest first.
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

    /// Publishes the message again, only for the consumer that dead-lettered it, and removes the dead letter in one
    /// step. Returns `false` when there is none.
    pub async fn replay_dead_letter(&self, id: u64) -> Result<bool, BusError> {
        match &self.0 {
            Inner::Embedded(engine) => engine.replay_dead_letter(id).await,
            Inner::Nats(engine) => engine.replay_dead_letter(id).await,
        }
    }

    /// Returns `false` when there is none.
    pub async fn delete_dead_letter(&self, id: u64) -> Result<bool, BusError> {
        match &self.0 {
            Inner::Embedded(engine) => engine.delete_dead_letter(id).await,
            Inner::Nats(engine) => engine.delete_dead_letter(id).await,
        }
    }

    /// Deletes dead letters created before `before_ms`, or all of them. Returns how many were deleted.
    pub async fn purge_dead_letters(&self, before_ms: Option<i64>) -> Result<u64, BusError> {
        match &self.0 {
            Inner::Embedded(engine) => engine.purge_dead_letters(before_ms).await,
            Inner::Nats(engine) => engine.purge_dead_letters(before_ms).await,
        }
    }

    /// Purges messages that every consumer has acknowledged, once usage passes 80 % or their age passes the limit, as
    /// well as old dead letters. Called on a timer by the composition root. Returns how many messages were purged.
    pub async fn purge_acknowledged(&self) -> Result<u64, BusError> {
        buffers::RECORDS.trim();
        buffers::GROUPS.trim();
        match &self.0 {
            Inner::Embedded(engine) => engine.purge_acknowledged().await,
            Inner::Nats(engine) => engine.purge_acknowledged().await,
        }
    }

    /// Stores refused input with the dead letters, up to `bytes_max` for all refused input together. Returns once it is
    /// durable. A cancelled call may still store it.
    pub async fn keep_input(&self, inputs: Vec<RefusedInput>, bytes_max: u64) -> Result<KeptInput, BusError> {
        match &self.0 {
            Inner::Embedded(engine) => engine.keep_input(inputs, bytes_max).await,
            Inner::Nats(engine) => engine.keep_input(inputs, bytes_max).await,
        }
    }

    /// Publishes the corrected input of a dead letter and removes the dead letter. The embedded engine does both in one
    /// step. On a server they are two steps, so the messages need ids: a repeat within the deduplication window stores
    /// them once. Returns `None` when there is no such dead letter. After an error the dead letter may or may not be
    /// there.
    pub async fn resubmit_input(
        &self,
        id: u64,
        batch: Batch,
    ) -> Result<Option<Vec<Result<Published, BusError>>>, BusError> {
        match &self.0 {
            Inner::Embedded(engine) => engine.resubmit_input(id, batch).await,
            Inner::Nats(engine) => engine.resubmit_input(id, batch).await,
        }
    }

    /// Replaces the recorded reason of a refused input. On a server it gets a new id. Returns `false` when there is
    /// none.
    pub async fn amend_input(&self, id: u64, input: RefusedInput) -> Result<bool, BusError> {
        match &self.0 {
            Inner::Embedded(engine) => engine.amend_input(id, input).await,
            Inner::Nats(engine) => engine.amend_input(id, input).await,
        }
    }

    /// Counts the stored inputs by subject, for up to `subjects_max` subjects.
    pub async fn input_counts(&self, subjects_max: usize) -> Result<Vec<(String, u64)>, BusError> {
        match &self.0 {
            Inner::Embedded(engine) => engine.input_counts(subjects_max).await,
            Inner::Nats(engine) => engine.input_counts(subjects_max).await,
        }
    }

    /// Erases the matching messages of the span, in order.
    pub async fn erase(&self, span: EraseSpan, matches: &ErasePredicate) -> Result<Erased, BusError> {
        match &self.0 {
            Inner::Embedded(engine) => engine.erase(span, matches).await,
            Inner::Nats(engine) => engine.erase(span, matches).await,
        }
    }

    /// Erases the matching dead letters until `time_max` has passed.
    pub async fn erase_dead_letters(
        &self,
        matches: &DeadLetterPredicate<'_>,
        time_max: Duration,
    ) -> Result<ErasedDeadLetters, BusError> {
        match &self.0 {
            Inner::Nats(engine) => engine.erase_dead_letters(matches, time_max).await,
            Inner::Embedded(_) => {
                let (mut before, mut erased, began) = (None, 0, Instant::now());
                loop {
                    let letters = self.dead_letters(before, LETTERS_AT_ONCE).await?;
                    let Some(oldest) = letters.last() else {
                        return Ok(ErasedDeadLetters { letters: erased, is_complete: true });
                    };
                    for letter in letters.iter().filter(|letter| matches(letter)) {
                        erased += u64::from(self.delete_dead_letter(letter.id).await?);
                    }
                    // A call that has not erased anything continues: the next call would not get any further.
                    if erased > 0 && began.elapsed() >= time_max {
                        return Ok(ErasedDeadLetters { letters: erased, is_complete: false });
                    }
                    before = Some(oldest.id);
                }
            }
        }
    }

    /// Removes the last traces of erased and purged messages from files of this process. Returns `false` when there is
    /// more to do.
    pub async fn wipe(&self, until: Instant) -> Result<bool, BusError> {
        match &self.0 {
            Inner::Embedded(engine) => engine.wipe(until).await,
            // The server overwrites what it erases.
            Inner::Nats(_) => Ok(true),
        }
    }

    /// Stops the writer after the queued work; later calls fail with `Closed`.
    pub async fn close(&self) {
        match &self.0 {
            Inner::Embedded(engine) => engine.close().await,
            Inner::Nats(engine) => engine.close().await,
        }
    }
}
