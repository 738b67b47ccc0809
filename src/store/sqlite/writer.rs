//! The writer thread: it commits all queued jobs as one group.
//!
//! Invariants: a job is answered only after the commit that holds it; a failed job rolls back only its own changes; a
//! failed commit fails all its jobs.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::clock;
use super::error::{failed, file_error};
use crate::base::clock::ClockSteps;
use crate::base::sqlite::{
    self, CheckpointLimits, Checkpoints, CommitLimits, CommitSchedule, Database, FileError, Groups, Transactions, Work,
};
use crate::metrics;
use crate::store::error::StoreError;

/// Jobs in the writer's queue; further callers wait for room.
pub(super) const QUEUE_JOBS_MAX: usize = 1_024;
/// Jobs in one transaction.
const GROUP_JOBS_MAX: usize = 256;
/// Estimated bytes that a changed row adds to the log, because it changes several indexes.
const LOG_BYTES_PER_ROW: u64 = 4 << 10;
const CHECKPOINTS: CheckpointLimits = CheckpointLimits { soft_bytes: 4 << 20, hard_bytes: u64::MAX };

/// A command and its room in the queue. Nothing gathers.
pub(super) type Queue = sqlite::Queue<Infallible, (Command, OwnedSemaphorePermit)>;

pub(super) enum Command {
    Run(Job),
    /// Truncates the log, which holds old versions of pages, after the queued jobs are committed.
    Wipe(oneshot::Sender<Result<bool, StoreError>>),
}

/// Runs in the group's transaction, or learns why there is none; the reply waits for the commit.
pub(super) type Job = Box<dyn FnOnce(Result<&Connection, FileError>) -> FinishedJob + Send>;
/// Gets the error of the commit, if it failed.
pub(super) type Reply = Box<dyn FnOnce(Option<FileError>) + Send>;

/// A job that has run.
pub(super) struct FinishedJob {
    answer: Reply,
    /// The job's own error.
    failure: Option<FileError>,
}

/// Wraps a use case into a job. `done` is called after its commit, before the reply.
pub(super) fn job<T, F, D>(context: &'static str, run: F, done: D) -> (Job, oneshot::Receiver<Result<T, StoreError>>)
where
    T: Send + 'static,
    F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    D: FnOnce(&T) + Send + 'static,
{
    let (sender, receiver) = oneshot::channel();
    let job = move |tx: Result<&Connection, FileError>| -> FinishedJob {
        let result = match tx {
            Ok(connection) => in_savepoint(connection, context, run),
            Err(group_error) => Err(file_error(context, group_error)),
        };
        let source = result.as_ref().err().and_then(std::error::Error::source);
        let failure = source.and_then(|source| source.downcast_ref()).cloned();
        let answer = Box::new(move |group_error: Option<FileError>| {
            let answer = match (result, group_error) {
                (Ok(value), None) => {
                    done(&value);
                    Ok(value)
                }
                (Ok(_), Some(group_error)) => Err(file_error(context, group_error)),
                (Err(error), _) => Err(error),
            };
            // The caller may have gone away; the job is committed all the same.
            let _ = sender.send(answer);
        });
        FinishedJob { answer, failure }
    };
    (Box::new(job), receiver)
}

fn in_savepoint<T>(
    connection: &Connection,
    context: &'static str,
    run: impl FnOnce(&Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let execute = |sql| connection.prepare_cached(sql).and_then(|mut statement| statement.execute([]));
    execute("SAVEPOINT job").map_err(failed(context))?;
    let done = run(connection);
    // On a full or failing disk, SQLite rolls the whole transaction back by itself, and the savepoint is gone.
    if done.is_err() && !connection.is_autocommit() {
        execute("ROLLBACK TO job").map_err(failed(context))?;
    }
    if done.is_ok() || !connection.is_autocommit() {
        execute("RELEASE job").map_err(failed(context))?;
    }
    done
}

/// The writer's side: runs the jobs of a group in one transaction.
pub(super) struct Jobs {
    file: Transactions,
    database: Arc<Database>,
    clock: ClockSteps,
    /// The last group was not stored. While that is so, nothing is written unless a restart would find the files.
    refusing: Arc<AtomicBool>,
    /// Rows changed before the current group.
    changed: u64,
}

impl Groups for Jobs {
    type Batch = Infallible;
    type Command = (Command, OwnedSemaphorePermit);

    const LIMITS: CommitLimits = CommitLimits { batch_bytes: 0, commands: GROUP_JOBS_MAX };

    fn bytes_of(batch: &Infallible) -> usize {
        match *batch {}
    }

    fn serve(&mut self, work: Work<Infallible, Self::Command>, schedule: CommitSchedule) -> CommitSchedule {
        // Their room is free once the work is done.
        let (commands, _room): (Vec<_>, Vec<_>) = work.commands.into_iter().unzip();
        let (mut group, mut wipes) = (Vec::new(), Vec::new());
        for command in commands {
            match command {
                Command::Run(job) => group.push(job),
                Command::Wipe(done) => wipes.push(done),
            }
        }
        if !group.is_empty() {
            self.commit_group(group);
        }
        if !wipes.is_empty() {
            let emptied = self.file.checkpoints.empty(&self.file.connection);
            for done in wipes {
                // The caller may have gone away.
                let _ = done.send(emptied.clone().map_err(|error| file_error("empty log", error)));
            }
        }
        schedule
    }

    fn finish(&mut self) {
        self.file.checkpoints.start_over(&self.file.connection, "PASSIVE");
    }
}

impl Jobs {
    pub(super) fn new(connection: Connection, database: Arc<Database>, refusing: Arc<AtomicBool>) -> Self {
        let checkpoints = Checkpoints::new(database.clone(), CHECKPOINTS);
        let changed = connection.total_changes();
        let file = Transactions::new(connection, checkpoints, database.clone());
        Self { file, database, clock: ClockSteps::default(), refusing, changed }
    }

    fn commit_group(&mut self, group: Vec<Job>) {
        let (jobs, started) = (group.len() as u64, Instant::now());
        let mut jobs_left = group.into_iter().peekable();
        let mut refused = None;
        // In as many transactions as needed.
        while jobs_left.peek().is_some() {
            refused = self.run_some(&mut jobs_left).or(refused);
            if let Some(FileError { text, .. }) = &refused
                && !self.refusing.swap(true, Ordering::Relaxed)
            {
                tracing::warn!(reason = text, "the store refuses writes");
            }
        }
        metrics::store_group(jobs, started.elapsed());
        self.refusing.store(refused.is_some(), Ordering::Relaxed);
        if refused.is_some() {
            // On a full disk, the next group may need the log's space.
            self.file.checkpoints.start_over(&self.file.connection, "PASSIVE");
        }
        let before = std::mem::replace(&mut self.changed, self.file.connection.total_changes());
        self.file.committed(self.changed.saturating_sub(before) * LOG_BYTES_PER_ROW);
    }

    /// Runs jobs in one transaction and answers them: all that are left, unless SQLite rolls back. Returns why they were
    /// not stored.
    fn run_some(&mut self, jobs: &mut impl Iterator<Item = Job>) -> Option<FileError> {
        let mut clock = self.clock;
        if let Err(error) = self.begin(&mut clock) {
            self.file.roll_back();
            jobs.for_each(|job| (job(Err(error.clone())).answer)(None));
            return Some(error);
        }
        let mut answers = Vec::new();
        let mut group_error = None;
        for job in jobs {
            let FinishedJob { answer, failure } = job(Ok(&self.file.connection));
            answers.push(answer);
            let failure = failure.map(|error| self.database.note("run job", error));
            if self.file.connection.is_autocommit() || self.database.check_fsync().is_err() {
                group_error = Some(failure.unwrap_or_else(|| FileError::other("SQLite rolled back")));
                break;
            }
        }
        if group_error.is_none() {
            let committed = self.file.commit("commit group");
            // A change that a restart would not find is not stored.
            group_error = committed.and_then(|()| self.database.check_files()).err();
        }
        match group_error {
            None => self.clock = clock,
            Some(_) => self.file.roll_back(),
        }
        for answer in answers {
            answer(group_error.clone());
        }
        group_error
    }

    fn begin(&self, clock: &mut ClockSteps) -> Result<(), FileError> {
        if self.refusing.load(Ordering::Relaxed) {
            self.database.check_files()?;
        }
        self.file.begin("begin group")?;
        let (now_ms, step_ms) = clock.look();
        let shifted = clock::shift_due_times(&self.file.connection, now_ms, step_ms);
        shifted.map_err(|error| self.database.failure("begin group", &error))
    }
}
