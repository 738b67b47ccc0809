//! The store in one SQLite file.
//!
//! Invariants: one thread writes; what a method answered is on the disk; readers see the
//! last commit. An fsync that failed ends the process, since nobody knows then what is stored.

mod anomalies;
mod audit;
mod clock;
mod deliveries;
mod documents;
mod effects;
mod erasure;
mod health;
mod keys;
mod schema;
mod set;
#[cfg(test)]
mod tests;
mod tokens;
mod webhooks;
mod writer;

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use jiff::Timestamp;
use rusqlite::Connection;
use tokio::sync::{Semaphore, mpsc, watch};
use uuid::Uuid;

use super::audit::Caller;
use super::secrets::{self, Sealer};
use super::{SqliteSettings, StoreError, StoreErrorKind, StoreStatus};
use crate::base::sqlite::{Fault, Watch, explain, fault, lock_file, open_reader, open_writer};
use health::{FileFault, Health};
use writer::Command;

const LOCK_NAME: &str = "store.lock";
/// Connections that read beside the writer.
const READERS: usize = 3;
/// Statements that a connection keeps prepared.
const PREPARED_STATEMENTS_MAX: usize = 64;
/// What the write-ahead log keeps of the disk once a burst is copied into the file.
const LOG_BYTES_KEPT: i64 = 8 * 1024 * 1024;
/// The exit code of a process that cannot know what its disk holds (EX_IOERR).
const EXIT_IO_ERROR: i32 = 74;

#[derive(Clone)]
pub(super) struct Engine(
    Arc<Shared>,
    /// On whose behalf it changes what is stored.
    Option<Arc<Caller>>,
);

struct Shared {
    commands: mpsc::Sender<Command>,
    writer: Mutex<Option<JoinHandle<()>>>,
    readers: Mutex<Vec<Connection>>,
    reading: Arc<Semaphore>,
    sealer: Arc<Sealer>,
    health: Arc<Health>,
    changes: Arc<watch::Sender<u64>>,
    work: Arc<watch::Sender<u64>>,
}

/// Whom a commit wakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wake {
    Nobody,
    /// Those who hold compiled rules.
    Changes,
    /// Those who send deliveries.
    Work,
    Both,
}

impl Engine {
    pub(super) fn open(settings: SqliteSettings) -> Result<Self, StoreError> {
        let path = settings.dir.join("store.db");
        let named = |error: rusqlite::Error| {
            let text = explain(&error);
            StoreError::caused(fault_kind(&error), "open store", format!("{}: {text}", path.display()))
        };
        fs::create_dir_all(&settings.dir).map_err(|error| {
            StoreError::caused(
                StoreErrorKind::Unavailable,
                "create data directory",
                format!("{}: {error}", settings.dir.display()),
            )
        })?;
        let lock = lock(&settings.dir)?;
        let mut connection = open_writer(&path).map_err(named)?;
        connection.pragma_update(None, "wal_autocheckpoint", 0).map_err(named)?;
        connection.pragma_update(None, "journal_size_limit", LOG_BYTES_KEPT).map_err(named)?;
        // It holds what people did and what lets others in: what is deleted is gone.
        connection.pragma_update(None, "secure_delete", true).map_err(named)?;
        connection.set_prepared_statement_cache_capacity(PREPARED_STATEMENTS_MAX);
        schema::migrate(&mut connection, &path)?;
        let sealed = webhooks::count_sealed(&connection)?;
        let sealer = Sealer::open(&settings.dir, settings.secrets_key.as_deref(), sealed)?;
        webhooks::check_key(&connection, &sealer, sealed, settings.secrets_key_replaced)?;
        webhooks::hide_secrets(&connection, &sealer)?;
        deliveries::release_leases(&connection)?;
        let mut readers = Vec::with_capacity(READERS);
        for _ in 0..READERS {
            let reader = open_reader(&path).map_err(named)?;
            reader.set_prepared_statement_cache_capacity(PREPARED_STATEMENTS_MAX);
            readers.push(reader);
        }

        let key = settings.dir.join(secrets::KEY_FILE);
        let key = settings.secrets_key.is_none().then_some(key);
        let others: Vec<PathBuf> = [settings.dir.join(LOCK_NAME)].into_iter().chain(key).collect();
        let watch = Watch::over(&path, &others).map_err(|error| {
            let text = format!("{}: {error}", settings.dir.display());
            StoreError::caused(StoreErrorKind::Unavailable, "open store", text)
        })?;
        let health = Arc::new(Health::new(path, watch));

        let writer_health = health.clone();
        let (commands, receiver) = mpsc::channel(writer::QUEUE_JOBS_MAX);
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                writer::run(connection, receiver, &writer_health);
                drop(lock);
            })
            .map_err(|error| StoreError::caused(StoreErrorKind::Unavailable, "start store writer", error))?;
        let shared = Arc::new(Shared {
            commands,
            writer: Mutex::new(Some(writer)),
            readers: Mutex::new(readers),
            reading: Arc::new(Semaphore::new(READERS)),
            sealer: Arc::new(sealer),
            health,
            changes: Arc::new(watch::Sender::new(0)),
            work: Arc::new(watch::Sender::new(0)),
        });
        Ok(Self(shared, None))
    }

    /// What the file has lost, until that is acknowledged.
    pub(super) fn warning(&self) -> (&'static str, Option<String>) {
        ("store_lost", crate::base::sqlite::losses(self.0.health.path()))
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    pub(super) fn work(&self) -> watch::Receiver<u64> {
        self.0.work.subscribe()
    }

    /// Runs a use case on the writer thread and answers when it is on the disk.
    async fn write<T, F>(&self, wake: Wake, context: &'static str, run: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        self.write_waking(context, run, move |_| wake).await
    }

    /// As [`Self::write`], when only the outcome tells whom it wakes.
    async fn write_waking<T, F, W>(&self, context: &'static str, run: F, wake: W) -> Result<T, StoreError>
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
        let closed = |_| StoreError::new(StoreErrorKind::Closed, context);
        self.0.commands.send(Command::Run(job)).await.map_err(|_| StoreError::new(StoreErrorKind::Closed, context))?;
        answer.await.map_err(closed)?.map_err(|error| self.0.health.name(error, context))
    }

    /// Runs a query on one of the readers.
    async fn read<T, F>(&self, context: &'static str, run: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let closed = || StoreError::new(StoreErrorKind::Closed, context);
        let permit = self.0.reading.clone().acquire_owned().await.map_err(|_| closed())?;
        let shared = self.0.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let connection = shared.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = connection.ok_or_else(|| StoreError::new(StoreErrorKind::Closed, context))?;
            let result = run(&connection).map_err(|error| shared.health.name(error, context));
            shared.readers.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            drop(permit);
            result
        });
        reading.await.map_err(|error| StoreError::caused(StoreErrorKind::Unavailable, context, error))?
    }

    /// Fails when what is stored would not be found again, or nothing can be stored.
    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        let (context, health) = ("check store files", self.0.health.clone());
        let asked = tokio::task::spawn_blocking(move || health.check());
        asked.await.map_err(|error| StoreError::caused(StoreErrorKind::Unavailable, context, error))??;
        if self.0.health.is_refusing() {
            // Only a write shows that writing works again.
            let sql = "UPDATE schema_migrations SET name = name WHERE version = 1";
            self.write(Wake::Nobody, context, move |connection| {
                connection.execute(sql, []).map(drop).map_err(failed(context))
            })
            .await?;
        }
        Ok(())
    }

    pub(super) async fn status(&self) -> Result<StoreStatus, StoreError> {
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

    pub(super) async fn close(&self) {
        // Readers first: the last connection to close tidies the file up.
        self.0.reading.close();
        let shared = self.0.clone();
        let closing = tokio::task::spawn_blocking(move || {
            shared.readers.lock().unwrap_or_else(PoisonError::into_inner).clear();
            let writer = shared.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
            // A full queue only means that the writer has yet to come to the command.
            if let Some(writer) = writer
                && (shared.commands.blocking_send(Command::Close).is_err() | writer.join().is_err())
            {
                tracing::error!("the store's writer ended before it was told to");
            }
        });
        if closing.await.is_err() {
            tracing::error!("closing the store failed");
        }
    }
}

impl Drop for Shared {
    /// Ends the writer of a store that nobody closed: without a sender its queue ends.
    fn drop(&mut self) {
        self.commands = mpsc::channel(1).0;
        let writer = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer
            && writer.join().is_err()
        {
            tracing::error!("the store's writer panicked");
        }
    }
}

/// Takes the directory for this process: another one would release the leases and miss the changes of this one.
/// The lock lasts as long as the file is open, so a process that died holds nothing.
fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join(LOCK_NAME);
    let refused = |error: TryLockError| {
        let detail = match error {
            TryLockError::WouldBlock => format!("another process uses the store in {}", dir.display()),
            TryLockError::Error(error) => format!("{}: {error}", path.display()),
        };
        StoreError::caused(StoreErrorKind::Unavailable, "lock store", detail)
    };
    lock_file(&path).map_err(refused)
}

/// Milliseconds since the Unix epoch.
fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

/// A stored time; what is out of range can only be damage.
fn timestamp(ms: i64) -> rusqlite::Result<Timestamp> {
    Timestamp::from_millisecond(ms).map_err(damaged)
}

fn uuid(bytes: [u8; 16]) -> Uuid {
    Uuid::from_bytes(bytes)
}

/// Stored bytes that do not read as what they were written as.
fn damaged(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Null, error.into())
}

/// Turns an error of SQLite into the store's own; ends the process when an fsync failed.
fn failed(context: &'static str) -> impl Fn(rusqlite::Error) -> StoreError + Copy {
    move |error| {
        stop_at_fsync_fault(&error, context);
        let (kind, fault, text) = (fault_kind(&error), fault(&error), explain(&error));
        StoreError::caused(kind, context, FileFault { fault, text })
    }
}

fn stop_at_fsync_fault(error: &rusqlite::Error, context: &'static str) {
    if fault(error) == Fault::Fsync {
        tracing::error!(%error, context, "the disk did not confirm a write; what it holds is unknown, so this ends");
        std::process::exit(EXIT_IO_ERROR);
    }
}

fn fault_kind(error: &rusqlite::Error) -> StoreErrorKind {
    match fault(error) {
        Fault::Full => StoreErrorKind::Full,
        Fault::Corrupt => StoreErrorKind::Corrupt,
        Fault::Fsync | Fault::Busy | Fault::Constraint => StoreErrorKind::Unavailable,
        Fault::Other => match error {
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::IntegralValueOutOfRange(..) => StoreErrorKind::Corrupt,
            _ => StoreErrorKind::Unavailable,
        },
    }
}
