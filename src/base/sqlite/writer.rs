//! The writer thread of a database: it takes what is queued and commits it as one group, with one fsync.
//!
//! Invariants: only this thread writes; nothing is stored after a failed fsync; the directory stays locked until the
//! writing connection is closed. What a group is made of, and who is answered when, is up to the engine.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use rusqlite::Connection;

use super::checkpoint::Checkpoints;
use super::database::Database;
use super::error::FileError;
use super::lock::DirectoryLock;
use super::queue::{CommitLimits, CommitSchedule, Queue, Work};

/// An engine's side of its writer thread.
pub trait Groups: Send + 'static {
    type Batch: Send + 'static;
    type Command: Send + 'static;

    const LIMITS: CommitLimits;

    fn bytes_of(batch: &Self::Batch) -> usize;

    /// Commits the work, which was taken by this schedule, and answers it. Returns the schedule of the next commit.
    fn serve(&mut self, work: Work<Self::Batch, Self::Command>, schedule: CommitSchedule) -> CommitSchedule;

    /// Once the queue is closed and empty.
    fn finish(&mut self);
}

/// A running writer thread. Dropping it closes it.
pub struct WriterThread<G: Groups> {
    queue: Arc<Queue<G::Batch, G::Command>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl<G: Groups> WriterThread<G> {
    pub fn start(
        name: &'static str,
        queue: Arc<Queue<G::Batch, G::Command>>,
        groups: G,
        lock: DirectoryLock,
    ) -> io::Result<Self> {
        let of_thread = queue.clone();
        let run = move || {
            run(&of_thread, groups);
            drop(lock);
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run)?;
        Ok(Self { queue, thread: Mutex::new(Some(thread)) })
    }

    /// Rejects new work, and blocks until the queued work is done and the file is closed and unlocked.
    pub fn close(&self) {
        self.queue.close();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            if thread.join().is_err() {
                tracing::error!(thread = name, "a writer panicked");
            }
        }
    }
}

impl<G: Groups> Drop for WriterThread<G> {
    fn drop(&mut self) {
        self.close();
    }
}

/// When the writer ends for any reason: nothing may wait for a queue that is not drained.
struct AbandonOnDrop<'a, B, C>(&'a Queue<B, C>);

impl<B, C> Drop for AbandonOnDrop<'_, B, C> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

fn run<G: Groups>(queue: &Queue<G::Batch, G::Command>, mut groups: G) {
    let _abandon = AbandonOnDrop(queue);
    let mut schedule = CommitSchedule::immediate();
    while let Some(work) = queue.take(G::LIMITS, &schedule, G::bytes_of) {
        schedule = groups.serve(work, schedule);
    }
    groups.finish();
}

/// The writing connection: transactions, and checkpoints between them.
pub struct Transactions {
    pub connection: Connection,
    pub checkpoints: Checkpoints,
    database: Arc<Database>,
}

impl Transactions {
    pub fn new(connection: Connection, checkpoints: Checkpoints, database: Arc<Database>) -> Self {
        Self { connection, checkpoints, database }
    }

    pub fn begin(&self, context: &'static str) -> Result<(), FileError> {
        self.database.check_fsync()?;
        self.execute(context, "BEGIN IMMEDIATE")
    }

    pub fn commit(&self, context: &'static str) -> Result<(), FileError> {
        self.execute(context, "COMMIT")?;
        // That of a checkpoint may have failed in the meantime.
        self.database.check_fsync()
    }

    /// Ends an open transaction, if SQLite has not rolled it back by itself.
    pub fn roll_back(&self) {
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "roll back");
        }
    }

    /// Called after each commit of about `bytes`.
    pub fn committed(&mut self, bytes: u64) {
        self.checkpoints.committed(&self.connection, bytes);
    }

    fn execute(&self, context: &'static str, sql: &'static str) -> Result<(), FileError> {
        let executed = self.connection.prepare_cached(sql).and_then(|mut statement| statement.execute([]));
        executed.map(drop).map_err(|error| self.database.failure(context, &error))
    }
}
