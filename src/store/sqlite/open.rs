//! Opening the file: lock, schema, secrets key, readers and the writer thread.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::watch;

use super::engine::{Engine, Shared};
use super::error::file_error;
use super::writer::{Jobs, Queue};
use super::{deliveries, schema, webhooks, writer};
use crate::base::sqlite::{Database, DirectoryLock, FileError, Readers, WriterThread, open_writer};
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::secrets;
use crate::store::secrets::Sealer;
use crate::store::settings::SqliteSettings;

const LOCK_NAME: &str = "store.lock";
/// Connections for reads.
const READERS: usize = 3;
/// Prepared statements cached per connection.
const PREPARED_STATEMENTS_MAX: usize = 64;
/// The size that the write-ahead log is truncated to after a burst, in bytes.
const LOG_BYTES_KEPT: i64 = 8 * 1024 * 1024;

impl Engine {
    pub(in crate::store) fn open(settings: SqliteSettings) -> Result<Self, StoreError> {
        let path = settings.dir.join("store.db");
        let named = |error| file_error("open store", FileError::of(&error).in_file(&path));
        // Another process would release the leases of this one and miss its changes.
        let in_use = format!("another process uses the store in {}", settings.dir.display());
        let lock = DirectoryLock::take(&settings.dir, LOCK_NAME, in_use)
            .map_err(|text| StoreError::caused(StoreErrorKind::Unavailable, "lock store", text))?;
        let mut connection = open_writer(&path).map_err(named)?;
        connection.pragma_update(None, "wal_autocheckpoint", 0).map_err(named)?;
        connection.pragma_update(None, "journal_size_limit", LOG_BYTES_KEPT).map_err(named)?;
        // The file holds personal data and credentials: deleted rows are overwritten.
        connection.pragma_update(None, "secure_delete", true).map_err(named)?;
        connection.set_prepared_statement_cache_capacity(PREPARED_STATEMENTS_MAX);
        schema::migrate(&mut connection, &path)?;
        let sealed = webhooks::count_sealed(&connection)?;
        let sealer = Sealer::open(&settings.dir, settings.secrets_key.as_deref(), sealed)?;
        webhooks::check_key(&connection, &sealer, sealed, settings.secrets_key_replaced)?;
        webhooks::seal_clear_secrets(&connection, &sealer)?;
        deliveries::release_leases(&connection)?;
        let key = settings.dir.join(secrets::KEY_FILE);
        let key = settings.secrets_key.is_none().then_some(key);
        let others: Vec<PathBuf> = [settings.dir.join(LOCK_NAME)].into_iter().chain(key).collect();
        let database = Database::over(path, &others).map_err(|error| {
            let text = format!("{}: {error}", settings.dir.display());
            StoreError::caused(StoreErrorKind::Unavailable, "open store", text)
        })?;
        let database = Arc::new(database);
        let readers = Readers::open(database.clone(), READERS).map_err(|error| file_error("open store", error))?;

        let refusing = Arc::new(AtomicBool::new(false));
        let queue = Arc::new(Queue::new(writer::QUEUE_JOBS_MAX));
        let jobs = Jobs::new(connection, database.clone(), refusing.clone());
        let writer = WriterThread::start("store-writer", queue.clone(), jobs, lock)
            .map_err(|error| StoreError::caused(StoreErrorKind::Unavailable, "start store writer", error))?;
        let shared = Arc::new(Shared {
            queue,
            writer,
            readers: Arc::new(readers),
            sealer: Arc::new(sealer),
            database,
            refusing,
            changes: Arc::new(watch::Sender::new(0)),
            work: Arc::new(watch::Sender::new(0)),
        });
        Ok(Self(shared, None))
    }
}
