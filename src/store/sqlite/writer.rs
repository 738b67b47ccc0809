//! The writer thread: it commits all queued jobs as one group.
//!
//! Invariants: a job is answered only after the commit that holds it; a failed job rolls back only its own changes; a
//! failed commit fails all its jobs.

use std::time::Instant;

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::clock;
use super::error::{failed, fault_kind, stop_at_fsync_fault};
use super::health::Health;
use crate::base::clock::ClockSteps;
use crate::base::sqlite::explain;
use crate::metrics;
use crate::store::error::{StoreError, StoreErrorKind};

/// Jobs in the writer's queue; further callers wait for room.
pub(super) const QUEUE_JOBS_MAX: usize = 1_024;
/// Jobs in one transaction.
const GROUP_JOBS_MAX: usize = 256;
/// Changed rows after which the write-ahead log is checkpointed: about 4 MiB of log, because a row changes several
/// indexes.
const CHECKPOINT_ROWS: u64 = 1_000;

pub(super) enum Command {
    Run(Job),
    /// Truncates the log, which holds old versions of pages, after the queued jobs are committed.
    Wipe(oneshot::Sender<Result<bool, StoreError>>),
    /// Runs the queued jobs, then ends.
    Close,
}

/// Runs in the group's transaction, or learns why there is none; the reply waits for the commit.
pub(super) type Job = Box<dyn FnOnce(Result<&mut Transaction<'_>, GroupError>) -> FinishedJob + Send>;
/// Gets the error of the commit, if it failed.
pub(super) type Reply = Box<dyn FnOnce(Option<GroupError>) + Send>;

/// A job that has run.
pub(super) struct FinishedJob {
    answer: Reply,
    /// The job's own error.
    failure: Option<GroupError>,
}

/// Why a whole group was not stored.
#[derive(Clone, Debug)]
pub(super) struct GroupError {
    kind: StoreErrorKind,
    detail: String,
}

impl GroupError {
    fn of(error: &rusqlite::Error, context: &'static str, health: &Health) -> Self {
        stop_at_fsync_fault(error, context);
        let detail = format!("{}: {context}: {}", health.path().display(), explain(error));
        Self { kind: fault_kind(error), detail }
    }

    /// A restart would not find the files where they are.
    fn misplaced(detail: String) -> Self {
        Self { kind: StoreErrorKind::Unavailable, detail }
    }

    fn as_error(&self, context: &'static str) -> StoreError {
        StoreError::caused(self.kind.clone(), context, self.detail.clone())
    }
}

/// Wraps a use case into a job. `done` is called after its commit, before the reply.
pub(super) fn job<T, F, D>(context: &'static str, run: F, done: D) -> (Job, oneshot::Receiver<Result<T, StoreError>>)
where
    T: Send + 'static,
    F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    D: FnOnce(&T) + Send + 'static,
{
    let (sender, receiver) = oneshot::channel();
    let job = move |tx: Result<&mut Transaction<'_>, GroupError>| -> FinishedJob {
        let result = match tx {
            Ok(tx) => in_savepoint(tx, context, run),
            Err(group_error) => Err(group_error.as_error(context)),
        };
        let failure = result.as_ref().err().map(|error| {
            let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            GroupError { kind: error.kind.clone(), detail: format!("{context}: {source}") }
        });
        let answer = Box::new(move |group_error: Option<GroupError>| {
            let answer = match (result, group_error) {
                (Ok(value), None) => {
                    done(&value);
                    Ok(value)
                }
                (Ok(_), Some(group_error)) => Err(group_error.as_error(context)),
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
pub(super) fn run(mut connection: Connection, mut commands: mpsc::Receiver<Command>, health: &Health) {
    let mut checkpointed = 0;
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
        let group_error = commit(&mut connection, &mut group, &mut clock, health);
        let stored = group_error.is_none();
        health.record_group(group_error.map(|group_error| group_error.detail));
        metrics::store_group(jobs, started.elapsed());
        let changed = connection.total_changes();
        // On a full disk, the next group may need the log's space.
        if !stored || changed.saturating_sub(checkpointed) >= CHECKPOINT_ROWS {
            checkpoint(&connection);
            checkpointed = changed;
        }
        if !wipes.is_empty() {
            let emptied = empty_log(&connection);
            for done in wipes.drain(..) {
                let again = emptied.as_ref().map_err(|error| GroupError::of(error, "empty log", health));
                // The caller may have gone away.
                let _ = done.send(again.copied().map_err(|group_error| group_error.as_error("empty log")));
            }
        }
    }
    checkpoint(&connection);
}

/// Runs and commits the whole group, in as many transactions as needed; returns why one of them failed.
fn commit(
    connection: &mut Connection,
    group: &mut Vec<Job>,
    clock: &mut ClockSteps,
    health: &Health,
) -> Option<GroupError> {
    let mut refused = None;
    let mut jobs = group.drain(..).peekable();
    while jobs.peek().is_some() {
        // While it is known that a restart would not find the files, nothing is written to them.
        let misplaced = if health.is_refusing() { health.check_files().map_err(GroupError::misplaced) } else { Ok(()) };
        let mut followed = *clock;
        let began = misplaced.and_then(|()| {
            let begun = connection.transaction_with_behavior(TransactionBehavior::Immediate);
            let begun = begun.and_then(|tx| {
                let (now_ms, step_ms) = followed.look();
                clock::shift_due_times(&tx, now_ms, step_ms).map(|()| tx)
            });
            begun.map_err(|error| GroupError::of(&error, "begin group", health))
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
            let ran = job(Ok(&mut tx));
            answers.push(ran.answer);
            if tx.is_autocommit() {
                // On a full or failing disk, SQLite rolls the whole transaction back by itself.
                let unknown =
                    || GroupError { kind: StoreErrorKind::Unavailable, detail: "SQLite rolled back".to_owned() };
                group_error = Some(ran.failure.unwrap_or_else(unknown));
                break;
            }
        }
        if group_error.is_none() {
            let committed = tx.commit().map_err(|error| GroupError::of(&error, "commit group", health));
            // A change that a restart would not find is not stored.
            group_error = committed.and_then(|()| health.check_files().map_err(GroupError::misplaced)).err();
        }
        if group_error.is_none() {
            *clock = followed;
        }
        for answer in answers {
            answer(group_error.clone());
        }
        refused = group_error.or(refused);
    }
    refused
}

/// False if a reader prevents it for longer than SQLite's busy timeout.
fn empty_log(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).map(|busy: bool| !busy)
}

/// Checkpoints the log. SQLite's automatic checkpoint would hide a failed fsync.
fn checkpoint(connection: &Connection) {
    let outcome = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
    if let Err(error) = outcome {
        stop_at_fsync_fault(&error, "checkpoint store");
        tracing::warn!(%error, "the store's log could not be copied into its file; it is kept and tried again");
    }
}
