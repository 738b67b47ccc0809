//! The queue to the writer thread: work for the next commit, bounded in bytes.
//!
//! Invariant: the bytes queued and in the current commit never exceed `QUEUED_BYTES_MAX`; publishers wait for room
//! first. Knows nothing of what a commit does.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::backpressure::CommitSchedule;
use super::consumer::Consumer;
use super::dedup::key::DedupKey;
use crate::bus::buffers::Buffer;
use crate::bus::dead_letter::DeadReason;
use crate::bus::input::{KeptInput, RefusedInput};
use crate::bus::subject::{Filter, SubjectPrefix};
use crate::bus::{BusError, BusErrorKind, Original, Published};

/// Published bytes that wait for their commit.
const QUEUED_BYTES_MAX: usize = 64 << 20;

/// Commands executed in one commit; each may write a message of the largest size.
const COMMANDS_PER_COMMIT_MAX: usize = 32;

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

/// The work taken for one commit.
#[derive(Default)]
pub(crate) struct Work {
    pub(super) publishes: Vec<Publish>,
    pub(super) commands: Vec<Command>,
}

pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    filled: Condvar,
    room: Arc<Semaphore>,
}

#[derive(Default)]
struct Waiting {
    publishes: std::collections::VecDeque<Publish>,
    commands: Vec<Command>,
    /// The writer sleeps and has not been woken yet. Waking it is a system call, made only once.
    writer_sleeps: bool,
    /// Batches at which the writer wants to be woken.
    wanted: usize,
    closed: bool,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self { waiting: Mutex::default(), filled: Condvar::new(), room: Arc::new(Semaphore::new(QUEUED_BYTES_MAX)) }
    }

    /// Waits until `bytes` more may be queued.
    pub(super) async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, BusError> {
        let permits = u32::try_from(bytes.min(QUEUED_BYTES_MAX)).unwrap_or(u32::MAX);
        let room = self.room.clone().acquire_many_owned(permits).await;
        room.map_err(|_| BusError::new(BusErrorKind::Closed, "queue batch"))
    }

    pub(super) fn publish(&self, publish: Publish) -> Result<(), BusError> {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(BusError::new(BusErrorKind::Closed, "queue batch"));
        }
        waiting.publishes.push_back(publish);
        if waiting.publishes.len() >= waiting.wanted {
            self.wake_writer(waiting);
        }
        Ok(())
    }

    /// Returns the command when the queue is closed.
    pub(super) fn command(&self, command: Command) -> Result<(), Box<Command>> {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(Box::new(command));
        }
        waiting.commands.push(command);
        self.wake_writer(waiting);
        Ok(())
    }

    fn wake_writer(&self, mut waiting: MutexGuard<'_, Waiting>) {
        let wakes = std::mem::take(&mut waiting.writer_sleeps);
        drop(waiting);
        if wakes {
            self.filled.notify_one();
        }
    }

    /// Blocks until there is work, then takes all commands that fit and batches up to `bytes_max` (at least one).
    /// Batches wait for their `schedule` unless the queue is closed. Returns `None` once it is closed and empty.
    pub(super) fn take(&self, bytes_max: usize, schedule: &CommitSchedule) -> Option<Work> {
        let mut waiting = self.waiting.lock();
        let publishing = loop {
            let now = Instant::now();
            let publishes = waiting.publishes.len();
            let rest = schedule.at(publishes).saturating_duration_since(now);
            if publishes > 0 && (rest.is_zero() || waiting.closed) {
                break true;
            }
            // Batches gather only briefly, so commands wait with them.
            if !waiting.commands.is_empty() && (publishes == 0 || schedule.from > now) {
                break false;
            }
            if waiting.closed {
                return None;
            }
            waiting.wanted = if rest.is_zero() { 1 } else { schedule.batches };
            waiting.writer_sleeps = true;
            if rest.is_zero() {
                self.filled.wait(&mut waiting);
            } else {
                self.filled.wait_for(&mut waiting, rest);
            }
            waiting.writer_sleeps = false;
        };
        let mut bytes = 0;
        let count = waiting.publishes.iter().take_while(|publish| {
            let fits = publishing && (bytes == 0 || bytes + publish.records.len() <= bytes_max);
            bytes += publish.records.len();
            fits
        });
        let count = count.take(if waiting.closed { usize::MAX } else { schedule.batches_max }).count();
        let publishes = waiting.publishes.drain(..count).collect();
        let count = waiting.commands.len().min(COMMANDS_PER_COMMIT_MAX);
        Some(Work { publishes, commands: waiting.commands.drain(..count).collect() })
    }

    /// Rejects new work; the queued work is still taken.
    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.room.close();
        self.filled.notify_all();
    }

    /// Drops the queued work, so that its callers learn that the bus is closed.
    pub(super) fn abandon(&self) {
        self.close();
        let dropped = std::mem::take(&mut *self.waiting.lock());
        self.waiting.lock().closed = true;
        drop(dropped);
    }
}
