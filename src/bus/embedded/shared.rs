//! The state shared by the writer, the subscriptions and the handle, and access to the file.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::consumer::Consumer;
use super::consumer::ticks::tick;
use super::dedup::key::DedupKey;
use super::file;
use super::group::Group;
use super::queue::{Command, Publish, Queue, Reply, Stored};
use super::tail::Tail;
use crate::base::sqlite::{Closed, Database, FileError, Readers};
use crate::bus::batch::{self, Parts};
use crate::bus::{BusError, BusErrorKind, EmbeddedSettings};

/// Bytes read from the file at once by a consumer behind the tail.
pub(super) const READ_BYTES: usize = 4 << 20;
/// Reading connections that are kept open.
pub(super) const READERS_MAX: usize = 4;

/// The state shared by the writer, the subscriptions and the handle.
pub(crate) struct Shared {
    pub(super) database: Arc<Database>,
    pub(super) stream_id: String,
    pub(super) settings: EmbeddedSettings,
    pub(super) queue: Arc<Queue>,
    pub(super) tail: Mutex<Tail>,
    /// The last committed sequence.
    pub(super) head: watch::Sender<u64>,
    /// The first stored sequence and the used bytes, as of the last commit.
    pub(super) first: AtomicU64,
    pub(super) used_bytes: AtomicU64,
    pub(super) dead_letters: AtomicU64,
    /// Held by the running trial.
    pub(super) trial_turn: Arc<Semaphore>,
    /// Counts rewrites of groups in the file. Raised before the copies in memory are dropped.
    pub(super) erasures: AtomicU64,
    /// Why publishing was refused last, until it succeeds.
    pub(super) refused: Mutex<Option<BusError>>,
    pub(super) consumers: Mutex<BTreeMap<String, Arc<Consumer>>>,
    pub(super) readers: Arc<Readers>,
    pub(super) started: Instant,
    /// The last sequence when the file was opened. Messages up to it may have been delivered by a process that crashed.
    pub(super) recovered_to: u64,
    pub(super) closed: CancellationToken,
}

impl Shared {
    pub(super) async fn store(&self, parts: Parts) -> Result<Stored, BusError> {
        let Parts { records, ends, subject_prefix, keyed, .. } = parts;
        let keys = if keyed == 0 { Vec::new() } else { keys_of(&records, keyed) };
        let _room = self.room(records.len()).await?;
        let (reply, answer) = oneshot::channel();
        let publish = Publish { records, ends, subject_prefix, keys, reply, _room };
        self.queue.batch(publish).map_err(|Closed| BusError::new(BusErrorKind::Closed, "queue batch"))?;
        answer.await.unwrap_or_else(|_| Err(BusError::new(BusErrorKind::Closed, "publish batch")))
    }

    /// Waits until `bytes` more may be queued.
    pub(super) async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, BusError> {
        self.queue.room(bytes).await.map_err(|Closed| BusError::new(BusErrorKind::Closed, "queue batch"))
    }

    pub(super) async fn command<T>(&self, make: impl FnOnce(Reply<T>) -> Command) -> Result<T, BusError> {
        let (reply, answer) = oneshot::channel();
        let closed = || BusError::new(BusErrorKind::Closed, "reach bus writer");
        self.queue.command(make(reply)).map_err(|Closed| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Runs a query on a reading connection, on a blocking thread.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        context: &'static str,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, BusError> {
        self.blocking(move |shared, connection| query(connection).map_err(|error| shared.failure(context, &error)))
            .await
    }

    pub(super) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self, &Connection) -> Result<T, BusError> + Send + 'static,
    ) -> Result<T, BusError> {
        let shared = self.clone();
        let read = self.readers.read(move |connection| {
            let answer = work(&shared, connection);
            shared.note_damage(answer.as_ref().err());
            answer
        });
        read.await.map_err(|error| file::file_error("read bus file", error))?
    }

    pub(super) async fn read_groups(self: &Arc<Self>, sequence: u64) -> Result<VecDeque<Arc<Group>>, BusError> {
        self.blocking(move |shared, connection| file::read_groups(connection, shared.path(), sequence, READ_BYTES))
            .await
    }

    /// When a message was stored; for a purged message, when the next one was.
    pub(super) async fn published_at_ms(self: &Arc<Self>, sequence: u64) -> Result<Option<i64>, BusError> {
        let recent = self.tail.lock().find(sequence).map(|group| group.published_at_ms);
        match recent {
            Some(at) => Ok(Some(at)),
            None => self.read("read group time", move |connection| file::published_at_ms(connection, sequence)).await,
        }
    }

    pub(super) fn dead_letters_removed(&self, count: u64) {
        let _ = self
            .dead_letters
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |kept| Some(kept.saturating_sub(count)));
    }

    pub(super) fn consumers(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Consumer>>> {
        self.consumers.lock()
    }

    /// All consumers by name, to be locked one at a time without holding the lock on the map.
    pub(super) fn each_consumer(&self) -> Vec<Arc<Consumer>> {
        self.consumers().values().cloned().collect()
    }

    /// Ticks since the engine's start.
    pub(super) fn now(&self) -> u32 {
        tick(self.started.elapsed())
    }

    pub(super) fn path(&self) -> &Path {
        self.database.path()
    }

    /// Converts an error of SQLite, right after it and on the same thread. A failed fsync is reported.
    pub(super) fn failure(&self, context: &'static str, error: &rusqlite::Error) -> BusError {
        file::file_error(context, self.database.failure(context, error))
    }

    /// Fails when a restart would not find the open files.
    pub(super) fn check_files(&self) -> Result<(), BusError> {
        self.database.check_files().map_err(|error| file::file_error("check bus files", error))
    }

    /// Remembers damage for readiness.
    pub(super) fn note_damage(&self, error: Option<&BusError>) {
        if let Some(error) = error.filter(|error| error.kind == BusErrorKind::Corrupt) {
            self.database.note_damage(|| reason(error));
        }
    }

    /// Fails when stored data would not be found again, or when nothing can be stored.
    pub(super) async fn ping(&self) -> Result<(), BusError> {
        let database = self.database.clone();
        let checked = tokio::task::spawn_blocking(move || database.check()).await;
        let checked = checked.unwrap_or_else(|error| Err(FileError::other(error)));
        checked.map_err(|error| file::file_error("check bus files", error))
    }
}

/// The keys of the records with a message id.
pub(super) fn keys_of(records: &[u8], keyed: usize) -> Vec<DedupKey> {
    let mut keys = Vec::with_capacity(keyed);
    let mut at = 0;
    while let Some(layout) = batch::layout(records, at) {
        at = layout.end();
        if !layout.message_id.is_empty() {
            keys.push(DedupKey::of(&records[layout.message_id]));
        }
    }
    keys
}

/// An error and its cause in one line.
pub(super) fn reason(error: &BusError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
