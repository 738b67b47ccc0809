//! The work of the writer thread, and its queue, which is bounded in bytes.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::consumer::Consumer;
use super::dedup::key::DedupKey;
use crate::base::sqlite;
use crate::bus::buffers::Buffer;
use crate::bus::dead_letter::DeadReason;
use crate::bus::input::{KeptInput, RefusedInput};
use crate::bus::subject::{Filter, SubjectPrefix};
use crate::bus::{BusError, Original, Published};

/// Published bytes that wait for their commit.
pub(super) const QUEUED_BYTES_MAX: usize = 64 << 20;

pub(crate) type Queue = sqlite::Queue<Publish, Command>;
pub(crate) type Reply<T> = oneshot::Sender<Result<T, BusError>>;

/// A batch for the next group.
pub(crate) struct Publish {
    pub(super) records: Buffer,
    pub(super) ends: Vec<u32>,
    /// The common prefix of the subjects.
    pub(super) subject_prefix: SubjectPrefix,
    /// The keys of the records with a message id, in order.
    pub(super) keys: Vec<DedupKey>,
    pub(super) reply: Reply<Stored>,
    /// Frees the room once the batch is answered.
    pub(super) _room: OwnedSemaphorePermit,
}

/// The result of one published batch.
#[derive(Debug)]
pub(crate) struct Stored {
    /// The sequence of the first message that is not a duplicate; the following ones count up.
    pub(super) first_sequence: u64,
    /// The duplicates, in order.
    pub(super) duplicates: Vec<Duplicate>,
}

/// One result per message.
pub(super) fn expand(count: usize, stored: &Stored) -> Vec<Result<Published, BusError>> {
    let mut duplicates = stored.duplicates.iter().peekable();
    let mut sequence = stored.first_sequence;
    let answer = |index: u32| {
        if let Some(duplicate) = duplicates.next_if(|duplicate| duplicate.index == index) {
            let original = Original { sequence: duplicate.group, key: duplicate.key.0 };
            return Ok(Published { sequence: 0, duplicate: true, original });
        }
        sequence += 1;
        Ok(Published::new(sequence - 1))
    };
    (0..count as u32).map(answer).collect()
}

/// A message that was seen before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Duplicate {
    /// Its index in the batch.
    pub(super) index: u32,
    /// The first sequence of the group with the first message; 0 when unknown.
    pub(super) group: u64,
    pub(super) key: DedupKey,
}

/// All other work of the writer, in the same commit where possible.
pub(crate) enum Command {
    /// Makes acknowledgements durable, or dead-letters the messages. The consumer has marked them.
    Resolve(Resolve),
    /// Makes the delivery counts of a consumer durable.
    Record {
        consumer: Arc<Consumer>,
        reply: Reply<()>,
    },
    /// Adds a consumer that begins at the first stored message. Returns the sequence before it.
    Register {
        name: String,
        filter: String,
        reply: Reply<u64>,
    },
    /// Changes the filter of a consumer.
    Refilter {
        consumer: Arc<Consumer>,
        filter: (String, Filter),
        reply: Reply<()>,
    },
    Replay {
        id: u64,
        reply: Reply<bool>,
    },
    DeleteDeadLetter {
        id: u64,
        reply: Reply<bool>,
    },
    /// Deletes some of the dead letters created before `before_ms`. Returns how many.
    PurgeDeadLetters {
        before_ms: i64,
        reply: Reply<u64>,
    },
    Purge {
        reply: Reply<Purged>,
    },
    /// Replaces messages with tombstones, in ascending order. Returns how many there were.
    Erase {
        sequences: Vec<u64>,
        reply: Reply<u64>,
    },
    /// One step of removing deleted data from the file and its log. Returns whether nothing is left.
    Wipe {
        reply: Reply<bool>,
    },
    KeepInput {
        inputs: Vec<RefusedInput>,
        bytes_max: u64,
        reply: Reply<KeptInput>,
    },
    AmendInput {
        id: u64,
        input: RefusedInput,
        reply: Reply<bool>,
    },
    /// Publishes a batch in place of a dead letter; the reply within `publish` is not used.
    Resubmit {
        id: u64,
        publish: Box<Publish>,
        reply: Reply<Option<Stored>>,
    },
}

impl Command {
    /// Whether it only stores the progress of consumers.
    pub(super) fn only_records_progress(&self) -> bool {
        match self {
            Self::Resolve(resolve) => resolve.reason.is_none(),
            Self::Record { .. } => true,
            _ => false,
        }
    }
}

pub(crate) struct Resolve {
    pub(super) consumer: Arc<Consumer>,
    pub(super) sequences: Vec<u64>,
    /// Set to dead-letter the messages: the reason.
    pub(super) reason: Option<(DeadReason, String)>,
    pub(super) reply: Reply<()>,
}

/// The result of one purge step.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Purged {
    pub(super) messages: u64,
    pub(super) more: bool,
}
