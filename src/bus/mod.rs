//! The durable log between the gateway and everything that reacts to events.
//!
//! Invariants: `publish` answers a message only after it is durable; a message id seen
//! within the window is stored once; a message leaves the log only after every durable
//! consumer has acknowledged it. Knows subjects and bytes, never what an event means.

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
#[cfg(test)]
pub(crate) mod conformance_erase;
#[cfg(test)]
pub(crate) mod conformance_input;

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
pub use settings::{EmbeddedSettings, NatsSettings, PublishMode, StreamStorage};
pub use status::{BusStatus, ConsumerStatus, acked_through};
use subscription::Receiving;
pub use subscription::{Acker, Subscription};
pub use trials::TrialOutcome;

/// Dead letters that are read at once; each may be of the largest size.
const LETTERS_AT_ONCE: usize = 32;

/// The bus, over the engine that the configuration chose. Cheap to clone.
#[derive(Clone)]
pub struct Bus(Inner);

#[derive(Clone)]
enum Inner {
    Embedded(embedded::Engine),
    Nats(nats::Engine),
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

    /// Keeps refused input with the dead letters, while all of it together is not more than `bytes_max`; answers once
    /// it is durable. A call that is cancelled may still keep it.
    pub async fn keep_input(&self, inputs: Vec<RefusedInput>, bytes_max: u64) -> Result<KeptInput, BusError> {
        match &self.0 {
            Inner::Embedded(engine) => engine.keep_input(inputs, bytes_max).await,
            Inner::Nats(engine) => engine.keep_input(inputs, bytes_max).await,
        }
    }

    /// Publishes what a dead letter has become and removes it. In one step where the bus is a file; on a server one after
    /// the other, so that the messages need ids: repeated within the window, it stores them once. None when there is no
    /// such letter. After an error it may be there or not.
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

    /// Says anew what is wrong with an input. On a server it gets another id by that. False when there is none.
    pub async fn amend_input(&self, id: u64, input: RefusedInput) -> Result<bool, BusError> {
        match &self.0 {
            Inner::Embedded(engine) => engine.amend_input(id, input).await,
            Inner::Nats(engine) => engine.amend_input(id, input).await,
        }
    }

    /// How many inputs are kept under each subject, up to so many subjects.
    pub async fn input_counts(&self, subjects_max: usize) -> Result<Vec<(String, u64)>, BusError> {
        match &self.0 {
            Inner::Embedded(engine) => engine.input_counts(subjects_max).await,
            Inner::Nats(engine) => engine.input_counts(subjects_max).await,
        }
    }

    /// Erases what matches in the span, from the beginning of it.
    pub async fn erase(&self, span: EraseSpan, matches: &ErasePredicate) -> Result<Erased, BusError> {
        match &self.0 {
            Inner::Embedded(engine) => engine.erase(span, matches).await,
            Inner::Nats(engine) => engine.erase(span, matches).await,
        }
    }

    /// Erases the dead letters that match, all that it finds until this time is over.
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
                    // A call that has not erased any goes on: the next one would come no farther.
                    if erased > 0 && began.elapsed() >= time_max {
                        return Ok(ErasedDeadLetters { letters: erased, is_complete: false });
                    }
                    before = Some(oldest.id);
                }
            }
        }
    }

    /// Leaves nothing of what was erased, and purged before, in files of this process. False when there is more to do.
    pub async fn wipe(&self, until: Instant) -> Result<bool, BusError> {
        match &self.0 {
            Inner::Embedded(engine) => engine.wipe(until).await,
            // The server overwrites what it erases.
            Inner::Nats(_) => Ok(true),
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
