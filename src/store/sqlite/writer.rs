//! The writer thread: it commits all queued jobs as one group.
//!
//! Invariants: a job is answered only after the commit that holds it; a failed job rolls back only its own changes; a
//! failed commit fails all its jobs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::clock;
use super::error::{failed, file_error};
use crate::base::clock::ClockSteps;
use crate::base::sqlite::{CheckpointLimits, Checkpoints, Database, FileError};
use crate::metrics;
use crate::store::error::StoreError;

/// Jobs in the writer's queue; further callers wait for room.
pub(super) const QUEUE_JOBS_MAX: usize = 1_024;
/// Jobs in one transaction.
const GROUP_JOBS_MAX: usize = 256;
/// Estimated bytes that a changed row adds to the log, because it changes several indexes.
const LOG_BYTES_PER_ROW: u64 = 4 << 10;
const CHECKPOINTS: CheckpointLimits = CheckpointLimits { soft_bytes: 4 << 20, hard_bytes: u64::MAX };

pub(super) enum Command {
    Run(Job),
    /// Truncates the log, which holds old versions of pages, after the queued jobs are committed.
    Wipe(oneshot::Sender<Result<bool, StoreError>>),
    /// Runs the queued jobs, then ends.
    Close,
}

/// Runs in the group's transaction, or learns why there is none; the reply waits for the commit.
pub(super) type Job = Box<dyn FnOnce(Result<&mut Transaction<'_>, FileError>) -> FinishedJob + Send>;
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
    let job = move |tx: Result<&mut Transaction<'_>, FileError>| -> FinishedJob {
        let result = match tx {
            Ok(tx) => in_savepoint(tx, context, run),
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
    tx: &mut Transaction<'_>,
    context: &'static str,
    run: impl FnOnce(&Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let savepoint = tx.savepoint().map_err(failed(context))?;
    let value = run(&savepoint)?;
    savepoint.commit().map_err(failed(context))?;
    Ok(value)
}

/// The main loop of the writer thread.
pub(super) fn run(
    mut connection: Connection,
    mut commands: mpsc::Receiver<Command>,
    database: &Arc<Database>,
    refusing: &AtomicBool,
) {
    let mut checkpoints = Checkpoints::new(database.clone(), CHECKPOINTS);
    let mut changed = connection.total_changes();
    let mut group = Vec::new();
    let mut clock = ClockSteps::default();
    let mut wipes = Vec::new();
    while let Some(first) = commands.blocking_recv() {
        let mut next = Some(first);
        while let Some(command) = next.take() {
            match command {
                Command::Run(job) => group.push(job),
                Command::Wipe(done) => wipes.push(done),
                Command::Close => commands.close(),
            }
            if group.len() < GROUP_JOBS_MAX {
                next = commands.try_recv().ok();
            }
        }
        let (jobs, started) = (group.len() as u64, Instant::now());
        let is_checked = refusing.load(Ordering::Relaxed);
        let group_error = commit(&mut connection, &mut group, &mut clock, database, is_checked);
        metrics::store_group(jobs, started.elapsed());
        match &group_error {
            Some(FileError { text, .. }) => {
                if !refusing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(reason = text, "the store refuses writes");
                }
                // On a full disk, the next group may need the log's space.
                checkpoints.start_over(&connection, "PASSIVE");
            }
            None => refusing.store(false, Ordering::Relaxed),
        }
        let before = std::mem::replace(&mut changed, connection.total_changes());
        checkpoints.committed(&connection, changed.saturating_sub(before) * LOG_BYTES_PER_ROW);
        if !wipes.is_empty() {
            let emptied = checkpoints.empty(&connection);
            for done in wipes.drain(..) {
                // The caller may have gone away.
                let _ = done.send(emptied.clone().map_err(|error| file_error("empty log", error)));
            }
        }
    }
    checkpoints.start_over(&connection, "PASSIVE");
}

/// Runs and commits the whole group, in as many transactions as needed; returns why one of them failed. `is_checked`:
/// after a failure nothing is written until a restart would find the files.
fn commit(
    connection: &mut Connection,
    group: &mut Vec<Job>,
    clock: &mut ClockSteps,
    database: &Database,
    mut is_checked: bool,
) -> Option<FileError> {
    let failed = |context: &'static str, error: rusqlite::Error| {
        let FileError { fault, text } = database.failure(context, &error);
        FileError { fault, text: format!("{context}: {text}") }
    };
    let mut refused = None;
    let mut jobs = group.drain(..).peekable();
    while jobs.peek().is_some() {
        let mut followed = *clock;
        let checked = if is_checked { database.check_files() } else { Ok(()) };
        let began = database.check_fsync().and(checked).and_then(|()| {
            let begun = connection.transaction_with_behavior(TransactionBehavior::Immediate);
            let begun = begun.and_then(|tx| {
                let (now_ms, step_ms) = followed.look();
                clock::shift_due_times(&tx, now_ms, step_ms).map(|()| tx)
            });
            begun.map_err(|error| failed("begin group", error))
        });
        let mut tx = match began {
            Ok(tx) => tx,
            Err(group_error) => {
                jobs.for_each(|job| (job(Err(group_error.clone())).answer)(None));
                return Some(group_error);
            }
        };
        let mut answers = Vec::new();
        let mut group_error = None;
        for job in jobs.by_ref() {
            let FinishedJob { answer, failure } = job(Ok(&mut tx));
            answers.push(answer);
            let failure = failure.map(|error| database.note("run job", error));
            if tx.is_autocommit() || database.check_fsync().is_err() {
                // On a full or failing disk, SQLite rolls the whole transaction back by itself.
                group_error = Some(failure.unwrap_or_else(|| FileError::other("SQLite rolled back")));
                break;
            }
        }
        if group_error.is_none() {
            let committed = tx.commit().map_err(|error| failed("commit group", error));
            // A change that a restart would not find is not stored.
            group_error = committed.and_then(|()| database.check_fsync()).and_then(|()| database.check_files()).err();
        }
        if group_error.is_none() {
            *clock = followed;
        }
        for answer in answers {
            answer(group_error.clone());
        }
        is_checked |= group_error.is_some();
        refused = group_error.or(refused);
    }
    refused
}
