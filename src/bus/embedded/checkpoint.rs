//! Moves committed pages from the write-ahead log into the database file, in parallel to the writer.
//!
//! A passive checkpoint on a separate connection does most of the work without blocking commits. Under constant load it
//! never catches up by itself, and the log restarts only once it has; so the writer copies the small remainder between
//! two commits. Invariant: the log stays near `LOG_BYTES_SOFT`; past `LOG_BYTES_HARD` the writer waits for the
//! checkpoint. Knows nothing of the contents of the pages.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use rusqlite::Connection;

use super::file;
use crate::base::sqlite::{self, Watch};
use crate::bus::{BusError, BusErrorKind};

/// Log size at which the checkpointer is woken.
const LOG_BYTES_SOFT: u64 = 32 << 20;
/// Log size at which the writer itself restarts the log.
const LOG_BYTES_HARD: u64 = 256 << 20;
/// Passes of the checkpointer. Each leaves the pages written during it, fewer every time.
const PASSES_MAX: usize = 3;
/// Frames left to the writer.
const FRAMES_LEFT_MAX: i64 = 256;

/// The writer's side.
pub(crate) struct Checkpoints {
    path: PathBuf,
    wake: Option<SyncSender<()>>,
    /// The checkpointer has finished the work it was woken for.
    done: Arc<AtomicBool>,
    under_way: bool,
    /// Estimated bytes written to the log since it restarted.
    log_bytes: u64,
    thread: Option<JoinHandle<()>>,
}

impl Checkpoints {
    pub(super) fn start(path: PathBuf, watch: Watch) -> Result<Self, BusError> {
        let (wake, woken) = sync_channel(1);
        let done = Arc::new(AtomicBool::new(false));
        let (thread_path, thread_done) = (path.clone(), done.clone());
        let thread = std::thread::Builder::new()
            .name("bus-checkpoint".into())
            .spawn(move || run(&thread_path, &watch, &woken, &thread_done))
            .map_err(|error| BusError::caused(BusErrorKind::Unavailable, "start checkpointer", error))?;
        Ok(Self { path, wake: Some(wake), done, under_way: false, log_bytes: 0, thread: Some(thread) })
    }

    /// Called after each commit of about `bytes`.
    pub(super) fn committed(&mut self, connection: &Connection, bytes: u64) {
        self.log_bytes += bytes;
        if self.log_bytes >= LOG_BYTES_HARD {
            self.start_over(connection, "RESTART");
        } else if self.under_way && self.done.swap(false, Ordering::Acquire) {
            self.under_way = false;
            self.start_over(connection, "PASSIVE");
        }
        if !self.under_way
            && self.log_bytes >= LOG_BYTES_SOFT
            && let Some(wake) = &self.wake
        {
            self.under_way = !matches!(wake.try_send(()), Err(TrySendError::Disconnected(())));
        }
    }

    /// Empties the log as far as the disk and the readers allow.
    pub(super) fn start_over(&mut self, connection: &Connection, mode: &str) {
        match checkpoint(connection, mode) {
            Ok((log, copied)) if log == copied => self.log_bytes = 0,
            Ok(_) => {}
            Err(error) => {
                let error = file::failure(&self.path, "checkpoint", error);
                let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::warn!(%error, source, "the log of the bus cannot be emptied");
                // Do not retry with the next commit: the disk is most likely full.
                self.log_bytes = self.log_bytes.saturating_sub(LOG_BYTES_SOFT);
            }
        }
    }

    /// Empties the log completely. Returns `false` when a reader prevents it for longer than SQLite's busy timeout.
    pub(super) fn empty(&mut self, connection: &Connection) -> Result<bool, BusError> {
        let busy: bool = connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
            .map_err(|error| file::failure(&self.path, "empty log", error))?;
        if !busy {
            self.log_bytes = 0;
        }
        Ok(!busy)
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the checkpointer of the bus panicked");
        }
    }
}

fn run(path: &Path, watch: &Watch, woken: &Receiver<()>, done: &AtomicBool) {
    let mut kept = None;
    while woken.recv().is_ok() {
        // A connection opened now must not open another file.
        let is_there = kept.is_some() || watch.check().is_ok();
        if is_there && let Err(error) = passes(path, &mut kept) {
            let error = file::failure(path, "checkpoint", error);
            let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            tracing::warn!(%error, source, "the log of the bus cannot be copied");
            kept = None;
        }
        done.store(true, Ordering::Release);
    }
}

fn passes(path: &Path, kept: &mut Option<Connection>) -> rusqlite::Result<()> {
    if kept.is_none() {
        let connection = sqlite::open_second_writer(path)?;
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
