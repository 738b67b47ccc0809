//! The queue to a writer thread: work for the next commit, bounded.
//!
//! Invariant: what is queued and in the current commit never exceeds the room of the queue; callers wait for room first.
//! Knows nothing of what a commit does.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// When the batches of the next commit are taken.
#[derive(Clone, Copy, Debug)]
pub struct CommitSchedule {
    /// Not before this time.
    pub from: Instant,
    /// Nor before this time, unless `batches` are waiting.
    pub gather_until: Instant,
    pub batches: usize,
    /// At most this many are taken.
    pub batches_max: usize,
}

impl CommitSchedule {
    /// The schedule of the first commit.
    pub fn immediate() -> Self {
        let now = Instant::now();
        Self { from: now, gather_until: now, batches: 1, batches_max: usize::MAX }
    }

    /// When the commit begins, with `batches` waiting.
    pub fn at(&self, batches: usize) -> Instant {
        if batches >= self.batches { self.from } else { self.from.max(self.gather_until) }
    }
}

/// The work taken for one commit.
pub struct Work<B, C> {
    pub batches: Vec<B>,
    pub commands: Vec<C>,
}

/// The most that one commit takes.
#[derive(Clone, Copy, Debug)]
pub struct CommitLimits {
    /// At least one batch is taken.
    pub batch_bytes: usize,
    pub commands: usize,
}

/// Batches gather for a commit; commands are served at once, in the same commit where possible.
pub struct Queue<B, C> {
    waiting: Mutex<Waiting<B, C>>,
    filled: Condvar,
    room: Arc<Semaphore>,
    room_max: usize,
}

struct Waiting<B, C> {
    batches: VecDeque<B>,
    commands: Vec<C>,
    /// The writer sleeps and has not been woken yet. Waking it is a system call, made only once.
    writer_sleeps: bool,
    /// Batches at which the writer wants to be woken.
    wanted: usize,
    closed: bool,
}

/// The queue is closed.
#[derive(Clone, Copy, Debug)]
pub struct Closed;

impl<B, C> Queue<B, C> {
    pub fn new(room_max: usize) -> Self {
        let waiting =
            Waiting { batches: VecDeque::new(), commands: Vec::new(), writer_sleeps: false, wanted: 0, closed: false };
        let room = Arc::new(Semaphore::new(room_max));
        Self { waiting: Mutex::new(waiting), filled: Condvar::new(), room, room_max }
    }

    /// Waits for room, in the unit of the queue. The permit gives it back.
    pub async fn room(&self, size: usize) -> Result<OwnedSemaphorePermit, Closed> {
        let permits = u32::try_from(size.min(self.room_max)).unwrap_or(u32::MAX);
        self.room.clone().acquire_many_owned(permits).await.map_err(|_| Closed)
    }

    pub fn batch(&self, batch: B) -> Result<(), Closed> {
        let mut waiting = self.open()?;
        waiting.batches.push_back(batch);
        if waiting.batches.len() >= waiting.wanted {
            self.wake_writer(waiting);
        }
        Ok(())
    }

    pub fn command(&self, command: C) -> Result<(), Closed> {
        let mut waiting = self.open()?;
        waiting.commands.push(command);
        self.wake_writer(waiting);
        Ok(())
    }

    fn wake_writer(&self, mut waiting: MutexGuard<'_, Waiting<B, C>>) {
        let wakes = std::mem::take(&mut waiting.writer_sleeps);
        drop(waiting);
        if wakes {
            self.filled.notify_one();
        }
    }

    /// Blocks until there is work, then takes commands and batches up to the limits. Batches wait for their `schedule`
    /// unless the queue is closed. Returns `None` once it is closed and empty.
    pub(super) fn take(
        &self,
        limits: CommitLimits,
        schedule: &CommitSchedule,
        bytes_of: fn(&B) -> usize,
    ) -> Option<Work<B, C>> {
        let mut waiting = self.waiting.lock();
        let takes_batches = loop {
            let now = Instant::now();
            let batches = waiting.batches.len();
            let rest = schedule.at(batches).saturating_duration_since(now);
            if batches > 0 && (rest.is_zero() || waiting.closed) {
                break true;
            }
            // Batches gather only briefly, so commands wait with them.
            if !waiting.commands.is_empty() && (batches == 0 || schedule.from > now) {
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
        let count = waiting.batches.iter().take_while(|batch| {
            let size = bytes_of(batch);
            let fits = takes_batches && (bytes == 0 || bytes + size <= limits.batch_bytes);
            bytes += size;
            fits
        });
        let count = count.take(if waiting.closed { usize::MAX } else { schedule.batches_max }).count();
        let batches = waiting.batches.drain(..count).collect();
        let count = waiting.commands.len().min(limits.commands);
        Some(Work { batches, commands: waiting.commands.drain(..count).collect() })
    }

    /// Rejects new work; the queued work is still taken.
    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.room.close();
        self.filled.notify_all();
    }

    /// Drops the queued work, so that its callers learn that the queue is closed.
    pub(super) fn abandon(&self) {
        self.close();
        let mut waiting = self.waiting.lock();
        let dropped = (std::mem::take(&mut waiting.batches), std::mem::take(&mut waiting.commands));
        drop(waiting);
        drop(dropped);
    }

    fn open(&self) -> Result<MutexGuard<'_, Waiting<B, C>>, Closed> {
        let waiting = self.waiting.lock();
        if waiting.closed { Err(Closed) } else { Ok(waiting) }
    }
}
