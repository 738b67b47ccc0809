//! The way to the writer thread: what waits for the next commit, bounded in bytes.
//!
//! Invariant: bytes queued and in the commit under way never pass `QUEUED_BYTES_MAX`; publishers wait for
//! room before they queue. Knows nothing of what a commit does.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::consumer::Consumer;
use super::dedup::key::Key;
use super::pace::Opening;
use crate::bus::buffers::Buffer;
use crate::bus::dead_letter::DeadReason;
use crate::bus::input::{KeptInput, RefusedInput};
use crate::bus::subject::{Beginning, Filter};
use crate::bus::{BusError, BusErrorKind, Original, Published};

/// Published bytes that wait for their commit.
const QUEUED_BYTES_MAX: usize = 64 << 20;

/// Chores that are done in one commit; each may write a message of the largest size.
const CHORES_PER_COMMIT_MAX: usize = 32;

pub(crate) type Reply<T> = oneshot::Sender<Result<T, BusError>>;

/// A batch on its way into the next group.
pub(crate) struct Publish {
    pub(super) records: Buffer,
    pub(super) ends: Vec<u32>,
    /// What their subjects begin with.
    pub(super) beginning: Beginning,
    /// The keys of the records that carry a message id, in their order.
    pub(super) keys: Vec<Key>,
    pub(super) reply: Reply<Stored>,
    /// Gives the room back when the batch is answered.
    pub(super) _room: OwnedSemaphorePermit,
}

/// The answer to one published batch.
#[derive(Debug)]
pub(crate) struct Stored {
    /// Of the first message that is not a duplicate; those that follow it count up.
    pub(super) first_sequence: u64,
    /// The messages that were seen before, in their order.
    pub(super) duplicates: Vec<Duplicate>,
}

/// One answer a message.
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
    /// Its place in the batch.
    pub(super) index: u32,
    /// The first sequence of the group that holds the first message; 0 when that is not known.
    pub(super) group: u64,
    pub(super) key: Key,
}

/// Everything else that the writer does, in the same commit where it can.
pub(crate) enum Chore {
    /// Makes acknowledgements durable, burying those that are given up. The consumer has marked them.
    Settle(Settle),
    /// Makes a consumer's delivery counts durable.
    Record {
        consumer: Arc<Consumer>,
        reply: Reply<()>,
    },
    /// Adds a consumer that begins at the first stored message; answers the sequence before that.
    Register {
        name: String,
        filter: String,
        reply: Reply<u64>,
    },
    /// Changes a consumer's filter.
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
    /// Deletes some of the dead letters that died before then; answers how many.
    PurgeDeadLetters {
        before_ms: i64,
        reply: Reply<u64>,
    },
    Purge {
        reply: Reply<Purged>,
    },
    /// Puts something that holds nothing in the places of messages, in ascending order; answers how many there were.
    Erase {
        sequences: Vec<u64>,
        reply: Reply<u64>,
    },
    /// One step of taking what was deleted out of the file and its log; answers whether nothing is left of it.
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
    /// Publishes a batch in the place of a dead letter; its own reply is not used.
    Resubmit {
        id: u64,
        publish: Box<Publish>,
        reply: Reply<Option<Stored>>,
    },
}

impl Chore {
    /// Whether it only tells how far consumers are.
    pub(super) fn lets_go(&self) -> bool {
        match self {
            Self::Settle(settle) => settle.reason.is_none(),
            Self::Record { .. } => true,
            _ => false,
        }
    }
}

pub(crate) struct Settle {
    pub(super) consumer: Arc<Consumer>,
    pub(super) sequences: Vec<u64>,
    /// Set when they are given up: why.
    pub(super) reason: Option<(DeadReason, String)>,
    pub(super) reply: Reply<()>,
}

/// What one step of a purge did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Purged {
    pub(super) messages: u64,
    pub(super) more: bool,
}

/// What the writer takes at once.
#[derive(Default)]
pub(crate) struct Work {
    pub(super) publishes: Vec<Publish>,
    pub(super) chores: Vec<Chore>,
}

pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    filled: Condvar,
    room: Arc<Semaphore>,
}

#[derive(Default)]
struct Waiting {
    publishes: std::collections::VecDeque<Publish>,
    chores: Vec<Chore>,
    /// The writer sleeps and nobody has woken it: to wake it is a system call, which is made once.
    writer_sleeps: bool,
    /// Batches at which it wants to be woken.
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
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(BusError::new(BusErrorKind::Closed, "queue batch"));
        }
        waiting.publishes.push_back(publish);
        if waiting.publishes.len() >= waiting.wanted {
            self.wake_writer(waiting);
        }
        Ok(())
    }

    /// Hands the chore back when the queue is closed.
    pub(super) fn chore(&self, chore: Chore) -> Result<(), Box<Chore>> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(Box::new(chore));
        }
        waiting.chores.push(chore);
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

    /// Blocks until there is something; then all of it, up to `bytes_max` of batches (at least one). Batches wait
    /// for their `opening`, unless the queue is closed. None once it is closed and empty.
    pub(super) fn take(&self, bytes_max: usize, opening: &Opening) -> Option<Work> {
        let mut waiting = self.lock();
        let publishing = loop {
            let now = Instant::now();
            let publishes = waiting.publishes.len();
            let rest = opening.at(publishes).saturating_duration_since(now);
            if publishes > 0 && (rest.is_zero() || waiting.closed) {
                break true;
            }
            // Batches that gather do so for a moment only: chores go with them.
            if !waiting.chores.is_empty() && (publishes == 0 || opening.from > now) {
                break false;
            }
            if waiting.closed {
                return None;
            }
            waiting.wanted = if rest.is_zero() { 1 } else { opening.batches };
            waiting.writer_sleeps = true;
            waiting = if rest.is_zero() {
                self.filled.wait(waiting).unwrap_or_else(|poisoned| poisoned.into_inner())
            } else {
                self.filled.wait_timeout(waiting, rest).unwrap_or_else(|poisoned| poisoned.into_inner()).0
            };
            waiting.writer_sleeps = false;
        };
        let mut bytes = 0;
        let count = waiting.publishes.iter().take_while(|publish| {
            let fits = publishing && (bytes == 0 || bytes + publish.records.len() <= bytes_max);
            bytes += publish.records.len();
            fits
        });
        let count = count.take(if waiting.closed { usize::MAX } else { opening.batches_max }).count();
        let publishes = waiting.publishes.drain(..count).collect();
        let count = waiting.chores.len().min(CHORES_PER_COMMIT_MAX);
        Some(Work { publishes, chores: waiting.chores.drain(..count).collect() })
    }

    /// What is queued is still taken; nothing more is let in.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.room.close();
        self.filled.notify_all();
    }

    /// Drops what is queued, so that those who wait for it learn that the bus is closed.
    pub(super) fn abandon(&self) {
        self.close();
        let dropped = std::mem::take(&mut *self.lock());
        self.lock().closed = true;
        drop(dropped);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
