//! Moves committed pages from the write-ahead log into the database file. SQLite's automatic checkpoint would hide a
//! failed fsync.
//!
//! Most of the work is done in parallel to the writer, by a passive checkpoint on a separate connection, if a thread for
//! it was asked for. Under constant load it never catches up by itself, and the log restarts only once it has; so the
//! writer copies the small remainder between two commits. Invariant: the log stays near `soft_bytes`; past `hard_bytes`
//! the writer waits for the checkpoint.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use rusqlite::Connection;

use super::database::Database;
use super::error::FileError;
use super::open::open_second_writer;

/// Passes of the thread. Each leaves the pages written during it, fewer every time.
const PASSES_MAX: usize = 3;
/// Frames left to the writer.
const FRAMES_LEFT_MAX: i64 = 256;

/// The log sizes at which something is done.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointLimits {
    /// The thread is woken; without one, the writer makes a passive checkpoint.
    pub soft_bytes: u64,
    /// The writer itself restarts the log.
    pub hard_bytes: u64,
}

/// The writer's side.
pub struct Checkpoints {
    database: Arc<Database>,
    limits: CheckpointLimits,
    thread: Option<Background>,
    /// Estimated bytes written to the log since it restarted.
    log_bytes: u64,
}

struct Background {
    wake: SyncSender<()>,
    /// It has finished the work it was woken for.
    done: Arc<AtomicBool>,
    under_way: bool,
    handle: JoinHandle<()>,
}

impl Checkpoints {
    /// The writer makes all checkpoints.
    pub fn new(database: Arc<Database>, limits: CheckpointLimits) -> Self {
        Self { database, limits, thread: None, log_bytes: 0 }
    }

    /// A thread of this name makes most of them.
    pub fn in_background(
        database: Arc<Database>,
        limits: CheckpointLimits,
        name: &'static str,
    ) -> std::io::Result<Self> {
        let (wake, woken) = sync_channel(1);
        let done = Arc::new(AtomicBool::new(false));
        let (of_thread, thread_done) = (database.clone(), done.clone());
        let run = move || run(&of_thread, &woken, &thread_done);
        let handle = std::thread::Builder::new().name(name.to_owned()).spawn(run)?;
        let mut checkpoints = Self::new(database, limits);
        checkpoints.thread = Some(Background { wake, done, under_way: false, handle });
        Ok(checkpoints)
    }

    /// Called after each commit of about `bytes`.
    pub fn committed(&mut self, connection: &Connection, bytes: u64) {
        self.log_bytes += bytes;
        let CheckpointLimits { soft_bytes, hard_bytes } = self.limits;
        let is_done = |thread: &mut Background| thread.under_way && thread.done.swap(false, Ordering::Acquire);
        if self.log_bytes >= hard_bytes {
            self.start_over(connection, "RESTART");
        } else if self.thread.as_mut().is_some_and(is_done) {
            self.thread.iter_mut().for_each(|thread| thread.under_way = false);
            self.start_over(connection, "PASSIVE");
        }
        if self.log_bytes < soft_bytes {
            return;
        }
        match &mut self.thread {
            None => {
                self.start_over(connection, "PASSIVE");
                self.log_bytes = 0;
            }
            Some(thread) if !thread.under_way => {
                thread.under_way = !matches!(thread.wake.try_send(()), Err(TrySendError::Disconnected(())));
            }
            Some(_) => {}
        }
    }

    /// Empties the log as far as the disk and the readers allow.
    pub fn start_over(&mut self, connection: &Connection, mode: &str) {
        // After a failed fsync the log is the only copy.
        if self.database.check_fsync().is_err() {
            return;
        }
        match checkpoint(connection, mode) {
            Ok((log, copied)) if log == copied => self.log_bytes = 0,
            Ok(_) => {}
            Err(error) => {
                let error = self.database.failure("checkpoint", &error);
                tracing::warn!(%error, "the log of a database cannot be emptied");
                // Do not retry with the next commit: the disk is most likely full.
                self.log_bytes = self.log_bytes.saturating_sub(self.limits.soft_bytes);
            }
        }
    }

    /// Empties the log completely. Returns `false` when a reader prevents it for longer than SQLite's busy timeout.
    pub fn empty(&mut self, connection: &Connection) -> Result<bool, FileError> {
        self.database.check_fsync()?;
        let busy: bool = connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
            .map_err(|error| self.database.failure("empty log", &error))?;
        if !busy {
            self.log_bytes = 0;
        }
        Ok(!busy)
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        let Some(Background { wake, handle, .. }) = self.thread.take() else { return };
        drop(wake);
        if handle.join().is_err() {
            tracing::error!("a checkpointer panicked");
        }
    }
}

fn run(database: &Database, woken: &Receiver<()>, done: &AtomicBool) {
    let mut kept = None;
    while woken.recv().is_ok() {
        // A connection opened now must not open another file.
        let is_there = kept.is_some() || database.check_files().is_ok();
        if is_there && let Err(error) = passes(database, &mut kept) {
            let error = database.failure("checkpoint", &error);
            tracing::warn!(%error, "the log of a database cannot be copied");
            kept = None;
        }
        done.store(true, Ordering::Release);
    }
}

fn passes(database: &Database, kept: &mut Option<Connection>) -> rusqlite::Result<()> {
    if kept.is_none() {
        let connection = open_second_writer(database.path())?;
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        *kept = Some(connection);
    }
    let Some(connection) = kept else { return Ok(()) };
    for _ in 0..PASSES_MAX {
        let (log, copied) = checkpoint(connection, "PASSIVE")?;
        if log - copied <= FRAMES_LEFT_MAX {
            break;
        }
    }
    Ok(())
}

/// Frames in the log, and how many of them are already in the database file.
fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<(i64, i64)> {
    let sql = format!("PRAGMA wal_checkpoint({mode})");
    connection.query_row(&sql, [], |row| Ok((row.get(1)?, row.get(2)?)))
}
