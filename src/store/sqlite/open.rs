//! Opening the file: lock, schema, secrets key, readers and the writer thread.

use std::fs::TryLockError;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::engine::{Engine, Shared};
use super::error::file_error;
use super::{deliveries, schema, webhooks, writer};
use crate::base::sqlite::{Database, DirectoryLock, FileError, Readers, open_writer};
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
        let lock = lock(&settings.dir)?;
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
        let (of_writer, writer_refusing) = (database.clone(), refusing.clone());
        let (commands, receiver) = mpsc::channel(writer::QUEUE_JOBS_MAX);
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                writer::run(connection, receiver, &of_writer, &writer_refusing);
                drop(lock);
            })
            .map_err(|error| StoreError::caused(StoreErrorKind::Unavailable, "start store writer", error))?;
        let shared = Arc::new(Shared {
            commands,
            writer: Mutex::new(Some(writer)),
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

/// Takes the directory for this process: another one would release its leases and miss its changes.
fn lock(dir: &Path) -> Result<DirectoryLock, StoreError> {
    DirectoryLock::take(dir, LOCK_NAME).map_err(|error| {
        let text = match error {
            TryLockError::WouldBlock => format!("another process uses the store in {}", dir.display()),
            TryLockError::Error(error) => error.to_string(),
        };
        StoreError::caused(StoreErrorKind::Unavailable, "lock store", text)
    })
}
