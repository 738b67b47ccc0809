//! The engine's handle: it queues writes for the writer thread and lends connections to readers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::Connection;
use tokio::sync::watch;

use super::error::{describe, failed, file_error};
use super::writer;
use super::writer::{Command, Jobs, Queue};
use crate::base::sqlite::{Closed, Database, FailedFsync, FileError, Readers, WriterThread};
use crate::store::audit::Caller;
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::secrets::Sealer;
use crate::store::status::StoreStatus;

#[derive(Clone)]
pub(in crate::store) struct Engine(
    pub(super) Arc<Shared>,
    /// The caller on whose behalf changes are made.
    pub(super) Option<Arc<Caller>>,
);

pub(super) struct Shared {
    pub(super) queue: Arc<Queue>,
    pub(super) writer: WriterThread<Jobs>,
    pub(super) readers: Arc<Readers>,
    pub(super) sealer: Arc<Sealer>,
    pub(super) database: Arc<Database>,
    /// The last group was not stored.
    pub(super) refusing: Arc<AtomicBool>,
    pub(super) changes: Arc<watch::Sender<u64>>,
    pub(super) work: Arc<watch::Sender<u64>>,
}

/// Which watchers a commit wakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wake {
    None,
    /// Those that keep compiled rules.
    Changes,
    /// Those that send deliveries.
    Work,
    Both,
}

impl Engine {
    /// Losses of the file, until they are acknowledged.
    pub(in crate::store) fn warning(&self) -> (&'static str, Option<String>) {
        ("store_lost", self.0.database.losses())
    }

    pub(in crate::store) fn on_failed_fsync(&self, handler: fn(&FailedFsync)) {
        self.0.database.on_failed_fsync(handler);
    }

    pub(in crate::store) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    pub(in crate::store) fn work(&self) -> watch::Receiver<u64> {
        self.0.work.subscribe()
    }

    /// Runs a use case on the writer thread; returns once it is on disk.
    pub(super) async fn write<T, F>(&self, wake: Wake, context: &'static str, run: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        self.write_waking(context, run, move |_| wake).await
    }

    /// As [`Self::write`], when the outcome decides which watchers it wakes.
    pub(super) async fn write_waking<T, F, W>(&self, context: &'static str, run: F, wake: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
        W: FnOnce(&T) -> Wake + Send + 'static,
    {
        let (changes, work) = (self.0.changes.clone(), self.0.work.clone());
        let done = move |value: &T| {
            let wake = wake(value);
            if matches!(wake, Wake::Changes | Wake::Both) {
                changes.send_modify(|count| *count += 1);
            }
            if matches!(wake, Wake::Work | Wake::Both) {
                work.send_modify(|count| *count += 1);
            }
        };
        let (job, answer) = writer::job(context, run, done);
        self.queue(context, Command::Run(job)).await?;
        let closed = |_| StoreError::new(StoreErrorKind::Closed, context);
        answer.await.map_err(closed)?.map_err(|error| describe(&self.0.database, context, error))
    }

    pub(super) async fn queue(&self, context: &'static str, command: Command) -> Result<(), StoreError> {
        let closed = |Closed| StoreError::new(StoreErrorKind::Closed, context);
        let room = self.0.queue.room(1).await.map_err(closed)?;
        self.0.queue.command((command, room)).map_err(closed)
    }

    /// Runs a query on one of the readers.
    pub(super) async fn read<T, F>(&self, context: &'static str, run: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let database = self.0.database.clone();
        let read =
            self.0.readers.read(move |connection| run(connection).map_err(|error| describe(&database, context, error)));
        read.await.map_err(|error| file_error(context, error))?
    }

    /// Fails if a restart would not find the stored data, or if nothing can be stored.
    pub(in crate::store) async fn ping(&self) -> Result<(), StoreError> {
        let (context, database) = ("check store files", self.0.database.clone());
        let checked = tokio::task::spawn_blocking(move || database.check()).await;
        let checked = checked.unwrap_or_else(|error| Err(FileError::other(error)));
        checked.map_err(|error| file_error(context, error))?;
        if self.0.refusing.load(Ordering::Relaxed) {
            // Only a write shows that writing works again.
            let sql = "UPDATE schema_migrations SET name = name WHERE version = 1";
            self.write(Wake::None, context, move |connection| {
                connection.execute(sql, []).map(drop).map_err(failed(context))
            })
            .await?;
        }
        Ok(())
    }

    pub(in crate::store) async fn status(&self) -> Result<StoreStatus, StoreError> {
        let context = "count store";
        self.read(context, move |connection| {
            let count = |sql: &str| -> Result<u64, StoreError> {
                let mut statement = connection.prepare_cached(sql).map_err(failed(context))?;
                let count: i64 = statement.query_row([], |row| row.get(0)).map_err(failed(context))?;
                Ok(count as u64)
            };
            Ok(StoreStatus {
                engine: "sqlite".to_owned(),
                deliveries_pending: count(
                    "SELECT count(*) FROM deliveries WHERE status IN ('pending', 'in_progress')",
                )?,
                deliveries_dead: count("SELECT count(*) FROM deliveries WHERE status IN ('dead_letter', 'failed')")?,
                deliveries_given_up: count("SELECT coalesce(sum(deliveries_given_up), 0) FROM webhooks")?,
                webhooks: count("SELECT count(*) FROM webhooks")?,
                rules: count("SELECT count(*) FROM rules")?,
                anomaly_configs: count("SELECT count(*) FROM anomaly_configs")?,
            })
        })
        .await
    }

    pub(in crate::store) async fn close(&self) {
        // Readers first: the last connection to close checkpoints the file.
        let shared = self.0.clone();
        let closing = tokio::task::spawn_blocking(move || {
            shared.readers.close();
            shared.writer.close();
        });
        if closing.await.is_err() {
            tracing::error!("closing the store failed");
        }
    }
}
